"""A row's answer depends on that row alone: not on its batch, its place, threads or strides."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from search_helpers import (
    DTYPES,
    LAYOUTS,
    Substitute,
    in_layout,
    make_rows,
    random_substitute,
    run,
    trained_problem,
)
from torch import Tensor

from aeppt_ext import SearchOptions, SearchResult

CLASSES = (10, 100, 300)
OPTIONS = (
    SearchOptions(features="sorted", direction="both", norm="linf", method="step"),
    SearchOptions(features="sorted", direction="both", norm="linf", step_size=0.02),
    SearchOptions(features="sorted", space="logit", norm="l2", method="step", max_l1=0.2),
    SearchOptions(features="raw", direction="both", norm="l2", margin=0.1),
    SearchOptions(features="top3", norm="linf", method="step", constant_time=True),
    SearchOptions(features="sorted_raw", direction="both", norm="linf", method="step", max_l1=0.3),
)


def problem(
    options: SearchOptions, k: int, n: int, dtype: torch.dtype
) -> tuple[Tensor, Substitute]:
    probs, substitute = trained_problem(options.features, k, n, (33,))
    return probs.to(dtype), substitute.to(dtype)


def assert_identical(left: SearchResult, right: SearchResult) -> None:
    for name, a, b in zip(left._fields, left, right, strict=True):
        assert torch.equal(a, b), f"{name} differs"


def select(result: SearchResult, rows: Tensor | list[int]) -> SearchResult:
    return SearchResult(*(column[rows] for column in result))


@pytest.fixture
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o.features}-{o.norm}-{o.method}")
@pytest.mark.parametrize("k", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_alone_and_anywhere_in_a_batch(dtype: torch.dtype, k: int, options: SearchOptions) -> None:
    n = 1000
    probs, substitute = problem(options, k, n, dtype)
    together = run("kernel", probs, substitute, options)
    fewest, most = int(together.steps.min()), int(together.steps.max())
    assert most >= fewest + 5, "all rows take about as many steps"

    slowest, fastest = int(together.steps.argmax()), int(together.steps.argmin())
    for row in (0, 1, n // 2, n - 1, slowest, fastest):
        alone = run("kernel", probs[row : row + 1], substitute, options)
        assert_identical(alone, select(together, [row]))
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(k))
    assert_identical(
        run("kernel", probs[shuffled], substitute, options), select(together, shuffled)
    )
    for size in (2, 7, 49):  # around the number of rows that are worked on together
        assert_identical(
            run("kernel", probs[n - size :], substitute, options),
            select(together, list(range(n - size, n))),
        )


@pytest.mark.parametrize("space", ["prob", "logit"])
@pytest.mark.parametrize("k", [10, 100, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tied_rows_do_not_depend_on_their_neighbours(
    dtype: torch.dtype, k: int, space: str
) -> None:
    """Equal and nearly equal entries, whose order changes with every step."""
    generator = torch.Generator().manual_seed(k)
    kinds = ("ties", "uniform", "ties", "peaked", "ties", "zeros") * 15
    probs = make_rows(kinds, k, dtype, generator)
    substitute = random_substitute(probs, "sorted", (16,), generator)
    options = SearchOptions(
        direction="both", space=space, step_size=0.1 if space == "logit" else 0.02, max_steps=20
    )
    together = run("kernel", probs, substitute, options)
    for row in range(len(probs)):
        alone = run("kernel", probs[row : row + 1], substitute, options)
        assert_identical(alone, select(together, [row]))


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o.features}-{o.norm}-{o.method}")
@pytest.mark.parametrize("k", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("restore_threads")
def test_threads_and_repeats(dtype: torch.dtype, k: int, options: SearchOptions) -> None:
    probs, substitute = problem(options, k, 60, dtype)
    torch.set_num_threads(1)
    first = run("kernel", probs, substitute, options)
    for repeat in range(20):
        torch.set_num_threads(1 + repeat % 2)
        assert_identical(run("kernel", probs, substitute, options), first)


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "contiguous"])
@pytest.mark.parametrize("k", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_do_not_matter(dtype: torch.dtype, k: int, layout: str) -> None:
    for options in OPTIONS:
        probs, substitute = problem(options, k, 60, dtype)
        strided = in_layout(probs, layout)
        assert not strided.is_contiguous()
        weights = [in_layout(weight, "transposed") for weight in substitute.weights]
        biases = [in_layout(bias.unsqueeze(0), "column_stride")[0] for bias in substitute.biases]
        plain = run("kernel", probs, substitute, options)
        assert_identical(run("kernel", strided, Substitute(weights, biases), options), plain)
        assert plain.probs.is_contiguous()


def test_an_expanded_row_gives_one_answer() -> None:
    probs, substitute = problem(OPTIONS[0], 10, 20, torch.float32)
    alone = run("kernel", probs[3:4], substitute, OPTIONS[0])
    repeated = run("kernel", probs[3:4].expand(70, 10), substitute, OPTIONS[0])
    assert_identical(repeated, select(alone, [0] * 70))


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o.features}-{o.norm}-{o.method}")
def test_reference_answers_alike_in_batches(options: SearchOptions) -> None:
    """Its matrix products may differ in the last bits, so float64 and a tolerance."""
    probs, substitute = problem(options, 30, 100, torch.float64)
    together = run("reference", probs, substitute, options)
    parts = [run("reference", part, substitute, options) for part in probs.split([1, 9, 90])]
    joined = SearchResult(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
    assert torch.equal(joined.status, together.status)
    assert torch.equal(joined.steps, together.steps)
    torch.testing.assert_close(joined.probs, together.probs, rtol=0, atol=1e-10)
    for name in ("score_before", "score_after", "l1"):
        left, right = getattr(joined, name), getattr(together, name)
        torch.testing.assert_close(left, right, rtol=0, atol=1e-8)


def test_reference_chunks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    probs, substitute = problem(OPTIONS[0], 30, 100, torch.float64)
    whole = run("reference", probs, substitute, OPTIONS[0])
    monkeypatch.setattr("aeppt_ext.reference.CHUNK_ELEMENTS", 7 * 30)
    chunked = run("reference", probs, substitute, OPTIONS[0])
    assert torch.equal(chunked.status, whole.status)
    torch.testing.assert_close(chunked.probs, whole.probs, rtol=0, atol=1e-10)
