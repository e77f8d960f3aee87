"""Distillation: the released network learns what another network says, not what the labels are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn.functional import cross_entropy

from aeppt.data.records import Records
from aeppt.models.shadows import model_seed
from aeppt.models.training import Architecture, OnEpoch, new_model, train
from aeppt.recipes.base import Recipe


@dataclass(frozen=True)
class DMP(Recipe):
    """Distillation for membership privacy (Shejwalkar & Houmansadr 2021, AAAI, arXiv 1906.06589).

    A teacher is trained on the members without a defense. The released student, of the same
    architecture, is trained on the teacher's soft labels of the reference records: it never sees a
    member, nor a true label. What leaks is what the teacher's answers elsewhere say of its members.

    Only the opening of the paper could be read. The temperature is that of Hinton et al. (2015,
    arXiv 1503.02531): while the student trains it divides the teacher's logits and the student's.
    Both defaults are this library's.

    Parameters
    ----------
    temperature : float
        Above 0. The higher, the more the student learns of the teacher's less likely classes, and
        the more closely it repeats what the teacher says of its members.
    kept : float
        The share of the reference records that the student trains on, above 0 and at most 1: those
        where the teacher's entropy is lowest, which by the paper's analysis tell least of members.
        The paper selects from many records; by default all are kept.

    Raises
    ------
    ValueError
        A parameter is out of its range, or, from :meth:`train`, ``reference`` is missing.
    """

    needs_reference: ClassVar[bool] = True

    temperature: float = 1.0
    kept: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be above 0 and finite, got {self.temperature}")
        if not 0 < self.kept <= 1:
            raise ValueError(f"kept must be above 0 and at most 1, got {self.kept}")

    def train(
        self,
        architecture: Architecture,
        records: Records,
        epochs: int,
        random_state: int,
        reference: Records | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> nn.Module:
        """See :meth:`Recipe.train`; ``on_epoch`` hears of the student's epochs."""
        features = self.checked_reference(reference).features
        teacher_seed, student_seed = (model_seed(random_state, model) for model in range(2))
        teacher = train(new_model(architecture, teacher_seed), records, epochs, teacher_seed)
        with torch.no_grad():
            logits = teacher(torch.from_numpy(features))
        rows = lowest_entropy(logits, self.kept)
        soft_labels = (logits[rows] / self.temperature).softmax(dim=1)
        student = new_model(architecture, student_seed)
        return distill(
            student,
            features[rows.numpy()],
            soft_labels,
            epochs,
            student_seed,
            self.temperature,
            on_epoch,
        )


def lowest_entropy(logits: Tensor, kept: float) -> Tensor:
    """The rows of the share ``kept`` of ``logits`` [n, k] that is surest; at least one row."""
    entropies: Tensor = Categorical(logits=logits).entropy()
    return entropies.argsort(stable=True)[: max(1, round(kept * len(logits)))]


def distill(
    student: nn.Module,
    features: NDArray[np.float32],
    soft_labels: Tensor,
    epochs: int,
    random_state: int,
    temperature: float = 1.0,
    on_epoch: OnEpoch | None = None,
) -> nn.Module:
    """Train ``student`` in place on soft labels by cross-entropy, and put it in eval mode.

    Parameters
    ----------
    student : nn.Module
        Inputs [b, ...] to logits [b, k].
    features : array [n, ...], float32
    soft_labels : Tensor [n, k]
        Probabilities.
    epochs : int
    random_state : int
        Seed of the order of batches, and of what the student draws from torch's randomness.
    temperature : float
        Divides the student's logits in the loss.
    on_epoch : callable or None
        Called with the number of epochs done, after each.
    """

    def loss(model: nn.Module, inputs: Tensor, rows: Tensor) -> Tensor:
        logits: Tensor = model(inputs) / temperature
        return cross_entropy(logits, soft_labels[rows])

    # Each record's label is its row, by which the loss finds the soft label.
    numbered = Records(features, np.arange(len(features)), soft_labels.shape[1])
    return train(student, numbered, epochs, random_state, batch_loss=loss, on_epoch=on_epoch)
