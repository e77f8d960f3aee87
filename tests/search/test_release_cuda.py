"""The ranking release on a GPU: the CPU's answers bit by bit, and streams, graphs and devices.

The other tests of the release run on a GPU too, with ``AEPPT_TEST_DEVICE=cuda``.
"""

from __future__ import annotations

import pytest
import torch
from release_helpers import CLASSES, KEY, assert_identical, make_tables, problem, rows_of, run
from search_helpers import DTYPES, LAYOUTS, dirichlet, in_layout
from torch import Tensor

from aeppt_ext import ReleaseResult, ReleaseTables, rank_release


def to(probs: Tensor, tables: ReleaseTables, device: torch.device) -> tuple[Tensor, ReleaseTables]:
    return probs.to(device), ReleaseTables(*(table.to(device) for table in tables))


def gpu_problem(
    device: torch.device, n: int, k: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, ReleaseTables]:
    generator = torch.Generator().manual_seed(k)
    probs = dirichlet(n, k, 0.5, generator).to(dtype)
    return to(probs, make_tables(k, dtype, generator), device)


def release(probs: Tensor, tables: ReleaseTables, on_invalid: str = "passthrough") -> ReleaseResult:
    return rank_release(probs, tables, KEY, on_invalid)


def on_cpu(result: ReleaseResult) -> ReleaseResult:
    return ReleaseResult(*(column.cpu() for column in result))


# ---- answers ----


@pytest.mark.parametrize("k", [*CLASSES, 5000, 40_000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_device_answers_as_the_cpu_does(gpu: torch.device, dtype: torch.dtype, k: int) -> None:
    """From 5000 classes on some, then all, rows are too long for shared memory."""
    probs, tables = problem(k, dtype, repeats=1)
    assert_identical(on_cpu(release(*to(probs, tables, gpu))), run("reference", probs, tables))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [2, 10, 100, 1000])
def test_bit_identical_alone_shuffled_and_repeated(
    gpu: torch.device, k: int, dtype: torch.dtype
) -> None:
    n = 3000
    probs, tables = gpu_problem(gpu, n, k, dtype)
    whole = release(probs, tables)
    for _ in range(10):
        assert_identical(release(probs, tables), whole)
        order = torch.randperm(n, device=gpu)
        assert_identical(release(probs[order], tables), rows_of(whole, order))
    for row in range(0, n, n // 20):
        alone = slice(row, row + 1)
        assert_identical(release(probs[alone], tables), rows_of(whole, alone))
    for count in (0, 2, 31, 33, 255, 257):
        few = slice(0, count)
        assert_identical(release(probs[few], tables), rows_of(whole, few))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_change_nothing(gpu: torch.device, layout: str) -> None:
    probs, tables = gpu_problem(gpu, 100, 10)
    assert_identical(release(in_layout(probs, layout), tables), release(probs, tables))


def test_more_entries_than_32_bits_count(gpu: torch.device) -> None:
    few, tables = gpu_problem(gpu, 1000, 1000)
    result = release(few.repeat(2200, 1), tables)
    assert result.probs.numel() > 2**31
    expected = release(few, tables)
    for repeat in (0, 2199):
        assert_identical(rows_of(result, slice(repeat * 1000, repeat * 1000 + 1000)), expected)


# ---- streams, graphs, devices ----


def test_a_call_neither_waits_for_the_device_nor_keeps_memory(gpu: torch.device) -> None:
    probs, tables = gpu_problem(gpu, 5000, 100)
    release(probs, tables)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = release(probs, tables)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    answers = sum(column.untyped_storage().nbytes() for column in result)
    assert torch.cuda.max_memory_allocated() - before <= answers + 4096


def test_a_graph_replays_on_new_rows(gpu: torch.device) -> None:
    probs, tables = gpu_problem(gpu, 300, 10)
    other = probs.flip(0).contiguous()
    expected = [release(rows, tables) for rows in (probs, other)]
    graph, rows = torch.cuda.CUDAGraph(), probs.clone()
    with torch.cuda.graph(graph):
        result = release(rows, tables)
    for given, answer in zip((probs, other, probs), (*expected, expected[0]), strict=True):
        rows.copy_(given)
        graph.replay()
        assert_identical(result, answer)


def test_a_graph_cannot_raise(gpu: torch.device) -> None:
    probs, tables = gpu_problem(gpu, 30, 10)
    release(probs, tables, "raise")
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(ValueError, match="CUDA graph"), torch.cuda.graph(graph):
        release(probs, tables, "raise")


def test_any_stream(gpu: torch.device) -> None:
    probs, tables = gpu_problem(gpu, 2000, 10)
    expected = release(probs, tables)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = torch.zeros_like(probs)
        torch.cuda._sleep(50_000_000)
        late.copy_(probs)
        result = release(late, tables)
    stream.synchronize()
    assert_identical(result, expected)


def test_every_device(gpu: torch.device) -> None:
    probs, tables = gpu_problem(gpu, 100, 10)
    expected = on_cpu(release(probs, tables))
    for index in range(torch.cuda.device_count()):
        there = torch.device("cuda", index)
        result = release(*to(probs, tables, there))
        assert result.probs.device == there
        assert_identical(on_cpu(result), expected)
        assert torch.cuda.current_device() == gpu.index


def test_opcheck_and_compile(gpu: torch.device) -> None:
    probs, tables = gpu_problem(gpu, 20, 10)
    outcome = torch.library.opcheck(
        torch.ops.aeppt.rank_release.default, (probs, *tables, KEY, "passthrough")
    )
    assert set(outcome.values()) == {"SUCCESS"}
    compiled = torch.compile(rank_release, fullgraph=True, backend="aot_eager")
    assert_identical(compiled(probs, tables, KEY), release(probs, tables))


# ---- refusals ----


def test_bad_calls_are_refused_before_any_launch(gpu: torch.device) -> None:
    probs, tables = gpu_problem(gpu, 20, 10)
    here = ReleaseTables(*(table.cpu() for table in tables))
    wide = torch.zeros(1, 2**24 + 1, device=gpu)
    one_cell = make_tables(10, torch.float32, torch.Generator().manual_seed(0), (1, 1), 1)
    of_wide = to(probs, one_cell, gpu)[1]._replace(
        map_of_class=torch.zeros(wide.shape[1], dtype=torch.int32, device=gpu),
        codebook=torch.zeros_like(wide),
    )
    with pytest.raises(ValueError, match="confidence_edges must be on the device of probs, cuda"):
        release(probs, here)
    with pytest.raises(ValueError, match="confidence_edges must be on the device of probs, cpu"):
        release(probs.cpu(), tables)
    with pytest.raises(ValueError, match="codebook must be on the device of probs"):
        release(probs, tables._replace(codebook=here.codebook))
    with pytest.raises(ValueError, match="key must be on the CPU, got cuda"):
        rank_release(probs, tables, KEY.to(gpu))
    with pytest.raises(ValueError, match="at most 16777216 classes"):
        release(wide, of_wide)
    assert_identical(release(probs, tables), release(probs, tables))


def test_an_invalid_row_is_named(gpu: torch.device) -> None:
    probs, tables = gpu_problem(gpu, 20, 10)
    probs[7, 2] = float("nan")
    with pytest.raises(ValueError, match="probs row 7 is not a probability vector"):
        release(probs, tables, "raise")
