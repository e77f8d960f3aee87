"""Files of models: what they take and return, what is refused, and that nothing in them runs."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skl2onnx
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skops import io as skops_io
from torch import Tensor, nn

from aeppt.serving.model_files import load_model_file

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(60, 4)).astype(np.float32)
LABELS = np.arange(60) % 3


class TwoInputs(nn.Module):
    """A dictionary of outputs, a buffer, a lifted constant, and an integer input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: Tensor, shift: Tensor, factor: float = 1.0) -> dict[str, Tensor]:
        logits = self.layer(x) * self.scale + torch.tensor([0.5, 0.0, 0.0]) * factor
        return {"logits": logits, "label": logits.argmax(1) + shift}


def saved(model: nn.Module, args: tuple[Any, ...], path: Path, **options: Any) -> Path:
    torch.export.save(torch.export.export(model.eval(), args, **options), path)
    return path


@pytest.fixture(scope="module")
def pt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    batch = torch.export.Dim("batch", max=4096)
    torch.manual_seed(0)
    return saved(
        TwoInputs(),
        (torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64), 2.0),
        tmp_path_factory.mktemp("pt2") / "model.pt2",
        dynamic_shapes={"x": {0: batch}, "shift": {0: batch}, "factor": None},
    )


@pytest.fixture(scope="module")
def classifier() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(FEATURES, LABELS)


@pytest.fixture(scope="module")
def onnx(classifier: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    converted = skl2onnx.to_onnx(classifier, FEATURES[:1], options={"zipmap": False})
    path.write_bytes(converted.SerializeToString())
    return path


def test_pt2_is_described_and_answers_as_the_module(pt2: Path) -> None:
    model = load_model_file(pt2)
    assert model.inputs == [("x", "FP32", (-1, 4)), ("shift", "INT64", (-1,))]
    assert model.outputs == [("logits", "FP32", (-1, 3)), ("label", "INT64", (-1,))]

    torch.manual_seed(0)
    wanted = TwoInputs()(torch.from_numpy(FEATURES), torch.arange(60), 2.0)
    feed = {"x": FEATURES, "shift": np.arange(60)}
    for array in feed.values():
        array.setflags(write=False)
    got = model(feed)
    np.testing.assert_array_equal(got["logits"], wanted["logits"].detach().numpy())
    np.testing.assert_array_equal(got["label"], wanted["label"].numpy())


def test_a_batch_that_was_not_exported_is_refused(pt2: Path) -> None:
    feed = {"x": np.zeros((5000, 4), np.float32), "shift": np.zeros(5000, np.int64)}
    with pytest.raises(ValueError, match="4096, but got 5000"):
        load_model_file(pt2)(feed)


def test_outputs_without_names_are_numbered(tmp_path: Path) -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
            return x + 1, [x - 1]

    model = load_model_file(saved(Pair(), (torch.zeros(2, 3),), tmp_path / "pair.pt2"))
    assert model.outputs == [("output_0", "FP32", (2, 3)), ("output_1", "FP32", (2, 3))]
    assert model.inputs[0].shape == (2, 3)
    assert model({"x": np.zeros((2, 3), np.float32)})["output_1"].tolist() == [[-1.0] * 3] * 2


def test_skops_gives_the_probabilities(classifier: Any, tmp_path: Path) -> None:
    skops_io.dump(classifier, tmp_path / "model.skops")
    model = load_model_file(tmp_path / "model.skops")
    assert model.inputs == [("input", "FP64", (-1, 4))]
    assert model.outputs == [("probabilities", "FP64", (-1, 3))]
    for rows in (FEATURES, FEATURES.astype(np.float64)):
        wanted = classifier.predict_proba(rows.astype(np.float64))
        np.testing.assert_array_equal(model({"input": rows})["probabilities"], wanted)


def test_onnx_is_described_and_answers(onnx: Path, classifier: Any) -> None:
    model = load_model_file(onnx)
    assert model.inputs == [("X", "FP32", (-1, 4))]
    assert model.outputs == [("label", "INT64", (-1,)), ("probabilities", "FP32", (-1, 3))]
    got = model({"X": FEATURES})
    np.testing.assert_allclose(got["probabilities"], classifier.predict_proba(FEATURES), atol=1e-5)
    np.testing.assert_array_equal(got["label"], classifier.predict(FEATURES))


def test_texts_are_bytes(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    text = helper.make_tensor_value_info("text", TensorProto.STRING, ["n"])
    same = helper.make_tensor_value_info("same", TensorProto.STRING, ["n"])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["text"], ["same"])], "texts", [text], [same]
    )
    opset = helper.make_opsetid("", 17)
    made = helper.make_model(graph, opset_imports=[opset], ir_version=9)
    (tmp_path / "texts.onnx").write_bytes(made.SerializeToString())
    model = load_model_file(tmp_path / "texts.onnx")
    assert model.inputs == [("text", "BYTES", (-1,))]
    for given in (np.array(["a", "bc"]), np.array(["a", "bc"], dtype=object)):
        assert model({"text": given})["same"].tolist() == ["a", "bc"]


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({}, "input 'X' is missing"),
        ({"X": FEATURES, "Y": FEATURES}, "no input 'Y'; the model takes X"),
        ({"X": FEATURES.astype(np.int64)}, "input 'X' must be FP32, got int64"),
        ({"X": FEATURES.astype(np.float64)}, "input 'X' must be FP32, got float64"),
        ({"X": FEATURES[0]}, r"'X' must have shape \[-1, 4\] .*, got \[4\]"),
        ({"X": FEATURES[:, :3]}, r"'X' must have shape \[-1, 4\] .*, got \[60, 3\]"),
    ],
)
def test_wrong_inputs_are_named(onnx: Path, feed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model_file(onnx)(feed)


@pytest.mark.parametrize("suffix", [".pt2", ".skops", ".onnx"])
def test_damaged_and_missing_files_are_named(
    suffix: str, pt2: Path, onnx: Path, classifier: Any, tmp_path: Path
) -> None:
    skops_io.dump(classifier, tmp_path / "whole.skops")
    whole = {".pt2": pt2, ".onnx": onnx, ".skops": tmp_path / "whole.skops"}[suffix].read_bytes()
    damaged = tmp_path / f"damaged{suffix}"
    for content in (b"", b"no model at all", whole[: len(whole) // 2]):
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match=rf"cannot load .*damaged{suffix}"):
            load_model_file(damaged)
    with pytest.raises(FileNotFoundError, match="there is no model file"):
        load_model_file(tmp_path / f"missing{suffix}")


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(1))
    with pytest.raises(ValueError, match=r"model.pkl must end in .pt2, .skops, .onnx"):
        load_model_file(tmp_path / "model.pkl")


class Payload:
    """Unpickled, it would make a file; so would the texts below, evaluated."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


def rewritten(source: Path, target: Path, changes: dict[str, Callable[[bytes], bytes]]) -> Path:
    """A copy of an archive with some records changed or added."""
    reader = torch._C.PyTorchFileReader(str(source))
    old = {name: reader.get_record(name) for name in reader.get_all_records()}
    with zipfile.ZipFile(target, "w") as archive:
        for name in {**old, **changes}:
            change = changes.get(name, lambda content: content)
            archive.writestr(f"model/{name}", change(old.get(name, b"")))
    return target


def pickled(payload: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(payload, buffer)
    return buffer.getvalue()


def in_json(change: Callable[[Any], object]) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        value = json.loads(content)
        change(value)
        return json.dumps(value).encode()

    return changed


def _attacks(trace: Path) -> dict[str, dict[str, Callable[[bytes], bytes]]]:
    payload = pickled((Payload(trace),))
    code = f"__import__('pathlib').Path({str(trace)!r}).touch()"

    def pickled_weight(config: Any) -> None:
        next(iter(config["config"].values()))["use_pickle"] = True

    def size(graph: Any) -> None:
        graph["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = (
            code
        )

    def size_of_a_tensor_called_metadata(graph: Any) -> None:
        size(graph)
        values = graph["graph_module"]["graph"]["tensor_values"]
        values["metadata"] = values.pop("x")

    def name(graph: Any) -> None:
        graph["graph_module"]["graph"]["inputs"][-2]["as_tensor"]["name"] = f"x={code}"

    def enum(graph: Any) -> None:
        context = json.dumps([{"__enum__": True, "fqn": "this:s", "name": "s"}])
        structure = [1, {"type": "builtins.dict", "context": context, "children_spec": []}]
        graph["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps(
            structure
        )

    model = "models/model.json"
    return {
        "sample inputs": {"data/sample_inputs/model.pt": lambda _: payload},
        "old weights": {"data/weights/model.pt": lambda _: payload},
        "pickled weight": {
            "data/weights/model_weights_config.json": in_json(pickled_weight),
            "data/weights/weight_0": lambda _: payload,
        },
        "native code": {"data/aotinductor/model/model.so": lambda _: b"\x7fELF"},
        "size": {model: in_json(size)},
        "metadata": {model: in_json(size_of_a_tensor_called_metadata)},
        "name": {model: in_json(name)},
        "enum": {model: in_json(enum)},
    }


@pytest.mark.parametrize("attack", _attacks(Path()))
def test_nothing_in_a_pt2_runs(attack: str, pt2: Path, tmp_path: Path) -> None:
    changes = _attacks(tmp_path / "ran")[attack]
    harmful = rewritten(pt2, tmp_path / "harmful.pt2", changes)
    with pytest.raises(ValueError, match=r"harmful.pt2 with torch.export: it(s| holds)"):
        load_model_file(harmful)
    assert not (tmp_path / "ran").exists()


def test_guards_in_a_pt2_do_not_run(pt2: Path, tmp_path: Path) -> None:
    code = f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch() is None"
    harmful = rewritten(
        pt2,
        tmp_path / "guarded.pt2",
        {"models/model.json": in_json(lambda graph: graph.update(guards_code=[code]))},
    )
    load_model_file(harmful)({"x": FEATURES, "shift": np.arange(60)})
    assert not (tmp_path / "ran").exists()


def test_torch_would_have_run_some_of_it(pt2: Path, tmp_path: Path) -> None:
    # So that the tests above do not pass because their payloads are blunt.
    for attack in ("sample inputs", "size"):
        trace = tmp_path / f"ran {attack}"
        harmful = rewritten(pt2, tmp_path / "harmful.pt2", _attacks(trace)[attack])
        try:
            torch.export.load(harmful)
        except Exception as error:
            assert trace.exists(), error
        assert trace.exists()


def test_skops_types_that_are_not_trusted_are_listed(tmp_path: Path) -> None:
    boosted = HistGradientBoostingClassifier(max_iter=2).fit(FEATURES, LABELS)
    skops_io.dump(boosted, tmp_path / "boosted.skops")
    with pytest.raises(ValueError, match=r"not loaded.*TreePredictor.*\.onnx"):
        load_model_file(tmp_path / "boosted.skops")


def test_skops_must_hold_a_classifier(tmp_path: Path) -> None:
    skops_io.dump(LinearRegression().fit(FEATURES, LABELS), tmp_path / "line.skops")
    with pytest.raises(ValueError, match="holds a LinearRegression, not a classifier"):
        load_model_file(tmp_path / "line.skops")


def test_onnx_with_dictionaries_is_refused(classifier: Any, tmp_path: Path) -> None:
    converted = skl2onnx.to_onnx(classifier, FEATURES[:1])
    (tmp_path / "maps.onnx").write_bytes(converted.SerializeToString())
    with pytest.raises(ValueError, match=r"output_probability.*zipmap=False"):
        load_model_file(tmp_path / "maps.onnx")
