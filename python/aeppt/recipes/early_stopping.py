"""Early stopping: a network knows its records by heart only late in training."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from numbers import Integral
from typing import ClassVar

import torch
from torch import nn

from aeppt.data.records import Records
from aeppt.models.training import Architecture, OnEpoch, mean_cross_entropy, new_model, train
from aeppt.recipes.base import Recipe


@dataclass(frozen=True)
class EarlyStopping(Recipe):
    """Ends training where the loss on ``reference`` no longer falls, and keeps the best epoch.

    As a defense in Song & Mittal 2021 (USENIX Security), which compares others with it.

    Parameters
    ----------
    patience : int
        Epochs in a row without a lesser loss that end training; at least 1.

    Raises
    ------
    ValueError
        ``patience`` is below 1 or no integer, or, from :meth:`train`, ``reference`` is missing.
    """

    needs_reference: ClassVar[bool] = True

    patience: int = 5

    def __post_init__(self) -> None:
        if not (isinstance(self.patience, Integral) and self.patience >= 1):
            raise ValueError(f"patience must be an integer of at least 1, got {self.patience}")

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
        held_out = self.checked_reference(reference)
        inputs, labels = torch.from_numpy(held_out.features), torch.from_numpy(held_out.labels)
        model = new_model(architecture, random_state)
        least_loss, best, waited = math.inf, copy.deepcopy(model.state_dict()), 0

        def stops_at(model: nn.Module) -> bool:
            nonlocal least_loss, best, waited
            with torch.no_grad():
                loss = float(mean_cross_entropy(model, inputs, labels))
            waited += 1
            if loss < least_loss:
                least_loss, best, waited = loss, copy.deepcopy(model.state_dict()), 0
            return waited == self.patience

        train(model, records, epochs, random_state, on_epoch=on_epoch, stops_at=stops_at)
        model.load_state_dict(best)
        return model
