"""Training without a defense: what every recipe is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from aeppt.data.records import Records
from aeppt.models.training import BatchLoss, mean_cross_entropy
from aeppt.recipes.base import LossRecipe


@dataclass(frozen=True)
class Plain(LossRecipe):
    """Adam on cross-entropy, nothing else; overfits where records are few."""

    def make_loss(
        self, records: Records, reference: Records | None, random_state: int
    ) -> BatchLoss:
        """Cross-entropy."""
        return mean_cross_entropy
