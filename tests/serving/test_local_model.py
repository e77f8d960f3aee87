"""A model in a file behind the gateway, without a second server."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import skops.io
from kserve import InferInput, InferRequest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from aeppt import PrivacyFunnel
from aeppt.serving.configuration import Configuration
from aeppt.serving.gateway import Gateway
from aeppt.serving.outputs import Kind, Release
from aeppt.serving.predictors import LocalModel, connect
from aeppt.serving.refusals import Reason, RefusedError
from aeppt.serving.telemetry import Metrics


class Spec(NamedTuple):
    name: str
    datatype: str
    shape: tuple[int, ...]


class Echo:
    """A model that returns its input."""

    inputs = (Spec("rows", "FP64", (-1, 5)),)
    outputs = ("probs", "features")
    seconds = 0.0
    error: Exception | None = None

    def __call__(self, feed: dict[str, NDArray]) -> dict[str, NDArray]:
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return {"probs": feed["rows"], "features": feed["rows"]}


def options(defense_file: Path, **changes: Any) -> Configuration:
    return Configuration(defense_file, **{"model": Path(__file__), "output": "probs"} | changes)


def gateway_before(predictor: Any, defense: PrivacyFunnel) -> Gateway:
    release = Release(defense, predictor.output, Kind.probabilities)
    return Gateway("model", predictor, release, Metrics(), max_rows=100)


def v2_request(array: NDArray, name: str, datatype: str) -> InferRequest:
    tensor = InferInput(name, list(array.shape), datatype, array.ravel().tolist())
    return InferRequest("model", [tensor])


def test_v1_and_v2(defense_file: Path, defense: PrivacyFunnel, rows: NDArray) -> None:
    gateway = gateway_before(LocalModel(Echo(), options(defense_file)), defense)
    wide = (rows / rows.sum(1, keepdims=True, dtype=np.float64)).astype(np.float64)
    expected = defense.protect(wide)
    answer, _ = asyncio.run(gateway(v2_request(wide, "rows", "FP64")))
    assert [output.name for output in answer.outputs] == ["probs"]
    np.testing.assert_array_equal(answer.outputs[0].data, expected)
    for instances in (wide.tolist(), [{"rows": row} for row in wide.tolist()]):
        predicted, _ = asyncio.run(gateway({"instances": instances}))
        np.testing.assert_array_equal(predicted["predictions"], expected)


@pytest.mark.parametrize(
    ("timeout", "error", "reason"),
    [
        (0.1, None, Reason.TIMEOUT),
        (30.0, ValueError("holds an input"), Reason.INVALID_REQUEST),
        (30.0, RuntimeError("holds an input"), Reason.UNUSABLE_ANSWER),
    ],
)
def test_it_fails_closed(
    defense_file: Path,
    defense: PrivacyFunnel,
    rows: NDArray,
    timeout: float,
    error: Exception | None,
    reason: Reason,
) -> None:
    model = Echo()
    model.seconds, model.error = 1.0, error
    gateway = gateway_before(LocalModel(model, options(defense_file, timeout=timeout)), defense)
    with pytest.raises(RefusedError) as raised:
        asyncio.run(gateway(v2_request(rows, "rows", "FP64")))
    assert raised.value.reason is reason
    assert "holds an input" not in raised.value.message


def test_outputs_that_do_not_exist(defense_file: Path) -> None:
    for changes in ({"output": None}, {"output": "none"}, {"allowed_outputs": ("none",)}):
        with pytest.raises(ValueError, match="probs, features"):
            LocalModel(Echo(), options(defense_file, **changes))


def test_a_saved_classifier(
    defense_file: Path, defense: PrivacyFunnel, rows: NDArray, tmp_path: Path
) -> None:
    features = np.random.default_rng(0).normal(size=(50, 3))
    classifier = LogisticRegression().fit(features, np.arange(50) % 5)
    skops.io.dump(classifier, tmp_path / "model.skops")
    predictor = connect(options(defense_file, model=tmp_path / "model.skops", output=None), 0)
    gateway = gateway_before(predictor, defense)
    answer, _ = asyncio.run(gateway(v2_request(features, "input", "FP64")))
    expected = defense.protect(classifier.predict_proba(features))
    np.testing.assert_array_equal(answer.outputs[0].data, expected)
