"""Figures of an attack: against scikit-learn, SciPy, simulation, and by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import beta, norm
from sklearn.metrics import (
    balanced_accuracy_score,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from aeppt import Predictions
from aeppt.evaluation.metrics import (
    METRICS,
    advantage,
    attack_metrics,
    calibration_error,
    judged,
    per_class_metrics,
    record_warnings,
    score_warnings,
    share,
    size_warnings,
    tpr_at_fpr,
)
from aeppt.evaluation.results import Estimate
from aeppt.roc import area_under_roc

Make = Callable[..., Predictions]


def sample(seed: int, members: int = 150, others: int = 100) -> tuple[NDArray, NDArray[np.bool_]]:
    """Scores with ties, higher for members on average, and the truth, shuffled."""
    rng = np.random.default_rng(seed)
    is_member = rng.permutation(np.arange(members + others) < members)
    return np.round(rng.normal(0.7 * is_member - 0.35, 1.0), 1), is_member


@pytest.mark.parametrize("seed", range(5))
def test_values_are_those_of_scikit_learn(seed: int) -> None:
    scores, is_member = sample(seed)
    metrics = attack_metrics(scores, is_member)
    accused = scores > 0
    assert list(metrics) == list(METRICS)
    assert metrics["balanced_accuracy"].value == pytest.approx(
        balanced_accuracy_score(is_member, accused)
    )
    assert metrics["precision"].value == pytest.approx(precision_score(is_member, accused))
    assert metrics["recall"].value == pytest.approx(recall_score(is_member, accused))
    assert metrics["f1"].value == pytest.approx(f1_score(is_member, accused))
    assert metrics["auc"].value == pytest.approx(roc_auc_score(is_member, scores))
    fpr, tpr, _ = roc_curve(is_member, scores)
    for name, most in (("tpr_at_1_percent_fpr", 0.01), ("tpr_at_0.1_percent_fpr", 0.001)):
        assert metrics[name].value == pytest.approx(tpr[fpr <= most].max())
    for name, estimate in metrics.items():
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1, name


def test_a_score_of_zero_accuses_nobody() -> None:
    metrics = attack_metrics(np.array([0.0, 1.0, 0.0, -1.0]), np.array([True, True, False, False]))
    assert metrics["recall"].value == 0.5
    assert metrics["precision"].value == 1.0
    assert metrics["balanced_accuracy"].value == 0.75


@pytest.mark.parametrize(("hits", "total"), [(0, 7), (7, 7), (1, 30), (499, 1000), (3, 4)])
def test_intervals_of_shares_by_their_formulas(hits: int, total: int) -> None:
    z, p = norm.ppf(0.975), hits / total
    centre = (p + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z * math.sqrt(p * (1 - p) / total + z**2 / (4 * total**2)) / (1 + z**2 / total)
    wilson = share(hits, total)
    assert wilson.value == p
    assert (wilson.low, wilson.high) == pytest.approx((centre - half, centre + half))

    exact = share(hits, total, method="exact")
    low = beta.ppf(0.025, hits, total - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, total - hits) if hits < total else 1.0
    assert exact.value == p
    assert (exact.low, exact.high) == pytest.approx((low, high))


def test_a_share_of_nothing_is_undefined() -> None:
    assert all(math.isnan(x) for x in vars(share(0, 0)).values())


def test_precision_is_undefined_where_nobody_is_accused() -> None:
    metrics = attack_metrics(np.full(4, -1.0), np.array([True, True, False, False]))
    assert all(math.isnan(x) for x in vars(metrics["precision"]).values())
    assert metrics["recall"].value == 0
    assert metrics["balanced_accuracy"].value == 0.5


@pytest.mark.parametrize("side", [True, False])
def test_one_sided_truth_is_refused(side: bool) -> None:
    with pytest.raises(ValueError, match="members and non-members"):
        attack_metrics(np.zeros(3), np.full(3, side))


# --- AUC --------------------------------------------------------------------------------------


def test_the_interval_of_the_auc_matches_a_bootstrap() -> None:
    scores, is_member = sample(0, members=200, others=150)
    estimate = attack_metrics(scores, is_member)["auc"]
    rng = np.random.default_rng(1)
    members, others = scores[is_member], scores[~is_member]
    values = []
    for _ in range(1000):
        left, right = rng.choice(members, len(members)), rng.choice(others, len(others))
        order = left[:, None] - right[None, :]
        values.append((order > 0).mean() + (order == 0).mean() / 2)
    low, high = np.quantile(values, [0.025, 0.975])
    assert estimate.low == pytest.approx(low, abs=0.015)
    assert estimate.high == pytest.approx(high, abs=0.015)


def test_the_variance_of_the_auc_by_hand() -> None:
    # DeLong on members 2, 4 and others 1, 3, 3: per-record placements (1/3, 1) and (1, .5, .5).
    scores, is_member = np.array([2.0, 4, 1, 3, 3]), np.array([True, True, False, False, False])
    estimate = attack_metrics(scores, is_member)["auc"]
    variance = np.var([1 / 3, 1], ddof=1) / 2 + np.var([1, 0.5, 0.5], ddof=1) / 3
    half = norm.ppf(0.975) * math.sqrt(variance) / (2 / 9)  # of the logit, whose slope is 1 / (p q)
    odds = 2 * math.exp(half), 2 * math.exp(-half)
    assert estimate.value == pytest.approx(2 / 3)
    assert estimate.low == pytest.approx(odds[1] / (1 + odds[1]))
    assert estimate.high == pytest.approx(odds[0] / (1 + odds[0]))


@pytest.mark.parametrize("separated", [1.0, -1.0])
def test_few_records_that_are_all_apart_prove_little(separated: float) -> None:
    estimate = attack_metrics(separated * np.arange(6.0), np.arange(6) > 2)["auc"]
    assert estimate.value == (separated > 0)
    # Newcombe's method 5 at its end: (1 - a)^2 = 1.96^2 a (1 - a) s / 9 for s as below.
    area = estimate.low if separated > 0 else 1 - estimate.high
    spread = 1 + 2 * (1 - area) / (2 - area) + 2 * area / (1 + area)
    assert (1 - area) ** 2 == pytest.approx(norm.ppf(0.975) ** 2 * area * (1 - area) * spread / 9)
    assert 0.4 < area < 0.6


@pytest.mark.parametrize("size", [5, 33])
@pytest.mark.parametrize("area", [0.5, 0.95, 0.99])
def test_the_interval_of_the_auc_covers(area: float, size: int) -> None:
    rng, is_member = np.random.default_rng(0), np.arange(2 * size) < size
    ahead = math.sqrt(2) * norm.ppf(area) * is_member
    estimates = [area_under_roc(rng.normal(ahead), is_member) for _ in range(400)]
    assert np.mean([low <= area <= high for _, low, high in estimates]) > 0.93


def test_constant_scores_have_an_auc_of_one_half() -> None:
    estimate = attack_metrics(np.zeros(20), np.arange(20) < 8)["auc"]
    assert estimate.value == 0.5
    assert estimate.low < 0.5 < estimate.high


def test_a_single_member_leaves_the_auc_open() -> None:
    estimate = attack_metrics(np.array([1.0, 0.0, 2.0]), np.array([True, False, False]))["auc"]
    assert estimate == Estimate(0.5, 0.0, 1.0)


# --- true positives at few false ones ---------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "others", "most", "expected"),
    [
        ([4, 3, 2, 1], [0, 0], 0.0, 1.0),
        ([4, 3, 2, 1], [2.5, 0], 0.0, 0.5),
        ([4, 3, 2, 1], [2.5, 0], 0.5, 1.0),
        ([4, 3, 2, 1], [2.5, 0], 0.49, 0.5),
        ([4, 3, 2, 1], [5, 5], 0.0, 0.0),
        ([3, 3, 1, 1], [3, 0], 0.0, 0.0),  # the tie at 3 cannot be split
        ([3, 3, 1, 1], [3, 0], 0.5, 1.0),
        ([1, 1], [1, 1], 0.5, 0.0),
        ([1, 1], [1, 1], 1.0, 1.0),
    ],
)
def test_tpr_at_fpr_by_hand(
    members: list[float], others: list[float], most: float, expected: float
) -> None:
    scores = np.array([*members, *others], np.float64)
    is_member = np.arange(len(scores)) < len(members)
    estimate = tpr_at_fpr(scores, is_member, most)
    assert estimate == share(round(expected * len(members)), len(members), method="exact")


def test_one_in_a_hundred_is_one_percent() -> None:
    scores = np.concatenate([[5.0, 5.0, 3.0], [4.0], np.zeros(99)])
    is_member = np.arange(103) < 3
    assert tpr_at_fpr(scores, is_member, 0.01).value == 1.0
    assert tpr_at_fpr(scores, is_member, 0.001).value == pytest.approx(2 / 3)


# --- balanced accuracy ------------------------------------------------------------------------


@pytest.mark.parametrize(("recall", "specificity"), [(0.6, 0.7), (0.95, 0.5)])
def test_the_interval_of_balanced_accuracy_covers(recall: float, specificity: float) -> None:
    rng = np.random.default_rng(0)
    is_member = np.arange(200) < 80
    covered, widths = 0, []
    for _ in range(200):
        accused = rng.random(200) < np.where(is_member, recall, 1 - specificity)
        estimate = attack_metrics(np.where(accused, 1.0, -1.0), is_member)["balanced_accuracy"]
        covered += estimate.low <= (recall + specificity) / 2 <= estimate.high
        widths.append(estimate.high - estimate.low)
    assert covered / 200 >= 0.9
    ideal = (
        2
        * norm.ppf(0.975)
        * math.hypot(
            math.sqrt(recall * (1 - recall) / 80), math.sqrt(specificity * (1 - specificity) / 120)
        )
    )
    assert np.mean(widths) == pytest.approx(ideal / 2, rel=0.15), "covers, but is far too wide"


@settings(max_examples=80, deadline=None)
@given(
    scores=st.lists(st.integers(-3, 3), min_size=2, max_size=30),
    split=st.integers(1, 29),
)
def test_estimates_always_lie_in_their_intervals(scores: list[int], split: int) -> None:
    is_member = np.arange(len(scores)) < min(split, len(scores) - 1)
    for name, estimate in attack_metrics(np.array(scores, float), is_member).items():
        if not math.isnan(estimate.value):
            slack = 1e-12
            assert estimate.low - slack <= estimate.value <= estimate.high + slack, name
            assert -slack <= estimate.low, name
            assert estimate.high <= 1 + slack, name


# --- F1 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("recall", "fallout"), [(0.6, 0.3), (0.1, 0.05)])
def test_the_interval_of_f1_covers(recall: float, fallout: float) -> None:
    rng = np.random.default_rng(0)
    covered, widths, values = 0, [], []
    expected = 2 * 0.4 * recall / (0.4 * recall + 0.6 * fallout + 0.4)
    for _ in range(300):
        is_member = rng.random(300) < 0.4
        accused = rng.random(300) < np.where(is_member, recall, fallout)
        f1 = attack_metrics(np.where(accused, 1.0, -1.0), is_member)["f1"]
        covered += f1.low <= expected <= f1.high
        widths.append(f1.high - f1.low)
        values.append(f1.value)
    assert covered / 300 >= 0.94
    assert np.mean(widths) < 1.25 * 2 * norm.ppf(0.975) * np.std(values), "covers, but is too wide"


def test_f1_of_an_attack_without_a_hit_is_zero_but_not_surely() -> None:
    f1 = attack_metrics(np.full(10, -1.0), np.arange(10) < 5)["f1"]
    jaccard = 1 - 0.025 ** (1 / 5)  # Clopper-Pearson, none of five
    assert (f1.value, f1.low) == (0, 0)
    assert f1.high == pytest.approx(2 * jaccard / (1 + jaccard))


# --- advantage --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        ((14, 5, 0, 22), 0.011, 0.226),  # Altman et al. 2000, Statistics with Confidence, chapter 6
        ((1, 1, 7, 12), -0.507, -0.026),  # Fagerland et al. 2014, Statistics in Medicine 33
    ],
)
def test_the_paired_interval_is_the_published_one(
    table: tuple[int, int, int, int], low: float, high: float
) -> None:
    # The same table on both sides, so that joining two equal intervals divides them by √2.
    hits = np.repeat([True, True, False, False], table)
    floor_hits = np.repeat([True, False, True, False], table)
    is_member = np.repeat([True, False], len(hits))
    estimate = advantage(
        np.where(np.tile(hits, 2) == is_member, 1.0, -1.0),
        np.where(np.tile(floor_hits, 2) == is_member, 1.0, -1.0),
        is_member,
    )
    difference = (table[1] - table[2]) / sum(table)
    assert estimate.value == pytest.approx(difference)
    assert estimate.low == pytest.approx(difference - (difference - low) / math.sqrt(2), abs=5e-4)
    assert estimate.high == pytest.approx(difference + (high - difference) / math.sqrt(2), abs=5e-4)


@pytest.mark.parametrize("agreement", [0.0, 0.6, 0.95])
def test_the_interval_of_the_advantage_covers(agreement: float) -> None:
    rng = np.random.default_rng(0)
    is_member = np.arange(200) < 80
    attack, floor = np.where(is_member, 0.8, 0.6), np.where(is_member, 0.7, 0.45)  # hit rates
    covered, widths, values = 0, [], []
    for _ in range(500):
        luck = rng.random(200)
        own = np.where(rng.random(200) < agreement, luck, rng.random(200))
        estimate = advantage(
            np.where((own < attack) == is_member, 1.0, -1.0),
            np.where((luck < floor) == is_member, 1.0, -1.0),
            is_member,
        )
        covered += estimate.low <= 0.125 <= estimate.high
        widths.append(estimate.high - estimate.low)
        values.append(estimate.value)
    assert covered / 500 >= 0.93
    assert np.mean(widths) < 1.15 * 2 * norm.ppf(0.975) * np.std(values), "covers, but is too wide"


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60), st.data())
@settings(max_examples=80, deadline=None)
def test_the_advantage_is_the_difference_and_turns_with_its_sides(
    answers: list[tuple[bool, bool]], data: st.DataObject
) -> None:
    scores, floor = (np.where(column, 1.0, -1.0) for column in np.array(answers).T)
    is_member = np.arange(len(answers)) < data.draw(st.integers(1, len(answers) - 1))
    there, back = advantage(scores, floor, is_member), advantage(floor, scores, is_member)
    own, other = (balanced_accuracy_score(is_member, s > 0) for s in (scores, floor))
    assert there.value == pytest.approx(own - other)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
    assert -1 - 1e-9 <= there.low <= there.value <= there.high <= 1 + 1e-9


def test_the_floor_has_no_advantage_over_itself_but_room_for_one() -> None:
    scores, is_member = sample(0)
    estimate = advantage(scores, np.sign(scores), is_member)
    assert estimate.value == 0
    assert -0.05 < estimate.low < 0 < estimate.high < 0.05


def test_an_advantage_needs_the_same_records() -> None:
    with pytest.raises(ValueError, match="4 scores and the floor 3"):
        advantage(np.ones(4), np.ones(3), np.arange(4) < 2)
    with pytest.raises(ValueError, match="members and non-members"):
        advantage(np.ones(4), np.ones(4), np.ones(4, bool))


# --- classes ----------------------------------------------------------------------------------


def test_each_class_is_measured_on_its_own_records() -> None:
    scores, is_member = sample(3)
    labels = np.arange(250) % 3
    uniform = np.full((250, 4), 0.25)
    table = per_class_metrics(scores, Predictions(uniform, labels, is_member))
    assert table.index.tolist() == [0, 1, 2, 3]
    for label in range(3):
        records = labels == label
        expected = attack_metrics(scores[records], is_member[records])
        row = table.loc[label]
        assert row["members"] == is_member[records].sum()
        assert row["non_members"] == (~is_member[records]).sum()
        for name in ("balanced_accuracy", "auc"):
            found = Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"])
            assert found == expected[name]


def test_a_class_of_one_side_is_undefined_and_named() -> None:
    is_member = np.array([True, False, True, True])
    target = Predictions(np.full((4, 3), 1 / 3), np.array([0, 0, 1, 1]), is_member)
    table = per_class_metrics(np.ones(4), target)
    assert table["auc"].notna().tolist() == [True, False, False]
    assert table[["members", "non_members"]].to_numpy().tolist() == [[1, 1], [2, 0], [0, 0]]
    assert size_warnings(target, rates=()) == (
        "without members or without non-members, hence not measured apart: class 1, 2",
    )


# --- warnings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("others", "too_few_for"), [(99, ["1", "0.1"]), (100, ["0.1"]), (999, ["0.1"]), (1000, [])]
)
def test_a_rate_needs_its_number_of_non_members(others: int, too_few_for: list[str]) -> None:
    is_member = np.arange(others + 50) < 50
    labels = np.arange(others + 50) % 2
    target = Predictions(np.full((others + 50, 2), 0.5), labels, is_member)
    warnings = size_warnings(target)
    assert len(warnings) == len(too_few_for)
    for rate, warning in zip(too_few_for, warnings, strict=True):
        assert f"{others} non-members" in warning
        assert f"rate of {rate} % needs" in warning


def test_many_one_sided_classes_are_not_all_named() -> None:
    target = Predictions(np.full((2, 30), 1 / 30), np.array([4, 4]), np.array([True, False]))
    (warning,) = size_warnings(target, rates=())
    assert warning.endswith("class 0, 1, 2, 3, 5, 6, 7, 8, 9, 10 and 19 more")


def test_a_sound_attack_is_not_suspected() -> None:
    rng = np.random.default_rng(0)
    is_member = np.arange(2000) < 1000
    for strength in (0.0, 1.0):
        scores = rng.normal(size=2000) + strength * is_member
        assert score_warnings(scores, is_member, "adaptive") == ()
    assert score_warnings(np.where(is_member, 1.0, -1.0), is_member, "adaptive") == ()


def test_equal_scores_say_that_nothing_was_learned() -> None:
    (warning,) = score_warnings(np.full(20, 0.3), np.arange(20) < 10, "undefended")
    assert "learned nothing" in warning


def test_a_reversed_attack_is_suspected_unless_the_defense_may_mislead_it() -> None:
    is_member = np.arange(400) < 200
    scores = np.random.default_rng(0).normal(size=400) - is_member
    for setting in ("undefended", "adaptive"):
        (warning,) = score_warnings(scores, is_member, setting)  # type: ignore[arg-type]
        assert "swapped" in warning
    (warning,) = score_warnings(scores, is_member, "static")
    assert "the defense misleads" in warning


def test_ties_at_the_threshold_and_at_the_top_are_told() -> None:
    is_member = np.arange(400) < 200
    scores = np.random.default_rng(0).normal(size=400) + is_member
    scores[[*range(15), *range(200, 215)]] = 0
    (warning,) = score_warnings(scores, is_member, "adaptive")
    assert "on the threshold itself" in warning
    saturated = np.minimum(scores + 0.01, 1.0)
    (warning,) = score_warnings(saturated, is_member, "adaptive")
    assert "TPR at 1 % FPR is zero" in warning
    assert attack_metrics(saturated, is_member)["tpr_at_1_percent_fpr"].value == 0


def test_a_single_non_member_on_top_is_no_tie() -> None:
    is_member = np.arange(400) < 200
    scores = np.random.default_rng(0).normal(size=400) + is_member
    scores[300] = 9
    assert score_warnings(scores, is_member, "adaptive") == ()


def test_an_outcome_holds_all_of_it() -> None:
    scores, is_member = sample(1)
    floor = -np.ones(250)
    outcome = judged("name", "static", -scores, floor, is_member)
    assert (outcome.attack, outcome.setting) == ("name", "static")
    assert outcome.metrics == attack_metrics(-scores, is_member)
    assert outcome.advantage == advantage(-scores, floor, is_member)
    assert outcome.warnings == score_warnings(-scores, is_member, "static") != ()


# --- calibration ------------------------------------------------------------------------------


def test_calibration_error_by_hand() -> None:
    probs = np.array([[0.9, 0.1], [0.92, 0.08], [0.6, 0.4], [0.45, 0.55]])
    predictions = Predictions(probs, np.array([0, 1, 0, 0]), np.array([True, True, False, False]))
    # Bins of width 1/15: 0.90 and 0.92 share the one from 13/15 (one of two right); 0.6 opens the
    # one from 9/15 (right); 0.55 lies in the one from 8/15 (wrong).
    expected = 2 / 4 * abs(0.5 - 0.91) + 1 / 4 * abs(1 - 0.6) + 1 / 4 * abs(0 - 0.55)
    assert calibration_error(predictions) == pytest.approx(expected)


def test_certain_predictions_fall_into_the_last_bin() -> None:
    one_hot = np.eye(3)[[0, 1, 2, 0]]
    right = Predictions(one_hot, np.array([0, 1, 2, 0]), np.array([1, 1, 0, 0]))
    wrong = Predictions(one_hot, np.array([1, 2, 0, 1]), np.array([1, 1, 0, 0]))
    assert calibration_error(right) == 0
    assert calibration_error(wrong) == 1


def test_a_calibrated_model_has_almost_no_error() -> None:
    rng = np.random.default_rng(0)
    probs = rng.dirichlet([1, 1, 1], 20_000)
    labels = (rng.random((20_000, 1)) > probs.cumsum(axis=1)[:, :2]).sum(axis=1)
    predictions = Predictions(probs, labels, np.arange(20_000) % 2)
    assert calibration_error(predictions) < 0.015


def test_records_on_both_sides_are_noticed(make_predictions: Make) -> None:
    target, shadow = make_predictions(1200, 1200, seed=1), make_predictions(100, 100, seed=2)
    assert record_warnings(target, shadow) == ()
    members = np.flatnonzero(target.is_member)
    probs, labels = target.probs.copy(), target.labels.copy()
    others = np.flatnonzero(~target.is_member)[:200]
    probs[others], labels[others] = probs[members[:200]], labels[members[:200]]
    (warning,) = record_warnings(Predictions(probs, labels, target.is_member), shadow)
    assert warning.startswith("200 members have the very prediction and label of a non-member")


def test_few_shadow_records_are_noticed(make_predictions: Make) -> None:
    target, shadow = make_predictions(1200, 1200, seed=1), make_predictions(100, 20, seed=2)
    (warning,) = record_warnings(target, shadow)
    assert "20 shadow records of one side" in warning
