"""Losses that ask for less certainty: label smoothing and the confidence penalty.

They are no safe defense. A network trained for long meets a target short of certainty on its
members alone, and members can then stand out more than without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from aeppt.data.records import Records
from aeppt.models.training import BatchLoss
from aeppt.recipes.base import LossRecipe


@dataclass(frozen=True)
class LabelSmoothing(LossRecipe):
    """Targets between the label and the uniform distribution (Szegedy et al. 2016, CVPR).

    Parameters
    ----------
    smoothing : float
        The share of the uniform distribution in the target, from 0 to 1; 0.1 in the paper.

    Raises
    ------
    ValueError
        ``smoothing`` is out of range.
    """

    smoothing: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing <= 1:
            raise ValueError(f"smoothing must be between 0 and 1, got {self.smoothing}")

    def make_loss(
        self, records: Records, reference: Records | None, random_state: int
    ) -> BatchLoss:
        """Cross-entropy with the smoothed label."""

        def loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
            return cross_entropy(model(inputs), labels, label_smoothing=self.smoothing)

        return loss


@dataclass(frozen=True)
class ConfidencePenalty(LossRecipe):
    """Rewards the entropy of the prediction (Pereyra et al. 2017, ICLR workshop).

    Parameters
    ----------
    weight : float
        Of the entropy in nats beside the cross-entropy; at least 0.

    Raises
    ------
    ValueError
        ``weight`` is negative or not finite.
    """

    weight: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight must be at least 0 and finite, got {self.weight}")

    def make_loss(
        self, records: Records, reference: Records | None, random_state: int
    ) -> BatchLoss:
        """Cross-entropy less the weighted entropy."""

        def loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
            logits = model(inputs)
            return cross_entropy(logits, labels) - self.weight * mean_entropy(logits)

        return loss


def mean_entropy(logits: Tensor) -> Tensor:
    """The mean entropy, in nats, of the soft-max of ``logits`` [b, k]."""
    log_probs = logits.log_softmax(dim=1)
    return -(log_probs.exp() * log_probs).sum(dim=1).mean()
