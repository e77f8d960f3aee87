"""Mixup, and predictions on members that are distributed as those on non-members."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Beta
from torch.nn.functional import cross_entropy

from aeppt.data.records import Records
from aeppt.models.training import BATCH, BatchLoss
from aeppt.recipes.base import LossRecipe, served


@dataclass(frozen=True)
class MixupMMD(LossRecipe):
    """Mixup and a maximum mean discrepancy (Li, Li & Ribeiro 2021, ACM CODASPY).

    The loss is that of the mixed-up batch, and the weighted discrepancy between the predictions on
    members and on ``reference`` records of one class. Each batch draws a class, by its share of the
    members, and a batch of records on either side. Only predictions on members are moved.

    The authors' code takes the two losses in turn, each for a whole epoch, and leaves out the
    second where training and validation accuracy are close. Here every step takes both.

    Parameters
    ----------
    mixup_alpha : float
        Two records are mixed in a share from the beta distribution with this as both parameters;
        above 0. 1 in the authors' code.
    mmd_weight : float
        Of the discrepancy; at least 0. 3 in the authors' code.

    Raises
    ------
    ValueError
        A parameter is out of range, or, from :meth:`train`, ``reference`` is missing or has no
        record of a class that the training set has.
    """

    needs_reference: ClassVar[bool] = True

    mixup_alpha: float = 1.0
    mmd_weight: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.mixup_alpha < math.inf:
            raise ValueError(f"mixup_alpha must be above 0 and finite, got {self.mixup_alpha}")
        if not 0 <= self.mmd_weight < math.inf:
            raise ValueError(f"mmd_weight must be at least 0 and finite, got {self.mmd_weight}")

    def make_loss(
        self, records: Records, reference: Records | None, random_state: int
    ) -> BatchLoss:
        """The loss of the mixed-up batch and the weighted discrepancy of one of its classes."""
        members = _by_class(records)
        others = _by_class(self.checked_reference(reference))
        missing = sorted(set(members) - set(others))
        if missing:
            raise ValueError(
                "MixupMMD needs reference records of every class of the training set, got none of "
                f"class {missing[0]}"
            )
        share = Beta(self.mixup_alpha, self.mixup_alpha)

        def loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
            label = int(labels[0])  # batches are in random order
            on_members = served(model, _draw(members[label]))
            with torch.no_grad():
                on_others = served(model, _draw(others[label]))
            discrepancy = squared_mmd(on_members, on_others)
            return mixup_loss(model, inputs, labels, share) + self.mmd_weight * discrepancy

        return loss


def mixup_loss(model: nn.Module, inputs: Tensor, labels: Tensor, share: Beta) -> Tensor:
    """Cross-entropy of the batch mixed with itself in another order (Zhang et al. 2018, ICLR)."""
    second, first_share = torch.randperm(len(inputs)), share.sample()
    logits = model(first_share * inputs + (1 - first_share) * inputs[second])
    return first_share * cross_entropy(logits, labels) + (1 - first_share) * cross_entropy(
        logits, labels[second]
    )


def squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """The squared maximum mean discrepancy of two samples [b, k] and [c, k].

    Of a Gaussian kernel of width 1, with each row compared with itself too (Gretton et al. 2012,
    JMLR, equation 5).
    """

    def mean_kernel(left: Tensor, right: Tensor) -> Tensor:
        squared_distances = (left[:, None] - right).square().sum(dim=2)
        return (-squared_distances / 2).exp().mean()

    return mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)


def _by_class(records: Records) -> dict[int, Tensor]:
    """The inputs of each class there is."""
    return {
        int(label): torch.from_numpy(records.features[records.labels == label])
        for label in np.unique(records.labels)
    }


def _draw(inputs: Tensor) -> Tensor:
    return inputs[torch.randint(len(inputs), (BATCH,))]
