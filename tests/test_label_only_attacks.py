"""Label-only attacks: known distances and memorised records are found, by labels alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import shift

from aeppt.attacks.base import QueriedModel, QueryAttack
from aeppt.attacks.label_only import (
    AugmentationAttack,
    BernoulliFlips,
    BoundaryDistanceAttack,
    GaussianNoise,
    NoiseRobustnessAttack,
    ShiftsAndMirror,
    default_augmentation,
)
from aeppt.attacks.queries import ROWS_PER_CALL

Array = NDArray[np.float64]
Predict = Callable[[Array], Array]

RADIUS = 1.0


def two_classes(is_one: NDArray[np.bool_]) -> Array:
    """Certain answers: class 1 where asked for, class 0 elsewhere."""
    return np.stack([~is_one, is_one], axis=1).astype(np.float64)


def asked(predict: Predict, features: Array) -> QueriedModel:
    """A model on records it predicts right; their membership is no matter."""
    return QueriedModel(
        predict, features, predict(features).argmax(axis=1), np.arange(len(features)) % 2 == 0
    )


def memorising(n: int, seed: int, memorises: bool = True) -> QueriedModel:
    """A linear model, and, if it memorises, a ball of radius 1 with a member's label around it.

    All records lie within 0.2 of the linear border, and so far from each other that no two balls
    meet. So a record's distance from the other label is 1 for a member that is memorised, and the
    distance from the linear border for all others.
    """
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((2 * n, 10)) * 10
    features[:, 0] = rng.uniform(-0.2, 0.2, 2 * n)
    is_member = np.arange(2 * n) < n
    balls = features[is_member]

    def predict(queries: Array) -> Array:
        is_one = queries[:, 0] > 0
        if memorises:
            squared = (
                (queries**2).sum(axis=1)[:, None] - 2 * queries @ balls.T + (balls**2).sum(axis=1)
            )
            nearest = squared.argmin(axis=1)
            inside = squared.min(axis=1) < RADIUS**2
            is_one = np.where(inside, balls[nearest, 0] > 0, is_one)
        return two_classes(is_one)

    return replace(asked(predict, features), is_member=is_member)


def balanced_accuracy(attack: QueryAttack, shadow: QueriedModel, target: QueriedModel) -> float:
    (scores,) = attack(shadow, target)
    accused = scores > 0
    return float((accused[target.is_member].mean() + (~accused)[~target.is_member].mean()) / 2)


class Counter:
    """A model that counts the queries it answers."""

    def __init__(self, predict: Predict) -> None:
        self.predict = predict
        self.queries = 0
        self.largest = 0

    def __call__(self, queries: Array) -> Array:
        self.queries += len(queries)
        self.largest = max(self.largest, len(queries))
        return self.predict(queries)


# --- the distance from the border -------------------------------------------------------------


@pytest.mark.parametrize(("size", "queries", "within"), [(2, 1000, 0.02), (20, 2500, 0.03)])
def test_the_distance_from_a_plane_is_exact(size: int, queries: int, within: float) -> None:
    rng = np.random.default_rng(size)
    weights, features = rng.standard_normal(size), rng.standard_normal((60, size))
    bias = 0.3 * np.linalg.norm(weights)
    model = asked(lambda x: two_classes(x @ weights + bias > 0), features)
    exact = np.abs(features @ weights + bias) / np.linalg.norm(weights)
    found = BoundaryDistanceAttack(queries).distance(model, model)
    assert found == pytest.approx(exact, rel=within)


def test_the_distance_from_a_sphere_is_exact_on_both_sides() -> None:
    features = np.random.default_rng(0).standard_normal((60, 20))
    length = np.linalg.norm(features, axis=1)
    radius = float(np.median(length))
    model = asked(lambda x: two_classes(np.linalg.norm(x, axis=1) < radius), features)
    found = BoundaryDistanceAttack(4000).distance(model, model)
    assert found == pytest.approx(np.abs(length - radius), rel=0.03)


def test_images_are_asked_as_images() -> None:
    features = np.random.default_rng(0).random((20, 1, 3, 4))

    def predict(queries: Array) -> Array:
        assert queries.shape[1:] == (1, 3, 4)
        return two_classes(queries.mean(axis=(1, 2, 3)) > 0.5)

    model = asked(predict, features)
    exact = np.abs(features.mean(axis=(1, 2, 3)) - 0.5) * np.sqrt(12)
    found = BoundaryDistanceAttack().distance(model, model)
    assert found == pytest.approx(exact, rel=0.03)


@settings(max_examples=20, deadline=None)
@given(
    weights=st.lists(st.floats(-1, 1), min_size=3, max_size=3).filter(
        lambda w: any(np.abs(w) > 0.1)
    ),
    seed=st.integers(0, 1000),
)
def test_no_distance_is_below_the_exact_one(weights: list[float], seed: int) -> None:
    features = np.random.default_rng(seed).standard_normal((20, 3))
    border = float(np.median(features @ weights))
    exact = np.abs(features @ weights - border) / np.linalg.norm(weights)
    model = asked(lambda x: two_classes(x @ weights > border), features)
    found = BoundaryDistanceAttack(200, random_state=seed).distance(model, model)
    assert (found >= exact * (1 - 1e-9)).all()


def test_wrong_records_have_distance_zero() -> None:
    model = memorising(20, 0)
    wrong = np.arange(40) % 4 == 0
    model = replace(model, labels=np.where(wrong, 1 - model.labels, model.labels))
    for attack in (BoundaryDistanceAttack(500), NoiseRobustnessAttack(GaussianNoise((0.01,)))):
        distance = attack.distance(model, model)
        assert (distance[wrong] == 0).all()
        assert (distance[~wrong] > 0).all()


def test_where_noise_keeps_the_label_other_records_are_the_start() -> None:
    # Class 1 is a tiny ball that uniform noise never meets.
    features = np.random.default_rng(0).uniform(-1, 1, (30, 8))
    features[0] = 0.5
    model = asked(lambda x: two_classes(np.linalg.norm(x - 0.5, axis=1) < 0.1), features)
    exact = np.linalg.norm(features - 0.5, axis=1) - 0.1
    found = BoundaryDistanceAttack().distance(model, model)
    assert found[1:] == pytest.approx(exact[1:], rel=0.02)


def test_noise_robustness_is_the_share_of_a_normal_distribution() -> None:
    # At one standard deviation from a plane, Φ(1) = 0.8413 of the copies keep the label.
    features = np.tile([[1.0, 0.0], [0.0, 5.0]], (50, 1))
    model = asked(lambda x: two_classes(x[:, 0] >= 0), features)
    share = NoiseRobustnessAttack(GaussianNoise((1.0,), copies=200)).distance(model, model)
    assert share[::2].mean() == pytest.approx(0.8413, abs=0.01)
    assert share[1::2].mean() == pytest.approx(0.5, abs=0.02)


# --- members that are memorised ---------------------------------------------------------------

ATTACKS = [
    AugmentationAttack(GaussianNoise((0.1, 0.2))),
    NoiseRobustnessAttack(GaussianNoise((0.1, 0.2))),
    BoundaryDistanceAttack(400),
]
by_name = pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)


@by_name
def test_memorised_members_are_found(attack: QueryAttack) -> None:
    assert balanced_accuracy(attack, memorising(150, 1), memorising(150, 2)) > 0.9


@by_name
def test_where_nothing_is_memorised_nothing_is_found(attack: QueryAttack) -> None:
    shadow, target = memorising(300, 3, memorises=False), memorising(300, 4, memorises=False)
    assert 0.45 <= balanced_accuracy(attack, shadow, target) <= 0.55


@by_name
def test_only_labels_are_used(attack: QueryAttack) -> None:
    centers = np.random.default_rng(0).standard_normal((4, 10))

    def soft(queries: Array) -> Array:
        # Rounded to quarters, so that several classes often share the first place.
        logits = np.round(queries @ centers.T / 5)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def hard(queries: Array) -> Array:
        return np.eye(4)[soft(queries).argmax(axis=1)]

    model = replace(memorising(30, 0), predict=soft, labels=np.arange(60) % 4)
    labels_only = replace(model, predict=hard)
    probs = soft(model.features)
    assert (np.sort(probs, axis=1)[:, -1] == np.sort(probs, axis=1)[:, -2]).any(), "ties occur"
    assert np.array_equal(attack(model, model)[0], attack(labels_only, labels_only)[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: AugmentationAttack(random_state=seed),
        lambda seed: NoiseRobustnessAttack(random_state=seed),
        lambda seed: BoundaryDistanceAttack(200, random_state=seed),
    ],
    ids=["augmentation", "noise", "boundary"],
)
def test_the_seed_decides_everything(make: Callable[[int], QueryAttack]) -> None:
    shadow, target = memorising(30, 1), memorising(30, 2)
    first, again, other = (make(seed)(shadow, target)[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    _, second = make(0)(shadow, shadow, target)
    assert np.array_equal(first, second), "other targets change nothing"


# --- the budget -------------------------------------------------------------------------------


@pytest.mark.parametrize("queries", [200, 1000])
def test_no_record_costs_more_than_the_budget(queries: int) -> None:
    model = memorising(5, 0)
    for record in range(len(model)):
        counter = Counter(model.predict)
        alone = slice(record, record + 1)
        one = QueriedModel(
            counter, model.features[alone], model.labels[alone], model.is_member[alone]
        )
        BoundaryDistanceAttack(queries).distance(one, model)
        assert queries / 2 < counter.queries <= queries


def test_copies_cost_one_query_each() -> None:
    model = memorising(5, 0)
    counter = Counter(model.predict)
    counted = replace(model, predict=counter)
    NoiseRobustnessAttack(GaussianNoise((0.1, 0.2), copies=7)).distance(counted, model)
    assert counter.queries == len(model) * (1 + 2 * 7)


def test_calls_are_bounded() -> None:
    features = np.random.default_rng(0).standard_normal((ROWS_PER_CALL + 10, 2))
    counter = Counter(lambda x: two_classes(x[:, 0] > 0))
    model = asked(counter, features)
    counter.largest = 0
    BoundaryDistanceAttack(100).distance(model, model)
    assert counter.largest == ROWS_PER_CALL


def test_a_budget_too_small_for_one_step_is_refused() -> None:
    model = memorising(5, 0)
    with pytest.raises(ValueError, match=r"at least (\d+) for records of 10 features, got 20") as e:
        BoundaryDistanceAttack(20).distance(model, model)
    enough = int(str(e.value).split("at least ")[1].split()[0])
    BoundaryDistanceAttack(enough).distance(model, model)
    with pytest.raises(ValueError, match=f"got {enough - 1}"):
        BoundaryDistanceAttack(enough - 1).distance(model, model)


def test_a_model_without_a_border_is_refused() -> None:
    model = asked(lambda x: two_classes(np.ones(len(x), bool)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="label 1 to all 4 records"):
        BoundaryDistanceAttack().distance(model, model)


# --- augmentations ----------------------------------------------------------------------------


def test_noise_has_the_scales_asked_for() -> None:
    features = np.ones((4000, 2), np.float32)
    noise = GaussianNoise((0.5, np.array([0.1, 0.0])), copies=1)
    same, per_feature = noise(features, np.random.default_rng(0))
    assert same.dtype == np.float32
    assert (same - 1).std(axis=0) == pytest.approx([0.5, 0.5], rel=0.05)
    assert (per_feature - 1).std(axis=0) == pytest.approx([0.1, 0.0], rel=0.05)


def test_flips_have_the_rates_asked_for() -> None:
    features = (np.random.default_rng(0).random((400, 50)) < 0.2).astype(np.float32)
    copies = list(BernoulliFlips((0.05, 1.0), copies=2)(features, np.random.default_rng(1)))
    assert len(copies) == 4
    for copy in copies[:2]:
        assert copy.dtype == np.float32
        assert set(np.unique(copy)) == {0, 1}
        assert (copy != features).mean() == pytest.approx(0.05, abs=0.005)
    assert np.array_equal(copies[3], 1 - features)


def test_only_zeros_and_ones_can_be_flipped() -> None:
    features = np.array([[0.0, 1.0], [0.0, 0.5]])
    with pytest.raises(ValueError, match=r"row 1 holds 0\.5"):
        list(BernoulliFlips((0.1,))(features, np.random.default_rng(0)))


@pytest.mark.parametrize("pixels", [1, 2])
def test_shifts_are_those_of_scipy(pixels: int) -> None:
    image = np.random.default_rng(0).random((1, 2, 5, 6))
    mirrored, *shifted = ShiftsAndMirror(pixels)(image, np.random.default_rng(0))
    assert np.array_equal(mirrored, np.flip(image, axis=3))
    moves = [
        (down, right)
        for down in range(-pixels, pixels + 1)
        for right in range(-pixels, pixels + 1)
        if abs(down) + abs(right) == pixels
    ]
    assert len(shifted) == len(moves) == 4 * pixels
    for copy, (down, right) in zip(shifted, moves, strict=True):
        assert np.array_equal(copy, shift(image, (0, 0, down, right), order=0, mode="nearest"))


def test_the_default_follows_the_features() -> None:
    rng = np.random.default_rng(0)
    assert isinstance(default_augmentation(rng.random((5, 1, 4, 4))), ShiftsAndMirror)
    assert isinstance(default_augmentation(np.eye(4)), BernoulliFlips)
    features = rng.standard_normal((1000, 2)) * [1, 100]
    noise = default_augmentation(features)
    assert isinstance(noise, GaussianNoise)
    assert noise.scales[-1] == pytest.approx(np.array([1, 100]), rel=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianNoise(()), "scales must hold"),
        (lambda: GaussianNoise((0.1, -1.0)), r"scales\[1\].* got -1\.0"),
        (lambda: GaussianNoise((0.0,)), r"scales\[0\].* got 0\.0"),
        (lambda: GaussianNoise((float("nan"),)), r"scales\[0\].* got nan"),
        (lambda: GaussianNoise((0.1,), copies=0), "copies must be at least 1, got 0"),
        (lambda: BernoulliFlips((1.5,)), r"rates\[0\].* at most 1, got 1\.5"),
        (lambda: ShiftsAndMirror(0), "pixels must be at least 1, got 0"),
        (lambda: default_augmentation(np.full((3, 2), 0.5)), r"scales\[0\]"),
        (
            lambda: list(ShiftsAndMirror(4)(np.zeros((2, 1, 4, 8)), np.random.default_rng(0))),
            r"more than 4 pixels a side, got \(2, 1, 4, 8\)",
        ),
    ],
)
def test_bad_augmentations_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
