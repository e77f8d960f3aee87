"""SELENA: members get the soft labels of models that did not see them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from aeppt.data.records import Records
from aeppt.models.shadows import model_seed
from aeppt.models.stacked_training import group_size, groups_of_equal_size, train_together
from aeppt.models.training import Architecture, OnEpoch, new_model, predict_probs, train
from aeppt.recipes.base import Recipe
from aeppt.recipes.distillation import distill

MEMORY_BUDGET = 1 << 30  # bytes for the training of sub-models at once


@dataclass(frozen=True)
class SELENA(Recipe):
    """Split-AI and self-distillation (Tang et al. 2022, USENIX Security, arXiv 2110.08324).

    Of K sub-models, each record of the training set is left out of L. Its soft label is the average
    of what those L say of it: what they say of any record they did not see. The released model is
    a new one, trained on all records with these soft labels.

    The authors draw each record's L sub-models independently; here they are dealt, so that all
    sub-models have equally many records, to one, and are trained at once. Architectures that cannot
    be, those with buffers (batch norm) or dropout, are trained one by one. The authors keep the
    epoch that is best on a test set; here the last one is kept.

    Parameters
    ----------
    models : int
        The number of sub-models K, at least 2; 25 in the paper.
    left_out : int
        How many of them are trained without a record, L; at least 1 and below ``models``; 10 in the
        paper. More of them make better soft labels, from sub-models with fewer records.

    Raises
    ------
    ValueError
        A parameter is out of its range, or, from :meth:`train`, there are fewer records than
        sub-models.
    """

    models: int = 25
    left_out: int = 10

    def __post_init__(self) -> None:
        if self.models < 2:
            raise ValueError(f"models must be at least 2, got {self.models}")
        if not 0 < self.left_out < self.models:
            raise ValueError(
                f"left_out must be at least 1 and below models, {self.models}, got {self.left_out}"
            )

    def train(
        self,
        architecture: Architecture,
        records: Records,
        epochs: int,
        random_state: int,
        reference: Records | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> nn.Module:
        """See :meth:`Recipe.train`; ``on_epoch`` hears of the released model's epochs."""
        if len(records) < self.models:
            raise ValueError(
                f"SELENA with {self.models} sub-models needs at least as many records, got "
                f"{len(records)}; give more records, or take fewer models"
            )
        left_out = deal(len(records), self.models, self.left_out, random_state)
        *seeds, own_seed = (model_seed(random_state, model) for model in range(self.models + 1))
        soft_labels = np.zeros((len(records), records.n_classes), np.float32)
        sub_models = train_sub_models(architecture, records, ~left_out, epochs, seeds)
        for sub_model, unseen in zip(sub_models, left_out, strict=True):
            soft_labels[unseen] += predict_probs(sub_model, records.features[unseen])
        soft_labels /= self.left_out
        return distill(
            new_model(architecture, own_seed),
            records.features,
            torch.from_numpy(soft_labels),
            epochs,
            own_seed,
            on_epoch=on_epoch,
        )


def deal(n: int, models: int, left_out: int, random_state: int) -> NDArray[np.bool_]:
    """Which sub-models are trained without which record, [models, n].

    Each record is left out of exactly ``left_out`` sub-models: those that have left out fewest so
    far, drawn at random where there are more of them. So any two sub-models leave out equally many
    records, to one.
    """
    rng = np.random.default_rng(random_state)
    dealt = np.zeros((models, n), bool)
    counts = np.zeros(models)
    for record in range(n):
        fewest = np.argsort(counts + rng.random(models))[:left_out]
        dealt[fewest, record] = True
        counts[fewest] += 1
    return dealt


def train_sub_models(
    architecture: Architecture,
    records: Records,
    trained_on: NDArray[np.bool_],
    epochs: int,
    seeds: list[int],
) -> list[nn.Module]:
    """Train one model on each row of ``trained_on`` [m, n]: at once, if the architecture can be."""
    models = [new_model(architecture, seed) for seed in seeds]
    rows = [np.flatnonzero(own) for own in trained_on]
    try:
        together = group_size(models[0], records, MEMORY_BUDGET)
    except ValueError:  # it has buffers or is random
        return [
            train(model, records.take(own), epochs, seed)
            for model, own, seed in zip(models, rows, seeds, strict=True)
        ]

    for group in groups_of_equal_size(range(len(models)), trained_on.sum(axis=1), together):
        networks, own_seeds = [models[i] for i in group], [seeds[i] for i in group]
        own_rows = np.stack([rows[i] for i in group])
        for _ in train_together(networks, records, own_rows, own_seeds, epochs):
            pass
    return models
