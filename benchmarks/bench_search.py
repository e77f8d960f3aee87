"""The fused search against the best plain PyTorch: ``make bench``.

Every row takes all 50 gradient steps (the substitute is never misled), so each engine does the same
work and the ratio is of the engine alone. Engines: ``fused``, the compiled kernel; ``eager``,
``aeppt_ext.reference``; ``compiled``, the same with its gradient step under ``torch.compile``.
``benchmarks/ratios.py`` makes a table of the results.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from aeppt_ext import SearchOptions, perturb_search, reference

OPTIONS = SearchOptions(direction="member", method="step", step_size=0.3, max_steps=50)


@cache
def compiled_step() -> reference.Step:
    return torch.compile(reference.step, dynamic=False)


def problem(k: int, hidden: tuple[int, ...], n: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Rows [n, k] and a random substitute whose logit stays far above zero."""
    generator = torch.Generator().manual_seed(k + n)
    weights, biases, width = [], [], k
    for units in (*hidden, 1):
        weights.append(torch.randn(units, width, generator=generator) * (2 / width) ** 0.5)
        biases.append(torch.zeros(units))
        width = units
    biases[-1] += 100
    return (3 * torch.randn(n, k, generator=generator)).softmax(1), weights, biases


@pytest.mark.parametrize("engine", ["fused", "eager", "compiled"])
@pytest.mark.parametrize("n", [1, 64, 4096])
@pytest.mark.parametrize("hidden", [(64,), (256, 128, 64)], ids=["64", "256-128-64"])
@pytest.mark.parametrize("k", [10, 100, 1000])
def test_search(benchmark, k, hidden, n, engine):
    probs, weights, biases = problem(k, hidden, n)

    def search() -> reference.SearchResult:
        if engine == "fused":
            return perturb_search(probs, weights, biases, OPTIONS)
        step = compiled_step() if engine == "compiled" else reference.step
        return reference.perturb_search(probs, weights, biases, OPTIONS, step)

    steps = search().steps
    assert (steps == OPTIONS.max_steps).all(), "the substitute was misled; the work is not equal"
    rounds = 3 if n * k > 1_000_000 else 5 if n * k > 100_000 else 15
    benchmark.extra_info.update(k=k, hidden="-".join(map(str, hidden)), n=n, engine=engine)
    benchmark.extra_info["flops"] = 4 * 50 * n * sum(weight.numel() for weight in weights)
    benchmark.extra_info["threads"] = torch.get_num_threads()
    benchmark.pedantic(search, rounds=rounds, warmup_rounds=1)
