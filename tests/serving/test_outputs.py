"""What the gateway makes of numbers: kinds, dtypes, shapes, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aeppt import AEPPT, Predictions, PrivacyFunnel, ProtectedModel
from aeppt.models.protected import log_keeping_labels
from aeppt.serving.outputs import Kind, Release, keeping_label
from aeppt.serving.refusals import Reason, RefusedError


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_are_protected_as_a_protected_models(
    defense: PrivacyFunnel, known: Predictions, dtype: type
) -> None:
    logits = np.log(known.probs).astype(dtype) * 3 + 1
    released, protection = Release(defense, "out", Kind.logits).protect(logits)
    expected = ProtectedModel(torch.nn.Identity(), defense)(torch.from_numpy(logits))
    np.testing.assert_array_equal(released, expected.numpy())
    assert released.dtype == dtype
    assert protection.rows == len(logits)


def test_log_keeping_labels(defense: PrivacyFunnel, known: Predictions) -> None:
    with np.errstate(divide="ignore"):
        logs = np.log(np.concatenate([known.probs, np.eye(5)]))
    released, _ = Release(defense, "out", Kind.log_probabilities).protect(logs)
    expected = log_keeping_labels(torch.from_numpy(defense.protect(np.exp(logs))))
    np.testing.assert_array_equal(released, expected.numpy())
    with pytest.raises(RefusedError, match="does not hold log-probabilities"):
        Release(defense, "out", Kind.log_probabilities).protect(logs + 1)


@pytest.mark.parametrize("kind", [Kind.probabilities, Kind.logits])
def test_half_precision_keeps_the_label(known: Predictions, kind: Kind) -> None:
    defense = AEPPT(hidden=(8,), tie_gap=1e-6).fit(known.probs, known.is_member)
    rows = known.probs.astype(np.float16)
    values = rows if kind is Kind.probabilities else np.log(known.probs).astype(np.float16)
    released, _ = Release(defense, "out", kind).protect(values)
    assert released.dtype == np.float16
    np.testing.assert_array_equal(released.argmax(1), values.astype(np.float32).argmax(1))


def test_rounding_keeps_the_label() -> None:
    rows = np.array([[0.3, 0.3 + 1e-6, 0.4 - 1e-6], [0.4, 0.4 + 1e-7, 0.2]], np.float32)
    assert rows.astype(np.float16).argmax(1).tolist() == [2, 0]
    assert keeping_label(rows, np.dtype(np.float16)).argmax(1).tolist() == [2, 1]


def test_a_vector_is_one_row(defense: PrivacyFunnel, known: Predictions) -> None:
    release = Release(defense, "out", Kind.probabilities)
    rows, _ = release.protect(known.probs[:3])
    for row, given in zip(rows, known.probs, strict=False):
        np.testing.assert_array_equal(release.protect(given)[0], row)


@pytest.mark.parametrize(
    "values",
    [
        np.full((2, 4), 0.25),
        np.full((1, 1, 5), 0.2),
        np.full((2, 5), 0.2).astype(np.longdouble),
        np.eye(5, dtype=np.int64),
        np.full((2, 5), "0.2"),
        np.full((2, 5), 0.3),
        np.full((2, 5), np.nan),
        np.array([[1.5, -0.5, 0, 0, 0]]),
        np.array(1.0),
    ],
)
def test_what_cannot_be_protected_is_refused(known: Predictions, values: NDArray) -> None:
    lenient = AEPPT(hidden=(8,), on_invalid="passthrough").fit(known.probs, known.is_member)
    with pytest.raises(RefusedError) as raised:
        Release(lenient, "out", Kind.probabilities).protect(values)
    assert raised.value.reason is Reason.UNUSABLE_ANSWER


def test_only_named_outputs_leave(defense: PrivacyFunnel, known: Predictions) -> None:
    release = Release(defense, "probs", Kind.probabilities, frozenset({"label"}))
    outputs = {"features": known.probs, "probs": known.probs, "label": known.labels}
    assert list(release.tensors(outputs, [])[0]) == ["probs", "label"]
    assert list(release.tensors(outputs, ["label"])[0]) == ["label"]
    for requested in (["features"], ["probs", "features"]):
        with pytest.raises(RefusedError):
            release.tensors(outputs, requested)
    with pytest.raises(RefusedError):
        release.tensors({"label": known.labels}, [])


def test_v1_predictions(defense: PrivacyFunnel) -> None:
    release = Release(defense, "probs", Kind.probabilities, frozenset({"label"}))
    one_hot = [[0, 1, 0, 0, 0]]
    expected = defense.protect(np.array(one_hot, np.float64))
    np.testing.assert_array_equal(release.predictions(one_hot, 1)[0], expected)
    keyed = [{"probs": [0.2] * 5, "label": "a", "features": [1]}]
    released, _ = release.predictions(keyed, 1)
    assert set(released[0]) == {"probs", "label"}
    for wrong in (None, {}, [], [1], [[0.5, 0.5]], [{"label": 1}], [{"probs": [0.2] * 5}, [1]]):
        with pytest.raises(RefusedError):
            release.predictions(wrong, 1)
