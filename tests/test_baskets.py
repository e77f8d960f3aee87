"""Synthetic shopping baskets: repeatable, as their docstring says, and leaking as promised."""

from __future__ import annotations

import numpy as np
import pytest

from aeppt.data import Records, synthetic_baskets
from aeppt.models.training import predict_probs, train_classifier


def test_records_are_binary_and_labelled() -> None:
    records = synthetic_baskets(300, 7)
    assert records.features.shape == (300, 600)
    assert records.features.dtype == np.float32
    assert set(np.unique(records.features)) == {0.0, 1.0}
    assert records.labels.dtype == np.int64
    assert set(records.labels.tolist()) == set(range(7))
    assert records.n_classes == 7
    assert synthetic_baskets(20, 2, n_items=35).features.shape == (20, 35)


def test_the_seed_decides() -> None:
    first, again, other = (synthetic_baskets(200, 10, seed) for seed in (3, 3, 4))
    assert np.array_equal(first.features, again.features)
    assert np.array_equal(first.labels, again.labels)
    assert not np.array_equal(first.features, other.features)
    assert not np.array_equal(first.labels, other.labels)


def test_a_longer_draw_begins_as_a_shorter_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aeppt.data.baskets.RECORDS_AT_ONCE", 128)
    short, long = synthetic_baskets(100, 10, 1), synthetic_baskets(300, 10, 1)
    assert np.array_equal(long.features[:100], short.features)
    assert np.array_equal(long.labels[:100], short.labels)
    monkeypatch.setattr("aeppt.data.baskets.RECORDS_AT_ONCE", 10_000)
    assert np.array_equal(synthetic_baskets(300, 10, 1).features, long.features)


def test_popularity_has_a_long_tail() -> None:
    share = np.sort(synthetic_baskets(4000, 100).features.mean(axis=0))[::-1]
    assert share[0] > 0.6
    assert share[100:].max() < 0.25
    assert share[:60].sum() > 0.2 * share.sum(), "a tenth of the items, over a fifth of the sales"
    assert 0 < share[-1] < 0.05


def test_shoppers_buy_unequally_much() -> None:
    sizes = synthetic_baskets(4000, 100).features.sum(axis=1)
    assert 40 < sizes.mean() < 90
    assert sizes.min() >= 1
    assert sizes.std() > 2 * np.sqrt(sizes.mean()), "more than chance alone would make"


def test_types_are_equally_frequent() -> None:
    counts = np.bincount(synthetic_baskets(20_000, 10).labels)
    assert np.abs(counts - 2000).max() < 5 * np.sqrt(2000)


def test_a_shopper_is_nearest_to_their_own_type() -> None:
    """Records of one class have more in common than records of two."""
    records = synthetic_baskets(2000, 5)
    centred = records.features - records.features.mean(axis=0)
    alike = centred @ centred.T
    same = records.labels[:, None] == records.labels[None, :]
    np.fill_diagonal(same, val=False)
    apart = records.labels[:, None] != records.labels[None, :]
    assert alike[same].mean() > 1 > 0 > alike[apart].mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"n_classes": 1}, "n_classes must be 2 to 100, got 1"),
        ({"n_classes": 101}, "n_classes must be 2 to 100, got 101"),
        ({"n_items": 1}, "n_items must be at least 2, got 1"),
        ({"random_state": -1}, "non-negative"),
    ],
)
def test_bad_parameters_are_named(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic_baskets(**{"count": 10, "n_classes": 2, **arguments})


def accuracies(records: Records) -> tuple[float, float, float]:
    """Of an overfitted network: on its members, on others, and of the best confidence attack."""
    half = len(records) // 2
    members, others = records.take(np.arange(half)), records.take(np.arange(half, 2 * half))
    network = train_classifier(members, (256, 128), 100, 0)
    probs = [predict_probs(network, part.features) for part in (members, others)]
    train, test = (
        float((p.argmax(axis=1) == part.labels).mean())
        for p, part in zip(probs, (members, others), strict=True)
    )
    confident, strangers = (
        np.sort(p[np.arange(half), part.labels])
        for p, part in zip(probs, (members, others), strict=True)
    )
    thresholds = np.concatenate([confident, strangers])
    found = 1 - np.searchsorted(confident, thresholds) / half
    accused = 1 - np.searchsorted(strangers, thresholds) / half
    return train, test, float((1 + found - accused).max() / 2)


@pytest.mark.slow
def test_more_classes_leak_more() -> None:
    """As Shokri et al. 2017 report of the real purchases."""
    train, test, attack = np.transpose(
        [accuracies(synthetic_baskets(2000, k)) for k in (2, 10, 100)]
    )
    assert (train > 0.99).all()
    assert test[0] > 0.97
    assert 0.87 < test[1] < 0.96
    assert 0.5 < test[2] < 0.65
    assert attack[0] < 0.55
    assert 0.63 < attack[1] < 0.74
    assert attack[2] > 0.85
