"""Tables, rows and calls that the tests of the ranking release share."""

from __future__ import annotations

import torch
from search_helpers import KERNEL_DEVICE, ROW_KINDS, make_rows
from torch import Tensor

import aeppt_ext
from aeppt_ext import ReleaseResult, ReleaseTables, release

KEY = torch.arange(16, dtype=torch.uint8)

#: Around what an engine treats alike: a word of the hash, a vector, a team; short and long rows.
CLASSES = (2, 3, 4, 5, 8, 10, 16, 17, 64, 100, 128, 129, 256, 257, 384, 385, 1037)


def make_tables(
    k: int,
    dtype: torch.dtype,
    generator: torch.Generator,
    shape: tuple[int, int] = (4, 3),
    maps: int = 3,
) -> ReleaseTables:
    """Random tables for c × s cells."""
    c, s = shape
    cells = c * s

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    chances = uniform(maps, cells, cells) + 0.1
    cumulative = (chances / chances.sum(2, keepdim=True)).cumsum(2)
    cumulative[:, :, -1] = 1
    codebook = (uniform(cells, k) + 0.5 / k).cumsum(1).flip(1)
    return ReleaseTables(
        confidence_edges=(1 / k + (1 - 1 / k) * uniform(c - 1)).sort().values,
        shape_edges=uniform(c, s - 1).sort(1).values,
        map_of_class=torch.randint(maps, (k,), generator=generator).int(),
        cumulative=cumulative,
        codebook=(codebook / codebook.sum(1, keepdim=True)).to(dtype),
    )


def problem(
    k: int, dtype: torch.dtype, repeats: int = 4, seed: int = 0
) -> tuple[Tensor, ReleaseTables]:
    """Rows of every kind, some of them invalid, and random tables."""
    generator = torch.Generator().manual_seed(1000 * seed + k)
    probs = make_rows(ROW_KINDS * repeats, k, dtype, generator)
    probs[7 % len(probs), 0] = torch.nan
    probs[13 % len(probs)] *= 1.5
    return probs, make_tables(k, dtype, generator)


def run(
    engine: str,
    probs: Tensor,
    tables: ReleaseTables,
    key: Tensor = KEY,
    on_invalid: str = "passthrough",
) -> ReleaseResult:
    """The release by the op (``kernel``, on ``KERNEL_DEVICE``) or by the plain PyTorch one."""
    if engine == "reference":
        return release.rank_release(probs, tables, key, on_invalid)
    if probs.device == KERNEL_DEVICE or probs.is_cuda:
        return aeppt_ext.rank_release(probs, tables, key, on_invalid)
    there = ReleaseTables(*(table.to(KERNEL_DEVICE) for table in tables))
    result = aeppt_ext.rank_release(probs.to(KERNEL_DEVICE), there, key, on_invalid)
    return ReleaseResult(*(column.to(probs.device) for column in result))


def bits(values: Tensor) -> Tensor:
    """Floats as integers, so that equal means the same bits."""
    return values.contiguous().view({4: torch.int32, 8: torch.int64}[values.element_size()])


def assert_identical(left: ReleaseResult, right: ReleaseResult) -> None:
    assert torch.equal(left.codeword, right.codeword), "codeword differs"
    assert torch.equal(left.status, right.status), "status differs"
    assert torch.equal(bits(left.probs), bits(right.probs)), "probs differ"


def rows_of(result: ReleaseResult, rows: Tensor | slice | list[int]) -> ReleaseResult:
    return ReleaseResult(*(column[rows] for column in result))
