"""The cells and codewords of PrivacyFunnel: a grid over two numbers, and strictly falling rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from aeppt.defenses.codebook import Cells, fit_cells, fit_codebook
from aeppt.defenses.rows import TIE_GAP


def sorted_rows(n: int, k: int = 5, seed: int = 0) -> NDArray[np.float64]:
    rows = np.random.default_rng(seed).dirichlet(np.full(k, 0.4), n)
    return -np.sort(-rows, axis=1)


def test_a_row_lies_where_its_two_numbers_say() -> None:
    cells = Cells(np.array([0.5, 0.8]), np.array([[0.6], [0.7], [0.9]]))
    assert cells.count == 6
    rows = np.array(
        [
            [0.4, 0.3, 0.3],  # share 0.5
            [0.4, 0.36, 0.24],  # share 0.6: an edge belongs to the cell above it
            [0.5, 0.3, 0.2],  # the first edge
            [0.6, 0.3, 0.1],  # share 0.75
            [0.9, 0.085, 0.015],  # share 0.85
            [1.0, 0.0, 0.0],  # no share of nothing
        ]
    )
    assert cells.of(rows).tolist() == [0, 1, 2, 3, 4, 4]


def test_cells_hold_equally_many_rows_with_both_sides_weighing_the_same() -> None:
    rows = sorted_rows(4000)
    is_member = np.arange(4000) < 1000
    cells = fit_cells(rows, is_member, confidence_levels=4, shapes=2)
    cell = cells.of(rows)
    assert cells.count == 8
    weight = np.where(is_member, 0.5 / 1000, 0.5 / 3000)
    assert np.bincount(cell, weight, 8) == pytest.approx(np.full(8, 1 / 8), abs=0.01)


def test_one_confidence_makes_one_level() -> None:
    rows = np.tile([0.7, 0.2, 0.1], (50, 1))
    cells = fit_cells(rows, np.arange(50) < 20, confidence_levels=6, shapes=3)
    assert len(cells.confidence_edges) == 0
    assert len(set(cells.of(rows))) == 1


def test_a_codeword_is_the_mean_of_the_non_members_of_its_cell() -> None:
    rows = sorted_rows(600)
    is_member = np.arange(600) % 2 == 0
    cell = (rows[:, 0] > 0.7).astype(np.int64)
    codebook = fit_codebook(rows, is_member, cell, 2)
    for i in range(2):
        mean = rows[(cell == i) & ~is_member].mean(axis=0)
        assert codebook[i] == pytest.approx(mean, abs=2e-4)


def test_few_non_members_are_joined_by_the_members_and_an_empty_cell_by_all() -> None:
    rows = sorted_rows(60)
    is_member = np.arange(60) >= 4
    codebook = fit_codebook(rows, is_member, np.zeros(60, np.int64), 2)
    assert codebook[0] == pytest.approx(rows.mean(axis=0), abs=2e-4)
    assert codebook[1] == pytest.approx(rows.mean(axis=0), abs=2e-4)


@settings(max_examples=40, deadline=None)
@given(
    rows=arrays(
        np.float64,
        st.tuples(st.just(6), st.integers(2, 40)),
        elements=st.sampled_from([0.0, 0.0, 1e-9, 0.3, 1.0]),
    ),
    k=st.sampled_from([None, 1000]),
)
def test_codewords_fall_strictly_whatever_the_rows(
    rows: NDArray[np.float64], k: int | None
) -> None:
    if k is not None:
        rows = np.pad(rows, ((0, 0), (0, k - rows.shape[1])))
    rows[rows.sum(axis=1) == 0, 0] = 1
    descending = -np.sort(-rows / rows.sum(axis=1, keepdims=True), axis=1)
    codebook = fit_codebook(descending, np.arange(6) < 2, np.zeros(6, np.int64), 1)
    assert codebook.dtype == np.float32
    assert (np.diff(codebook, axis=1) < 0).all()
    assert (codebook > 0).all()
    assert codebook[0, 0] - codebook[0, 1] >= TIE_GAP
    assert abs(codebook.sum(dtype=np.float64) - 1) <= 1e-6
