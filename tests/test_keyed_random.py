"""Keyed randomness: random to whoever has no key, and a function of the row to whoever has it."""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from aeppt.defenses.keyed_random import (
    KEY_BYTES,
    keyed_normals,
    keyed_uniforms,
    new_key,
)
from aeppt_ext.release import buckets, message

KEY = new_key(0)


def dirichlet(n: int, k: int = 30, seed: int = 0, concentration: float = 0.5) -> Tensor:
    """Rows of which hardly two share their numbers, unless k is small."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.dirichlet(np.full(k, concentration), n))


# --- keys -------------------------------------------------------------------------------------


def test_a_key_is_32_bytes_from_the_seed_or_from_nowhere() -> None:
    for seed in (None, 0, -1, 2**70, np.int64(3)):
        key = new_key(seed)
        assert key.dtype == torch.uint8
        assert key.shape == (KEY_BYTES,) == (32,)
    assert torch.equal(new_key(3), new_key(np.int64(3)))
    keys = {tuple(new_key(seed).tolist()) for seed in (None, None, 0, 1, -1, 10, 2**70)}
    assert len(keys) == 7


@pytest.mark.parametrize("seed", ["0", 1.0, (1,)])
def test_a_seed_that_is_no_integer_is_refused(seed: object) -> None:
    with pytest.raises(TypeError, match="random_state must be an integer or None, got"):
        new_key(seed)  # type: ignore[arg-type]


# --- uniforms ---------------------------------------------------------------------------------


def test_the_numbers_are_those_of_shake_256() -> None:
    row = torch.tensor([[0.5, 0.25, 0.25, 0.0]], dtype=torch.float64)
    place = struct.pack("<5i", *buckets(KEY[:16], row)[0].tolist(), 0) + b"\0\0\0\x14"
    digest = hashlib.shake_256(bytes(KEY.tolist()) + place).digest(16)
    expected = [
        ((int.from_bytes(digest[at : at + 8], "little") >> 12) + 0.5) / 2**52 for at in (0, 8)
    ]
    assert keyed_uniforms(KEY, row, 2).tolist() == [expected]


def test_they_are_uniform_within_a_row_and_across_rows() -> None:
    numbers = keyed_uniforms(KEY, dirichlet(2000), 50).numpy()
    assert numbers.dtype == np.float64
    assert numbers.shape == (2000, 50)
    assert 0 < numbers.min() < numbers.max() < 1
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 0.01
    assert stats.kstest(numbers[:, 0], "uniform").pvalue > 0.01
    assert stats.kstest(keyed_uniforms(KEY, dirichlet(1, 5), 20_000)[0], "uniform").pvalue > 0.01


def test_rows_numbers_and_keys_are_independent_of_each_other() -> None:
    rows = dirichlet(4000)
    first = keyed_uniforms(KEY, rows, 2).numpy()
    other = keyed_uniforms(new_key(1), rows, 1).numpy()
    # Four standard errors of a correlation of independent numbers.
    bound = 4 / np.sqrt(4000)
    assert abs(np.corrcoef(first[:-1, 0], first[1:, 0])[0, 1]) < bound
    assert abs(np.corrcoef(first[:, 0], first[:, 1])[0, 1]) < bound
    assert abs(np.corrcoef(first[:, 0], other[:, 0])[0, 1]) < bound
    for column in rows.T.numpy():
        assert abs(np.corrcoef(first[:, 0], column)[0, 1]) < bound


def test_no_two_of_many_numbers_are_equal() -> None:
    rows = dirichlet(1000, 100, concentration=0.1)
    places = len(message(KEY[:16], rows).unique(dim=0))
    assert places > 990
    assert len(keyed_uniforms(KEY, rows, 100).unique()) == 100 * places


def test_the_first_numbers_do_not_depend_on_how_many_are_asked_for() -> None:
    rows = dirichlet(7, 4)
    many = keyed_uniforms(KEY, rows, 1000)
    for count in (0, 1, 16, 17, 18, 999):
        assert torch.equal(keyed_uniforms(KEY, rows, count), many[:, :count])


def test_a_row_has_its_numbers_in_any_batch_type_and_layout() -> None:
    rows = dirichlet(30, 6).float()
    numbers = keyed_uniforms(KEY, rows, 4)
    assert torch.equal(keyed_uniforms(KEY, rows[11:12], 4), numbers[11:12])
    assert torch.equal(keyed_uniforms(KEY, rows.flip(0), 4), numbers.flip(0))
    assert torch.equal(keyed_uniforms(KEY, rows.double(), 4), numbers)
    assert torch.equal(keyed_uniforms(KEY, rows.T.contiguous().T, 4), numbers)


def test_no_rows_have_no_numbers() -> None:
    assert keyed_uniforms(KEY, torch.empty(0, 5), 3).shape == (0, 3)
    assert keyed_normals(KEY, torch.empty(0, 5), 3).shape == (0, 3)


# --- which rows share their numbers (more in test_neighbours.py) ------------------------------


def test_single_precision_gives_the_same_numbers() -> None:
    rows = dirichlet(2000, 10)
    assert torch.equal(keyed_uniforms(KEY, rows.float(), 1), keyed_uniforms(KEY, rows, 1))


def test_rows_that_are_nearly_one_hot_still_have_numbers_of_their_own() -> None:
    rows = torch.softmax(
        torch.tensor([[30.0, 0, 0], [30.0, 0, 2], [30.0, 2, 0], [26.0, 0, 0]], dtype=torch.float64),
        dim=1,
    )
    assert (rows[:, 0] > 1 - 1e-10).all()
    assert len(keyed_uniforms(KEY, rows, 1).unique()) == 4


def test_the_order_of_the_classes_counts() -> None:
    rows = torch.tensor([[0.7, 0.27, 0.03], [0.7, 0.03, 0.27]])
    assert len(keyed_uniforms(KEY, rows, 1).unique()) == 2


def test_what_is_below_the_least_probability_counts_as_that() -> None:
    rows = torch.tensor([[1.0, 0.0], [1.0, 1e-40], [1.0, 1e-30], [1.0, 1e-15]], dtype=torch.float64)
    zero, denormal, tiny, small = keyed_uniforms(KEY, rows, 1)
    assert zero == denormal == tiny
    assert zero != small


# --- normals ----------------------------------------------------------------------------------


def test_normals_are_the_quantiles_of_the_uniforms() -> None:
    rows = dirichlet(2000)
    normals = keyed_normals(KEY, rows, 20)
    assert np.allclose(stats.norm.cdf(normals), keyed_uniforms(KEY, rows, 20), atol=1e-12)
    assert stats.kstest(normals.numpy().ravel(), "norm").pvalue > 0.01
    assert normals.isfinite().all()
