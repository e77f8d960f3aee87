"""Small weights: they fit single records less closely."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from aeppt.data.records import Records
from aeppt.models.training import Architecture, OnEpoch, new_model, train
from aeppt.recipes.base import Recipe


@dataclass(frozen=True)
class WeightDecay(Recipe):
    """An L2 penalty on all parameters, as a defense in Shokri et al. 2017 (IEEE S&P).

    Parameters
    ----------
    strength : float
        Half of it times the sum of the squared parameters is added to the loss; at least 0.

    Raises
    ------
    ValueError
        ``strength`` is negative or not finite.
    """

    strength: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.strength < math.inf:
            raise ValueError(f"strength must be at least 0 and finite, got {self.strength}")

    def train(
        self,
        architecture: Architecture,
        records: Records,
        epochs: int,
        random_state: int,
        reference: Records | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> nn.Module:
        """See :meth:`Recipe.train`."""
        model = new_model(architecture, random_state)
        return train(
            model, records, epochs, random_state, weight_decay=self.strength, on_epoch=on_epoch
        )
