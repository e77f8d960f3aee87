"""Training without a defense: what every recipe is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from aeppt.data.records import Records
from aeppt.models.training import Architecture, OnEpoch, new_model, train
from aeppt.recipes.base import Recipe


@dataclass(frozen=True)
class Plain(Recipe):
    """Adam on cross-entropy, nothing else; overfits where records are few."""

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
        return train(model, records, epochs, random_state, on_epoch=on_epoch)
