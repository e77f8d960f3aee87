"""Ranking release: its tables and its answer, and the release in plain PyTorch.

What is told of a row is how it ranks the classes, and one codeword out of a small codebook. Which
codeword depends on the row's confidence alone, by a randomised map whose randomness is a keyed hash
of where the row lies: asking again, or about a row nearby, gives the same draw, and nobody without
the key can tell it from a fresh one. :func:`rank_release` is oracle and fallback of the op
``aeppt::rank_release``.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .options import Status
from .reference import CHUNK_ELEMENTS, check_probs, invalid_row_message, is_distribution

KEY_BYTES = 16
#: Secret projections of a row's log-probabilities, whose buckets are hashed with its label.
PROJECTIONS = 4
#: The bits of a float32 are a piecewise linear logarithm; without the last 13 it has so many steps
#: to the doubling.
STEPS = 1 << 10
#: The bits of 2^-64: a smaller probability counts as that.
LEAST_BITS = 0x1F800000
#: The classes whose signs one hash gives, four bits for each.
CLASSES_PER_HASH = 64 // PROJECTIONS


class ReleaseTables(NamedTuple):
    """The randomised map from a row's cell to a codeword, for c · s = A cells and codewords.

    A row's cell is ``i · s + j``: with p₁ and p₂ its two greatest entries, i of the
    ``confidence_edges`` are at most p₁, and j of ``shape_edges[i]`` at most p₂ / (1 − p₁), the
    runner-up's share of what the label leaves (0 where it leaves nothing).
    """

    confidence_edges: Tensor  # [c - 1] float64, ascending
    shape_edges: Tensor  # [c, s - 1] float64, ascending rows
    map_of_class: Tensor  # [k] int32, the map that holds for rows of each label, of 0 … m - 1
    cumulative: Tensor  # [m, A, A] float64: of each map and cell, P(codeword ≤ a)
    codebook: Tensor  # [A, k], dtype of the rows: strictly decreasing, positive, sum one


class ReleaseResult(NamedTuple):
    """The answer to one release of n rows of k classes."""

    probs: Tensor  # [n, k], dtype of the input
    status: Tensor  # [n] int8, values of Status: SUCCESS, UNCHANGED or INVALID
    codeword: Tensor  # [n] int32, of 0 … A - 1; -1 for an invalid row


def check_tables(tables: ReleaseTables) -> None:
    """Refuse tables whose values make no sense; ValueError names the table and the first place.

    Whoever makes the tables calls this once. :func:`rank_release` itself checks shapes and dtypes
    alone: with tables that fail here its answers mean nothing.
    """
    maps, cells = tables.cumulative.shape[:2]
    cumulative, codebook = tables.cumulative, tables.codebook
    steps = cumulative.diff(dim=2, prepend=torch.zeros_like(cumulative[:, :, :1]))
    falls = codebook.diff(dim=1) < 0
    sums = (codebook.sum(1, dtype=torch.float64) - 1).abs() <= 1e-5
    named = (
        ("confidence_edges", "must ascend", tables.confidence_edges.diff() >= 0),
        ("shape_edges", "must ascend in each row", tables.shape_edges.diff(dim=1) >= 0),
        (
            "map_of_class",
            f"must be in [0, {maps})",
            (tables.map_of_class >= 0) & (tables.map_of_class < maps),
        ),
        ("cumulative", "must not decrease, nor be negative, along codewords", steps >= 0),
        ("cumulative", "must end at one", cumulative[:, :, cells - 1] >= 1),
        ("codebook", "must decrease strictly in each row", falls),
        ("codebook", "must be positive", codebook > 0),
        ("codebook", "must sum to one in each row", sums),
    )
    for name, rule, holds in named:
        if not bool(holds.all()):
            place = (~holds).nonzero()[0].tolist()
            raise ValueError(f"{name} {rule}; the first place where it does not is {place}")


def check_arguments(probs: Tensor, tables: ReleaseTables, key: Tensor) -> None:
    """Refuse shapes and dtypes that do not fit, in the words of ``csrc/ops/rank_release.cpp``."""
    check_probs(probs)
    edges, shapes, maps, cumulative, codebook = tables
    k = probs.shape[1]
    if edges.ndim != 1:
        raise ValueError(f"confidence_edges must be [c - 1], got {list(edges.shape)}")
    c = edges.shape[0] + 1
    if shapes.ndim != 2 or shapes.shape[0] != c:
        raise ValueError(f"shape_edges must be [{c}, s - 1], got {list(shapes.shape)}")
    cells = c * (shapes.shape[1] + 1)
    if maps.shape != (k,):
        raise ValueError(f"map_of_class must be [{k}], got {list(maps.shape)}")
    if cumulative.ndim != 3 or cumulative.shape[0] < 1 or cumulative.shape[1:] != (cells, cells):
        raise ValueError(
            f"cumulative must be [m, {cells}, {cells}] for {cells} cells, got "
            f"{list(cumulative.shape)}"
        )
    if codebook.shape != (cells, k):
        raise ValueError(f"codebook must be [{cells}, {k}], got {list(codebook.shape)}")
    if key.shape != (KEY_BYTES,):
        raise ValueError(f"key must be [{KEY_BYTES}], got {list(key.shape)}")
    dtypes = (torch.float64, torch.float64, torch.int32, torch.float64, probs.dtype)
    for name, tensor, dtype in zip(tables._fields, tables, dtypes, strict=True):
        if tensor.dtype != dtype:
            raise TypeError(f"{name} must be {dtype}, got {tensor.dtype}")
        if tensor.device != probs.device:
            raise ValueError(
                f"{name} must be on the device of probs, {probs.device}, got {tensor.device}"
            )
    if key.dtype != torch.uint8:
        raise TypeError(f"key must be uint8, got {key.dtype}")
    if key.device.type != "cpu":
        raise ValueError(f"key must be on the CPU, got {key.device}")


def _rotate(word: Tensor, left: int) -> Tensor:
    return (word << left) | ((word >> (64 - left)) & ((1 << left) - 1))


def siphash(key: Tensor, words: Tensor) -> Tensor:
    """SipHash-2-4 of messages given as ``words`` [n, w] int64, the last holding length and rest.

    Aumasson & Bernstein 2012 ("SipHash: a fast short-input PRF"). Returns [n] int64, whose bits are
    those of the unsigned hash.
    """
    halves = [int.from_bytes(bytes(key.tolist())[at : at + 8], "little") for at in (0, 8)]
    start = "somepseudorandomlygeneratedbytes"
    v = []
    for i in range(4):
        initial = halves[i % 2] ^ int.from_bytes(start[8 * i : 8 * i + 8].encode(), "big")
        signed = initial - (1 << 64) if initial >> 63 else initial
        v.append(words.new_full(words.shape[:1], signed))

    def rounds(count: int) -> None:
        for _ in range(count):
            v[0], v[2] = v[0] + v[1], v[2] + v[3]
            v[1], v[3] = _rotate(v[1], 13) ^ v[0], _rotate(v[3], 16) ^ v[2]
            v[0], v[2] = _rotate(v[0], 32) + v[3], v[2] + v[1]
            v[1], v[3] = _rotate(v[1], 17) ^ v[2], _rotate(v[3], 21) ^ v[0]
            v[2] = _rotate(v[2], 32)

    for word in words.unbind(1):
        v[3] = v[3] ^ word
        rounds(2)
        v[0] = v[0] ^ word
    v[2] = v[2] ^ 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def bucket_width(k: int) -> int:
    """How many steps wide the buckets of k classes are.

    Two doublings where there are eight classes or more, a quarter of a doubling for each class
    where there are fewer; √k times that, as the sum of k differences grows so. ``docs/design.md``
    has what was measured.
    """
    return math.isqrt(k * (min(k, 8) * STEPS // 4) ** 2)


def buckets(key: Tensor, probs: Tensor) -> Tensor:
    """In which bucket each row lies of each secret projection, [n, PROJECTIONS] int64.

    A projection is the sum of the row's logarithms, in steps, each with a sign that the key gives
    its class. It is cut into buckets of :func:`bucket_width`, the first of which begins at an
    offset that the key gives too. All of it is exact, in any order of the sum.

    Parameters
    ----------
    key : Tensor [16] uint8
        On the CPU.
    probs : Tensor [n, k], float32 or float64
    """
    k = probs.shape[1]
    bits = probs.float().contiguous().view(torch.int32)
    steps = (bits.clamp_min(LEAST_BITS) - LEAST_BITS) >> 13
    signs, offset = (drawn.to(probs.device) for drawn in _projections(bytes(key.tolist()), k))
    # Of integers, so that doubles are exact; integers have no such product on a GPU.
    sums = (steps.double() @ signs).long() + offset
    return sums.div(bucket_width(k), rounding_mode="floor")


@lru_cache(maxsize=16)  # single rows would take a hundred times as long without
def _projections(key_bytes: bytes, k: int) -> tuple[Tensor, Tensor]:
    """Signs [k, PROJECTIONS] float64 and offsets [PROJECTIONS] int64."""
    key = torch.tensor(list(key_bytes), dtype=torch.uint8)
    number = torch.arange(-(-k // CLASSES_PER_HASH))
    hashed = siphash(key, torch.stack([number, torch.full_like(number, 8 << 56)], dim=1))
    places = torch.arange(64).view(CLASSES_PER_HASH, PROJECTIONS)
    negative = ((hashed[:, None, None] >> places) & 1).view(-1, PROJECTIONS)[:k]
    drawn = siphash(key, torch.zeros(1, 1, dtype=torch.int64))  # of no bytes
    shares = (drawn >> 16 * torch.arange(PROJECTIONS)) & 0xFFFF
    offset = ((shares * bucket_width(k)) >> 16) + (k << 17)  # so great that no sum is negative
    return (1 - 2 * negative).double(), offset


def message(key: Tensor, probs: Tensor) -> Tensor:
    """What is hashed of each row, as words [n, 3] int64 for :func:`siphash`.

    Its buckets and its label, as little-endian int32: rows near each other have the same.
    """
    parts = torch.cat([buckets(key, probs), probs.argmax(1, keepdim=True)], dim=1)
    low, high = parts[:, ::2], parts[:, 1::2]
    length = (4 * (PROJECTIONS + 1)) << 56
    return torch.cat([low[:, :2] | high << 32, low[:, 2:] | length], dim=1)


def uniforms(key: Tensor, probs: Tensor) -> Tensor:
    """A uniform number [n] float64 in [0, 1) for each row, a multiple of 2^-53.

    Rows with the same :func:`message` have the same.
    """
    return ((siphash(key, message(key, probs)) >> 11) & ((1 << 53) - 1)).double() * 2.0**-53


def cells(probs: Tensor, confidence_edges: Tensor, shape_edges: Tensor) -> Tensor:
    """The cell [n] int64 of each row; see :class:`ReleaseTables`."""
    first, second = probs.topk(2, dim=1).values.double().unbind(1)
    i = (confidence_edges <= first.unsqueeze(1)).sum(1)
    rest = 1 - first
    share = torch.where(rest > 0, second / rest, 0.0)
    j = (shape_edges[i] <= share.unsqueeze(1)).sum(1)
    return i * (shape_edges.shape[1] + 1) + j


def rank_release(
    probs: Tensor, tables: ReleaseTables, key: Tensor, on_invalid: str = "raise"
) -> ReleaseResult:
    """Release the ranking of each row of ``probs`` [n, k] and one codeword; see the typed op.

    Parameters
    ----------
    probs : Tensor [n, k], float32 or float64
    tables : ReleaseTables
        On the device of ``probs``.
    key : Tensor [16] uint8
        On the CPU.
    on_invalid : {"raise", "passthrough"}

    Raises
    ------
    ValueError
        A shape or device does not fit, or a row is not a probability vector and ``on_invalid`` is
        ``"raise"``.
    TypeError
        A dtype does not fit.
    """
    if on_invalid not in ("raise", "passthrough"):
        raise ValueError(f"on_invalid must be one of 'raise', 'passthrough', got '{on_invalid}'")
    check_arguments(probs, tables, key)
    if on_invalid == "raise":
        bad = (~is_distribution(probs)).nonzero()
        if len(bad):
            raise ValueError(invalid_row_message(probs, int(bad[0])))
    chunk = max(1, CHUNK_ELEMENTS // probs.shape[1])
    parts = [_release(rows, tables, key) for rows in probs.split(chunk)]
    return ReleaseResult(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _release(given: Tensor, tables: ReleaseTables, key: Tensor) -> ReleaseResult:
    valid = is_distribution(given)
    probs = torch.where(valid.unsqueeze(1), given, 0.0)  # keeps what follows in range
    order = probs.sort(dim=1, descending=True, stable=True).indices
    of_label = tables.map_of_class[order[:, 0]].clamp(0, len(tables.cumulative) - 1)
    cumulative = tables.cumulative[
        of_label, cells(probs, tables.confidence_edges, tables.shape_edges)
    ]
    reached = cumulative <= uniforms(key, probs).unsqueeze(1)
    codeword = reached.sum(1).clamp(max=cumulative.shape[1] - 1)
    released = torch.empty_like(probs).scatter_(1, order, tables.codebook[codeword])
    changed = (released != given).any(1)
    status = torch.where(changed, int(Status.SUCCESS), int(Status.UNCHANGED))
    return ReleaseResult(
        torch.where(valid.unsqueeze(1), released, given).contiguous(),
        torch.where(valid, status, int(Status.INVALID)).to(torch.int8),
        torch.where(valid, codeword, -1).to(torch.int32),
    )
