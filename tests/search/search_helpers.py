"""Inputs, substitutes and checks that the tests of the perturbation search share.

Rows come from :func:`make_rows`, random substitutes from :func:`random_substitute`, and realistic
problems (a trained substitute, rows of members and non-members) from :func:`trained_problem`.
:func:`run` calls either engine; :func:`check_guarantees` holds what every answer must satisfy;
:class:`Agreement` counts how often two engines differ.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

import aeppt_ext
from aeppt_ext import SearchOptions, SearchResult, Status, reference
from aeppt_ext.options import EXACT_SUM, OPTION_NAMES

ENGINES = ("kernel", "reference")
DTYPES = (torch.float32, torch.float64)

#: Where :func:`run` has the op search: a test run with ``AEPPT_TEST_DEVICE=cuda`` tries the GPU.
KERNEL_DEVICE = torch.device(os.environ.get("AEPPT_TEST_DEVICE", "cpu"))

#: What rows :func:`make_rows` can make.
ROW_KINDS = (
    "flat",
    "medium",
    "peaked",
    "one_hot",
    "uniform",
    "denormal",
    "tie_for_first",
    "ties",
    "near_tie",
    "zeros",
)
LAYOUTS = ("contiguous", "transposed", "column_stride", "row_stride", "slice")


@dataclass(frozen=True)
class Substitute:
    """Dense layers with ReLU between them, ending in one logit."""

    weights: list[Tensor]  # [out, in] each
    biases: list[Tensor]  # [out] each

    def to(self, target: torch.dtype | torch.device) -> Substitute:
        return Substitute([w.to(target) for w in self.weights], [b.to(target) for b in self.biases])


def run(engine: str, probs: Tensor, substitute: Substitute, options: SearchOptions) -> SearchResult:
    """The search by the op (``kernel``) or by the plain PyTorch ``reference``.

    The op works on ``KERNEL_DEVICE``; its answers come back to where ``probs`` is.
    """
    if engine == "reference":
        return reference.perturb_search(probs, substitute.weights, substitute.biases, options)
    if probs.device == KERNEL_DEVICE or probs.is_cuda:
        return aeppt_ext.perturb_search(probs, substitute.weights, substitute.biases, options)
    there = substitute.to(KERNEL_DEVICE)
    result = aeppt_ext.perturb_search(probs.to(KERNEL_DEVICE), there.weights, there.biases, options)
    return SearchResult(*(column.to(probs.device) for column in result))


def call_raw_op(probs: Tensor, substitute: Substitute, **options: object) -> SearchResult:
    """The op itself, with options that ``SearchOptions`` has not checked."""
    defaults = SearchOptions()
    values = [options.get(name, getattr(defaults, name)) for name in OPTION_NAMES]
    op = torch.ops.aeppt.perturb_search
    return SearchResult(*op(probs, substitute.weights, substitute.biases, *values))


def dirichlet(n: int, k: int, concentration: float, generator: torch.Generator) -> Tensor:
    """Rows [n, k] in float64 from a symmetric Dirichlet distribution."""
    gammas = torch._standard_gamma(
        torch.full((n, k), concentration, dtype=torch.float64), generator=generator
    )
    gammas = gammas.clamp_min(1e-300)
    return gammas / gammas.sum(1, keepdim=True)


def make_row(kind: str, k: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """One row [k] of a kind in ``ROW_KINDS``, summing to one up to the rounding of ``dtype``."""
    concentration = {"flat": 20.0, "peaked": 0.05}.get(kind, 1.0)
    row = dirichlet(1, k, concentration, generator)[0]
    first, second = torch.randperm(k, generator=generator)[:2].tolist()
    if kind == "one_hot":
        row = torch.zeros(k, dtype=torch.float64)
        row[first] = 1
    elif kind == "uniform":
        row = torch.full((k,), 1 / k, dtype=torch.float64)
    elif kind == "tie_for_first":
        row[second] = row[first] = row.max()
    elif kind == "ties":
        row = torch.randint(1, 4, (k,), generator=generator).double()
    elif kind == "zeros":
        row[torch.rand(k, generator=generator) < 0.5] = 0
        row[first] = 1
    row = (row / row.sum()).to(dtype)
    if kind == "denormal":
        row[first] += row[second]
        row[second] = torch.finfo(dtype).tiny / 64
    elif kind == "near_tie":
        top = row.max()
        row[first] = top
        row[second] = torch.nextafter(top, torch.zeros_like(top))
        row = row / row.sum()
        row[second] = torch.nextafter(row[first], torch.zeros_like(top))
    return row


def make_rows(
    kinds: Sequence[str], k: int, dtype: torch.dtype, generator: torch.Generator
) -> Tensor:
    """One row for each of ``kinds``, [len(kinds), k]."""
    return torch.stack([make_row(kind, k, dtype, generator) for kind in kinds])


def in_layout(probs: Tensor, layout: str) -> Tensor:
    """The same values in memory that is laid out in another way."""
    n, k = probs.shape
    if layout == "transposed":
        return probs.t().contiguous().t()
    if layout == "column_stride":
        wide = probs.new_full((n, 2 * k), torch.nan)
        wide[:, ::2] = probs
        return wide[:, ::2]
    if layout == "row_stride":
        tall = probs.new_full((3 * n, k), torch.nan)
        tall[1::3] = probs
        return tall[1::3]
    if layout == "slice":
        padded = probs.new_full((n + 2, k + 3), torch.nan)
        padded[1:-1, 2:-1] = probs
        return padded[1:-1, 2:-1]
    return probs


def random_substitute(
    probs: Tensor,
    features: str,
    hidden: Sequence[int],
    generator: torch.Generator,
    scale: float = 1.0,
) -> Substitute:
    """Gaussian layers, multiplied by ``scale``; half of ``probs`` lie on either side of zero."""
    width, k = reference.feature_width(features, probs.shape[1]), probs.shape[1]
    weights, biases = [], []
    for out in (*hidden, 1):
        weight = torch.randn(out, width, generator=generator, dtype=torch.float64)
        weights.append(weight * scale * (2 / width) ** 0.5)
        biases.append(torch.randn(out, generator=generator, dtype=torch.float64) * 0.1 * scale)
        width = out
    weights[0] *= k**0.5
    scores = reference.score(probs.double(), weights, biases, features)
    biases[-1] -= scores.median()
    return Substitute(weights, biases).to(probs.dtype)


@cache
def trained_problem(
    features: str, k: int, n: int, hidden: tuple[int, ...] = (64, 32)
) -> tuple[Tensor, Substitute]:
    """Rows [n, k] in float64, half of members and half not, and a substitute trained to tell them.

    Members are peaked soft-max rows and non-members flatter ones, as over-fitted models give.
    """
    generator = torch.Generator().manual_seed(k)

    def rows(count: int) -> tuple[Tensor, Tensor]:
        logits = torch.randn(count, k, generator=generator, dtype=torch.float64)
        label = torch.randint(k, (count, 1), generator=generator)
        is_member = torch.arange(count) % 2
        lift = torch.where(is_member == 1, 4.0, 1.5) + torch.randn(
            count, generator=generator, dtype=torch.float64
        )
        lift = lift + torch.log(torch.tensor(k / 2.0, dtype=torch.float64))
        logits.scatter_add_(1, label, lift.unsqueeze(1))
        return logits.softmax(1), is_member.double()

    train, is_member = rows(1000)
    inputs = reference.extract_features(train, features)[0].float()
    target = is_member.float()
    layers: list[torch.nn.Module] = []
    width = inputs.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(k)
        for out in hidden:
            layers += [torch.nn.Linear(width, out), torch.nn.ReLU()]
            width = out
        net = torch.nn.Sequential(*layers, torch.nn.Linear(width, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(8):
        for batch in torch.arange(len(inputs)).split(100):
            optimizer.zero_grad()
            logit = net(inputs[batch])[:, 0]
            torch.nn.functional.binary_cross_entropy_with_logits(logit, target[batch]).backward()
            optimizer.step()
    dense = [layer for layer in net if isinstance(layer, torch.nn.Linear)]
    substitute = Substitute(
        [layer.weight.detach().double() for layer in dense],
        [layer.bias.detach().double() for layer in dense],
    )
    return rows(n)[0], substitute


def exact_start(probs: Tensor, tie_gap: float) -> Tensor:
    """The rows from which the search starts: those whose sum is off are made exact."""
    start = probs.clone(memory_format=torch.contiguous_format)
    off = (start.double().sum(1) - 1).abs() > EXACT_SUM
    start[off] = reference.retract(start[off], start[off].argmax(1), tie_gap)
    return start


def rounding_band(probs: Tensor, substitute: Substitute, features: str) -> Tensor:
    """How far [n] rounding can move the logit at ``probs``: 1e-5 (1e-12) of its largest sum."""
    size = reference.extract_features(probs, features)[0].double().abs()
    for weight, bias in zip(substitute.weights, substitute.biases, strict=True):
        size = size @ weight.double().abs().T + bias.double().abs()
    relative = 1e-5 if probs.dtype == torch.float32 else 1e-12
    return size[:, 0] * relative


def check_guarantees(
    probs: Tensor, substitute: Substitute, options: SearchOptions, result: SearchResult
) -> None:
    """Section 3 of the design: what holds for every answer to valid rows."""
    n, k = probs.shape
    q, status = result.probs, result.status
    assert q.shape == (n, k)
    assert q.dtype == result.score_before.dtype == result.score_after.dtype == probs.dtype
    assert result.l1.dtype == probs.dtype
    assert status.dtype == torch.int8
    assert result.steps.dtype == torch.int32

    assert q.isfinite().all()
    assert (q >= 0).all()
    assert torch.equal(q.argmax(1), probs.argmax(1)), "the label of a row has changed"
    off = (q.double().sum(1) - 1).abs().max()
    assert off <= 1e-6, f"a row sums to one only within {off:g}"

    start = exact_start(probs, options.tie_gap)
    unchanged, success, budget, exhausted = (
        status == int(s)
        for s in (Status.UNCHANGED, Status.SUCCESS, Status.BUDGET, Status.EXHAUSTED)
    )
    assert (unchanged | success | budget | exhausted).all()
    assert ((result.steps >= 0) & (result.steps <= options.max_steps)).all()
    assert torch.equal(q[unchanged], start[unchanged])
    assert (result.steps[unchanged] == 0).all()

    # The columns agree with the rows.
    l1 = (q.double() - start.double()).abs().sum(1)
    slack = 1e-6 if probs.dtype == torch.float32 else 1e-12
    torch.testing.assert_close(result.l1.double(), l1, rtol=slack, atol=slack)
    if options.max_l1 is None:
        assert not budget.any()
    else:
        assert (l1 <= options.max_l1 + 1e-6).all()
    layers = (substitute.weights, substitute.biases, options.features)
    before, after = (reference.score(rows, *layers).double() for rows in (start, q))
    bands = [rounding_band(rows, substitute, options.features) for rows in (start, q)]
    for name, recomputed, band in zip(
        ("score_before", "score_after"), (before, after), bands, strict=True
    ):
        column = getattr(result, name)
        # Where the substitute itself overflows, there is no score to compare.
        known = recomputed.isfinite() & band.isfinite() & (band < torch.finfo(probs.dtype).max)
        wrong = known & ~((column.double() - recomputed).abs() <= band)
        assert not wrong.any(), f"{name} of rows {wrong.nonzero()[:, 0].tolist()} is wrong"

    # The decisions agree with the scores: by the columns exactly, by recomputation within the band.
    margin = torch.tensor(options.margin, dtype=probs.dtype)
    side = torch.ones_like(result.score_before)
    if options.direction == "both":
        side = torch.where(result.score_before > 0, 1.0, -1.0).to(probs.dtype)
        assert not unchanged.any()
    else:
        assert not (unchanged & (result.score_before > -margin)).any()
        assert not (~unchanged & (result.score_before <= -margin)).any()
    goal = side * result.score_after
    assert (goal <= -margin)[success].all()
    assert ((side.double() * after <= -options.margin + bands[1]) | after.isnan())[success].all()
    assert not (goal <= -margin)[budget | exhausted].any()
    assert not (goal > side * result.score_before)[exhausted].any()


@dataclass
class Agreement:
    """How far two engines agree, over many rows."""

    tolerance: float
    rows: int = 0
    other_status: int = 0
    flips: int = 0  # rows of equal status whose probabilities differ by more than the tolerance
    greatest: float = 0.0  # difference among the other rows
    successes: int = 0
    searched: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, left: SearchResult, right: SearchResult, note: str = "") -> None:
        same = left.status == right.status
        change = (left.probs.double() - right.probs.double()).abs().amax(1)
        flipped = same & ~(change <= self.tolerance)
        self.rows += len(same)
        self.other_status += int((~same).sum())
        self.flips += int(flipped.sum())
        self.greatest = max([self.greatest, *change[same & ~flipped].tolist()])
        self.successes += int((right.status == int(Status.SUCCESS)).sum())
        self.searched += int((right.status != int(Status.UNCHANGED)).sum())
        if int((~same).sum()) + int(flipped.sum()):
            self.notes.append(f"{note}: {int((~same).sum())} statuses, {int(flipped.sum())} flips")


def run_script(script: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a process of its own that imports what this one can import."""
    return subprocess.run(
        [sys.executable, "-c", script],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]),
            **(env or {}),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
