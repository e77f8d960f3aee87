"""The guarantees of the search, as properties of random problems, for both engines."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from search_helpers import (
    DTYPES,
    ENGINES,
    LAYOUTS,
    ROW_KINDS,
    Substitute,
    check_guarantees,
    exact_start,
    in_layout,
    make_rows,
    random_substitute,
    run,
    trained_problem,
)
from torch import Tensor

from aeppt_ext import SearchOptions, Status
from aeppt_ext.options import DIRECTIONS, FEATURES, METHODS, NORMS, SPACES


@dataclass(frozen=True)
class Problem:
    probs: Tensor
    substitute: Substitute
    options: SearchOptions


@st.composite
def search_options(draw: st.DrawFn) -> SearchOptions:
    space = draw(st.sampled_from(SPACES))
    step_sizes = (0.0, 0.001, 0.02, 0.1) if space == "prob" else (0.0, 0.05, 0.3, 2.0)
    return SearchOptions(
        features=draw(st.sampled_from(FEATURES)),
        direction=draw(st.sampled_from(DIRECTIONS)),
        space=space,
        norm=draw(st.sampled_from(NORMS)),
        method=draw(st.sampled_from(METHODS)),
        step_size=draw(st.sampled_from(step_sizes)),
        max_steps=draw(st.sampled_from((0, 1, 4, 20))),
        margin=draw(st.sampled_from((0.0, 0.01, 1.0))),
        tie_gap=draw(st.sampled_from((1e-6, 1e-3, 0.1))),
        refine_steps=draw(st.sampled_from((0, 3, 10))),
        max_l1=draw(st.sampled_from((None, 0.0, 0.05, 0.5))),
        constant_time=draw(st.booleans()),
    )


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    options = draw(search_options())
    dtype = draw(st.sampled_from(DTYPES))
    k = draw(st.integers(2, 40))
    kinds = draw(st.lists(st.sampled_from(ROW_KINDS), min_size=1, max_size=16))
    hidden = draw(st.sampled_from(((), (1,), (8,), (16, 8))))
    scale = draw(st.sampled_from((1.0, 1.0, 1.0, 0.0, 1e-12, 1e6)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    probs = make_rows(kinds, k, dtype, generator)
    substitute = random_substitute(probs, options.features, hidden, generator, scale)
    return Problem(in_layout(probs, draw(st.sampled_from(LAYOUTS))), substitute, options)


@pytest.mark.parametrize("engine", ENGINES)
@given(problem=problems())
@settings(deadline=None, derandomize=True, max_examples=250)
def test_guarantees_hold(engine: str, problem: Problem) -> None:
    before = problem.probs.clone()
    result = run(engine, problem.probs, problem.substitute, problem.options)
    check_guarantees(problem.probs, problem.substitute, problem.options, result)
    assert torch.equal(problem.probs, before), "the input has been modified"


@pytest.mark.parametrize("engine", ENGINES)
@given(problem=problems(), offset=st.sampled_from((-9.9e-4, -1e-5, 2e-6, 9.9e-4)))
@settings(deadline=None, derandomize=True, max_examples=80)
def test_sums_slightly_off_are_made_exact(engine: str, problem: Problem, offset: float) -> None:
    probs = problem.probs * (1 + offset)
    result = run(engine, probs, problem.substitute, problem.options)
    check_guarantees(probs, problem.substitute, problem.options, result)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_far_inside_the_sum_tolerance_are_not_touched(engine: str, dtype: torch.dtype) -> None:
    probs, substitute = trained_problem("sorted", 10, 50)
    probs = probs.to(dtype)
    options = SearchOptions(direction="member", max_steps=0)
    result = run(engine, probs, substitute.to(dtype), options)
    assert torch.equal(result.probs, probs)
    assert set(result.status.tolist()) == {int(Status.UNCHANGED), int(Status.EXHAUSTED)}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_zero_gradient_leaves_the_score(engine: str, space: str, direction: str) -> None:
    """Dead units: no step can move the score, so every searched row is exhausted."""
    generator = torch.Generator().manual_seed(0)
    probs = make_rows(("flat", "one_hot", "uniform", "ties"), 6, torch.float32, generator)
    hidden = torch.full((4, 6), -1.0)
    substitute = Substitute([hidden, torch.ones(1, 4)], [torch.zeros(4), torch.tensor([0.5])])
    options = SearchOptions(space=space, direction=direction, max_steps=5)
    result = run(engine, probs, substitute, options)
    check_guarantees(probs, substitute, options, result)
    assert result.status.tolist() == [int(Status.EXHAUSTED)] * 4
    assert result.steps.tolist() == [5] * 4
    assert torch.equal(result.probs, probs)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_row_on_the_border_is_misled_by_direction(
    engine: str, dtype: torch.dtype, direction: str
) -> None:
    """A score of exactly zero: "both" counts it as on the other side, "member" as unselected."""
    probs = torch.tensor([[0.25, 0.75]], dtype=dtype)
    substitute = Substitute(
        [torch.tensor([[1.0, -1.0]], dtype=dtype)], [torch.tensor([0.5], dtype=dtype)]
    )
    options = SearchOptions(features="raw", direction=direction)
    result = run(engine, probs, substitute, options)
    expected = Status.SUCCESS if direction == "both" else Status.UNCHANGED
    assert result.status.tolist() == [int(expected)]
    assert result.steps.tolist() == [0]
    torch.testing.assert_close(result.probs, probs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("step_size", [0.5, 3.0, 20.0, 50.0, 1e4])
def test_large_steps_keep_the_guarantees(engine: str, norm: str, step_size: float) -> None:
    """Rounding at points far outside the simplex must not cost the label or the sum."""
    generator = torch.Generator().manual_seed(5)
    for space in SPACES:
        for k in (2, 10, 100):
            probs = make_rows(ROW_KINDS * 4, k, torch.float32, generator)
            for refine_steps in (0, 10):
                options = SearchOptions(
                    direction="both",
                    space=space,
                    norm=norm,
                    step_size=step_size,
                    max_steps=5,
                    refine_steps=refine_steps,
                )
                substitute = random_substitute(probs, options.features, (16,), generator)
                result = run(engine, probs, substitute, options)
                check_guarantees(probs, substitute, options, result)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("refine_steps", [0, 10])
@pytest.mark.parametrize("k", [300, 1000])
def test_many_classes_keep_the_guarantees(
    engine: str, space: str, refine_steps: int, k: int
) -> None:
    """With many classes the rounding of each entry adds up in the sum of a float32 row."""
    generator = torch.Generator().manual_seed(7)
    probs = make_rows(ROW_KINDS, k, torch.float32, generator)
    for features in FEATURES:
        for norm in NORMS:
            options = SearchOptions(
                features=features,
                direction="both",
                space=space,
                norm=norm,
                step_size=0.1,
                max_steps=6,
                refine_steps=refine_steps,
            )
            substitute = random_substitute(probs, features, (16,), generator)
            result = run(engine, probs, substitute, options)
            check_guarantees(probs, substitute, options, result)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("k", [10, 30, 100, 300, 1000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tied_rows_keep_the_guarantees(engine: str, dtype: torch.dtype, k: int) -> None:
    """Steps make equal entries nearly equal and back, so the order of classes keeps changing."""
    generator = torch.Generator().manual_seed(k)
    probs = make_rows(("ties", "uniform", "zeros", "near_tie") * 10, k, dtype, generator)
    substitute = random_substitute(probs, "sorted", (16,), generator)
    for space in SPACES:
        options = SearchOptions(
            direction="both",
            space=space,
            step_size=0.1 if space == "logit" else 0.5 / k,
            max_steps=20,
        )
        result = run(engine, probs, substitute, options)
        check_guarantees(probs, substitute, options, result)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("scale", [1e15, 1e25, 1e38])
def test_an_overflowing_substitute_does_no_harm(
    engine: str, norm: str, space: str, scale: float
) -> None:
    """Scores and gradients become infinite or NaN; the returned rows must not."""
    generator = torch.Generator().manual_seed(3)
    for features in FEATURES:
        probs = make_rows(ROW_KINDS, 8, torch.float32, generator)
        substitute = random_substitute(probs.double(), features, (8, 8), generator)
        large = [(w * scale).clamp(-3e38, 3e38) for w in substitute.weights]
        substitute = Substitute(large, substitute.biases).to(torch.float32)
        for direction in DIRECTIONS:
            options = SearchOptions(
                features=features, direction=direction, space=space, norm=norm, max_steps=5
            )
            q = run(engine, probs, substitute, options).probs
            assert q.isfinite().all()
            assert (q >= 0).all()
            assert ((q.double().sum(1) - 1).abs() <= 1e-6).all()
            assert torch.equal(q.argmax(1), probs.argmax(1))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("space", SPACES)
def test_the_largest_step_does_no_harm(engine: str, norm: str, space: str) -> None:
    generator = torch.Generator().manual_seed(4)
    probs = make_rows(ROW_KINDS, 8, torch.float32, generator)
    substitute = random_substitute(probs, "sorted", (8,), generator)
    options = SearchOptions(space=space, norm=norm, step_size=1e6, direction="both")
    q = run(engine, probs, substitute, options).probs
    assert q.isfinite().all()
    assert (q >= 0).all()
    assert ((q.double().sum(1) - 1).abs() <= 1e-6).all()
    assert torch.equal(q.argmax(1), probs.argmax(1))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("max_l1", [None, 0.0, 0.01])
def test_negative_zero_is_zero(engine: str, features: str, max_l1: float | None) -> None:
    probs, substitute = trained_problem(features, 10, 40)
    probs = probs.clone()
    probs[:, 3] = 0
    probs /= probs.sum(1, keepdim=True)
    negative = probs.clone()
    negative[:, 3] = -0.0
    options = SearchOptions(features=features, direction="both", max_l1=max_l1)
    plain, signed = (run(engine, rows, substitute, options) for rows in (probs, negative))
    check_guarantees(negative, substitute, options, signed)
    for left, right in zip(plain, signed, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_budget_binds_and_is_used(engine: str, dtype: torch.dtype) -> None:
    """A BUDGET row stands at the budget, and the budget of a SUCCESS row is not needed."""
    probs, substitute = trained_problem("sorted", 10, 100)
    probs, substitute = probs.to(dtype), substitute.to(dtype)
    steps_in_prob = SearchOptions(direction="member", space="prob", step_size=0.02)
    free = run(engine, probs, substitute, steps_in_prob)
    bound = run(engine, probs, substitute, replace(steps_in_prob, max_l1=0.1))
    success, budget = (bound.status == int(s) for s in (Status.SUCCESS, Status.BUDGET))
    assert success.any()
    assert budget.any()
    assert torch.equal(bound.probs[success], free.probs[success])
    torch.testing.assert_close(
        bound.l1[budget], torch.full_like(bound.l1[budget], 0.1), atol=1e-6, rtol=0
    )
    assert (bound.score_after < bound.score_before)[budget].all()


@pytest.mark.parametrize("engine", ENGINES)
def test_refining_shortens_moves(engine: str) -> None:
    probs, substitute = trained_problem("sorted", 10, 100)
    options = SearchOptions(direction="member", space="prob", step_size=0.02)
    rough = run(engine, probs, substitute, replace(options, refine_steps=0))
    fine = run(engine, probs, substitute, replace(options, refine_steps=12))
    assert torch.equal(rough.status, fine.status)
    assert (fine.l1 <= rough.l1 + 1e-12).all()
    assert fine.l1.sum() < 0.9 * rough.l1.sum()
    success = fine.status == int(Status.SUCCESS)
    assert (fine.score_after[success] >= rough.score_after[success] - 1e-9).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_made_exact_rows_are_the_start(engine: str, dtype: torch.dtype) -> None:
    """max_steps=0 on rows whose sum is off: the nearest exact rows, and scores at them."""
    probs, substitute = trained_problem("sorted", 10, 100)
    probs, substitute = (probs * 1.0005).to(dtype), substitute.to(dtype)
    options = SearchOptions(max_steps=0)
    result = run(engine, probs, substitute, options)
    check_guarantees(probs, substitute, options, result)
    start = exact_start(probs, options.tie_gap)
    torch.testing.assert_close(result.probs, start, rtol=0, atol=1e-7)
    assert torch.equal(result.score_before, result.score_after)
    assert (result.l1 == 0).all()
