"""What predictions are worth, before and after: by hand, against SciPy and scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import entropy, spearmanr
from sklearn.metrics import log_loss, top_k_accuracy_score

from aeppt import Predictions
from aeppt.evaluation.metrics import calibration_error, share
from aeppt.evaluation.utility import distortion, measure_utility, quality, rank_correlations

Make = Callable[..., Predictions]


def softened(predictions: Predictions, weight: float = 0.3) -> Predictions:
    """Members mixed with the uniform row; non-members as they were."""
    uniform = 1 / predictions.n_classes
    weights = weight * predictions.is_member[:, None]
    return predictions.with_probs((1 - weights) * predictions.probs + weights * uniform)


# --- quality ----------------------------------------------------------------------------------


def test_quality_is_that_of_scikit_learn(make_predictions: Make) -> None:
    predictions = make_predictions(k=8, leak=2.0)
    probs, labels = predictions.probs, predictions.labels
    found = quality(predictions)
    assert found.accuracy == share(int((probs.argmax(1) == labels).sum()), 400)
    top_5 = top_k_accuracy_score(labels, probs, k=5)
    assert found.top_5_accuracy == share(round(400 * top_5), 400)
    assert found.accuracy.value < found.top_5_accuracy.value < 1
    assert found.negative_log_likelihood == pytest.approx(log_loss(labels, probs))
    assert found.calibration_error == calibration_error(predictions)


def test_five_classes_have_no_top_five(make_predictions: Make) -> None:
    assert math.isnan(quality(make_predictions(k=5)).top_5_accuracy.value)
    assert quality(make_predictions(k=6)).top_5_accuracy.value < 1


def test_equal_probabilities_are_ordered_by_class() -> None:
    predictions = Predictions(np.full((7, 7), 1 / 7), np.arange(7), np.arange(7) % 2)
    assert quality(predictions).accuracy.value == pytest.approx(1 / 7)
    assert quality(predictions).top_5_accuracy.value == pytest.approx(5 / 7)


def test_a_ruled_out_class_costs_a_finite_likelihood() -> None:
    predictions = Predictions(np.array([[1.0, 0.0]] * 2), np.array([0, 1]), np.array([1, 0]))
    assert quality(predictions).negative_log_likelihood == pytest.approx(12 * math.log(10) / 2)


# --- distortion -------------------------------------------------------------------------------


def test_distances_by_hand() -> None:
    before = np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])
    after = np.array([[0.5, 0.5], [0.6, 0.4], [0.3, 0.7]])
    found = distortion(before, after)
    l1 = [0.0, 0.6, 0.2]
    kl = [entropy(p, q) for p, q in zip(before, after, strict=True)]
    assert kl[1] == pytest.approx(0.9 * math.log(0.9 / 0.6) + 0.1 * math.log(0.1 / 0.4))
    assert found.l1 == pytest.approx(np.mean(l1))
    assert found.l1_95_percent == pytest.approx(np.quantile(l1, 0.95))
    assert found.kl == pytest.approx(np.mean(kl))
    assert found.kl_95_percent == pytest.approx(np.quantile(kl, 0.95))


def test_the_divergence_from_a_ruled_out_class_is_finite() -> None:
    found = distortion(np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]]))
    assert found.kl == pytest.approx(0.5 * math.log(0.5) + 0.5 * math.log(0.5 / 1e-12))
    assert distortion(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]])).kl < 1e-11


@given(st.integers(0, 10**6), st.integers(2, 12), st.sampled_from([np.float32, np.float64]))
@settings(max_examples=60, deadline=None)
def test_distances_obey_their_bounds(seed: int, k: int, dtype: type) -> None:
    before, after = np.random.default_rng(seed).dirichlet(np.full(k, 0.2), (2, 5)).astype(dtype)
    found, none = distortion(before, after), distortion(before, before)
    assert 0 <= found.l1 <= found.l1_95_percent + found.l1 <= 4 + 1e-6
    assert found.kl >= found.l1**2 / 2 - 1e-6, "Pinsker's inequality"
    assert (none.l1, none.rank_correlation) == (0, pytest.approx(1))
    assert 0 <= none.kl < 1e-10


# --- rank correlation -------------------------------------------------------------------------


@given(st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=2, max_size=6))
@settings(max_examples=60, deadline=None)
def test_rank_correlation_is_spearmans(rows: list[list[int]]) -> None:
    before, after = np.array(rows[:-1], float), np.array(rows[1:], float)
    for left, right, found in zip(before, after, rank_correlations(before, after), strict=True):
        if np.ptp(left) and np.ptp(right):
            assert found == pytest.approx(spearmanr(left, right).statistic)
        else:
            assert found == (np.ptp(left) == np.ptp(right))


def test_rank_correlation_sees_order_alone() -> None:
    before = np.array([[0.7, 0.2, 0.1]])
    assert rank_correlations(before, np.array([[0.4, 0.35, 0.25]])) == pytest.approx(1)
    assert rank_correlations(before, before[:, ::-1]) == pytest.approx(-1)
    constant = np.full((1, 3), 1 / 3)
    assert rank_correlations(constant, constant) == 1
    assert rank_correlations(before, constant) == rank_correlations(constant, before) == 0


# --- the whole --------------------------------------------------------------------------------


def test_sides_are_told_apart(make_predictions: Make) -> None:
    target = make_predictions(150, 50, k=7)
    utility = measure_utility(target, softened(target), {"SUCCESS": 150}, seconds_per_record=0.002)
    assert (utility.all.records, utility.members.records, utility.non_members.records) == (
        200,
        150,
        50,
    )
    assert utility.non_members.before == utility.non_members.after
    assert utility.non_members.distortion.l1 == 0
    moved = 0.3 * np.abs(target.probs[target.is_member] - 1 / 7).sum(axis=1)
    assert utility.members.distortion.l1 == pytest.approx(moved.mean())
    assert utility.all.distortion.l1 == pytest.approx(0.75 * moved.mean())
    assert utility.members.after.negative_log_likelihood > (
        utility.members.before.negative_log_likelihood
    )
    assert utility.members.distortion.rank_correlation == pytest.approx(1)
    assert (utility.status_counts, utility.seconds_per_record) == ({"SUCCESS": 150}, 0.002)


def test_the_short_names_and_the_dictionary_agree(make_predictions: Make) -> None:
    target = make_predictions(k=7)
    protected = softened(target)
    utility = measure_utility(target, protected, {})
    assert utility.accuracy.value == target.is_correct.mean()
    assert utility.accuracy_protected.value == protected.is_correct.mean()
    assert utility.calibration_error == calibration_error(target)
    assert utility.calibration_error_protected == calibration_error(protected)
    assert (utility.l1_members > 0, utility.l1_non_members) == (True, 0)
    plain = utility.to_dict()
    for name in ("calibration_error", "calibration_error_protected", "l1_members"):
        assert plain[name] == getattr(utility, name)
    assert plain["accuracy"]["value"] == utility.accuracy.value
    assert plain["members"]["distortion"]["l1"] == utility.l1_members


def test_other_records_are_refused(make_predictions: Make) -> None:
    target = make_predictions()

    def changed(**columns: NDArray) -> Predictions:
        own = {"probs": target.probs, "labels": target.labels, "is_member": target.is_member}
        return Predictions(**{**own, **columns})

    with pytest.raises(ValueError, match="labels before and after differ"):
        measure_utility(target, changed(labels=(target.labels + 1) % 5), {})
    with pytest.raises(ValueError, match="is_member before and after differ"):
        measure_utility(target, changed(is_member=~target.is_member), {})
    with pytest.raises(ValueError, match=r"400, 5.*after"):
        measure_utility(target, make_predictions(k=4), {})
    everyone = changed(is_member=np.ones(400, bool))
    with pytest.raises(ValueError, match="members and non-members"):
        measure_utility(everyone, everyone, {})
