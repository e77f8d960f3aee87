"""Many rows, and many classes."""

from __future__ import annotations

import pytest
import torch
from search_helpers import (
    DTYPES,
    ENGINES,
    check_guarantees,
    dirichlet,
    random_substitute,
    run,
    trained_problem,
)

from aeppt_ext import SearchOptions, Status
from aeppt_ext.options import FEATURES, SPACES


def test_many_rows() -> None:
    probs, substitute = trained_problem("sorted", 10, 200_000)
    probs, substitute = probs.float(), substitute.to(torch.float32)
    options = SearchOptions(direction="member", space="prob", step_size=0.02)
    result = run("kernel", probs, substitute, options)
    check_guarantees(probs, substitute, options, result)
    searched = result.status != int(Status.UNCHANGED)
    assert 0.3 < searched.double().mean() < 0.7
    assert (result.status == int(Status.SUCCESS))[searched].double().mean() > 0.9


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("engine", ENGINES)
def test_many_classes(engine: str, dtype: torch.dtype, space: str, features: str) -> None:
    generator = torch.Generator().manual_seed(21)
    k = 21_841
    probs = torch.cat([dirichlet(1, k, a, generator) for a in (0.01, 1.0, 20.0)]).to(dtype)
    substitute = random_substitute(probs, features, (16,), generator)
    for norm in ("linf", "l2"):
        options = SearchOptions(
            features=features, direction="both", space=space, norm=norm, max_steps=5
        )
        result = run(engine, probs, substitute, options)
        check_guarantees(probs, substitute, options, result)
