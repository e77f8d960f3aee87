"""A gateway gives no unprotected prediction and none of the predictor's words, in bounded time."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc as grpc_package
import numpy as np
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from numpy.typing import NDArray

SECRET = "a text that holds an input"
Curl = Callable[..., tuple[int, Any]]

#: How the predictor misbehaves: HTTP and gRPC status that the client sees.
FAULTS = {
    "slow": (504, "DEADLINE_EXCEEDED"),
    "error": (502, "INTERNAL"),
    "refused": (400, "INVALID_ARGUMENT"),
    "nan": (502, "INTERNAL"),
    "scaled": (502, "INTERNAL"),
    "negative": (502, "INTERNAL"),
    "classes": (502, "INTERNAL"),
    "integers": (502, "INTERNAL"),
    "deep": (502, "INTERNAL"),
    "missing": (502, "INTERNAL"),
}


@pytest.fixture(params=["rest", "grpc"])
def gateway(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def v2_request(rows: NDArray, **more: Any) -> dict[str, Any]:
    tensor = {"name": "rows", "shape": list(rows.shape), "datatype": "FP32"}
    return {"inputs": [tensor | {"data": rows.ravel().tolist()}], **more}


def is_refusal(answer: Any, rows: NDArray) -> bool:
    """Whether an answer is one error message without the predictor's words or numbers."""
    text = json.dumps(answer)
    numbers = any(str(number)[:5] in text for number in rows.ravel())
    return list(answer) == ["error"] and SECRET not in text and not numbers


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_answer_does_not_leave(
    gateway: Any, curl: Curl, infer: Any, rows: NDArray, fault: str
) -> None:
    http_status, grpc_status = FAULTS[fault]
    started = time.monotonic()
    status, answer = curl(f"{gateway.http}/v2/models/model/infer", v2_request(rows, id=fault))
    assert (status, is_refusal(answer, rows)) == (http_status, True), answer
    with pytest.raises(Exception, match=grpc_status) as raised:
        infer(gateway, "grpc", rows, id=fault)
    assert is_refusal({"error": str(raised.value)}, rows)
    assert time.monotonic() - started < 15  # twice the time limit, and room
    assert curl(f"{gateway.http}/v2/models/model/infer", v2_request(rows))[0] == 200


class Fake:
    """A server that answers every connection with the same bytes, and keeps what it was sent."""

    def __init__(self) -> None:
        self.answer = b""
        self.received = b""
        fake = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                head = b""
                while not head.endswith(b"\r\n\r\n") and (line := self.rfile.readline()):
                    head += line
                lengths = [
                    line for line in head.lower().split(b"\r\n") if b"content-length" in line
                ]
                body = self.rfile.read(int(lengths[0].split(b":")[1]) if lengths else 0)
                fake.received = head + body
                self.wfile.write(fake.answer)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads, allow_reuse_address = True, True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = "{}:{}".format(*self._server.server_address)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def reply(self, body: bytes, status: str = "200 OK", *headers: str) -> None:
        """Answer with this from now on."""
        lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close"]
        self.answer = "\r\n".join([*lines, *headers, "", ""]).encode() + body

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def fake() -> Iterator[Fake]:
    server = Fake()
    yield server
    server.close()


@pytest.fixture(scope="module")
def before_fake(start: Any, fake: Fake) -> Any:
    return start("--predictor", fake.address, "--output", "probs", "--timeout", 2)


def response(rows: NDArray, **changes: Any) -> bytes:
    output = {"name": "probs", "shape": list(rows.shape), "datatype": "FP32"}
    output |= {"data": rows.ravel().tolist()} | changes
    return json.dumps({"model_name": "model", "outputs": [output]}).encode()


def test_garbage_does_not_leave(before_fake: Any, fake: Fake, curl: Curl, rows: NDArray) -> None:
    url = f"{before_fake.http}/v2/models/model/infer"
    one = rows[:1]
    fake.reply(response(one))
    assert curl(url, v2_request(one))[0] == 200
    for body in (
        b"",
        SECRET.encode(),
        b"[]",
        b"{}",
        b'{"outputs": 1}',
        b'{"outputs": [1]}',
        b'{"outputs": []}',
        b'{"outputs": [{"name": "probs"}]}',
        response(one, shape=[1, -1]),
        response(one, shape=[2, 5]),
        response(one, shape="15"),
        response(one, shape=[1, 5.0]),
        response(one, data=SECRET),
        response(one, data=None),
        response(one, data=[SECRET] * 5),
        response(one, data=[None] * 5),
        response(one, datatype="BYTES", data=[SECRET] * 5),
        response(one, datatype="BF16"),
        response(one, datatype="INT64", data=[1, 0, 0, 0, 0]),
        response(one, parameters={"binary_data_size": 20}),
        response(one, parameters={"binary_data_size": -1}),
        response(one)[:-5],
        response(one, data=[1e300, 0, 0, 0, 0]),
    ):
        fake.reply(body)
        status, answer = curl(url, v2_request(one))
        assert (status, is_refusal(answer, one)) == (502, True), body
    for length in ("-1", "x", "9999", "0"):
        fake.reply(response(one), "200 OK", f"inference-header-content-length: {length}")
        status, answer = curl(url, v2_request(one))
        assert status == (200 if length == "9999" else 502), length
    for status_line, expected in (
        ("302 Found", 502),
        ("400 Bad", 400),
        ("404 None", 502),
        ("500 Bad", 502),
        ("503 No", 503),
    ):
        fake.reply(SECRET.encode(), status_line, "location: http://127.0.0.1:1/")
        status, answer = curl(url, v2_request(one))
        assert (status, is_refusal(answer, one)) == (expected, True), status_line
    fake.answer = b"\x00\xff not HTTP\r\n\r\n"
    assert curl(url, v2_request(one))[0] == 502
    fake.answer = b""
    assert curl(url, v2_request(one))[0] == 503
    assert SECRET not in before_fake.text


def test_what_is_sent_on_is_only_what_was_checked(
    before_fake: Any, fake: Fake, curl: Curl, rows: NDArray
) -> None:
    fake.reply(response(rows))
    text = json.dumps(v2_request(rows))
    twice = '{"outputs": [{"name": "embedding"}], "outputs": [{"name": "probs"}], ' + text[1:]
    headers = ("-H", "Authorization: Bearer for-the-gateway", "-H", "X-Secret: value")
    status, _ = curl(f"{before_fake.http}/v2/models/model/infer", twice.encode(), *headers)
    assert status == 200
    assert b"embedding" not in fake.received
    assert b"for-the-gateway" not in fake.received and b"X-Secret" not in fake.received


def test_an_unreachable_predictor(before_fake: Any, fake: Fake, curl: Curl, rows: NDArray) -> None:
    fake.close()
    server = before_fake
    status, answer = curl(f"{server.http}/v2/models/model/infer", v2_request(rows))
    assert (status, is_refusal(answer, rows)) == (503, True)
    for path in ("/v2/health/ready", "/v2/models/model/ready", "/v1/models/model"):
        assert curl(server.http + path)[0] == 503
    assert curl(f"{server.http}/v2/health/live")[0] == 200
    assert curl(f"{server.http}/v2/models/model")[0] == 502


def test_requests_that_are_not_valid(rest: Any, curl: Curl, rows: NDArray) -> None:
    url = f"{rest.http}/v2/models/model/infer"
    good = v2_request(rows)
    tensor = good["inputs"][0]

    def changed(**changes: Any) -> dict[str, Any]:
        return {"inputs": [tensor | changes]}

    for request in (
        b"",
        b"no JSON",
        b"[" * 5000,
        [],
        {},
        {"inputs": []},
        {"inputs": {}},
        {"inputs": [1]},
        {"inputs": [{"name": "rows"}]},
        changed(shape=[-1, 5]),
        changed(shape=[True, 5]),
        changed(shape="65"),
        changed(datatype=5),
        changed(name=5),
        changed(data="text"),
        changed(parameters={"binary_data_size": 10}),
        changed(parameters={"shared_memory_region": "r"}),
        good | {"id": 5},
        good | {"parameters": [1]},
        good | {"parameters": {"shared_memory_region": "r"}},
        good | {"outputs": [5]},
        good | {"outputs": [{"name": ["probs"]}]},
        good | {"outputs": [{"name": "embedding"}]},
        good | {"outputs": [{"name": "probs", "parameters": {"classification": 3}}]},
        good | {"outputs": [{"name": "probs", "parameters": {"shared_memory_region": "r"}}]},
    ):
        status, answer = curl(url, request)
        assert (status, list(answer)) == (400, ["error"]), request
    for length in ("x", "-1", "1", "99999999"):
        header = ("-H", f"Inference-Header-Content-Length: {length}")
        assert curl(url, good, *header)[0] == 400, length
    assert curl(url, None, "-X", "PUT")[0] == 405
    assert curl(url)[0] == 405


def test_requests_that_are_too_large(rest: Any, curl: Curl) -> None:
    url = f"{rest.http}/v2/models/model/infer"
    assert curl(url, v2_request(np.full((64, 5), 0.2)))[0] == 200
    assert curl(url, v2_request(np.full((65, 5), 0.2)))[0] == 413
    assert curl(url, b" " * 100_001)[0] == 413
    assert curl(url, b" " * 300_000, "-H", "Transfer-Encoding: chunked")[0] == 413
    stub = GRPCInferenceServiceStub(grpc_package.insecure_channel(rest.grpc))
    tensor = {"name": "rows", "datatype": "FP32", "shape": [65, 5]}
    for contents in (bytes(65 * 5 * 4), bytes(200_000)):
        message = pb.ModelInferRequest(
            model_name="model", inputs=[tensor], raw_input_contents=[contents]
        )
        with pytest.raises(grpc_package.RpcError) as raised:
            stub.ModelInfer(message, timeout=10)
        assert raised.value.code() is grpc_package.StatusCode.RESOURCE_EXHAUSTED


def test_grpc_requests_that_are_not_valid(gateway: Any, rows: NDArray) -> None:
    stub = GRPCInferenceServiceStub(grpc_package.insecure_channel(gateway.grpc))
    tensor = {"name": "rows", "datatype": "FP32", "shape": [6, 5]}
    raw = rows.tobytes()
    for fields in (
        {},
        {"inputs": [tensor], "raw_input_contents": [raw, raw]},
        {"inputs": [tensor, tensor], "raw_input_contents": [raw]},
        {"inputs": [tensor | {"shape": [-1, 5]}], "raw_input_contents": [raw]},
        {"inputs": [tensor | {"datatype": "none"}], "raw_input_contents": [raw]},
        {"inputs": [tensor], "raw_input_contents": [raw], "outputs": [{"name": "other"}]},
    ):
        message = pb.ModelInferRequest(model_name="model", **fields)
        with pytest.raises(grpc_package.RpcError) as raised:
            stub.ModelInfer(message, timeout=10)
        assert raised.value.code() is grpc_package.StatusCode.INVALID_ARGUMENT, fields
    with pytest.raises(grpc_package.RpcError) as raised:
        stub.ModelInfer(pb.ModelInferRequest(model_name="other"), timeout=10)
    assert raised.value.code() is grpc_package.StatusCode.NOT_FOUND
