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
from aeppt.serving.predictors import LocalModel, array_of, connect, input_array
from aeppt.serving.refusals import Reason, RefusedError
from aeppt.serving.telemetry import Metrics


class Spec(NamedTuple):
    name: str
    datatype: str
    shape: tuple[int, ...]


class Echo:
    """A model that returns its input."""

    inputs = (Spec("rows", "FP64", (-1, 5)),)
    outputs = (Spec("probs", "FP64", (-1, 5)), Spec("features", "FP64", (-1, 5)))
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
        (30.0, IndexError("holds an input"), Reason.INVALID_REQUEST),
        (30.0, RuntimeError("holds an input"), Reason.UNUSABLE_ANSWER),
        (30.0, OSError("holds an input"), Reason.UNUSABLE_ANSWER),
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


@pytest.mark.parametrize(
    ("datatype", "values", "message"),
    [
        ("INT64", [1, 2.5], r"a value, at \[1\], that INT64 cannot hold"),
        ("UINT8", [1, 256], r"a value, at \[1\], that UINT8 cannot hold"),
        ("INT64", [1, "4"], "nothing but INT64 values"),
        ("INT64", [True, False], "nothing but INT64 values"),
        ("BOOL", [1, 0], "nothing but BOOL values"),
        ("FP32", [[0.5, 1e300]], r"a value, at \[0, 1\], that FP32 cannot hold"),
        ("FP32", [None, 1.0], "nothing but FP32 values"),
        ("FP64", [[1.0], [1.0, 2.0]], "rows of different lengths"),
    ],
)
def test_values_are_not_bent_into_a_datatype(
    datatype: str, values: list[Any], message: str
) -> None:
    with pytest.raises(RefusedError, match=f"input 'x'.* {message}") as raised:
        array_of(values, datatype, "input 'x'")
    assert raised.value.reason is Reason.INVALID_REQUEST
    with pytest.raises(RefusedError, match=f"input 'x'.* {message}"):
        input_array(InferInput("x", [len(values)], datatype, values))


def test_values_that_fit_are_taken() -> None:
    for datatype, values in (
        ("INT64", [1.0, 2]),
        ("FP32", [1, 0.1]),
        ("BOOL", [True]),
        ("INT8", []),
    ):
        array = array_of(values, datatype, "input 'x'")
        assert array.tolist() == np.asarray(values, array.dtype).tolist()


def test_wrong_inputs_are_named(defense_file: Path, defense: PrivacyFunnel, tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(50, 3))
    skops.io.dump(LogisticRegression().fit(features, np.arange(50) % 5), tmp_path / "model.skops")
    model = connect(options(defense_file, model=tmp_path / "model.skops", output=None), 0)
    gateway = gateway_before(model, defense)
    for name, datatype, message in (
        ("others", "FP64", "no input 'others'; the model takes input"),
        ("input", "INT64", "input 'input' must be FP64, got int64"),
    ):
        request = v2_request(np.ones((2, 3), np.int64), name, datatype)
        with pytest.raises(RefusedError, match=message) as raised:
            asyncio.run(gateway(request))
        assert raised.value.reason is Reason.INVALID_REQUEST
    types = asyncio.run(gateway.get_output_types())
    assert types == [{"name": "probabilities", "datatype": "FP64", "shape": [-1, 5]}]


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
