"""Predictions: what is accepted, and that everything else is refused with the row's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aeppt import Predictions

PROBS = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.25, 0.5, 0.25]])
LABELS = np.array([0, 1, 2, 0])
IS_MEMBER = np.array([True, True, False, False])


def with_row(row: int, values: list[float]) -> NDArray[np.float64]:
    probs = PROBS.copy()
    probs[row] = values
    return probs


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_keep_their_values_and_dtype(dtype: type) -> None:
    made = Predictions(PROBS.astype(dtype), LABELS, IS_MEMBER)
    assert made.probs.dtype == dtype
    assert np.array_equal(made.probs, PROBS.astype(dtype))
    assert len(made) == 4
    assert made.n_classes == 3


@pytest.mark.parametrize("membership", [IS_MEMBER, [1, 1, 0, 0], [1.0, 1.0, 0.0, 0.0]])
@pytest.mark.parametrize("label_type", [np.int8, np.uint8, np.int64, np.uint64])
def test_labels_and_membership_become_plain_types(membership: Any, label_type: type) -> None:
    made = Predictions(PROBS, LABELS.astype(label_type), membership)
    assert made.labels.dtype == np.int64
    assert made.is_member.dtype == np.bool_
    assert np.array_equal(made.labels, LABELS)
    assert np.array_equal(made.is_member, IS_MEMBER)


def test_lists_and_views_are_read() -> None:
    wide = np.repeat(PROBS, 2, axis=1)
    for probs in (PROBS.tolist(), wide[:, ::2], np.asfortranarray(PROBS), PROBS[::-1][::-1]):
        assert np.array_equal(Predictions(probs, LABELS.tolist(), IS_MEMBER).probs, PROBS)


def test_no_records_are_fine() -> None:
    empty = Predictions(np.empty((0, 4)), np.empty(0, int), np.empty(0, bool))
    assert len(empty) == 0
    assert empty.n_classes == 4
    assert empty.is_correct.shape == (0,)


def test_a_sum_within_the_tolerance_passes() -> None:
    probs = with_row(1, [0.1, 0.8, 0.1009])
    assert np.array_equal(Predictions(probs, LABELS, IS_MEMBER).probs, probs)


@pytest.mark.parametrize(
    ("probs", "message"),
    [
        (with_row(2, [np.nan, 0.5, 0.5]), r"probs row 2 .*column 0 is nan"),
        (with_row(1, [0.5, np.inf, 0.5]), r"probs row 1 .*column 1 is inf"),
        (with_row(1, [0.5, 0.5, -np.inf]), r"probs row 1 .*column 2 is -inf"),
        (with_row(3, [-0.1, 0.6, 0.5]), r"probs row 3 .*column 0 is -0.1"),
        (with_row(0, [0.5, 0.4, 0.0]), r"probs row 0 .*sums to 0.9 "),
        (with_row(3, [0.5, 0.4, 0.2]), r"probs row 3 .*sums to 1.1 "),
        (with_row(2, [0.0, 0.0, 0.0]), r"probs row 2 .*sums to 0 "),
        (PROBS[0], r"\(3,\)"),
        (PROBS[None], r"\(1, 4, 3\)"),
        (np.ones((4, 1)), r"at least 2 classes, got \(4, 1\)"),
        (np.empty((4, 0)), r"at least 2 classes, got \(4, 0\)"),
        (np.float64(1.0), r"\(\)"),
    ],
)
def test_bad_rows_and_shapes_are_named(probs: NDArray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Predictions(probs, LABELS, IS_MEMBER)


def test_the_first_of_several_bad_rows_is_named() -> None:
    probs = with_row(1, [0.5, 0.4, 0.0])
    probs[3] = np.nan
    with pytest.raises(ValueError, match="probs row 1 "):
        Predictions(probs, LABELS, IS_MEMBER)


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble, np.int64, bool, object, str])
def test_other_number_types_are_refused_not_converted(dtype: type) -> None:
    one_hot = np.eye(3)[[0, 1, 2, 0]].astype(dtype)
    with pytest.raises(TypeError, match="float32 or float64"):
        Predictions(one_hot, LABELS, IS_MEMBER)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 3, 0], "labels row 2 is 3, but the classes are 0 to 2"),
        ([0, -1, 5, 0], "labels row 1 is -1"),
        ([0.0, 1.0, 2.0, 0.0], "labels must be integers, got float64"),
        (["a", "b", "c", "a"], "labels must be integers"),
        ([0, 1, 2], r"labels must be \[4\].*\(3,\)"),
        ([[0], [1], [2], [0]], r"labels must be \[4\].*\(4, 1\)"),
    ],
)
def test_bad_labels_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Predictions(PROBS, labels, IS_MEMBER)


@pytest.mark.parametrize(
    ("is_member", "message"),
    [
        ([1, 0, 2, 0], "is_member row 2 is .*2"),
        ([1, -1, 0, 0], "is_member row 1 is .*-1"),
        ([1.0, 0.0, 0.0, 0.5], "is_member row 3 is .*0.5"),
        ([np.nan, 0, 0, 1], "is_member row 0 is .*nan"),
        ([1, 0, 1], r"is_member must be \[4\].*\(3,\)"),
        ([[1, 0, 1, 0]], r"is_member must be \[4\].*\(1, 4\)"),
    ],
)
def test_bad_membership_is_refused(is_member: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Predictions(PROBS, LABELS, is_member)


def test_the_predicted_label_is_the_first_arg_max() -> None:
    probs = np.array([[0.4, 0.4, 0.2], [0.4, 0.4, 0.2], [0.25, 0.25, 0.5], [0.0, 0.5, 0.5]])
    made = Predictions(probs, np.array([0, 1, 2, 2]), IS_MEMBER)
    assert made.is_correct.tolist() == [True, False, True, False]


def test_with_probs_keeps_the_truth_and_checks_the_rows() -> None:
    made = Predictions(PROBS, LABELS, IS_MEMBER)
    other = made.with_probs(PROBS[:, ::-1].astype(np.float32))
    assert other.probs.dtype == np.float32
    assert np.array_equal(other.labels, LABELS)
    assert np.array_equal(other.is_member, IS_MEMBER)
    assert np.array_equal(made.probs, PROBS)
    with pytest.raises(ValueError, match="probs row 3 "):
        made.with_probs(with_row(3, [0.5, 0.5, 0.5]))
    with pytest.raises(ValueError, match="labels must be"):
        made.with_probs(PROBS[:2])


def test_a_prediction_cannot_be_reassigned() -> None:
    made = Predictions(PROBS, LABELS, IS_MEMBER)
    with pytest.raises(FrozenInstanceError):
        made.probs = PROBS  # type: ignore[misc]


def test_shared_predictions_leak_as_told(make_predictions: Callable[..., Predictions]) -> None:
    leaking, tight = make_predictions(leak=8.0), make_predictions(leak=0.0)
    gaps = []
    for made in (leaking, tight):
        confidence = made.probs.max(axis=1)
        gaps.append(confidence[made.is_member].mean() - confidence[~made.is_member].mean())
    assert gaps[0] > 0.15
    assert abs(gaps[1]) < 0.05
