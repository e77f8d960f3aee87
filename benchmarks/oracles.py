"""Oracles that release codewords, for per_example.py: they show what could be had at best.

They know of each record what the attacker's own shadow models say of it, trained with the record
and without it. No defender knows that when it serves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from aeppt.attacks.per_example import scaled_confidence
from aeppt.defenses.codebook import Cells, fit_cells, fit_codebook, sorted_rows
from aeppt.defenses.least_distortion import COST_OF_EXCESS, Limit, cheapest_map

# The very program of PrivacyFunnel, hence its own parts.
from aeppt.defenses.privacy_funnel import PrivacyFunnel, _each_codeword, _l1
from aeppt.evaluation import Experiment
from aeppt.predictions import Predictions
from aeppt.shadow_predictions import ShadowPredictions

GRID = 28, 3
COARSE_CLUSTERS = 12

Array = NDArray[np.float64]
Groups = NDArray[np.int64]


class Released(NamedTuple):
    """What the target and the attacker's shadow models say behind a defense."""

    target: Predictions
    shadows: ShadowPredictions


class Oracle:
    """Releases of one experiment that know what the shadow models say of each record."""

    def __init__(self, experiment: Experiment, seed: int) -> None:
        shadows = self.shadows = experiment.shadows
        self.target, self.seed = experiment.target, seed
        phi, with_it = scaled_confidence(shadows.probs, shadows.labels), shadows.trained_on
        sides = [phi.mean(axis=0, where=side) for side in (~with_it, with_it)]
        self.difficulty = np.stack(sides, axis=1)  # [n, 2]

    def quantiles(self, count: int) -> Groups:
        """Records [n] of like difficulty to models trained without them."""
        without = self.difficulty[:, 0]
        edges = np.quantile(without, np.arange(1, count) / count)
        return np.searchsorted(edges, without, "right")

    def clusters(self, count: int) -> Groups:
        """Records [n] of like difficulty to models trained without them, and with them."""
        return KMeans(count, n_init=1, random_state=0).fit_predict(self.difficulty)

    @cached_property
    def rows(self) -> Predictions:
        """All rows of all shadow models, model by model."""
        probs, with_it = self.shadows.probs, self.shadows.trained_on
        labels = np.tile(self.shadows.labels, len(probs))
        return Predictions(np.concatenate(probs), labels, with_it.ravel())

    @cached_property
    def codes(self) -> tuple[Array, Cells, NDArray[np.int64], Array]:
        """All rows sorted, the cells, each row's cell, and the codebook."""
        descending, is_member = sorted_rows(self.rows.probs), self.rows.is_member
        cells = fit_cells(descending, is_member, *GRID)
        cell = cells.of(descending)
        codebook = fit_codebook(descending, is_member, cell, cells.count)
        return descending, cells, cell, codebook.astype(np.float64)

    def by_own_maps(self, groups: Groups, advantage: float) -> Released:
        """PrivacyFunnel's program, solved for each group of records [n]."""
        descending, _, cell, codebook = self.codes
        program = PrivacyFunnel(advantage, serving_prior=0.5, keeps_calibration=False)
        of_row = np.tile(groups, len(self.shadows))
        maps = [
            program._map(
                descending[chosen],
                self.rows.is_member[chosen],
                cell[chosen],
                codebook,
                self.rows.is_correct[chosen],
                None,
            )
            for chosen in (of_row == i for i in range(groups.max() + 1))
        ]
        return self._by_maps(np.stack(maps), groups)

    def against_attack(self, weight: float) -> Released:
        """One map that trades L1 for what is told of membership in each cluster."""
        descending, cells, cell, codebook = self.codes
        of_row = np.tile(self.clusters(COARSE_CLUSTERS), len(self.shadows))
        is_correct = self.rows.is_correct

        def per_cell(values: Array, chosen: NDArray | slice = slice(None)) -> Array:
            return np.bincount(cell[chosen], values[chosen], cells.count) / len(cell)

        cost = np.stack([per_cell(l1) for l1 in _l1(descending, codebook, descending).T], axis=1)
        # A soft limit of nothing makes its excess a part of the cost. Total variation is half of
        # what the sides' shares differ by, and either side has half of the rows.
        apart = np.where(self.rows.is_member, 1.0, -1.0) * weight / COST_OF_EXCESS
        terms = [
            _each_codeword(per_cell(apart, (of_row == i) & (is_correct == right)))
            for i in range(COARSE_CLUSTERS)
            for right in (False, True)
        ]
        one = cheapest_map(cost, [Limit(np.concatenate(terms), 0, is_soft=True)])
        return self._by_maps(one[None], np.zeros(len(self.target), np.int64))

    def with_own_row(self) -> Released:
        """Each record's median row, in the ranking of the model."""
        median = np.median([sorted_rows(rows) for rows in self.shadows.probs], axis=0)
        row = median / median.sum(axis=1, keepdims=True)
        return self._released(lambda probs, model: in_ranking_of(probs, row))

    def least_l1(self) -> dict[str, float]:
        """Of any row, and any confidence, that a record has whatever the model, in L1."""
        said = np.stack([sorted_rows(rows) for rows in self.shadows.probs])
        off = np.abs(said - np.median(said, axis=0)).mean(axis=(0, 1))  # [k]
        return {"row": off.sum(), "confidence": 2 * off[0]}  # the rest moves as much

    def _by_maps(self, maps: Array, groups: Groups) -> Released:
        _, cells, _, codebook = self.codes

        def release(probs: NDArray, model: int) -> NDArray:
            cumulative = maps[groups, cells.of(sorted_rows(probs))].cumsum(axis=1)
            uniform = np.random.default_rng([self.seed, model]).random((len(probs), 1))
            word = (cumulative <= uniform * cumulative[:, -1:]).sum(axis=1)
            return in_ranking_of(probs, codebook[word])

        return self._released(release)

    def _released(self, release: Callable[[NDArray, int], NDArray]) -> Released:
        shadows = self.shadows
        probs = np.stack([release(rows, i) for i, rows in enumerate(shadows.probs, 1)])
        target = self.target.with_probs(release(self.target.probs, 0))
        return Released(target, ShadowPredictions(probs, shadows.labels, shadows.trained_on))


def in_ranking_of(probs: NDArray, descending: NDArray) -> NDArray:
    released = np.empty_like(probs)
    order = np.argsort(-probs, axis=1, kind="stable")
    np.put_along_axis(released, order, descending.astype(probs.dtype), axis=1)
    return released
