"""The cells that PrivacyFunnel rounds rows to, and the codewords that it releases for them.

A row, sorted in descending order, is described by two numbers: its confidence, the greatest entry,
and the share that the runner-up has of the rest. Cells are a grid over both. Each has a codeword,
the mean of the sorted non-members in it, so whatever is released looks like a non-member.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from aeppt.defenses.rows import TIE_GAP
from aeppt_ext import release

#: A cell with fewer non-members takes the mean of all rows in it.
LEAST_NON_MEMBERS = 5
#: How much of each codeword falls evenly from the first rank to the last, so that no rank is zero.
LADDER = 1e-4
#: By what share of it each entry falls more from rank to rank than the mean does. That keeps ranks
#: apart where the mean has them equal: float32 tells numbers apart that differ by a quarter of it.
FALL = 2.0**-21

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Cells:
    """A grid over confidence and the runner-up's share, as in :class:`aeppt_ext.ReleaseTables`."""

    confidence_edges: Array  # [c - 1], ascending
    shape_edges: Array  # [c, s - 1], ascending rows

    @property
    def count(self) -> int:
        """The number of cells, c · s."""
        levels, edges = self.shape_edges.shape
        return int(levels * (edges + 1))

    def of(self, descending: Array) -> NDArray[np.int64]:
        """The cell [n] of each sorted row [n, k]."""
        given = map(torch.from_numpy, (descending, self.confidence_edges, self.shape_edges))
        cell: NDArray[np.int64] = release.cells(*given).numpy()
        return cell


def sorted_rows(probs: NDArray[np.floating]) -> Array:
    """Each row of ``probs`` [n, k] in descending order."""
    return -np.sort(-probs.astype(np.float64), axis=1)


def fit_cells(
    descending: Array, is_member: NDArray[np.bool_], confidence_levels: int, shapes: int
) -> Cells:
    """Cells that hold about equally many rows, members and non-members counting the same in all.

    Parameters
    ----------
    descending : array [n, k]
        Rows, each sorted.
    is_member : array [n], bool
    confidence_levels : int
        Where many rows share one confidence, there are fewer.
    shapes : int
        Cells of one confidence level.
    """
    confidence = descending[:, 0]
    weight = np.where(is_member, 0.5 / is_member.sum(), 0.5 / (~is_member).sum())
    order = np.argsort(confidence, kind="stable")
    wanted = np.arange(1, confidence_levels) / confidence_levels
    edges = np.unique(np.interp(wanted, np.cumsum(weight[order]), confidence[order]))
    edges = edges[edges > confidence.min()]  # nothing lies below that one
    level = np.searchsorted(edges, confidence, "right")
    share = _share(descending)
    wanted = np.arange(1, shapes) / shapes
    shape_edges = [np.quantile(share[level == i], wanted) for i in range(len(edges) + 1)]
    return Cells(edges, np.array(shape_edges).reshape(len(edges) + 1, shapes - 1))


def fit_codebook(
    descending: Array, is_member: NDArray[np.bool_], cell: NDArray[np.int64], cells: int
) -> NDArray[np.float32]:
    """One codeword per cell [A, k]: strictly decreasing, positive, of sum one.

    Parameters
    ----------
    descending : array [n, k]
        Rows, each sorted.
    is_member : array [n], bool
    cell : array [n]
        Each row's cell.
    cells : int
        How many there are; one without a row takes the mean of all rows.
    """
    k = descending.shape[1]
    ranks = np.arange(k)
    ladder = (k - ranks) / (k * (k + 1) / 2)
    codebook = np.empty((cells, k), np.float32)
    for i in range(cells):
        inside = cell == i
        others = inside & ~is_member
        chosen = others if others.sum() >= LEAST_NON_MEMBERS else inside
        mean = descending[chosen if chosen.any() else slice(None)].mean(axis=0)
        word = ((1 - LADDER) * mean + LADDER * ladder) * (1 - FALL * ranks)
        word[0] = max(word[0], word[1] + 2 * TIE_GAP)
        codebook[i] = word / word.sum()
    return codebook


def _share(descending: Array) -> Array:
    """The runner-up's share [n] of what the label leaves; zero where it leaves nothing."""
    rest = 1 - descending[:, 0]
    share: Array = np.divide(descending[:, 1], rest, out=np.zeros_like(rest), where=rest > 0)
    return share
