"""Per-example attacks: on a Gaussian toy whose ROC is known, by hand, and where nothing varies."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import DTypeLike, NDArray
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve

from aeppt import Predictions
from aeppt.attacks import per_example
from aeppt.attacks.base import PerExampleAttack
from aeppt.attacks.lira import OfflineLiRA, OnlineLiRA
from aeppt.attacks.per_example import (
    AttackR,
    DifficultyCalibration,
    cross_entropy,
    scaled_confidence,
)
from aeppt.attacks.quantile_regression import QuantileRegressionAttack
from aeppt.attacks.rmia import OfflineRMIA, OnlineRMIA, dominated_share
from aeppt.evaluation.metrics import attack_metrics
from aeppt.shadow_predictions import ShadowPredictions

OFFLINE = [
    OfflineLiRA(),
    OfflineRMIA(),
    AttackR(),
    DifficultyCalibration(),
    QuantileRegressionAttack(),
]
ONLINE = [OnlineLiRA(), OnlineRMIA()]
EVERY = pytest.mark.parametrize("attack", OFFLINE + ONLINE, ids=lambda attack: attack.name)


def halves(models: int, n: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Each record in exactly half of the models, [models, n]."""
    return rng.permuted(np.tile(np.arange(models)[:, None] < models // 2, n), axis=0)


def from_phi(phi: NDArray[np.float64], dtype: DTypeLike = np.float64) -> NDArray[np.floating]:
    """Probabilities of two classes whose logit-scaled confidence for class 0 is ``phi``."""
    return np.stack([expit(phi), expit(-phi)], axis=-1).astype(dtype)


def toy(
    models: int,
    n: int = 1000,
    leak: float = 1.0,
    trained_on: NDArray[np.bool_] | None = None,
) -> tuple[ShadowPredictions, Predictions]:
    """φ ~ N(μ_i + leak · member, 1), with the difficulty μ_i ~ N(0, 9)."""
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 3, n)
    shadows_on = halves(models, n, rng) if trained_on is None else trained_on
    trained_on = np.vstack([shadows_on, rng.random(n) < 0.5])
    phi = rng.normal(difficulty + leak * trained_on, 1.0)
    labels = np.zeros(n, np.int64)
    return (
        ShadowPredictions(from_phi(phi[:-1]), labels, trained_on[:-1]),
        Predictions(from_phi(phi[-1]), labels, trained_on[-1]),
    )


def auc(scores: NDArray[np.float64], target: Predictions) -> float:
    return float(roc_auc_score(target.is_member, scores))


# --- the toy with a known ROC -----------------------------------------------------------------


@pytest.mark.parametrize("leak", [0.0, 0.5, 1.0, 2.0])
def test_lira_reaches_the_best_possible_auc(leak: float) -> None:
    # Given the difficulty, members and others are Gaussians of variance 1 that are `leak` apart.
    for models in (60, 256):  # one variance for all, and one per record
        shadows, target = toy(models, n=3000, leak=leak)
        best = float(norm.cdf(leak / math.sqrt(2)))
        blind = auc(target.probs[:, 0], target)
        for attack in (OnlineLiRA(), OfflineLiRA()):
            estimate = attack_metrics(attack.run(shadows, target), target.is_member)["auc"]
            assert estimate.low - 0.01 <= best <= estimate.high + 0.01, (attack.name, models)
            assert leak < 0.5 or estimate.low > blind + 0.03


@EVERY
def test_knowing_the_difficulty_helps_every_attack(attack: PerExampleAttack) -> None:
    shadows, target = toy(16, leak=2.0)
    assert auc(attack(shadows, target), target) > auc(target.probs[:, 0], target) + 0.05


@EVERY
def test_nothing_is_found_where_nothing_leaks(attack: PerExampleAttack) -> None:
    shadows, target = toy(8, n=2000, leak=0.0)
    scores = attack(shadows, target)
    estimate = attack_metrics(scores, target.is_member)["auc"]
    assert abs(estimate.value - 0.5) < 0.04


@EVERY
def test_the_threshold_is_about_the_best_there_is(attack: PerExampleAttack) -> None:
    shadows, target = toy(16, leak=4.0)
    scores = attack(shadows, target)
    fpr, tpr, _ = roc_curve(target.is_member, scores)
    best = (1 + (tpr - fpr).max()) / 2
    assert balanced_accuracy_score(target.is_member, scores > 0) > best - 0.02


# --- what changes nothing ---------------------------------------------------------------------


@EVERY
def test_orders_do_not_matter(attack: PerExampleAttack) -> None:
    shadows, target = toy(8, n=200)
    scores = attack.run(shadows, target)
    rng = np.random.default_rng(1)
    models, records = rng.permutation(8), rng.permutation(200)
    shuffled = ShadowPredictions(
        shadows.probs[models], shadows.labels, shadows.trained_on[models]
    ).take(records)
    turned = Predictions(target.probs[records], target.labels[records], target.is_member[records])
    # Boosted trees break ties between splits by rounding, which follows the order.
    tolerance = 0.5 if isinstance(attack, QuantileRegressionAttack) else 1e-9
    assert np.abs(attack.run(shuffled, turned) - scores[records]).max() <= tolerance


@EVERY
def test_the_names_of_classes_do_not_matter(attack: PerExampleAttack) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 100)
    probs = rng.dirichlet([1, 1, 1], (9, 100))
    trained_on = halves(8, 100, rng)
    shadows = ShadowPredictions(probs[:8], labels, trained_on)
    target = Predictions(probs[8], labels, np.zeros(100, bool))
    renamed = ShadowPredictions(probs[:8, :, ::-1], 2 - labels, trained_on)
    same = Predictions(probs[8, :, ::-1], 2 - labels, np.zeros(100, bool))
    tolerance = 0.5 if isinstance(attack, QuantileRegressionAttack) else 1e-9
    difference = attack.run(shadows, target) - attack.run(renamed, same)
    assert np.abs(difference).max() <= tolerance


@EVERY
def test_same_seed_same_scores_and_no_look_at_the_truth(attack: PerExampleAttack) -> None:
    shadows, target = toy(4, n=100)
    swapped = Predictions(target.probs, target.labels, ~target.is_member)
    assert np.array_equal(attack(shadows, target), attack(shadows, swapped))


@pytest.mark.parametrize("attack", OFFLINE, ids=lambda attack: attack.name)
def test_offline_attacks_never_look_at_models_with_the_record(attack: PerExampleAttack) -> None:
    shadows, target = toy(8, n=200)
    probs = shadows.probs.copy()
    probs[shadows.trained_on] = [0.25, 0.75]
    changed = ShadowPredictions(probs, shadows.labels, shadows.trained_on)
    assert np.array_equal(attack.run(shadows, target), attack.run(changed, target))


# --- few models -------------------------------------------------------------------------------


@EVERY
def test_two_models_at_least(attack: PerExampleAttack) -> None:
    shadows, target = toy(2)
    with pytest.raises(ValueError, match="needs 2 shadow models, got 1"):
        attack(shadows.without_model(0), target)


@pytest.mark.parametrize("attack", OFFLINE[:4], ids=lambda attack: attack.name)
def test_offline_attacks_do_with_two_models(attack: PerExampleAttack) -> None:
    # One was trained on half of the records and rehearses, the other on none and is the reference.
    rng = np.random.default_rng(7)
    shadows, target = toy(2, leak=4.0, trained_on=rng.random((2, 1000)) < [[0.5], [0.0]])
    assert auc(attack(shadows, target), target) > 0.8


@pytest.mark.parametrize("attack", ONLINE, ids=lambda attack: attack.name)
def test_one_model_a_side_is_enough_for_a_score(attack: PerExampleAttack) -> None:
    shadows, target = toy(2, leak=4.0)
    assert auc(attack.run(shadows, target), target) > 0.9


@EVERY
@pytest.mark.parametrize("side", ["on", "without"])
def test_a_record_without_its_models_is_named(attack: PerExampleAttack, side: str) -> None:
    shadows, target = toy(4, n=20)
    trained_on = shadows.trained_on.copy()
    trained_on[:, [5, 9]] = side == "without"
    lacking = ShadowPredictions(shadows.probs, shadows.labels, trained_on)
    if side == "without" or attack in ONLINE:
        with pytest.raises(ValueError, match=rf"trained {side} record 5 \(2 such.*4 models"):
            attack.run(lacking, target)
    else:
        assert np.isfinite(attack.run(lacking, target)).all()


def test_quantile_regression_needs_a_second_out_model() -> None:
    shadows, target = toy(2)
    with pytest.raises(ValueError, match=r"2 shadow models.*got at most 1"):
        QuantileRegressionAttack().run(shadows, target)


# --- saturated predictions --------------------------------------------------------------------


def test_phi_by_hand() -> None:
    probs = np.array([[0.5, 0.25, 0.25], [0.8, 0.1, 0.1], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    phi = scaled_confidence(probs, np.array([0, 2, 0, 1]))
    ends = 30 * math.log(10)
    assert phi == pytest.approx([0.0, math.log(1 / 9), ends, -ends])
    assert cross_entropy(phi) == pytest.approx([math.log(2), math.log(10), 1e-30, ends])


@given(st.lists(st.floats(-60, 60), min_size=2, max_size=20))
def test_phi_survives_float32_beyond_a_probability_of_one(logits: list[float]) -> None:
    # A soft-max in float32: p_y is exactly one from a margin of 17 on, the others tell the rest.
    phi = np.sort(np.array(logits))
    probs = np.stack([expit(phi), expit(-phi)], axis=1).astype(np.float32)
    found = scaled_confidence(probs, np.zeros(len(phi), np.int64))
    assert found == pytest.approx(phi, abs=1e-5)
    assert (np.diff(cross_entropy(found)) <= 0).all()


@EVERY
def test_saturated_float32_is_finite_and_ordered(attack: PerExampleAttack) -> None:
    # Five records of which the shadow models say the same; the target is ever surer of the label.
    phi = np.array([25.0, 27.0, 28.0, 29.0, 3.0, 5.0, 6.0, 7.0])[:, None].repeat(5, axis=1)
    trained_on = phi > 20
    labels = np.zeros(5, np.int64)
    shadows = ShadowPredictions(from_phi(phi, np.float32), labels, trained_on)
    said = np.array([-200.0, 0.0, 10.0, 20.0, 25.0])
    target = Predictions(from_phi(said, np.float32), labels, np.zeros(5, bool))
    assert target.probs[:, 0].tolist().count(1.0) == 2
    assert target.probs[0, 0] == 0
    scores = attack.run(shadows, target)
    assert np.isfinite(scores).all()
    # RMIA compares probabilities, which end at one, with a factor of two.
    dull = isinstance(attack, (OnlineRMIA, OfflineRMIA))
    assert (np.diff(scores) >= 0).all() if dull else (np.diff(scores) > 0).all()


@EVERY
@pytest.mark.parametrize("row", [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
def test_models_that_all_agree_say_nothing(attack: PerExampleAttack, row: list[float]) -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros(40, np.int64)
    shadows = ShadowPredictions(
        np.tile(np.array(row, np.float32), (4, 40, 1)), labels, halves(4, 40, rng)
    )
    scores = attack(shadows, shadows.of_model(0))
    assert len(set(scores.tolist())) == 1


# --- each attack by hand ----------------------------------------------------------------------


def single(phi: list[float], trained_on: list[bool]) -> ShadowPredictions:
    """One record."""
    return ShadowPredictions(
        from_phi(np.array(phi)[:, None]), np.zeros(1, np.int64), np.array(trained_on)[:, None]
    )


def target_of(phi: float) -> Predictions:
    return Predictions(from_phi(np.array([phi])), np.zeros(1, np.int64), np.zeros(1, bool))


def test_lira_by_hand() -> None:
    shadows = single([4.0, 6.0, 0.0, 1.0, 2.0], [True, True, False, False, False])
    # In: mean 5, variance 2. Out: mean 1, variance 1.
    (online,) = OnlineLiRA().run(shadows, target_of(3.0))
    expected = norm.logpdf(3, 5, math.sqrt(2)) - norm.logpdf(3, 1, 1)
    assert online == pytest.approx(expected)
    (offline,) = OfflineLiRA().run(shadows, target_of(3.0))
    assert offline == pytest.approx(2.0)


def test_lira_with_many_models_has_a_variance_per_record() -> None:
    # Two records of unlike spread, 32 models on a side.
    rng = np.random.default_rng(0)
    trained_on = np.repeat([True, False], 32)[:, None].repeat(2, axis=1)
    phi = rng.normal(0, [0.5, 2.0], (64, 2)) + 3 * trained_on
    labels = np.zeros(2, np.int64)
    target = Predictions(from_phi(np.ones(2)), labels, np.zeros(2, bool))
    scores = OfflineLiRA().run(ShadowPredictions(from_phi(phi), labels, trained_on), target)
    out = phi[32:]
    assert scores == pytest.approx((1 - out.mean(axis=0)) / out.std(axis=0, ddof=1))
    fewer = ShadowPredictions(from_phi(phi[1:]), labels, trained_on[1:])
    assert OfflineLiRA().run(fewer, target) == pytest.approx(scores), "32 out-models are still here"
    fewest = ShadowPredictions(from_phi(phi[:-1]), labels, trained_on[:-1])
    pooled = math.sqrt(phi[32:-1].var(axis=0, ddof=1).mean())
    expected = (1 - phi[32:-1].mean(axis=0)) / pooled
    assert OfflineLiRA().run(fewest, target) == pytest.approx(expected)


def test_a_side_with_one_model_takes_the_others_variance() -> None:
    shadows = single([5.0, 0.0, 1.0, 2.0], [True, False, False, False])
    (online,) = OnlineLiRA().run(shadows, target_of(3.0))
    assert online == pytest.approx(norm.logpdf(3, 5, 1) - norm.logpdf(3, 1, 1))


def test_rmia_by_hand() -> None:
    trained_on = np.array([[True] * 3, [False] * 3])
    true = np.array([[0.9, 0.8, 0.6], [0.3, 0.8, 0.2]])
    labels = np.zeros(3, np.int64)
    shadows = ShadowPredictions(np.stack([true, 1 - true], axis=-1), labels, trained_on)
    said = np.array([0.9, 0.4, 0.2])
    target = Predictions(np.stack([said, 1 - said], axis=-1), labels, np.zeros(3, bool))
    # Online ratios: 0.9 / 0.6 = 1.5, 0.4 / 0.8 = 0.5, 0.2 / 0.4 = 0.5.
    assert OnlineRMIA(gamma=2).run(shadows, target) == pytest.approx([2 / 3, 0, 0])
    assert OnlineRMIA(gamma=4).run(shadows, target) == pytest.approx([0, 0, 0])
    # Offline at a = 0.5: evidence 0.475, 0.85, 0.4; ratios 1.89, 0.47, 0.5.
    assert OfflineRMIA(gamma=2, a=0.5).run(shadows, target) == pytest.approx([2 / 3, 0, 0])
    assert OfflineRMIA(gamma=1.05, a=0.5).run(shadows, target) == pytest.approx([2 / 3, 0, 1 / 3])
    # At a = 1 the evidence is the out-models' own: ratios 3, 0.5, 1.
    assert OfflineRMIA(gamma=2, a=1).run(shadows, target) == pytest.approx([2 / 3, 0, 1 / 3])


@settings(max_examples=50)
@given(
    st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=30),
    st.floats(1.0, 10.0),
)
def test_dominance_is_counted_pair_by_pair(ratios: list[float], gamma: float) -> None:
    values = np.array(ratios)
    pairs = values[None, :] <= values[:, None] / gamma
    assert dominated_share(values, gamma) == pytest.approx(pairs.mean(axis=1))


def test_rmia_parameters_are_checked() -> None:
    makers: list[Callable[[], PerExampleAttack]] = [
        lambda: OnlineRMIA(gamma=0.5),
        lambda: OfflineRMIA(gamma=float("nan")),
    ]
    for make in makers:
        with pytest.raises(ValueError, match="gamma must be at least 1"):
            make()
    with pytest.raises(ValueError, match="a must be between 0 and 1, got 2"):
        OfflineRMIA(a=2)
    with pytest.raises(ValueError, match="quantile must be between 0 and 1, got 95"):
        QuantileRegressionAttack(quantile=95)


def test_attack_r_is_the_level_at_which_it_accuses() -> None:
    # Losses 1, 2, 3 without the record, at the levels 1/4, 2/4, 3/4; 0.5 is half-way to zero.
    phi = [-math.log(math.expm1(loss)) for loss in (3.0, 1.0, 2.0, 0.01)]
    shadows = single(phi, [False, False, False, True])
    levels = []
    for loss in (1.0, 2.0, 1.5, 0.5, 3.0):
        levels += (-AttackR().run(shadows, target_of(-math.log(math.expm1(loss))))).tolist()
    assert levels == pytest.approx([0.25, 0.5, 0.375, 0.125, 0.75])
    top = per_example.GREATEST_PHI
    (worst,) = AttackR().run(shadows, target_of(-top))
    assert worst == pytest.approx(-1.0, abs=1e-6)


def test_attack_r_accuses_at_the_rate_of_its_level() -> None:
    # Out-models and a target without the record are drawn alike: the level is uniform.
    shadows, target = toy(38, n=4000)  # 19 out-models: levels 1/20, 2/20, ...
    levels = -AttackR().run(shadows, target)[~target.is_member]
    for level in (0.05, 0.1, 0.5):
        assert (levels <= level).mean() == pytest.approx(level, abs=0.025)


def test_difficulty_calibration_by_hand() -> None:
    shadows = single([0.0, math.log(3), 30.0], [False, False, True])
    (score,) = DifficultyCalibration().run(shadows, target_of(math.log(9)))
    # Losses log 2 and log 4/3 against log 10/9.
    assert score == pytest.approx((math.log(2) + math.log(4 / 3)) / 2 - math.log(10 / 9))


def test_quantile_regression_accuses_non_members_at_its_level() -> None:
    shadows, target = toy(16, n=2000, leak=3.0)
    for quantile in (0.5, 0.9):
        scores = QuantileRegressionAttack(quantile).run(shadows, target)
        accused = scores > 0
        assert accused[~target.is_member].mean() == pytest.approx(1 - quantile, abs=0.06)
        assert accused[target.is_member].mean() > 0.85
