"""ONNX Runtime sessions behind a defense: one output protected, the others denied."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from scipy.special import softmax

from aeppt import AEPPT, ProtectedSession

FEED = {"logits": np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32) * 3}


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    """Logits in; probabilities, their copy in float16, the logits, and the label out."""

    def value(name: str, dtype: int, *shape: str | int) -> object:
        return helper.make_tensor_value_info(name, dtype, shape)

    nodes = [
        helper.make_node("Softmax", ["logits"], ["probs"], axis=1),
        helper.make_node("Cast", ["probs"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Identity", ["logits"], ["scores"]),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    ]
    outputs = [
        value("probs", TensorProto.FLOAT, "n", 5),
        value("half", TensorProto.FLOAT16, "n", 5),
        value("scores", TensorProto.FLOAT, "n", 5),
        value("label", TensorProto.INT64, "n"),
    ]
    inputs = [value("logits", TensorProto.FLOAT, "n", 5)]
    graph = helper.make_graph(nodes, "classifier", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def test_probabilities_leave_protected(
    session: onnxruntime.InferenceSession, fitted: AEPPT
) -> None:
    protected = ProtectedSession(session, fitted, "probs", allowed=["label"])
    [plain] = session.run(["probs"], FEED)
    probs, label = protected.run(None, FEED)
    np.testing.assert_array_equal(probs, fitted.protect(plain))
    assert np.abs(probs - plain).sum(1).mean() > 0.01
    np.testing.assert_array_equal(probs.argmax(1), label)
    label_first = protected.run(["label", "probs"], FEED)
    np.testing.assert_array_equal(label_first[0], label)
    np.testing.assert_array_equal(label_first[1], probs)
    assert [value.name for value in protected.get_outputs()] == ["probs", "label"]
    assert [value.name for value in protected.get_inputs()] == ["logits"]


def test_logits_leave_as_log_probabilities(
    session: onnxruntime.InferenceSession, fitted: AEPPT
) -> None:
    [logs] = ProtectedSession(session, fitted, "scores", kind="logits").run(["scores"], FEED)
    wanted = fitted.protect(softmax(FEED["logits"], axis=1))
    np.testing.assert_allclose(np.exp(logs), wanted, atol=1e-3)
    assert logs.dtype == np.float32
    np.testing.assert_array_equal(logs.argmax(1), FEED["logits"].argmax(1))


def test_half_precision_leaves_in_float32(
    session: onnxruntime.InferenceSession, fitted: AEPPT
) -> None:
    [probs] = ProtectedSession(session, fitted, "half").run(["half"], FEED)
    [plain] = session.run(["half"], FEED)
    np.testing.assert_array_equal(probs, fitted.protect(plain.astype(np.float32)))


@pytest.mark.parametrize("denied", ["scores", "label", "half"])
def test_other_outputs_are_denied(
    denied: str, session: onnxruntime.InferenceSession, fitted: AEPPT
) -> None:
    protected = ProtectedSession(session, fitted, "probs")
    with pytest.raises(ValueError, match=f"output '{denied}' may not leave.*: probs"):
        protected.run(["probs", denied], FEED)
    assert len(protected.run(None, FEED)) == len(protected.run([], FEED)) == 1


def test_wrong_names_are_refused(session: onnxruntime.InferenceSession, fitted: AEPPT) -> None:
    for options in ({"output": "prob"}, {"output": "probs", "allowed": ["prob"]}):
        with pytest.raises(ValueError, match="no output 'prob', only probs, half"):
            ProtectedSession(session, fitted, **options)
    with pytest.raises(ValueError, match="kind must be"):
        ProtectedSession(session, fitted, "probs", kind="odds")
    with pytest.raises(ValueError, match="row 0"):  # logits that are called probabilities
        ProtectedSession(session, fitted, "scores").run(None, FEED)
