"""Dropout: no hidden unit can rely on another to recognise a single record."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from aeppt.data.records import Records
from aeppt.models.training import Architecture, OnEpoch, new_model, train
from aeppt.recipes.base import Recipe


@dataclass(frozen=True)
class Dropout(Recipe):
    """Dropout of hidden units (Srivastava et al. 2014, JMLR), as a defense in Salem et al. 2019.

    Every ``nn.ReLU`` of the architecture is followed by ``nn.Dropout``. The initial parameters are
    those of training without a defense. In eval mode the network is the architecture itself.

    Parameters
    ----------
    rate : float
        The share of units that a training step leaves out; at least 0 and below 1.

    Raises
    ------
    ValueError
        ``rate`` is out of range, or, from :meth:`train`, the architecture has no ``nn.ReLU``.
    """

    rate: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate must be at least 0 and below 1, got {self.rate}")

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
        self._insert(model)
        return train(model, records, epochs, random_state, on_epoch=on_epoch)

    def _insert(self, model: nn.Module) -> None:
        # A ReLU that stands in several places is wrapped in each.
        places = [
            (path, layer)
            for path, layer in model.named_modules(remove_duplicate=False)
            if path and isinstance(layer, nn.ReLU)
        ]
        if not places:
            raise ValueError(
                f"Dropout follows nn.ReLU layers, and the architecture {type(model).__name__} has "
                "none; build it with nn.ReLU modules, or with nn.Dropout in it and take Plain"
            )
        for path, layer in places:
            model.set_submodule(path, nn.Sequential(layer, nn.Dropout(self.rate)))
