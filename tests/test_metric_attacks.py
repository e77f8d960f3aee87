"""Attacks by one number: against plain loops, by hand, and where their thresholds lie."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aeppt import Predictions
from aeppt.attacks.base import Attack
from aeppt.attacks.metric import (
    ConfidenceAttack,
    CorrectnessAttack,
    EntropyAttack,
    LossAttack,
    MaximumProbabilityAttack,
    ModifiedEntropyAttack,
    PrivacyRiskAttack,
    ThresholdAttack,
)

Make = Callable[..., Predictions]


def two_classes(true: list[float], labels: list[int], is_member: list[int]) -> Predictions:
    """Rows of two classes that give the true one the probability asked for."""
    column, truth = np.array(true), np.array(labels)
    probs = np.where(truth[:, None] == [0, 1], column[:, None], 1 - column[:, None])
    return Predictions(probs, truth, np.array(is_member))


def with_corners(seed: int, n: int = 60, k: int = 3) -> Predictions:
    """Random predictions; a tenth of the rows is certain, another has a zero."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(k), n)
    probs[: n // 10] = np.eye(k)[rng.integers(0, k, n // 10)]
    for row in range(n // 10, n // 5):
        probs[row, rng.integers(k)] = 0
        probs[row] /= probs[row].sum()
    is_member = rng.permutation(np.arange(n) % 2 == 0)
    return Predictions(probs, rng.integers(0, k, n), is_member)


# --- Song & Mittal 2021, written once more as plain loops ---------------------------------------


def plain_log(x: float) -> float:
    return math.log(max(x, 1e-30))


def plain_confidence(row: list[float], label: int) -> float:
    return row[label]


def plain_entropy(row: list[float], label: int) -> float:
    return sum(p * plain_log(p) for p in row)


def plain_modified_entropy(row: list[float], label: int) -> float:
    total = 0.0
    for j, p in enumerate(row):
        total += (1 - p) * plain_log(p) if j == label else p * plain_log(1 - p)
    return total


def plain_threshold(values: list[float], is_member: list[bool]) -> float:
    """Tries every cut between two neighbours, from the top; the first of the best is kept."""
    members, others = is_member.count(True), is_member.count(False)
    levels = sorted(set(values), reverse=True)
    best, threshold = 0.0, levels[0]
    for i, level in enumerate(levels):
        tp = fp = 0
        for value, member in zip(values, is_member, strict=True):
            tp += value >= level and member
            fp += value >= level and not member
        if tp / members - fp / others > best:
            best = tp / members - fp / others
            threshold = (level + levels[i + 1]) / 2
    return threshold


def plain_scores(
    statistic: Callable[[list[float], int], float],
    shadow: Predictions,
    target: Predictions,
    per_class: bool,
) -> list[float]:
    shadow_rows = list(zip(shadow.probs.tolist(), shadow.labels.tolist(), strict=True))
    is_member = shadow.is_member.tolist()
    scores = []
    for row, label in zip(target.probs.tolist(), target.labels.tolist(), strict=True):
        used = [i for i, (_, y) in enumerate(shadow_rows) if y == label or not per_class]
        if len({is_member[i] for i in used}) < 2:
            used = list(range(len(shadow_rows)))
        values = [statistic(*shadow_rows[i]) for i in used]
        threshold = plain_threshold(values, [is_member[i] for i in used])
        scores.append(statistic(row, label) - threshold)
    return scores


@pytest.mark.parametrize("per_class", [True, False])
@pytest.mark.parametrize(
    ("attack", "statistic"),
    [
        (ConfidenceAttack, plain_confidence),
        (EntropyAttack, plain_entropy),
        (ModifiedEntropyAttack, plain_modified_entropy),
    ],
)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_scores_equal_plain_loops(
    attack: type[ThresholdAttack],
    statistic: Callable[[list[float], int], float],
    per_class: bool,
    seed: int,
) -> None:
    shadow, target = with_corners(seed), with_corners(seed + 1, n=20)
    (scores,) = attack(per_class=per_class)(shadow, target)
    expected = plain_scores(statistic, shadow, target, per_class)
    assert scores == pytest.approx(expected, rel=0, abs=1e-6)


@given(seed=st.integers(0, 2**32 - 1))
def test_correctness_equals_a_plain_loop(seed: int) -> None:
    target = with_corners(seed)
    expected = []
    for row, label in zip(target.probs.tolist(), target.labels.tolist(), strict=True):
        expected.append(1.0 if row.index(max(row)) == label else -1.0)
    (scores,) = CorrectnessAttack()(with_corners(0), target)
    assert scores.tolist() == expected


# --- one threshold ------------------------------------------------------------------------------


def test_one_threshold_serves_all_classes() -> None:
    # Class 0: members 0.8, 0.9, others 0.4, 0.6. Class 1: members 0.7, 0.75, others 0.65, 0.55.
    shadow = two_classes(
        [0.8, 0.9, 0.4, 0.6, 0.7, 0.75, 0.65, 0.55],
        [0, 0, 0, 0, 1, 1, 1, 1],
        [1, 1, 0, 0, 1, 1, 0, 0],
    )
    target = two_classes([0.68, 0.68], [0, 1], [0, 0])
    (scores,) = ConfidenceAttack(per_class=False)(shadow, target)
    assert scores == pytest.approx([0.68 - 0.675] * 2)
    (scores,) = ConfidenceAttack()(shadow, target)
    assert scores == pytest.approx([0.68 - 0.7, 0.68 - 0.675])


def test_the_name_tells_the_kind_of_threshold() -> None:
    assert ConfidenceAttack().name == "confidence"
    assert ConfidenceAttack(per_class=False).name == "confidence, one threshold"


# --- Yeom et al. 2018 ---------------------------------------------------------------------------


def test_the_loss_threshold_is_the_members_average() -> None:
    shadow = two_classes([0.9, 0.6, 0.1], [0, 1, 0], [1, 1, 0])
    average = (-math.log(0.9) - math.log(0.6)) / 2
    target = two_classes([0.9, 0.7, 0.74, 0.0], [0, 1, 1, 0], [0] * 4)
    (scores,) = LossAttack()(shadow, target)
    assert scores[:3] == pytest.approx([average + math.log(p) for p in (0.9, 0.7, 0.74)])
    assert scores[3] < -60, "a true class of probability zero: finite, and no member"
    assert (scores > 0).tolist() == [True, False, True, False]


def test_a_saturated_model_has_members_of_loss_zero() -> None:
    shadow = two_classes([1.0, 1.0, 0.9, 0.8], [0, 1, 0, 1], [1, 1, 0, 0])
    (scores,) = LossAttack()(shadow, shadow)
    assert (scores > 0).tolist() == [True, True, False, False]


# --- ML-Leaks, adversary 3 ----------------------------------------------------------------------


def test_few_non_members_reach_the_threshold(make_predictions: Make) -> None:
    shadow, target = (make_predictions(10, 4000, seed=seed) for seed in (1, 2))
    for share in (0.1, 0.5):
        (scores,) = MaximumProbabilityAttack(reached_by=share)(shadow, target)
        assert (scores > 0)[~target.is_member].mean() == pytest.approx(share, abs=0.03)


def test_a_certain_prediction_reaches_a_threshold_of_one() -> None:
    shadow = two_classes([1.0] * 4 + [0.5] * 4, [0] * 8, [1, 0, 0, 0, 1, 0, 0, 0])
    target = two_classes([1.0, np.nextafter(1.0, 0)], [0, 0], [0, 0])
    for dtype in (np.float32, np.float64):
        (scores,) = MaximumProbabilityAttack()(
            shadow, target.with_probs(target.probs.astype(dtype))
        )
        assert scores[0] > 0
    assert scores[1] <= 0


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, math.nan])
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=rf"reached_by.*{share}"):
        MaximumProbabilityAttack(reached_by=share)


# --- the privacy risk score ---------------------------------------------------------------------


def test_the_risk_by_hand() -> None:
    # Two bins of four records each: the more certain half holds 3 of 4 members and 1 of 4 others.
    shadow = two_classes(
        [0.9, 0.91, 0.92, 0.6, 0.93, 0.61, 0.62, 0.63], [0] * 8, [1, 1, 1, 1, 0, 0, 0, 0]
    )
    target = two_classes([0.99, 0.55, 0.9, 0.63], [0] * 4, [0] * 4)
    (scores,) = PrivacyRiskAttack(bins=2)(shadow, target)
    assert scores == pytest.approx([0.25, -0.25, 0.25, -0.25])


def test_each_class_has_its_own_risk() -> None:
    shadow = two_classes(
        [0.9, 0.9, 0.6, 0.6, 0.9, 0.9, 0.6, 0.6, 0.9],
        [0, 0, 0, 0, 1, 1, 1, 1, 1],
        [1, 1, 0, 0, 0, 0, 1, 1, 0],
    )
    target = two_classes([0.9, 0.6, 0.9, 0.6], [0, 0, 1, 1], [0] * 4)
    (scores,) = PrivacyRiskAttack(bins=2)(shadow, target)
    assert scores.tolist() == [0.5, -0.5, -0.5, 0.5]


def test_a_class_with_one_side_takes_the_risk_of_all() -> None:
    shadow = two_classes([0.9, 0.9, 0.6, 0.6, 0.9], [0, 0, 0, 0, 1], [1, 1, 0, 0, 1])
    (scores,) = PrivacyRiskAttack(bins=2)(shadow, two_classes([0.9, 0.6], [1, 1], [0, 0]))
    assert scores.tolist() == [0.5, -0.5]


def test_the_risk_is_the_share_of_members(make_predictions: Make) -> None:
    shadow, target = (make_predictions(4000, 4000, k=3, leak=2, seed=s) for s in (1, 2))
    (scores,) = PrivacyRiskAttack()(shadow, target)
    assert len(np.unique(scores)) == 3 * 5, "five bins in each of three classes"
    for score in np.unique(scores):
        share = target.is_member[scores == score].mean()
        assert share == pytest.approx(score + 0.5, abs=0.09)


def test_equal_predictions_have_no_risk() -> None:
    shadow = two_classes([0.7] * 4, [0] * 4, [1, 1, 0, 0])
    (scores,) = PrivacyRiskAttack()(shadow, two_classes([0.6, 0.7, 0.8], [0] * 3, [0] * 3))
    assert scores.tolist() == [0, 0, 0]


def test_a_single_bin_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bins.* 1"):
        PrivacyRiskAttack(bins=1)


# --- all of them --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attack",
    [
        ConfidenceAttack(per_class=False),
        EntropyAttack(per_class=False),
        ModifiedEntropyAttack(per_class=False),
        LossAttack(),
        MaximumProbabilityAttack(),
        PrivacyRiskAttack(),
    ],
    ids=lambda attack: attack.name,
)
def test_attacks_find_a_leak_and_none_where_none_is(attack: Attack, make_predictions: Make) -> None:
    for leak, low, high in ((20.0, 0.75, 1.0), (0.0, 0.47, 0.53)):
        shadow, target = (make_predictions(2000, 2000, leak=leak, seed=seed) for seed in (1, 2))
        (scores,) = attack(shadow, target)
        accused = scores > 0
        balanced = (accused[target.is_member].mean() + (~accused)[~target.is_member].mean()) / 2
        assert low <= balanced <= high
