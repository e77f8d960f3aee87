"""Refinement: the least movement on the segment, to within a cell, in few evaluations."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from search_helpers import ENGINES, run, trained_problem
from torch import Tensor

from aeppt_ext import SearchOptions, Status, reference
from aeppt_ext.options import SPARE_CUTS
from aeppt_ext.reference import interpolate, next_cut


def find_cell(goals: list[float], cuts: int) -> tuple[int, int]:
    """The cell of ``2**cuts`` that the search ends in, and how many goals it looked at."""
    unit = 2**cuts
    low, high = torch.zeros(1, dtype=torch.float64), torch.full((1,), float(unit)).double()
    at_low, at_high = (torch.tensor([goals[i]], dtype=torch.float64) for i in (0, unit))
    looked = 0
    while high - low > 1:
        cut = next_cut(low, high, at_low, at_high, unit, cuts + SPARE_CUTS - 1 - looked)
        assert low < cut < high
        assert cut == cut.round()
        looked += 1
        goal = torch.tensor([goals[int(cut)]], dtype=torch.float64)
        if goal <= 0:
            high, at_high = cut, goal
        else:
            low, at_low = cut, goal
    return int(high), looked


def bisected(goals: list[float], cuts: int) -> int:
    low, high = 0, 2**cuts
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if goals[middle] <= 0 else (middle, high)
    return high


@given(
    st.integers(1, 10),
    st.floats(-30, 30),
    st.floats(0.01, 0.99),
    st.sampled_from([0.0, 1e-9, 1.0, 1e30]),
)
def test_the_cell_is_that_of_bisection(cuts, steepness, border, scale):
    """On goals that cross the border once, however bent: few and never many evaluations."""
    unit = 2**cuts

    def height(t: float) -> float:
        return math.expm1(steepness * t) / math.expm1(steepness) if steepness else t

    goals = [(scale or 1.0) * (height(border) - height(i / unit)) for i in range(unit + 1)]
    found, looked = find_cell(goals, cuts)
    assert found == bisected(goals, cuts)
    assert looked <= cuts + SPARE_CUTS


@given(st.lists(st.floats(allow_nan=True), min_size=63, max_size=63))
def test_any_goals_end_at_a_border_in_time(values):
    """Whatever the scores, infinite or no number: it ends where the goal is met and was not."""
    goals = [1.0, *values, -1.0]
    found, looked = find_cell(goals, 6)
    assert goals[found] <= 0
    assert not goals[found - 1] <= 0
    assert looked <= 6 + SPARE_CUTS


@pytest.mark.parametrize("space", ["logit", "prob"])
@pytest.mark.parametrize("engine", ENGINES)
def test_the_row_returned_is_the_first_of_its_grid_to_meet_the_goal(engine: str, space: str):
    probs, substitute = trained_problem("sorted", 10, 200, (37, 20))
    layers = (substitute.weights, substitute.biases, "sorted")
    options = SearchOptions(
        direction="member", space=space, step_size=0.3 if space == "logit" else 0.02, refine_steps=6
    )
    whole = run(engine, probs, substitute, SearchOptions(**{**vars(options), "refine_steps": 0}))
    refined = run(engine, probs, substitute, options)
    rows = (whole.status == int(Status.SUCCESS)).nonzero()[:, 0]
    assert len(rows) > 50
    assert torch.equal(whole.status, refined.status)

    def at(share: float) -> Tensor:
        t = torch.full((len(rows),), share, dtype=torch.float64)
        return interpolate(probs[rows], whole.probs[rows], t, probs[rows].argmax(1), options)

    missed = torch.ones(len(rows), dtype=torch.bool)
    for i in range(1, 65):
        points = at(i / 64)
        first = missed & (reference.score(points, *layers) <= 0)
        torch.testing.assert_close(refined.probs[rows][first], points[first], rtol=0, atol=1e-9)
        missed &= ~first
    assert not missed.any()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("refine_steps", [0, 1, 40, 1_000_000])
def test_any_number_of_refine_steps_ends(engine: str, refine_steps: int) -> None:
    probs, substitute = trained_problem("sorted", 10, 50, (37, 20))
    for constant_time in (False, True):
        options = SearchOptions(refine_steps=refine_steps, constant_time=constant_time)
        result = run(engine, probs, substitute, options)
        assert (result.status == int(Status.SUCCESS)).all()
        if refine_steps > 30:
            assert (result.score_after.abs() < 1e-6).all()
