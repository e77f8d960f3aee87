"""What leaves a gateway: the defense's answer, through real clients, and nothing beside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from serving_helpers import SECRET, free_port, v2_request

from aeppt import PrivacyFunnel

DATATYPES = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}
Curl = Callable[..., tuple[int, Any]]
Infer = Callable[..., dict[str, NDArray]]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("datatype", ["FP32", "FP64", "FP16"])
def test_clients_get_the_defenses_answer(
    gateway: Any, infer: Infer, protocol: str, datatype: str, rows: NDArray, defense: PrivacyFunnel
) -> None:
    answer = infer(gateway, protocol, rows, datatype)["probs"]
    given = rows.astype(DATATYPES[datatype])
    wide = given.astype(np.float32) if datatype == "FP16" else given
    expected = defense.protect(wide).astype(given.dtype)
    assert answer.dtype == given.dtype
    if datatype == "FP16":  # where rounding made an earlier class as likely, the label is raised
        np.testing.assert_allclose(answer, expected, rtol=1e-3)  # an ulp or two
        np.testing.assert_array_equal(answer.argmax(1), wide.argmax(1))
    else:
        np.testing.assert_array_equal(answer, expected)
    assert not np.array_equal(answer, given)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_only_what_is_allowed_leaves(
    rest: Any, grpc: Any, infer: Infer, protocol: str, rows: NDArray
) -> None:
    assert set(infer(rest, protocol, rows)) == {"probs"}
    assert infer(rest, protocol, rows, outputs=["probs"])["probs"].shape == rows.shape
    assert infer(grpc, protocol, rows)["embedding"].tolist() == [[9.0, 9.0]] * len(rows)
    assert set(infer(grpc, protocol, rows, outputs=["embedding"])) == {"embedding"}
    with pytest.raises(Exception, match="does not release"):
        infer(rest, protocol, rows, outputs=["probs", "embedding"])


def test_nothing_else_of_the_predictors_answer_leaves(
    gateway: Any, curl: Curl, rows: NDArray, defense: PrivacyFunnel
) -> None:
    url = f"{gateway.http}/v2/models/model/infer"
    asked = v2_request(rows, id="abc", outputs=[{"name": "probs"}])
    status, answer = curl(url, asked)
    assert status == 200
    output = answer["outputs"][0]
    assert answer == {"model_name": "model", "id": "abc", "outputs": [output]}
    data = np.array(output.pop("data"), np.float32).reshape(rows.shape)
    assert output == {"name": "probs", "datatype": "FP32", "shape": list(rows.shape)}
    np.testing.assert_array_equal(data, defense.protect(rows))


def test_one_row_without_a_batch(gateway: Any, curl: Curl, rows: NDArray) -> None:
    url = f"{gateway.http}/v2/models/model/infer"
    _, single = curl(url, v2_request(rows[0], outputs=[{"name": "probs"}]))
    _, batch = curl(url, v2_request(rows, outputs=[{"name": "probs"}]))
    assert single["outputs"][0]["shape"] == [5]
    assert single["outputs"][0]["data"] == batch["outputs"][0]["data"][:5]


def test_requests_at_once_do_not_mix(
    gateway: Any, curl: Curl, rows: NDArray, defense: PrivacyFunnel
) -> None:
    many = np.random.default_rng(2).dirichlet(np.ones(5), (8, 4)).astype(np.float32)
    expected = [defense.protect(batch) for batch in many]
    url = f"{gateway.http}/v2/models/model/infer"
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda batch: curl(url, v2_request(batch)), many))
    for (_, answer), protected in zip(answers, expected, strict=True):
        data = {output["name"]: output["data"] for output in answer["outputs"]}["probs"]
        np.testing.assert_array_equal(np.array(data, np.float32), protected.ravel())


@pytest.fixture(scope="module")
def v1(start: Any, predictor: tuple[str, str]) -> Any:
    protocol = ("--predictor-protocol", "v1", "--output", "probs")
    return start("--predictor", predictor[0], *protocol, "--timeout", 4, "--max-rows", 8)


def test_v1_rows_and_objects(v1: Any, curl: Curl, rows: NDArray, defense: PrivacyFunnel) -> None:
    instances = rows.astype(np.float64)
    expected = defense.protect(instances).tolist()
    url = f"{v1.http}/v1/models/model:predict"
    assert curl(url, {"instances": instances.tolist()}) == (200, {"predictions": expected})
    keyed = {"instances": instances.tolist(), "signature_name": "keyed"}
    assert curl(url, keyed) == (200, {"predictions": [{"probs": row} for row in expected]})


@pytest.mark.parametrize(
    ("fault", "status"), [("fewer", 502), ("ragged", 502), ("text", 502), (None, 502)]
)
def test_v1_fails_closed(
    v1: Any, curl: Curl, rows: NDArray, fault: str | None, status: int
) -> None:
    instances = rows.tolist() if fault else (2 * rows).tolist()
    answer = curl(
        f"{v1.http}/v1/models/model:predict", {"instances": instances, "signature_name": fault}
    )
    assert answer[0] == status
    assert set(answer[1]) == {"error"}


def test_v1_has_no_other_way(v1: Any, curl: Curl, rows: NDArray) -> None:
    assert curl(f"{v1.http}/v2/models/model/infer", v2_request(rows))[0] == 404
    assert curl(f"{v1.http}/v1/models/model:predict", {"instances": []})[0] == 400
    assert curl(f"{v1.http}/v1/models/model:predict", {"instances": [[0.2] * 5] * 9})[0] == 413
    assert v1.log[0]["grpc_port"] is None


def test_health_and_metadata(gateway: Any, curl: Curl, triton_grpc: Any) -> None:
    for path in ("/", "/v2/health/live", "/v2/health/ready", "/v2/models/model/ready"):
        assert curl(gateway.http + path)[0] == 200
    described = curl(f"{gateway.http}/v2/models/model")[1]
    assert [spec["name"] for spec in described["inputs"]] == ["rows"]
    assert described["outputs"][0] == {"name": "probs", "datatype": "FP32", "shape": [-1, 5]}
    for method in ("is_server_live", "is_server_ready"):
        assert triton_grpc(gateway.grpc, method)
    assert triton_grpc(gateway.grpc, "is_model_ready", model_name="model")
    over_grpc = triton_grpc(gateway.grpc, "get_model_metadata")
    assert [spec["name"] for spec in over_grpc["outputs"]] == [
        spec["name"] for spec in described["outputs"]
    ]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/model:explain",
        "/v1/models/other:predict",
        "/v2/models/other/infer",
        "/v2/models/model/generate",
        "/v2/models/model/versions/1/infer",
        "/v2/repository/models/model/load",
        "/v2/repository/models/model/unload",
        "/openai/v1/completions",
        "/docs",
        "/metrics",
        "/openapi.json",
    ],
)
def test_no_other_endpoint_exists(rest: Any, curl: Curl, path: str) -> None:
    assert curl(rest.http + path, {})[0] == 404
    assert curl(rest.http + path)[0] == 404


def test_grpc_has_no_model_repository(rest: Any, triton_grpc: Any) -> None:
    for method in ("load_model", "unload_model"):
        with pytest.raises(Exception, match="UNIMPLEMENTED"):
            triton_grpc(rest.grpc, method, model_name="model")


def test_metrics_count_rows_and_refusals(
    start: Any, predictor: tuple[str, str], grpc: Any, curl: Curl, rows: NDArray
) -> None:
    port = free_port()
    asked = ("--predictor", predictor[1], "--predictor-protocol", "grpc-v2", "--output", "probs")
    server = start(*asked, "--metrics-port", port)

    def read() -> dict[str, float]:
        lines = curl(f"127.0.0.1:{port}/metrics")[1].splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
        }

    before = read()
    curl(f"{server.http}/v2/models/model/infer", v2_request(rows))
    curl(f"{server.http}/v2/models/model/infer", v2_request(2 * rows))
    after = read()

    def gained(name: str) -> float:
        return sum(value - before[key] for key, value in after.items() if key.startswith(name))

    assert gained("aeppt_protected_rows_total") == len(rows)
    assert gained('aeppt_refused_requests_total{reason="unusable_answer"}') == 1
    assert gained("aeppt_protection_seconds_count") == 1
    assert gained("aeppt_request_seconds_count") == 2


def test_the_log_has_a_line_per_request_and_no_payload(
    rest: Any, curl: Curl, infer: Infer, rows: NDArray
) -> None:
    marked = v2_request(rows, id="identity-of-a-record")
    curl(f"{rest.http}/v2/models/model/infer?key=in-the-query", marked)
    curl(f"{rest.http}/secret-path", marked)
    infer(rest, "grpc", rows, id="identity-of-a-record")
    time.sleep(0.1)  # a line is written after the answer is sent
    *lines, over_grpc = [line for line in rest.log if line["event"] == "request"][-3:]
    assert over_grpc["path"] == "/inference.GRPCInferenceService/ModelInfer"
    assert (over_grpc["status"], over_grpc["rows"]) == ("OK", len(rows))
    assert [line["path"] for line in lines] == ["/v2/models/model/infer", None]
    assert [line["status"] for line in lines] == [200, 404]
    assert [line["rows"] for line in lines] == [len(rows), 0]
    assert set(lines[0]) == {
        *("time", "level", "event", "method", "path", "status", "rows", "milliseconds")
    }
    assert len(rest.log) == len(rest.text.splitlines())  # all of it is JSON
    for payload in ("identity-of-a-record", "in-the-query", "secret-path", SECRET, str(rows[0, 0])):
        assert payload not in rest.text
