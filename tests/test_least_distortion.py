"""The cheapest randomised map within limits: known programs, and that limits hold."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from aeppt.defenses.least_distortion import Limit, cheapest_map


def differences(weight: NDArray[np.float64], codewords: int) -> NDArray[np.float64]:
    """Terms of the sums Σ_b weight[b] · K[b, a], one for each codeword a."""
    each = np.zeros((codewords, len(weight), codewords))
    for a in range(codewords):
        each[a, :, a] = weight
    return each


def total(limit: Limit, chosen: NDArray[np.float64]) -> float:
    return float(np.abs((limit.terms * chosen).sum(axis=(1, 2))).sum())


def test_without_a_limit_that_binds_every_cell_takes_what_is_cheapest() -> None:
    cost = np.array([[1.0, 0.5, 2.0], [0.1, 0.2, 0.0]])
    never = Limit(np.ones((1, 2, 3)), 2.0)  # the map's entries sum to two in any case
    assert cheapest_map(cost, [never]) == pytest.approx(np.array([[0, 1, 0], [0, 0, 1]]), abs=1e-9)


@pytest.mark.parametrize(("allowed", "moved"), [(2.0, 0.0), (0.5, 0.75), (0.0, 1.0)])
def test_two_cells_that_must_look_alike(allowed: float, moved: float) -> None:
    """Cell 0 holds one side, cell 1 the other; moving cell 1 costs less.

    Total variation is (1 - moved), in the sum of absolute values twice that.
    """
    cost = np.array([[0.0, 3.0], [1.0, 0.0]])
    apart = Limit(differences(np.array([1.0, -1.0]), 2), allowed)
    found = cheapest_map(cost, [apart])
    assert found == pytest.approx(np.array([[1, 0], [moved, 1 - moved]]), abs=1e-7)
    assert total(apart, found) == pytest.approx(allowed, abs=1e-7)


def test_a_soft_limit_gives_way_and_no_further_than_need_be() -> None:
    cost = np.zeros((2, 2))
    alike = Limit(differences(np.array([1.0, -1.0]), 2), 0.0)
    # The two cells want different codewords; alike, at least one of the two is not content.
    wish = Limit(np.array([[[0.0, 1.0], [1.0, 0.0]]]), 0.2, is_soft=True)
    found = cheapest_map(cost, [alike, wish])
    assert total(alike, found) == pytest.approx(0, abs=1e-7)
    assert total(wish, found) == pytest.approx(1, abs=1e-7)
    kept = cheapest_map(cost, [wish])
    assert total(wish, kept) <= 0.2 + 1e-7


def test_limits_that_no_map_keeps_are_told() -> None:
    cost = np.zeros((2, 2))
    hard = Limit(np.ones((1, 2, 2)), 1.0)  # the entries of a map over two cells sum to two
    with pytest.raises(ValueError, match="no map keeps the limits"):
        cheapest_map(cost, [hard])


SHARES = arrays(np.float64, (2, 4), elements=st.floats(0.01, 1)).map(
    lambda weights: weights / weights.sum(axis=1, keepdims=True)
)


@settings(max_examples=30, deadline=None)
@given(
    shares=SHARES,
    cost=arrays(np.float64, (4, 3), elements=st.floats(0, 1)),
    allowed=st.floats(0, 1),
)
def test_rows_are_distributions_and_limits_hold(
    shares: NDArray[np.float64], cost: NDArray[np.float64], allowed: float
) -> None:
    limit = Limit(differences(shares[0] - shares[1], 3), allowed)
    found = cheapest_map(cost, [limit])
    assert (found >= 0).all()
    assert found.sum(axis=1) == pytest.approx(np.ones(4), abs=1e-12)
    assert total(limit, found) <= allowed + 1e-6
    # No constant map, which is always within such a limit, is cheaper.
    assert (found * cost).sum() <= cost.sum(axis=0).min() + 1e-6


@settings(max_examples=15, deadline=None)
@given(shares=SHARES, cost=arrays(np.float64, (4, 4), elements=st.floats(0, 1)))
def test_a_wider_limit_never_costs_more(
    shares: NDArray[np.float64], cost: NDArray[np.float64]
) -> None:
    costs = [
        (cost * cheapest_map(cost, [Limit(differences(shares[0] - shares[1], 4), most)])).sum()
        for most in (0.0, 0.1, 0.4, 2.0)
    ]
    assert all(wider <= tighter + 1e-6 for tighter, wider in pairwise(costs))
