"""Attacks that learn on shadow predictions: which leaks they find, and what they must not see."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from aeppt import Predictions
from aeppt.attacks.base import Attack
from aeppt.attacks.learned import (
    BoostedTreesAttack,
    LearnedAttack,
    LogisticRegressionAttack,
    NearestNeighborsAttack,
    RandomForestAttack,
    SupportVectorAttack,
    UnlabelledTreesAttack,
)
from aeppt.attacks.metric import CorrectnessAttack
from aeppt.attacks.neural import (
    BorderAttack,
    DataTransferAttack,
    NeuralNetworkAttack,
    PerClassNetworkAttack,
    TopThreeAttack,
    VectorAndLabelNetworkAttack,
)
from aeppt.attacks.ranks import PredictedLabelAttack, RankAttack


def sharpened(n: int, k: int = 4, power: float = 3.0, seed: int = 0) -> Predictions:
    """Half members, whose probabilities are raised to ``power``; four of five labels are right."""
    rng = np.random.default_rng(seed)
    is_member = np.arange(n) % 2 == 0
    probs = rng.dirichlet(np.ones(k), n) ** np.where(is_member, power, 1.0)[:, None]
    probs /= probs.sum(axis=1, keepdims=True)
    wrong = rng.random(n) < 0.2
    labels = (probs.argmax(axis=1) + wrong * rng.integers(1, k, n)) % k
    return Predictions(probs, labels, is_member)


def placed(
    places: Callable[[NDArray[np.int64], NDArray[np.bool_]], list[NDArray[np.int64]]],
    n: int,
    seed: int,
) -> Predictions:
    """Sorted vectors of four classes alike for all; ``places`` are the classes, greatest first."""
    rng = np.random.default_rng(seed)
    is_member, labels = np.arange(n) % 2 == 0, rng.integers(0, 4, n)
    values = np.sort(rng.dirichlet(np.ones(4), n), axis=1)[:, ::-1]
    probs = np.empty((n, 4))
    np.put_along_axis(probs, np.stack(places(labels, is_member), axis=1), values, axis=1)
    return Predictions(probs, labels, is_member)


def runner_up_leak(n: int, seed: int) -> Predictions:
    """All labels are wrong, but of a member the true class comes second, of others last."""
    return placed(
        lambda y, m: [
            (y + 1) % 4,
            np.where(m, y, (y + 2) % 4),
            (y + 3) % 4,
            np.where(m, (y + 2) % 4, y),
        ],
        n,
        seed,
    )


def mistake_leak(n: int, seed: int) -> Predictions:
    """All labels are wrong: a member's is the next class, that of others the one before."""
    return placed(
        lambda y, m: [np.where(m, y + 1, y + 3) % 4, (y + 2) % 4, np.where(m, y + 3, y + 1) % 4, y],
        n,
        seed,
    )


def balanced_accuracy(attack: Attack, shadow: Predictions, target: Predictions) -> float:
    (scores,) = attack(shadow, target)
    accused = scores > 0
    sides = accused[target.is_member].mean(), (~accused)[~target.is_member].mean()
    return float(np.mean(sides))


def each_attack(random_state: int = 0) -> list[Attack]:
    """All attacks of these files, with networks as small as the tests need."""
    small = (16,)
    return [
        NeuralNetworkAttack(small, random_state),
        PerClassNetworkAttack(small, random_state),
        TopThreeAttack(small, random_state),
        DataTransferAttack(sharpened(600, k=5, seed=9), small, random_state),
        VectorAndLabelNetworkAttack(small, random_state),
        BorderAttack(small, random_state),
        BoostedTreesAttack(random_state),
        UnlabelledTreesAttack(random_state),
        RandomForestAttack(random_state),
        LogisticRegressionAttack(),
        SupportVectorAttack(),
        NearestNeighborsAttack(),
        RankAttack(random_state),
        PredictedLabelAttack(random_state),
    ]


def blind_to_sharpness(attack: Attack) -> bool:
    return isinstance(attack, RankAttack | PredictedLabelAttack)


every_attack = pytest.mark.parametrize("attack", each_attack(), ids=lambda attack: attack.name)
every_attack_that_learns_on_the_shadow = pytest.mark.parametrize(
    "attack",
    [attack for attack in each_attack() if not isinstance(attack, DataTransferAttack)],
    ids=lambda attack: attack.name,
)


# --- every attack -------------------------------------------------------------------------------


@every_attack
def test_a_planted_leak_is_found(attack: Attack) -> None:
    shadow, target = sharpened(800, seed=1), sharpened(3000, seed=2)
    floor = balanced_accuracy(CorrectnessAttack(), shadow, target)
    assert floor == pytest.approx(0.5, abs=0.02)
    accuracy = balanced_accuracy(attack, shadow, target)
    if blind_to_sharpness(attack):
        assert accuracy == pytest.approx(0.5, abs=0.03), "sharpening keeps the order"
    else:
        assert accuracy > floor + 0.12


@every_attack
def test_nothing_is_found_where_members_are_like_others(attack: Attack) -> None:
    shadow, target = sharpened(800, power=1, seed=1), sharpened(6000, power=1, seed=2)
    assert balanced_accuracy(attack, shadow, target) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("index", range(len(each_attack())))
def test_one_seed_gives_one_answer(index: int) -> None:
    shadow, target = sharpened(200, seed=1), sharpened(100, seed=2)
    first, again = (each_attack(random_state=5)[index](shadow, target)[0] for _ in range(2))
    assert np.array_equal(first, again)


@every_attack
def test_classes_may_be_missing(attack: Attack) -> None:
    """Class 3 is only in the target, class 2 has no members in the shadow."""
    full = sharpened(400, seed=1)
    kept = (full.labels != 3) & ~((full.labels == 2) & full.is_member)
    shadow = Predictions(full.probs[kept], full.labels[kept], full.is_member[kept])
    target = sharpened(200, seed=2)
    alone = target.labels == 3
    part = Predictions(target.probs[alone], target.labels[alone], target.is_member[alone])
    whole, only = attack(shadow, target, part)
    assert only == pytest.approx(whole[alone], abs=1e-9), "what else is asked changes nothing"
    if not blind_to_sharpness(attack):
        assert len(np.unique(only)) > 1, "the class is judged, not given up"


@every_attack_that_learns_on_the_shadow
def test_certain_predictions_get_finite_scores(attack: Attack) -> None:
    rng = np.random.default_rng(0)
    is_member, labels = np.repeat([True, False], 60), rng.integers(0, 3, 120)
    probs = np.where(is_member[:, None], np.eye(3)[labels], 1 / 3)
    shadow = Predictions(probs, labels, is_member)
    (scores,) = attack(shadow, shadow)  # refuses what is not finite
    found = ((scores > 0) == is_member).mean()
    assert found > 0.6 if isinstance(attack, PredictedLabelAttack) else found > 0.8


@every_attack_that_learns_on_the_shadow
def test_many_members_in_the_shadow_do_not_make_all_members(attack: Attack) -> None:
    full, target = sharpened(4000, power=1, seed=1), sharpened(1000, power=1, seed=2)
    kept = full.is_member | (np.arange(len(full)) % 8 == 1)  # four members to one other
    shadow = Predictions(full.probs[kept], full.labels[kept], full.is_member[kept])
    (scores,) = attack(shadow, target)
    assert 0.2 < (scores > 0).mean() < 0.8


# --- what single attacks see --------------------------------------------------------------------


def test_the_network_is_the_plain_pipeline() -> None:
    shadow, target = sharpened(200, seed=1), sharpened(100, seed=2)
    network = make_pipeline(StandardScaler(), MLPClassifier((64,), max_iter=300, random_state=3))
    network.fit(np.sort(shadow.probs)[:, ::-1], shadow.is_member)
    chance = network.predict_proba(np.sort(target.probs)[:, ::-1])[:, 1]
    (scores,) = NeuralNetworkAttack(random_state=3)(shadow, target)
    assert np.array_equal(scores, logit(chance))


@pytest.mark.parametrize("attack", [BoostedTreesAttack(), RandomForestAttack()])
def test_trees_find_what_only_the_label_reveals(attack: LearnedAttack) -> None:
    shadow, target = runner_up_leak(600, seed=1), runner_up_leak(600, seed=2)
    assert balanced_accuracy(CorrectnessAttack(), shadow, target) == 0.5
    assert balanced_accuracy(NeuralNetworkAttack((16,)), shadow, target) < 0.56
    assert balanced_accuracy(attack, shadow, target) > 0.8


def test_trees_without_label_see_none() -> None:
    shadow, target = runner_up_leak(600, seed=1), runner_up_leak(600, seed=2)
    shuffled = Predictions(target.probs, np.roll(target.labels, 1), target.is_member)
    attack = UnlabelledTreesAttack()
    (scores,), (same,) = attack(shadow, target), attack(shadow, shuffled)
    assert np.array_equal(scores, same)
    (labelled,), (other,) = (BoostedTreesAttack()(shadow, asked) for asked in (target, shuffled))
    assert not np.array_equal(labelled, other)


def test_ranks_and_labels_alone_can_leak() -> None:
    shadow, target = runner_up_leak(600, seed=1), runner_up_leak(600, seed=2)
    assert balanced_accuracy(RankAttack(), shadow, target) > 0.95
    assert balanced_accuracy(PredictedLabelAttack(), shadow, target) == pytest.approx(0.5, abs=0.06)
    shadow, target = mistake_leak(600, seed=1), mistake_leak(600, seed=2)
    assert balanced_accuracy(CorrectnessAttack(), shadow, target) == 0.5
    assert balanced_accuracy(PredictedLabelAttack(), shadow, target) > 0.95


@settings(max_examples=10, deadline=None)
@given(power=st.floats(0.3, 3), offset=st.floats(0, 1))
def test_a_defense_that_keeps_ranks_changes_no_rank_score(power: float, offset: float) -> None:
    def defended(predictions: Predictions) -> Predictions:
        probs = predictions.probs**power + offset
        return predictions.with_probs(probs / probs.sum(axis=1, keepdims=True))

    shadow, target = runner_up_leak(100, seed=1), runner_up_leak(50, seed=2)
    (before,) = RankAttack()(shadow, target)
    (static,) = RankAttack()(shadow, defended(target))
    (adaptive,) = RankAttack()(defended(shadow), defended(target))
    assert np.array_equal(before, static)
    assert np.array_equal(before, adaptive)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_defense_that_keeps_labels_changes_no_label_score(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def defended(predictions: Predictions) -> Predictions:
        noise = rng.dirichlet(np.ones(4), len(predictions))
        keep = np.eye(4)[predictions.probs.argmax(axis=1)]
        return predictions.with_probs(0.55 * keep + 0.45 * noise)

    shadow, target = mistake_leak(100, seed=1), mistake_leak(50, seed=2)
    (before,) = PredictedLabelAttack()(shadow, target)
    (static,) = PredictedLabelAttack()(shadow, defended(target))
    (adaptive,) = PredictedLabelAttack()(defended(shadow), defended(target))
    assert np.array_equal(before, static)
    assert np.array_equal(before, adaptive)


def test_ties_rank_by_index() -> None:
    # A sort that is not stable may still keep the order of a few.
    tied = Predictions(np.array([[0.015, 0.005] * 50]), np.array([7]), np.array([True]))
    ranks = RankAttack().features(tied)[0, :101].tolist()
    assert ranks[:100:2] == [*range(50)]
    assert ranks[1:100:2] == [*range(50, 100)]
    assert ranks[100] == 53, "the rank of class 7"


def test_a_scarce_class_is_left_to_the_network_of_all() -> None:
    class OneNetwork(PerClassNetworkAttack):
        fewest = 10**6

    full = sharpened(400, seed=1)
    kept = (full.labels != 3) | (full.labels.cumsum() % 20 == 0)
    shadow = Predictions(full.probs[kept], full.labels[kept], full.is_member[kept])
    target = sharpened(100, seed=2)
    sides = np.bincount(shadow.is_member[shadow.labels == 3], minlength=2)
    assert 0 < sides.min() < PerClassNetworkAttack.fewest
    (scores,), (by_all,) = (
        attack((8,))(shadow, target) for attack in (PerClassNetworkAttack, OneNetwork)
    )
    scarce = target.labels == 3
    assert np.array_equal(scores[scarce], by_all[scarce])
    assert not (scores[~scarce] == by_all[~scarce]).any()


def test_a_network_per_class_finds_opposite_leaks() -> None:
    """Class 0 is sharper on members, class 1 on the others: no sorted vector tells."""

    def opposite(seed: int) -> Predictions:
        base = sharpened(1200, k=3, power=6, seed=seed)
        return Predictions(base.probs, base.labels, base.is_member ^ (base.labels == 1))

    shadow, target = opposite(1), opposite(2)
    one, own = (attack((16,)) for attack in (NeuralNetworkAttack, PerClassNetworkAttack))
    assert balanced_accuracy(own, shadow, target) > balanced_accuracy(one, shadow, target) + 0.1


def test_top_three_sees_nothing_below() -> None:
    rows = np.array([[0.1, 0.5, 0.15, 0.25], [0.05, 0.5, 0.25, 0.2]])
    predictions = Predictions(rows, np.array([0, 1]), np.array([True, False]))
    assert TopThreeAttack().features(predictions).tolist() == [[0.5, 0.25, 0.15], [0.5, 0.25, 0.2]]
    two = Predictions(np.array([[0.3, 0.7]]), np.array([0]), np.array([True]))
    assert TopThreeAttack().features(two).tolist() == [[0.7, 0.3, 0.0]]


def test_transfer_learns_on_its_source_only() -> None:
    attack = DataTransferAttack(sharpened(300, k=2, seed=3), (8,))
    target = sharpened(100, seed=2)
    shadow = sharpened(100, seed=1)
    swapped = Predictions(shadow.probs, shadow.labels, ~shadow.is_member)
    assert np.array_equal(attack(shadow, target)[0], attack(swapped, target)[0])


@pytest.mark.parametrize("side", [True, False])
def test_a_one_sided_source_is_refused(side: bool) -> None:
    source = sharpened(10)
    with pytest.raises(ValueError, match="source predictions need members and non-members"):
        DataTransferAttack(Predictions(source.probs, source.labels, np.full(10, side)))


def test_rows_on_a_border_are_found() -> None:
    """Members sit in a narrow band in the middle of the others, on both sides of its center."""

    def piled(seed: int) -> Predictions:
        rng = np.random.default_rng(seed)
        is_member = np.arange(1000) % 2 == 0
        first = np.where(is_member, rng.normal(0.75, 0.004, 1000), rng.uniform(0.5, 1, 1000))
        return Predictions(np.stack([first, 1 - first], axis=1), np.zeros(1000, int), is_member)

    shadow, target = piled(1), piled(2)
    linear = ()
    # A line has one border, and any border halves the others: right on 3/4 at best.
    assert balanced_accuracy(NeuralNetworkAttack(linear), shadow, target) < 0.76
    assert balanced_accuracy(BorderAttack(linear), shadow, target) > 0.9


def test_border_attack_needs_two_of_each_side() -> None:
    shadow = sharpened(20)
    one = Predictions(shadow.probs, shadow.labels, np.arange(20) == 0)
    with pytest.raises(ValueError, match="2 shadow members and 2 non-members, got 1 and 19"):
        BorderAttack()(one, shadow)


def test_neighbors_count_members() -> None:
    """Of the four nearest three are members, of eight all told: odds of three to one."""
    first = np.array([0.9, 0.91, 0.92, 0.93, 0.6, 0.61, 0.62, 0.63])
    is_member = np.array([1, 1, 1, 0, 0, 0, 0, 1], bool)
    shadow = Predictions(np.stack([first, 1 - first], axis=1), np.zeros(8, int), is_member)
    target = Predictions(
        np.array([[0.99, 0.01], [0.51, 0.49]]), np.zeros(2, int), np.zeros(2, bool)
    )
    (scores,) = NearestNeighborsAttack(neighbors=4)(shadow, target)
    assert scores == pytest.approx([np.log(3), -np.log(3)])
    (scores,) = NearestNeighborsAttack()(shadow, target)  # asks all eight, and not twenty-five
    assert scores == pytest.approx([0, 0])
