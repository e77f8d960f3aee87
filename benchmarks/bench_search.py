"""The fused search against plain PyTorch: ``make bench``.

``test_search``: every row takes all 50 gradient steps (the substitute is never misled), so each
engine does the same work and the ratio is of the engine alone. ``test_early``: a trained
substitute, whose rows finish after a few steps. ``test_matrix_rate``: the ceiling, in the same run.

Engines: ``fused``, the compiled kernel; ``eager``, ``aeppt_ext.reference``; ``compiled``, the same
with its gradient step under ``torch.compile``; each also with the products of gradient steps in
bf16.
``benchmarks/ratios.py`` makes a table and a picture of the results.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils import mkldnn

from aeppt.defenses.substitute import fit_substitute
from aeppt_ext import SearchOptions, Status, ops, perturb_search, reference

OPTIONS = SearchOptions(direction="member", method="step", step_size=0.3, max_steps=50)
FUSED = ("fused", "fused-bf16")
PLAIN = ("eager", "compiled", "eager-bf16", "compiled-bf16")
CASES = ((10, (64,)), (100, (256, 128, 64)), (1000, (256, 128, 64)))


class Problem(NamedTuple):
    """Rows [n, k] and a substitute."""

    probs: Tensor
    weights: list[Tensor]
    biases: list[Tensor]


def problem(k: int, hidden: tuple[int, ...], n: int) -> Problem:
    """A random substitute whose logit stays far above zero."""
    generator = torch.Generator().manual_seed(k + n)
    weights, biases, width = [], [], k
    for units in (*hidden, 1):
        weights.append(torch.randn(units, width, generator=generator) * (2 / width) ** 0.5)
        biases.append(torch.zeros(units))
        width = units
    biases[-1] += 100
    return Problem((3 * torch.randn(n, k, generator=generator)).softmax(1), weights, biases)


@cache
def trained_problem(k: int, hidden: tuple[int, ...], n: int) -> Problem:
    """Members' predictions more confident than others', and a substitute fitted on as many more."""
    generator = torch.Generator().manual_seed(k)
    logits = torch.randn(n + 4000, k, generator=generator)
    is_member = torch.arange(len(logits)) % 2 == 0
    logits[:, 0] += torch.where(is_member, 7.0, 5.0) + 1.5 * torch.randn(
        len(logits), generator=generator
    )
    probs = logits.softmax(1)
    known = probs[n:].numpy(), np.asarray(is_member[n:])
    return Problem(probs[:n], *fit_substitute(*known, "sorted", hidden, 0.5, 0))


def bf16_step(
    points: Tensor,
    logit: Tensor,
    gradient: Tensor,
    side: Tensor,
    label: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    options: SearchOptions,
) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.step`` with its products in bf16."""
    descent, distance = -side.unsqueeze(1) * gradient, side * logit + options.margin
    points = reference.move(points, descent, distance, label, options)
    points = reference.retract(points, label, options.tie_gap)
    inputs, order = reference.extract_features(points, options.features)
    x, activations = inputs.bfloat16(), []
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = torch.addmm(bias.bfloat16(), x, weight.bfloat16().T).relu_()
        activations.append(x)
    logit = torch.addmm(biases[-1], x.float(), weights[-1].T)[:, 0]
    gradient = weights[-1].bfloat16().expand(len(points), -1)
    for weight, activation in zip(reversed(weights[:-1]), reversed(activations), strict=True):
        gradient = torch.mm(gradient * (activation > 0), weight.bfloat16())
    return points, logit, torch.zeros_like(points).scatter_(1, order, gradient.float())


@cache
def plain_step(engine: str) -> reference.Step:
    step = bf16_step if engine.endswith("bf16") else reference.step
    return torch.compile(step, dynamic=False) if engine.startswith("compiled") else step


def search(given: Problem, options: SearchOptions, engine: str) -> reference.SearchResult:
    if engine in FUSED:
        precision = "bf16" if engine == "fused-bf16" else "float32"
        return perturb_search(*given, replace(options, precision=precision))
    return reference.perturb_search(*given, options, plain_step(engine))


def time_search(
    benchmark, given: Problem, options: SearchOptions, engine: str
) -> reference.SearchResult:
    n, k = given.probs.shape
    rounds = 3 if n * k > 1_000_000 else 5 if n * k > 100_000 else 15
    benchmark.extra_info.update(k=k, n=n, engine=engine, threads=torch.get_num_threads())
    benchmark.extra_info["hidden"] = "-".join(str(len(bias)) for bias in given.biases[:-1])
    benchmark.extra_info["instruction_set"] = ops.compiled.instruction_set()
    return benchmark.pedantic(search, (given, options, engine), rounds=rounds, warmup_rounds=1)


@pytest.mark.parametrize("product", ["torch.mm float32", "oneDNN float32", "torch.mm bf16"])
@torch.no_grad()
def test_matrix_rate(benchmark, product):
    """In float32 ``torch.mm`` is MKL, which on some processors leaves half of the rate unused."""
    size = 2048
    left, right = torch.randn(size, size), torch.randn(size, size)
    benchmark.extra_info.update(matrix_rate=product, flops=2 * size**3)
    multiply = torch.mm
    if product == "oneDNN float32":
        linear = torch.nn.Linear(size, size, bias=False).eval()
        left, multiply = left.to_mkldnn(), lambda x, _: packed(x)
        packed = mkldnn.to_mkldnn(linear)
    elif product == "torch.mm bf16":
        left, right = left.bfloat16(), right.bfloat16()
    benchmark.pedantic(multiply, (left, right), rounds=15, warmup_rounds=2)


@pytest.mark.parametrize("engine", [*FUSED, *PLAIN])
@pytest.mark.parametrize("n", [1, 64, 4096])
@pytest.mark.parametrize(("k", "hidden"), CASES, ids=lambda value: str(value).replace(" ", ""))
def test_search(benchmark, k, hidden, n, engine):
    given = problem(k, hidden, n)
    weights = sum(weight.numel() for weight in given.weights)
    benchmark.extra_info["flops"] = 4 * OPTIONS.max_steps * n * weights
    steps = time_search(benchmark, given, OPTIONS, engine).steps
    assert (steps == OPTIONS.max_steps).all(), "the substitute was misled; the work is not equal"


@pytest.mark.parametrize("engine", [*FUSED, "eager", "compiled"])
@pytest.mark.parametrize("method", ["step", "boundary"])
def test_early(benchmark, method, engine):
    given = trained_problem(100, (256, 128, 64), 4096)
    options = SearchOptions(method=method)
    found = time_search(benchmark, given, options, engine)
    success = (found.status == int(Status.SUCCESS)).double().mean()
    benchmark.extra_info.update(
        method=method,
        success=success.item(),
        steps=found.steps.double().mean().item(),
        mean_l1=found.l1.double().mean().item(),
    )
