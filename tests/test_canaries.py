"""Canaries: what is chosen, what is planted, and the two figures side by side."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from aeppt import Predictions
from aeppt.attacks.lira import OnlineLiRA
from aeppt.data.records import Records
from aeppt.evaluation.canaries import audit_canaries, mislabel, most_vulnerable
from aeppt.evaluation.metrics import share, tpr_at_fpr
from aeppt.shadow_predictions import ShadowPredictions


def blobs(n: int) -> Records:
    """Two classes, well apart."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    features = rng.normal(6.0 * labels[:, None], 1.0, (n, 2)).astype(np.float32)
    return Records(features, labels, 2)


def neighbours(records: Records, trained_on: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Predictions [n, 2] of nearest neighbours; a record that is its own counts most."""
    model = KNeighborsClassifier(5, weights=lambda distance: np.where(distance == 0, 20.0, 1.0))
    model.fit(records.features[trained_on], records.labels[trained_on])
    probs: NDArray[np.float64] = model.predict_proba(records.features)
    return 0.98 * probs + 0.01


def memorised(records: Records, models: int) -> tuple[ShadowPredictions, Predictions]:
    """Shadow models on halves of the records, and a target."""
    rng = np.random.default_rng(0)
    half = np.tile(np.arange(models)[:, None] < models // 2, len(records))
    trained_on = np.vstack([rng.permuted(half, axis=0), rng.random(len(records)) < 0.5])
    probs = np.stack([neighbours(records, rows) for rows in trained_on])
    return (
        ShadowPredictions(probs[:-1], records.labels, trained_on[:-1]),
        Predictions(probs[-1], records.labels, trained_on[-1]),
    )


@pytest.mark.parametrize("by", ["gap", "out-confidence"])
def test_mislabelled_records_are_the_most_vulnerable(by: str) -> None:
    records, planted = mislabel(blobs(400), 10, random_state=1)
    shadows, _ = memorised(records, models=16)
    chosen = most_vulnerable(shadows, 10, by)  # type: ignore[arg-type]
    assert set(chosen) == set(planted)


def test_canaries_show_a_leak_that_the_average_hides() -> None:
    records, planted = mislabel(blobs(600), 60, random_state=1)
    shadows, target = memorised(records, models=16)
    scores = OnlineLiRA()(shadows, target)
    result = audit_canaries(scores, target.is_member, planted)
    assert result.canaries.low > result.population.high
    assert result.members + result.non_members == 60


def test_the_worst_come_first_and_each_measure_is_its_own() -> None:
    # Out-confidence rises with the index, the gap with its square.
    labels = np.zeros(5, np.int64)
    out = np.arange(5.0)
    phi = np.stack([out + np.arange(5.0) ** 2, out])
    probs = np.stack([1 / (1 + np.exp(-phi)), 1 / (1 + np.exp(phi))], axis=-1)
    shadows = ShadowPredictions(probs, labels, np.array([[True] * 5, [False] * 5]))
    assert most_vulnerable(shadows, 3).tolist() == [4, 3, 2]
    assert most_vulnerable(shadows, 3, "out-confidence").tolist() == [0, 1, 2]
    only_out = ShadowPredictions(probs[1:], labels, np.zeros((1, 5), bool))
    assert most_vulnerable(only_out, 1, "out-confidence").tolist() == [0]
    with pytest.raises(ValueError, match="trained on record 0"):
        most_vulnerable(only_out, 1)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 6), st.integers(1, 40), st.integers(0, 1000), st.data())
def test_mislabelled_records_are_wrong_and_the_others_are_not(
    classes: int, n: int, seed: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, n))
    labels = np.arange(n) % classes
    features = np.arange(2.0 * n, dtype=np.float32).reshape(n, 2)
    records = Records(features, labels.copy(), classes)
    changed, rows = mislabel(records, count, seed)
    assert np.array_equal(np.flatnonzero(changed.labels != labels), rows)
    assert len(rows) == count
    assert ((changed.labels >= 0) & (changed.labels < classes)).all()
    assert np.array_equal(changed.features, features)
    assert np.array_equal(records.labels, labels), "the caller's own copy stays as it was"
    again, same = mislabel(records, count, seed)
    assert np.array_equal(again.labels, changed.labels)
    assert np.array_equal(same, rows)


def test_every_wrong_class_is_as_likely() -> None:
    records = Records(np.zeros((9000, 1), np.float32), np.full(9000, 1), 4)
    changed, _ = mislabel(records, 9000)
    counts = np.bincount(changed.labels, minlength=4)
    assert counts[1] == 0
    assert counts[[0, 2, 3]] == pytest.approx(3000, abs=200)


def test_figures_are_those_of_the_two_sets() -> None:
    rng = np.random.default_rng(0)
    is_member = rng.random(3000) < 0.5
    scores = rng.normal(size=3000)
    canaries = np.arange(0, 3000, 30)
    scores[canaries] += 10 * is_member[canaries]
    result = audit_canaries(scores, is_member, canaries)
    members = int(is_member[canaries].sum())
    assert result.canaries == share(members, members, method="exact")
    assert result.canaries.value == 1
    assert result.population == tpr_at_fpr(scores, is_member, 0.001)
    assert (result.members, result.non_members) == (members, 100 - members)


def test_bad_input_is_named() -> None:
    records = blobs(40)
    for count in (0, 41):
        with pytest.raises(ValueError, match=rf"number of records, 40, got {count}"):
            mislabel(records, count)
    with pytest.raises(ValueError, match="needs 2 classes, the records have 1"):
        mislabel(Records(records.features, np.zeros(40, np.int64), 1), 3)
    shadows, target = memorised(records, models=4)
    with pytest.raises(ValueError, match=r"number of records, 40, got 41"):
        most_vulnerable(shadows, 41)
    with pytest.raises(ValueError, match=r'"gap" or "out-confidence", got \'loss\''):
        most_vulnerable(shadows, 1, "loss")  # type: ignore[arg-type]
    members = np.flatnonzero(target.is_member)
    with pytest.raises(ValueError, match=r"2 of the 2 canaries are members.*one half"):
        audit_canaries(np.zeros(40), target.is_member, members[:2])
    with pytest.raises(ValueError, match="a canary is given twice"):
        audit_canaries(np.zeros(40), target.is_member, np.array([1, 1]))
