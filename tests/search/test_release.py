"""The ranking release: what it answers, that every engine answers alike, and each row alone."""

from __future__ import annotations

import math
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from release_helpers import (
    CLASSES,
    KEY,
    assert_identical,
    bits,
    make_tables,
    problem,
    rows_of,
    run,
)
from search_helpers import DTYPES, ENGINES, LAYOUTS, ROW_KINDS, dirichlet, in_layout, make_rows
from torch import Tensor

from aeppt_ext import ReleaseResult, ReleaseTables, Status, check_tables, release


def check_release(probs: Tensor, tables: ReleaseTables, result: ReleaseResult) -> None:
    """What holds for every answer to valid rows."""
    cells = len(tables.codebook)
    assert result.probs.shape == probs.shape
    assert result.probs.dtype == probs.dtype
    assert (result.status.dtype, result.codeword.dtype) == (torch.int8, torch.int32)
    assert ((result.codeword >= 0) & (result.codeword < cells)).all()
    order = probs.sort(dim=1, descending=True, stable=True).indices
    assert torch.equal(result.probs.sort(dim=1, descending=True, stable=True).indices, order)
    assert torch.equal(result.probs.argmax(1), probs.argmax(1))
    assert torch.equal(result.probs.gather(1, order), tables.codebook[result.codeword.long()])
    changed = (result.probs != probs).any(1)
    expected = torch.where(changed, int(Status.SUCCESS), int(Status.UNCHANGED))
    assert torch.equal(result.status, expected.to(torch.int8))


# ---- engines ----


@pytest.mark.parametrize("k", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_engines_answer_the_same(dtype: torch.dtype, k: int) -> None:
    for seed in range(3):
        probs, tables = problem(k, dtype, seed=seed)
        check_tables(tables)
        kernel, plain = (run(engine, probs, tables) for engine in ENGINES)
        assert_identical(kernel, plain)
        valid = plain.status != int(Status.INVALID)
        assert 0 < valid.sum() < len(probs)
        check_release(probs[valid], tables, rows_of(plain, valid))


def test_reference_chunks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    probs, tables = problem(10, torch.float32)
    whole = run("reference", probs, tables)
    monkeypatch.setattr("aeppt_ext.release.CHUNK_ELEMENTS", 70)
    assert_identical(run("reference", probs, tables), whole)


@settings(max_examples=60, deadline=None)
@given(
    k=st.integers(2, 600),
    kinds=st.lists(st.sampled_from(ROW_KINDS), min_size=1, max_size=20),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 5)),
    maps=st.integers(1, 4),
    double=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_properties(
    k: int, kinds: list[str], shape: tuple[int, int], maps: int, double: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if double else torch.float32
    probs = make_rows(kinds, k, dtype, generator)
    tables = make_tables(k, dtype, generator, shape, maps)
    key = torch.randint(256, (16,), generator=generator).to(torch.uint8)
    result = run("kernel", probs, tables, key, "raise")
    check_release(probs, tables, result)
    assert_identical(result, run("reference", probs, tables, key))


# ---- a row's answer depends on that row alone ----


@pytest.mark.parametrize("k", [2, 10, 100, 500])
@pytest.mark.parametrize("dtype", DTYPES)
def test_alone_and_anywhere_in_a_batch(dtype: torch.dtype, k: int) -> None:
    probs, tables = problem(k, dtype, repeats=6)
    n = len(probs)
    together = run("kernel", probs, tables)
    for row in range(n):
        assert_identical(run("kernel", probs[row : row + 1], tables), rows_of(together, [row]))
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(k))
    assert_identical(run("kernel", probs[shuffled], tables), rows_of(together, shuffled))
    for size in (2, 15, 16, 17, 33):  # around the number of rows that stand side by side
        assert_identical(
            run("kernel", probs[n - size :], tables), rows_of(together, slice(n - size, n))
        )


@pytest.mark.parametrize("k", [10, 100, 500])
@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_do_not_matter(dtype: torch.dtype, k: int) -> None:
    probs, tables = problem(k, dtype)
    many = probs.repeat(200_000 // probs.numel() + 1, 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first = run("kernel", many, tables)
        for threads in (2, 3, 5):
            torch.set_num_threads(threads)
            assert_identical(run("kernel", many, tables), first)
    finally:
        torch.set_num_threads(before)
    assert_identical(rows_of(first, slice(0, len(probs))), run("kernel", probs, tables))


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "contiguous"])
@pytest.mark.parametrize("k", [10, 100, 500])
@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_do_not_matter(dtype: torch.dtype, k: int, layout: str) -> None:
    probs, tables = problem(k, dtype)
    strided = in_layout(probs, layout)
    assert not strided.is_contiguous()
    # Each table and the key with gaps between their values.
    *others, key = (torch.stack([t, t + 1], -1)[..., 0] for t in (*tables, KEY))
    other = ReleaseTables(*others)
    result = run("kernel", strided, other, key)
    assert_identical(result, run("kernel", probs, tables))
    assert result.probs.is_contiguous()


def test_an_expanded_row_gives_one_answer() -> None:
    probs, tables = problem(10, torch.float32)
    alone = run("kernel", probs[3:4], tables)
    assert_identical(run("kernel", probs[3:4].expand(70, 10), tables), rows_of(alone, [0] * 70))


# ---- cells, by hand ----


def sure_tables(
    k: int, confidence: list[float], shapes: list[list[float]], dtype: torch.dtype
) -> ReleaseTables:
    """Tables whose every map gives each cell the codeword of its own number."""
    cells = len(shapes) * (len(shapes[0]) + 1)
    row = torch.arange(1, k + 1, dtype=torch.float64).flip(0)
    codebook = row ** (1 + torch.arange(cells)).unsqueeze(1)
    return ReleaseTables(
        torch.tensor(confidence, dtype=torch.float64),
        torch.tensor(shapes, dtype=torch.float64),
        torch.zeros(k, dtype=torch.int32),
        torch.ones(cells, cells, dtype=torch.float64).triu().unsqueeze(0),
        (codebook / codebook.sum(1, keepdim=True)).to(dtype),
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cells_by_hand(engine: str, dtype: torch.dtype) -> None:
    tables = sure_tables(3, [0.5, 0.75], [[0.6], [0.5], [0.9]], dtype)
    rows = {
        (0.375, 0.375, 0.25): 1,  # confidence below 0.5; 0.375 / 0.625 = 0.6
        (0.4375, 0.28125, 0.28125): 0,  # the runner-up has half of the rest
        (0.25, 0.5, 0.25): 3,  # an edge belongs to what is above it, of confidence and of shape
        (0.25, 0.625, 0.125): 3,  # 0.25 / 0.375
        (0.125, 0.125, 0.75): 4,  # 0.125 / 0.25 is below 0.9
        (0.1875, 0.0625, 0.75): 4,
        (0.0, 0.25, 0.75): 5,
        (1.0, 0.0, 0.0): 4,  # nothing is left: the share is 0
    }
    probs = torch.tensor(list(rows), dtype=dtype)
    result = run(engine, probs, tables)
    assert result.codeword.tolist() == list(rows.values())
    check_release(probs, tables, result)


@pytest.mark.parametrize("engine", ENGINES)
def test_ties_are_ranked_by_index(engine: str) -> None:
    tables = sure_tables(4, [], [[]], torch.float32)
    probs = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.0, 0.5, -0.0, 0.5], [0.2, 0.3, 0.3, 0.2]])
    result = run(engine, probs, tables)
    expected = torch.tensor([[4, 3, 2, 1], [2, 4, 1, 3], [2, 4, 3, 1]]) / 10
    assert torch.equal(result.probs, expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_row_that_is_its_codeword_is_unchanged(engine: str) -> None:
    tables = sure_tables(4, [], [[]], torch.float64)
    word = tables.codebook[0]
    probs = torch.stack([word, word[[2, 0, 3, 1]], word.roll(1) * 0.5 + 0.125])
    result = run(engine, probs, tables)
    unchanged, success = int(Status.UNCHANGED), int(Status.SUCCESS)
    assert result.status.tolist() == [unchanged, unchanged, success]
    assert torch.equal(result.probs[:2], probs[:2])
    assert result.probs.data_ptr() != probs.data_ptr()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_label_names_the_map(engine: str) -> None:
    tables = sure_tables(3, [], [[2.0]], torch.float32)
    to_first = torch.ones(2, 2, dtype=torch.float64)
    to_second = torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(2, 2)
    tables = tables._replace(
        map_of_class=torch.tensor([1, 0, 1], dtype=torch.int32),
        cumulative=torch.stack([to_first, to_second]),
    )
    result = run(engine, torch.eye(3), tables)
    assert result.codeword.tolist() == [1, 0, 1]


# ---- randomness ----

#: Of the key 00 01 ... 0f and the message 00 01 ... of that many bytes, from the authors'
#: implementation.
VECTORS = {
    0: 0x726FDB47DD0E0E31,
    1: 0x74F839C593DC67FD,
    2: 0x0D6C8009D9A94F5A,
    3: 0x85676696D7FB7E2D,
    4: 0xCF2794E0277187B7,
    5: 0x18765564CD99A68D,
    6: 0xCBC9466E58FEE3CE,
    7: 0xAB0200F58B01D137,
    8: 0x93F5F5799A932462,
    15: 0xA129CA6149BE45E5,
}


@pytest.mark.parametrize("length", VECTORS)
def test_siphash_gives_the_official_values(length: int) -> None:
    """The compiled one is held against two of them when it is compiled."""
    content = bytes(range(length)).ljust(length // 8 * 8 + 7, b"\0") + bytes([length])
    words = torch.frombuffer(bytearray(content), dtype=torch.int64).unsqueeze(0)
    assert release.siphash(KEY, words).item() & (2**64 - 1) == VECTORS[length]


def drawn_bits(*message: int) -> int:
    """The 64 bits that the key gives a message of these words."""
    signed = [word - (1 << 64) if word >> 63 else word for word in message]
    return int(release.siphash(KEY, torch.tensor([signed])).item()) & (2**64 - 1)


@pytest.mark.parametrize("k", [5, 8, 20])
def test_the_message_by_hand(k: int) -> None:
    # 1,024 steps to the doubling above 2^-64: 1/2 is at 63, 3/16 halfway between 61 and 62.
    steps = {0.5: 63 * 1024, 0.1875: 61 * 1024 + 512, 2.0**-10: 54 * 1024, -0.0: 0, 2.0**-70: 0}
    given = [list(steps)[(j + 2) % 5] for j in range(k)]
    rows = torch.tensor([given])
    width = {5: 2862, 8: 5792, 20: 9158}[k]  # √5 · 1,280; √8 · 2,048; √20 · 2,048
    offsets = drawn_bits(0)
    buckets = []
    for i in range(4):
        signs = [drawn_bits(j // 16, 8 << 56) >> (4 * (j % 16) + i) & 1 for j in range(k)]
        sum_ = sum(-steps[p] if minus else steps[p] for p, minus in zip(given, signs, strict=True))
        offset = (offsets >> 16 * i & 0xFFFF) * width >> 16
        buckets.append((sum_ + offset + k * 2**17) // width)
    content = struct.pack("<5i", *buckets, 3) + b"\0\0\0\x14"  # the label, and 20 bytes
    expected = torch.frombuffer(bytearray(content), dtype=torch.int64)
    assert release.message(KEY, rows).tolist() == [expected.tolist()]
    assert torch.equal(release.message(KEY, rows.double()), release.message(KEY, rows))


@pytest.mark.parametrize("k", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_both_engines_draw_the_same_number_to_the_last_bit(dtype: torch.dtype, k: int) -> None:
    """A threshold at the number u chooses the second codeword, one just above it the first."""
    generator = torch.Generator().manual_seed(k)
    probs = dirichlet(3, k, 0.5, generator).to(dtype)
    tables = make_tables(k, dtype, generator, (2, 1), 1)
    drawn = release.uniforms(KEY, probs).tolist()
    assert all(0 <= u < 1 and (u * 2.0**53).is_integer() for u in drawn)
    for row, u in enumerate(drawn):
        for threshold, codeword in ((u, 1), (math.nextafter(u, 1), 0)):
            chances = torch.tensor([threshold, 1.0], dtype=torch.float64).expand(1, 2, 2)
            result = run("kernel", probs[row : row + 1], tables._replace(cumulative=chances))
            assert result.codeword.tolist() == [codeword]


def test_rows_of_many_classes_are_drawn_alike_by_both_engines() -> None:
    """Of more classes than whose steps an int32 can add up."""
    generator = torch.Generator().manual_seed(2)
    probs = dirichlet(2, 40_000, 0.5, generator)
    tables = make_tables(40_000, torch.float64, generator, (2, 1), 1)
    assert_identical(*(run(engine, probs, tables) for engine in ENGINES))
    assert release.buckets(KEY, probs).min() > 0


#: With noise of δ on each logit, a row's draw changes with a chance of about 4 · 0.8 · δ / w, where
#: a bucket is w nats wide: 2 ln 2, and ln 2 / 2 for two classes.
@pytest.mark.parametrize("k", [2, 10, 100])
@pytest.mark.parametrize(("noise", "shared"), [(1e-7, 0.999), (1e-4, 0.999), (1e-2, 0.97)])
def test_neighbours_share_their_number(k: int, noise: float, shared: float) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = 3 * torch.randn(4000, k, generator=generator, dtype=torch.float64)
    near = logits + noise * torch.randn(logits.shape, generator=generator, dtype=torch.float64)
    drawn = release.uniforms(KEY, logits.softmax(1))
    same = (release.uniforms(KEY, near.softmax(1)) == drawn).double().mean()
    assert same > (shared if k > 2 else 1 - 4 * (1 - shared))


@pytest.mark.parametrize(("k", "different"), [(2, 150), (3, 1000), (10, 1800), (100, 1990)])
def test_rows_apart_keys_and_labels_have_other_numbers(k: int, different: int) -> None:
    generator = torch.Generator().manual_seed(3)
    probs = (3 * torch.randn(2000, k, generator=generator)).softmax(1)
    drawn = release.uniforms(KEY, probs)
    assert len(drawn.unique()) > different
    assert not (release.uniforms(KEY, probs.roll(1, dims=1)) == drawn).any()
    assert not (release.uniforms(KEY + 1, probs) == drawn).any()


@pytest.mark.parametrize("engine", ENGINES)
def test_codewords_follow_their_map(engine: str) -> None:
    """χ² of 3 degrees of freedom: above 16.3 with probability 0.001."""
    generator = torch.Generator().manual_seed(5)
    k = 40  # of which hardly two rows share a draw
    probs = dirichlet(40_000, k, 0.3, generator)
    chances = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.05, 0.05, 0.4]], dtype=torch.float64)
    tables = sure_tables(k, [], [[2.0, 3.0, 4.0]], torch.float64)._replace(
        map_of_class=torch.arange(k).remainder(2).int(),
        cumulative=chances.cumsum(1).unsqueeze(1).repeat(1, 4, 1),
    )
    tables.cumulative[:, :, 3] = 1
    codeword = run(engine, probs, tables).codeword.long()
    for of_map in (0, 1):
        chosen = codeword[probs.argmax(1) % 2 == of_map].bincount(minlength=4)
        expected = chances[of_map] * chosen.sum()
        assert ((chosen - expected) ** 2 / expected).sum() < 16.3


@pytest.mark.parametrize("engine", ENGINES)
def test_a_chance_of_zero_is_never_chosen(engine: str) -> None:
    generator = torch.Generator().manual_seed(6)
    probs = dirichlet(2000, 5, 1.0, generator)
    cumulative = torch.tensor([0.0, 0.5, 0.5, 1.0], dtype=torch.float64).expand(1, 4, 4)
    tables = sure_tables(5, [], [[0.3, 0.5, 0.7]], torch.float64)._replace(cumulative=cumulative)
    assert run(engine, probs, tables).codeword.unique().tolist() == [1, 3]


# ---- invalid rows ----


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("k", [10, 500])
@pytest.mark.parametrize("dtype", DTYPES)
def test_invalid_rows_pass_bit_for_bit(dtype: torch.dtype, k: int, engine: str) -> None:
    generator = torch.Generator().manual_seed(k)
    probs = dirichlet(40, k, 1.0, generator).to(dtype)
    tables = make_tables(k, dtype, generator)
    good = probs.clone()
    probs[3, 1] = math.nan
    probs[4] = math.inf
    probs[17, 0] = -1e-30
    probs[18] = 0
    probs[39] *= 1.002
    bad = [3, 4, 17, 18, 39]
    result = run(engine, probs, tables)
    assert (result.status == int(Status.INVALID)).nonzero()[:, 0].tolist() == bad
    assert (result.codeword < 0).nonzero()[:, 0].tolist() == bad
    assert result.codeword[bad].tolist() == [-1] * 5
    assert torch.equal(bits(result.probs)[bad], bits(probs)[bad])
    kept = torch.tensor([row for row in range(40) if row not in bad])
    assert_identical(rows_of(result, kept), rows_of(run(engine, good, tables), kept))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_near_one_are_accepted(dtype: torch.dtype, engine: str) -> None:
    tables = sure_tables(3, [], [[]], dtype)
    probs = torch.tensor([[0.5, 0.3, 0.2]], dtype=dtype) * torch.tensor([[0.9991], [1.0009]])
    assert run(engine, probs.to(dtype), tables).status.tolist() == [int(Status.SUCCESS)] * 2


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_rows_give_no_rows(engine: str, dtype: torch.dtype) -> None:
    tables = make_tables(5, dtype, torch.Generator().manual_seed(0))
    result = run(engine, torch.empty(0, 5, dtype=dtype), tables, on_invalid="raise")
    assert [list(column.shape) for column in result] == [[0, 5], [0], [0]]
    assert [column.dtype for column in result] == [dtype, torch.int8, torch.int32]
