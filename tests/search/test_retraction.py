"""The retraction is the exact Euclidean projection: checked by quadratic and linear programs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from search_helpers import DTYPES, Substitute, dirichlet, run
from torch import Tensor

from aeppt_ext import SearchOptions, Status, reference

TIE_GAPS = (1e-6, 0.05)
KINDS = ("near", "far", "very far", "tied", "label lowest", "simplex", "one entry")


def make_point(kind: str, k: int, label: int, generator: torch.Generator) -> Tensor:
    """A point [k] in float64 to project."""
    point = torch.randn(k, generator=generator, dtype=torch.float64)
    if kind == "near":
        return 1 / k + 0.1 * point
    if kind == "far":
        return 5 * point
    if kind == "very far":
        return 1000 * point
    if kind == "tied":
        return (point * 2).round() / 4
    if kind == "label lowest":
        point[label] = point.min() - 1
        return point
    if kind == "simplex":
        return dirichlet(1, k, 0.5, generator)[0]
    point = torch.zeros(k, dtype=torch.float64)
    point[(label + 1) % k] = 1
    return point


def inequality_matrix(k: int, label: int) -> np.ndarray:
    """Rows d with d · q >= tie_gap: the label's entry less each other one."""
    matrix = -np.eye(k)
    matrix[:, label] += 1
    return np.delete(matrix, label, axis=0)


def project_by_slsqp(point: np.ndarray, label: int, tie_gap: float) -> np.ndarray:
    """The projection by sequential quadratic programming, from the middle of the feasible set."""
    k = len(point)
    matrix = inequality_matrix(k, label)
    start = np.full(k, (1 - tie_gap) / k)
    start[label] += tie_gap
    solution = minimize(
        lambda q: 0.5 * np.sum((q - point) ** 2),
        start,
        jac=lambda q: q - point,
        method="SLSQP",
        bounds=[(0, None)] * k,
        constraints=[
            {"type": "eq", "fun": lambda q: q.sum() - 1, "jac": lambda q: np.ones(k)},
            {"type": "ineq", "fun": lambda q: matrix @ q - tie_gap, "jac": lambda q: matrix},
        ],
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return solution.x


def duality_gap(point: np.ndarray, candidate: np.ndarray, label: int, tie_gap: float) -> float:
    """max (y - x)·(v - x) over feasible v: its root bounds the distance of x to the projection."""
    k = len(point)
    direction = point - candidate
    best = linprog(
        -direction,
        A_ub=-inequality_matrix(k, label),
        b_ub=np.full(k - 1, -tie_gap),
        A_eq=np.ones((1, k)),
        b_eq=[1.0],
        bounds=(0, None),
    )
    assert best.success
    return float(-best.fun - direction @ candidate)


def retract_one(point: Tensor, label: int, tie_gap: float) -> Tensor:
    return reference.retract(point.unsqueeze(0), torch.tensor([label]), tie_gap)[0]


@pytest.mark.parametrize("tie_gap", TIE_GAPS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "very far"])
def test_it_solves_the_quadratic_program(kind: str, tie_gap: float) -> None:
    generator = torch.Generator().manual_seed(11)
    for k in range(2, 13):
        for label in {0, k // 2, k - 1}:
            point = make_point(kind, k, label, generator)
            expected = project_by_slsqp(point.numpy(), label, tie_gap)
            got = retract_one(point, label, tie_gap).numpy()
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tie_gap", TIE_GAPS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_feasible_point_is_nearer(kind: str, tie_gap: float) -> None:
    """The variational inequality of the projection, at every position of the label."""
    generator = torch.Generator().manual_seed(12)
    for k in (2, 5, 12):
        for label in range(k):
            point = make_point(kind, k, label, generator)
            got = retract_one(point, label, tie_gap)
            gap = duality_gap(point.numpy(), got.numpy(), label, tie_gap)
            assert gap <= 1e-10 * max(1.0, float(point.abs().max()))


@pytest.mark.parametrize("tie_gap", TIE_GAPS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_feasible_and_idempotent(kind: str, tie_gap: float) -> None:
    generator = torch.Generator().manual_seed(13)
    for k in (2, 3, 12, 200):
        for label in {0, k // 2, k - 1}:
            point = make_point(kind, k, label, generator)
            once = retract_one(point, label, tie_gap)
            rounding = 1e-12 * max(1.0, float(point.abs().max()))
            assert (once >= 0).all()
            assert abs(float(once.sum()) - 1) <= k * rounding
            others = torch.cat([once[:label], once[label + 1 :]])
            assert float(once[label] - others.max()) >= tie_gap - rounding
            assert int(once.argmax()) == label
            twice = retract_one(once, label, tie_gap)
            torch.testing.assert_close(twice, once, rtol=0, atol=k * rounding)


@pytest.mark.parametrize("tie_gap", TIE_GAPS)
def test_feasible_points_stay(tie_gap: float) -> None:
    generator = torch.Generator().manual_seed(14)
    for k in (2, 5, 12, 100):
        points = dirichlet(400, k, 0.3, generator)
        highest = points.topk(2, dim=1).values
        points = points[highest[:, 0] - highest[:, 1] >= tie_gap]
        assert len(points) >= 20
        again = reference.retract(points, points.argmax(1), tie_gap)
        torch.testing.assert_close(again, points, rtol=0, atol=1e-12)


def test_rows_are_projected_independently() -> None:
    generator = torch.Generator().manual_seed(15)
    points = torch.randn(100, 7, generator=generator, dtype=torch.float64)
    label = torch.randint(7, (100,), generator=generator)
    together = reference.retract(points, label, 1e-3)
    alone = [retract_one(*row, 1e-3) for row in zip(points, label.tolist(), strict=True)]
    assert torch.equal(together, torch.stack(alone))


@pytest.mark.parametrize("tie_gap", [1e-6, 1e-3, 0.1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernel_makes_rows_exact_as_the_reference(dtype: torch.dtype, tie_gap: float) -> None:
    """max_steps=0 on rows whose sum is off: the answer is the retraction of the given row."""
    generator = torch.Generator().manual_seed(16)
    for k in (2, 3, 10, 100, 1000):
        probs = dirichlet(60, k, 2.0, generator)
        probs[20:40, 1] = probs[20:40].amax(1)  # ties for the first place
        offset = torch.linspace(-9e-4, 9e-4, 60, dtype=torch.float64).unsqueeze(1)
        probs = (probs / probs.sum(1, keepdim=True) * (1 + offset)).to(dtype)
        always = Substitute(
            [torch.zeros(1, k, dtype=dtype)], [torch.ones(1, dtype=dtype)]
        )  # calls every row a member
        options = SearchOptions(max_steps=0, tie_gap=tie_gap)
        result = run("kernel", probs, always, options)
        assert (result.status == int(Status.EXHAUSTED)).all()
        expected = reference.retract(probs, probs.argmax(1), tie_gap)
        atol = 1e-12 if dtype == torch.float64 else 1e-7
        torch.testing.assert_close(result.probs, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("step_size", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("tie_gap", TIE_GAPS)
def test_kernel_retracts_far_points_as_the_reference(step_size: float, tie_gap: float) -> None:
    """One step of a linear substitute, whose gradient is known: the point is known, too."""
    generator = torch.Generator().manual_seed(17)
    moved = 0
    for k in (2, 5, 12, 100):
        probs = dirichlet(50, k, 1.0, generator)
        weight = torch.randn(1, k, generator=generator, dtype=torch.float64)
        substitute = Substitute([weight], [torch.full((1,), 1000.0, dtype=torch.float64)])
        for norm in ("linf", "l2"):
            options = SearchOptions(
                features="raw",
                norm=norm,
                method="step",
                step_size=step_size,
                max_steps=1,
                tie_gap=tie_gap,
            )
            result = run("kernel", probs, substitute, options)
            label = probs.argmax(1)
            descent = -weight.expand_as(probs)
            point = reference.move(probs, descent, result.score_before, label, options)
            expected = reference.retract(point, label, tie_gap)
            better = result.score_after < result.score_before
            moved += int(better.sum())
            torch.testing.assert_close(
                result.probs[better], expected[better], rtol=0, atol=1e-12 * max(1.0, step_size)
            )
    assert moved >= 200
