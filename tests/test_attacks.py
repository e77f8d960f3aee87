"""Attacks: what the caller checks, what each statistic is, and which leaks are found."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from aeppt import Predictions
from aeppt.attacks import (
    Attack,
    ConfidenceAttack,
    CorrectnessAttack,
    EntropyAttack,
    ModifiedEntropyAttack,
    NeuralNetworkAttack,
    ThresholdAttack,
    default_attacks,
)

Make = Callable[..., Predictions]


class GivenScores(Attack):
    """Answers every target with what it was told, and remembers what it saw."""

    name = "given scores"

    def __init__(self, answer: Callable[[int], Any] = np.zeros) -> None:
        self.answer = answer
        self.seen: list[Predictions] = []

    def run(self, shadow: Predictions, targets: Sequence[Predictions]) -> list[NDArray[np.float64]]:
        self.seen += targets
        return [self.answer(len(target)) for target in targets]


def two_classes(
    first: Sequence[float], labels: Sequence[int], is_member: Sequence[int]
) -> Predictions:
    """Rows (p, 1 - p) in float64."""
    column = np.array(first, np.float64)
    return Predictions(np.stack([column, 1 - column], axis=1), np.array(labels), is_member)  # type: ignore[arg-type]


# --- what the call checks ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        lambda n: np.zeros(n + 1),
        lambda n: np.zeros(n - 1),
        lambda n: np.zeros((n, 1)),
        lambda n: np.float64(0),
        lambda n: np.full(n, np.nan),
        lambda n: np.append(np.zeros(n - 1), np.inf),
    ],
    ids=["long", "short", "matrix", "scalar", "nan", "inf"],
)
def test_broken_scores_are_not_believed(
    answer: Callable[[int], Any], known: Predictions, make_predictions: Make
) -> None:
    with pytest.raises(RuntimeError, match="given scores"):
        GivenScores(answer)(known, make_predictions(seed=1))


def test_scores_come_back_per_target_in_float64(known: Predictions, make_predictions: Make) -> None:
    targets = [make_predictions(10, 20, seed=seed) for seed in (1, 2)]
    attack = GivenScores(lambda n: np.arange(n, dtype=np.float32))
    results = attack(known, *targets)
    assert len(results) == 2
    for scores in results:
        assert scores.dtype == np.float64
        assert np.array_equal(scores, np.arange(30))
    assert attack(known) == []


def test_an_attack_cannot_see_who_is_a_member(known: Predictions, make_predictions: Make) -> None:
    target = make_predictions(10, 20, seed=1)
    spy = GivenScores()
    spy(known, target)
    (seen,) = spy.seen
    assert not seen.is_member.any()
    assert np.array_equal(seen.probs, target.probs)
    assert np.array_equal(seen.labels, target.labels)
    assert target.is_member.sum() == 10, "the caller's own copy stays as it was"


@pytest.mark.parametrize("attack", default_attacks(), ids=lambda attack: attack.name)
def test_target_membership_changes_no_score(
    attack: Attack, known: Predictions, make_predictions: Make
) -> None:
    target = make_predictions(20, 20, seed=1)
    swapped = Predictions(target.probs, target.labels, ~target.is_member)
    left, right = attack(known, target, swapped)
    assert np.array_equal(left, right)


def test_other_classes_are_refused(known: Predictions, make_predictions: Make) -> None:
    spy = GivenScores()
    with pytest.raises(ValueError, match=r"5 classes.* 4"):
        spy(known, make_predictions(seed=1), make_predictions(k=4))
    assert not spy.seen


@pytest.mark.parametrize("side", [True, False])
def test_a_one_sided_shadow_is_refused(side: bool, known: Predictions) -> None:
    shadow = Predictions(known.probs, known.labels, np.full(len(known), side))
    with pytest.raises(ValueError, match="members and non-members"):
        GivenScores()(shadow, known)


def test_the_default_attacks_have_distinct_names() -> None:
    names = [attack.name for attack in default_attacks(3)]
    assert len(set(names)) == len(names) == 6
    (network,) = (a for a in default_attacks(3) if isinstance(a, NeuralNetworkAttack))
    assert network.random_state == 3


# --- attacks by one number --------------------------------------------------------------------


ROWS = Predictions(
    np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.2, 0.2, 0.6]]),
    np.array([0, 0, 1, 1]),
    np.array([True, True, False, False]),
)


def test_confidence_is_the_true_probability() -> None:
    assert ConfidenceAttack().statistic(ROWS).tolist() == [0.5, 1.0, 0.0, 0.2]


def test_entropy_by_hand() -> None:
    expected = [-1.5 * math.log(2), 0.0, 0.0, 0.4 * math.log(0.2) + 0.6 * math.log(0.6)]
    assert EntropyAttack().statistic(ROWS) == pytest.approx(expected)


def test_modified_entropy_by_hand() -> None:
    statistic = ModifiedEntropyAttack().statistic(ROWS)
    ordinary = 0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.75)
    mixed = 0.8 * math.log(0.2) + 0.2 * math.log(0.8) + 0.6 * math.log(0.4)
    assert statistic[0] == pytest.approx(ordinary)
    assert statistic[1] == 0, "certain and right: nothing is uncertain"
    assert np.isfinite(statistic).all()
    assert statistic[2] < -50, "certain and wrong: as unlike a member as can be"
    assert statistic[3] == pytest.approx(mixed)


@pytest.mark.parametrize("attack", [ConfidenceAttack(), EntropyAttack(), ModifiedEntropyAttack()])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics_are_finite_at_the_corners(attack: ThresholdAttack, dtype: type) -> None:
    corners = Predictions(
        np.eye(3, dtype=dtype)[[0, 1, 2, 0]], np.array([0, 0, 2, 1]), ROWS.is_member
    )
    statistic = attack.statistic(corners)
    assert statistic.dtype == np.float64
    assert np.isfinite(statistic).all()
    (scores,) = attack(corners, corners)
    assert np.isfinite(scores).all()


def test_each_class_has_its_own_threshold() -> None:
    shadow = two_classes(
        [0.8, 0.9, 0.4, 0.6, 0.3, 0.2, 0.35, 0.45],
        [0, 0, 0, 0, 1, 1, 1, 1],
        [1, 1, 0, 0, 1, 1, 0, 0],
    )
    # Class 0: members 0.8, 0.9; others 0.4, 0.6: border 0.7. Class 1, on 1 - p: members 0.7, 0.8;
    # others 0.65, 0.55: border 0.675.
    target = two_classes([0.71, 0.69, 0.32, 0.33], [0, 0, 1, 1], [0, 0, 0, 0])
    (scores,) = ConfidenceAttack()(shadow, target)
    assert scores == pytest.approx([0.01, -0.01, 0.005, -0.005])


def test_a_class_with_one_side_uses_the_threshold_of_all() -> None:
    # Class 1 has members only; the best border of all records lies between 0.6 and 0.8.
    shadow = two_classes([0.8, 0.9, 0.4, 0.6, 0.1, 0.15], [0, 0, 0, 0, 1, 1], [1, 1, 0, 0, 1, 1])
    target = two_classes([0.28, 0.31], [1, 1], [0, 0])
    (scores,) = ConfidenceAttack()(shadow, target)
    assert scores == pytest.approx([0.02, -0.01])


def test_where_members_are_the_less_confident_nobody_is_accused() -> None:
    shadow = two_classes([0.3, 0.4, 0.8, 0.9], [0] * 4, [1, 1, 0, 0])
    (scores,) = ConfidenceAttack()(shadow, shadow)
    assert not (scores > 0).any(), "any border accuses more non-members than members"


def test_equal_statistics_cannot_be_told_apart() -> None:
    shadow = two_classes([0.7] * 4, [0] * 4, [1, 1, 0, 0])
    (scores,) = ConfidenceAttack()(shadow, shadow)
    assert len(set(scores.tolist())) == 1


def test_neighbouring_floats_are_told_apart() -> None:
    # A saturated soft-max: members at 1, non-members one unit in the last place below it.
    shadow = two_classes(
        [1.0, 1.0, np.nextafter(1.0, 0.0), np.nextafter(1.0, 0.0)], [0] * 4, [1, 1, 0, 0]
    )
    (scores,) = ConfidenceAttack()(shadow, shadow)
    assert (scores > 0).tolist() == [True, True, False, False]


def test_thresholds_come_from_the_shadow_only(known: Predictions, make_predictions: Make) -> None:
    target = make_predictions(50, 50, seed=4)
    (whole,) = ConfidenceAttack()(known, target)
    part = Predictions(target.probs[:10], target.labels[:10], target.is_member[:10])
    (some,) = ConfidenceAttack()(known, part)
    assert np.array_equal(whole[:10], some)


def test_correctness_asks_only_whether_the_label_is_right(known: Predictions) -> None:
    target = Predictions(
        np.array([[0.4, 0.4, 0.2, 0, 0], [0.4, 0.4, 0.2, 0, 0], [0, 0, 0.1, 0.9, 0]]),
        np.array([0, 1, 3]),
        np.array([False, True, True]),
    )
    (scores,) = CorrectnessAttack()(known, target)
    assert scores.tolist() == [1.0, -1.0, 1.0]


@pytest.mark.parametrize(
    "attack",
    [NeuralNetworkAttack(), ConfidenceAttack(), EntropyAttack(), ModifiedEntropyAttack()],
    ids=lambda attack: attack.name,
)
def test_attacks_find_an_obvious_leak_and_none_where_none_is(
    attack: Attack, make_predictions: Make
) -> None:
    for leak, low, high in ((20.0, 0.9, 1.0), (0.0, 0.43, 0.57)):
        shadow = make_predictions(400, 400, leak=leak, seed=1)
        target = make_predictions(400, 400, leak=leak, seed=2)
        (scores,) = attack(shadow, target)
        assert low <= roc_auc_score(target.is_member, scores) <= high
        accused = scores > 0
        balanced = (accused[target.is_member].mean() + (~accused)[~target.is_member].mean()) / 2
        assert low - 0.05 <= balanced <= high


# --- the neural network -----------------------------------------------------------------------


def test_the_network_is_deterministic(known: Predictions, make_predictions: Make) -> None:
    target = make_predictions(30, 30, seed=3)
    first, again, other = (
        NeuralNetworkAttack(hidden=(8,), random_state=seed)(known, target)[0] for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_network_sees_no_order_of_classes(known: Predictions, make_predictions: Make) -> None:
    target = make_predictions(30, 30, seed=3)
    turned = Predictions(target.probs[:, ::-1], 4 - target.labels, target.is_member)
    left, right = NeuralNetworkAttack(hidden=(8,))(known, target, turned)
    assert np.array_equal(left, right)


def test_the_network_stays_finite_when_it_is_certain() -> None:
    rng = np.random.default_rng(0)
    sure = np.tile([1.0, 0.0, 0.0], (50, 1))
    unsure = rng.dirichlet([50, 50, 50], 50)
    shadow = Predictions(
        np.concatenate([sure, unsure]), np.zeros(100, int), np.repeat([True, False], 50)
    )
    (scores,) = NeuralNetworkAttack()(shadow, shadow)
    assert ((scores > 0) == shadow.is_member).all()
