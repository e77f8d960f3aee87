"""HAMP's training: targets that are as uncertain as asked, and still lead at the label."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import entr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from aeppt.data.records import Records
from aeppt.models.training import BatchLoss
from aeppt.recipes.base import LossRecipe
from aeppt.recipes.confidence import mean_entropy


@dataclass(frozen=True)
class HAMPTraining(LossRecipe):
    """High-entropy soft labels and an entropy regulariser (Chen & Pattabiraman 2024, NDSS).

    The loss is the Kullback-Leibler divergence of the prediction from the soft label, less the
    weighted entropy of the prediction. HAMP's other half changes the output.

    Parameters
    ----------
    entropy_threshold : float
        The soft label's entropy as a share of the greatest, log k; above 0 and below 1. The
        authors' code has 0.5 for Location, 0.8 for Purchase100 and 0.95 for CIFAR-10.
    entropy_weight : float
        Of the entropy in nats; at least 0. The authors' code averages the divergence over the
        classes as well as the batch, so its 0.001 for Location, of 30 classes, is 0.03 here.

    Raises
    ------
    ValueError
        A parameter is out of range.
    """

    entropy_threshold: float = 0.5
    entropy_weight: float = 0.03

    def __post_init__(self) -> None:
        if not 0 < self.entropy_threshold < 1:
            raise ValueError(
                f"entropy_threshold must be above 0 and below 1, got {self.entropy_threshold}"
            )
        if not 0 <= self.entropy_weight < math.inf:
            raise ValueError(
                f"entropy_weight must be at least 0 and finite, got {self.entropy_weight}"
            )

    def make_loss(
        self, records: Records, reference: Records | None, random_state: int
    ) -> BatchLoss:
        """The divergence from the soft label, up to a constant, less the weighted entropy."""
        targets = soft_labels(records.n_classes, self.entropy_threshold).float()

        def loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
            logits = model(inputs)
            # Divergence is cross-entropy less the entropy of the soft label, which is constant.
            divergence = cross_entropy(logits, targets[labels])
            return divergence - self.entropy_weight * mean_entropy(logits)

        return loss


def soft_labels(k: int, entropy_threshold: float) -> Tensor:
    """The soft labels of all classes, float64 [k, k]; row i has one value at i, another elsewhere.

    Each row's entropy is ``entropy_threshold`` log k. The authors search for the label's
    probability in steps of 0.01; here the equation is solved.
    """

    def too_certain(certainty: float) -> float:
        row = np.array([certainty, *[(1 - certainty) / (k - 1)] * (k - 1)])
        return entropy_threshold * math.log(k) - float(entr(row).sum())

    certainty = brentq(too_certain, 1 / k, 1.0, xtol=1e-15)
    labels = torch.full((k, k), (1 - certainty) / (k - 1), dtype=torch.float64)
    return labels.fill_diagonal_(certainty)
