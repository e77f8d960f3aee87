"""The two methods: ``boundary`` misleads as often as ``step``, at no greater price, and sooner."""

from __future__ import annotations

import pytest
import torch
from search_helpers import ENGINES, run, trained_problem

from aeppt_ext import SearchOptions, Status
from aeppt_ext.options import DIRECTIONS, NORMS

#: Both end within the resolution of ten bisections of the same border.
L1_NOISE = 1e-3


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("k", [10, 100])
def test_boundary_misleads_as_often_at_no_greater_price(engine, norm, direction, k):
    probs, substitute = trained_problem("sorted", k, 300, (37, 20))
    step, boundary = (
        run(engine, probs, substitute, SearchOptions(direction=direction, norm=norm, method=method))
        for method in ("step", "boundary")
    )
    success = boundary.status == int(Status.SUCCESS)
    assert (success | (step.status != int(Status.SUCCESS))).all()
    both = success & (step.status == int(Status.SUCCESS))
    assert both.any()
    assert boundary.l1[both].mean() <= step.l1[both].mean() * (1 + L1_NOISE)
    assert (boundary.steps[success] <= 8).double().mean() >= 0.99
    assert boundary.steps[both].sum() < step.steps[both].sum()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_is_never_shorter_nor_four_times_longer_than_step_size(engine):
    probs, substitute = trained_problem("sorted", 10, 200, (37, 20))
    options = SearchOptions(norm="linf", max_steps=1, refine_steps=0, step_size=0.01)
    moved = run(engine, probs, substitute, options)
    ratio = moved.probs.log() - probs.log()
    spread = (ratio.amax(1) - ratio.amin(1))[moved.l1 > 0] / 2
    # Signs may all be equal but for the label's constraint, so only the upper end is exact.
    assert (spread <= 0.04 * (1 + 1e-6)).all()
    assert torch.isclose(spread.max(), torch.tensor(0.04, dtype=spread.dtype), rtol=1e-6)
    assert (spread[spread > 0.02] >= 0.01 * (1 - 1e-6)).all()


def test_step_is_the_same_length_whatever_the_score():
    probs, substitute = trained_problem("sorted", 10, 200, (37, 20))
    options = SearchOptions(norm="linf", max_steps=1, refine_steps=0, step_size=0.01, method="step")
    moved = run("kernel", probs, substitute, options)
    ratio = moved.probs.log() - probs.log()
    spread = (ratio.amax(1) - ratio.amin(1)) / 2
    assert (spread <= 0.01 * (1 + 1e-6)).all()
