"""A gateway gives no unprotected prediction and none of the predictor's words, in bounded time."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc as grpc_package
import numpy as np
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from numpy.typing import NDArray
from serving_helpers import SECRET, v2_request

from aeppt import PrivacyFunnel

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
    url = f"{gateway.http}/v2/models/model/infer"
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(curl, url, v2_request(rows, id=fault))
        with pytest.raises(Exception, match=grpc_status) as raised:
            infer(gateway, "grpc", rows, id=fault)
        status, answer = asked.result()
    assert (status, is_refusal(answer, rows)) == (http_status, True), answer
    assert is_refusal({"error": str(raised.value)}, rows)
    assert time.monotonic() - started < 15  # the time limit, and room
    assert curl(url, v2_request(rows))[0] == 200


class Fake:
    """A server that answers every connection with the same bytes, and keeps what it was sent."""

    def __init__(self) -> None:
        self.answer: Iterable[bytes] = [b""]
        self.received = b""
        self.drops_the_next = False  # of a connection's requests, after the first
        fake = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                fake.received = self._request()
                with contextlib.suppress(OSError):
                    for part in fake.answer:
                        self.wfile.write(part)
                if fake.drops_the_next:
                    self._request()

            def _request(self) -> bytes:
                head = b""
                while not head.endswith(b"\r\n\r\n") and (line := self.rfile.readline()):
                    head += line
                lengths = [
                    line for line in head.lower().split(b"\r\n") if b"content-length" in line
                ]
                return head + self.rfile.read(int(lengths[0].split(b":")[1]) if lengths else 0)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads, allow_reuse_address = True, True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = "{}:{}".format(*self._server.server_address)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def reply(self, body: bytes, status: str = "200 OK", *headers: str) -> None:
        """Answer with this from now on."""
        lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close"]
        self.answer = ["\r\n".join([*lines, *headers, "", ""]).encode(), body]

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
    limits = ("--timeout", 4, "--max-rows", 64, "--max-request-bytes", 100_000)
    return start("--predictor", fake.address, "--output", "probs", *limits)


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
    fake.answer = [b"\x00\xff not HTTP\r\n\r\n"]
    assert curl(url, v2_request(one))[0] == 502
    fake.answer = []
    assert curl(url, v2_request(one))[0] == 503
    assert SECRET not in before_fake.text


def test_answers_that_do_not_end(
    before_fake: Any, fake: Fake, curl: Curl, rows: NDArray, defense: PrivacyFunnel
) -> None:
    url = f"{before_fake.http}/v2/models/model/infer"
    good = response(rows)
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    longer = f"HTTP/1.1 200 OK\r\ncontent-length: {len(good) + 1}\r\n\r\n".encode()
    space = b"1000\r\n" + b" " * 0x1000 + b"\r\n"
    whole = b"%x\r\n%s\r\n" % (len(good), good)

    def drip() -> Iterator[bytes]:
        yield chunked + whole
        while True:
            time.sleep(0.1)
            yield b"1\r\n \r\n"

    for answer, expected in (
        ([chunked, whole, b"0\r\n\r\n"], {200}),
        ([chunked, whole], {502}),
        ([chunked, b"zz\r\n", good], {502, 504}),  # aiohttp may wait after what is no chunk
        (itertools.chain([chunked, whole], itertools.repeat(space)), {502}),
        ([longer, good], {502}),
        (itertools.chain([b"HTTP/1.1 200 OK\r\n"], itertools.repeat(b"x: y\r\n")), {502}),
        (drip(), {504}),
    ):
        fake.answer = answer
        started = time.monotonic()
        status, answered = curl(url, v2_request(rows))
        assert status in expected
        assert time.monotonic() - started < 10
        if status == 200:
            data = np.array(answered["outputs"][0]["data"], np.float32)
            np.testing.assert_array_equal(data, defense.protect(rows).ravel())
        else:
            assert is_refusal(answered, rows)
    limit = 64 * 5 * 32 + 100_000  # what 64 rows of five classes may take, and a request
    fake.reply(good + b" " * (limit - len(good)))
    assert curl(url, v2_request(rows))[0] == 200
    fake.reply(good + b" " * (limit - len(good) + 1))
    status, answered = curl(url, v2_request(rows))
    assert status == 502
    assert str(limit) in answered["error"]


def test_a_kept_connection_that_was_closed(
    before_fake: Any, fake: Fake, curl: Curl, rows: NDArray
) -> None:
    good = response(rows)
    fake.answer = [b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(good), good]
    fake.drops_the_next = True
    url = f"{before_fake.http}/v2/models/model/infer"
    assert [curl(url, v2_request(rows))[0] for _ in range(3)] == [200, 200, 200]
    fake.drops_the_next = False


def test_a_compressed_answer_is_not_opened(
    before_fake: Any, fake: Fake, curl: Curl, rows: NDArray
) -> None:
    bomb = gzip.compress(response(rows) + b" " * 50_000_000, compresslevel=1)
    for body in (gzip.compress(response(rows)), bomb):
        fake.reply(body, "200 OK", "content-encoding: gzip")
        status, answered = curl(f"{before_fake.http}/v2/models/model/infer", v2_request(rows))
        assert (status, is_refusal(answered, rows)) == (502, True)


def test_redirections_are_not_followed(before_fake: Any, fake: Fake, curl: Curl) -> None:
    with contextlib.closing(Fake()) as elsewhere:
        fake.reply(b"{}", "307 Elsewhere", f"location: http://{elsewhere.address}/")
        for path, expected in (("/v2/models/model/ready", 503), ("/v2/models/model", 502)):
            assert curl(before_fake.http + path)[0] == expected
        assert curl(f"{before_fake.http}/v2/models/model/infer", v2_request(np.eye(5)))[0] == 502
        assert elsewhere.received == b""


def test_requests_that_stop_halfway(
    before_fake: Any, fake: Fake, curl: Curl, rows: NDArray
) -> None:
    fake.reply(response(rows))
    host, port = before_fake.http.split(":")
    head = "POST /v2/models/model/infer HTTP/1.1\r\nhost: gateway\r\ncontent-length: 9999\r\n\r\n"
    start = head.encode() + json.dumps(v2_request(rows)).encode()
    fake.received = b""
    for length in (10, len(head), len(start)):
        for end in ("close", "reset", "half"):
            with socket.create_connection((host, int(port)), timeout=10) as client:
                client.sendall(start[:length])
                if end == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if end == "half":
                    client.shutdown(socket.SHUT_WR)
                    assert b"200" not in client.recv(1000)
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(start)
        assert client.recv(1000).startswith(b"HTTP/1.1 408")  # after --timeout
    assert fake.received == b""  # nothing of them was sent on
    compressed = gzip.compress(json.dumps(v2_request(rows)).encode())
    url, encoding = f"{before_fake.http}/v2/models/model/infer", ("-H", "Content-Encoding: gzip")
    assert curl(url, compressed, *encoding)[0] == 400
    assert curl(url, v2_request(rows), "-H", "Content-Type: text/xml")[0] == 200
    assert not [line for line in before_fake.log if line["event"] not in ("serving", "request")]


def test_heads_that_are_long_or_late(before_fake: Any) -> None:
    host, port = before_fake.http.split(":")
    for start in (b"", b"GET /v2 HTTP/1.1\r\nhost: gateway\r\n"):
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(start)
            assert is_closed(client)  # after --timeout
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(b"GET /v2 HTTP/1.1\r\n")
        with contextlib.suppress(OSError):
            for _ in range(100):
                client.sendall(b"x: " + 10_000 * b"y" + b"\r\n")
        assert is_closed(client)
    with socket.create_connection((host, int(port)), timeout=10) as client:
        for _ in range(2):  # one after the other on a connection
            client.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: gateway\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                answer += client.recv(1000)
            assert b" 200 " in answer


def is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1000) == b""
    except ConnectionError:
        return True


def test_bodies_are_bounded_together(before_fake: Any) -> None:
    host, port = before_fake.http.split(":")
    head = b"POST /v2/models/model/infer HTTP/1.1\r\nhost: g\r\ncontent-length: 100000\r\n\r\n"
    answers = []
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(20):  # all but the last byte; 16 of them may be held
            client = stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
            client.sendall(head + 99_999 * b" ")
            clients.append(client)
        for client in clients:
            with contextlib.suppress(ConnectionError):
                answers.append(client.recv(1000).split()[1])
    assert answers.count(b"503") >= 3
    assert set(answers) <= {b"503", b"408"}


class FakeGrpc(grpc_package.GenericRpcHandler):
    """A gRPC server that answers every call by a function of the call's context."""

    def __init__(self) -> None:
        self.answer: Callable[[Any], bytes] = lambda context: b""
        self._server = grpc_package.server(ThreadPoolExecutor(4), [self])
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def service(self, handler_call_details: Any) -> Any:
        return grpc_package.unary_unary_rpc_method_handler(
            lambda request, context: self.answer(context)
        )

    def close(self) -> None:
        """Stop listening."""
        self._server.stop(None)


def test_what_a_grpc_predictor_does_wrong(
    start: Any, curl: Curl, rows: NDArray, defense: PrivacyFunnel
) -> None:
    fake = FakeGrpc()
    limits = ("--timeout", 3, "--max-rows", 64, "--max-request-bytes", 100_000)
    given = ("--predictor", fake.address, "--predictor-protocol", "grpc-v2", "--output", "probs")
    gateway = start(*given, *limits)
    stub = GRPCInferenceServiceStub(grpc_package.insecure_channel(gateway.grpc))
    tensor = {"name": "rows", "datatype": "FP32", "shape": list(rows.shape)}
    asked = pb.ModelInferRequest(
        model_name="model", inputs=[tensor], raw_input_contents=[rows.tobytes()]
    )

    def answer(raw: bytes = rows.tobytes(), **changes: Any) -> bytes:
        probs = {"name": "probs", "datatype": "FP32", "shape": list(rows.shape)} | changes
        message = pb.ModelInferResponse(outputs=[probs], raw_output_contents=[raw])
        return bytes(message.SerializeToString())

    def ending(code: Any) -> Callable[[Any], bytes]:
        return lambda context: context.abort(code, SECRET)

    def compressed(context: Any) -> bytes:
        context.set_compression(grpc_package.Compression.Gzip)
        return answer(bytes(50_000_000))

    fake.answer = lambda context: answer()
    np.testing.assert_array_equal(
        np.frombuffer(stub.ModelInfer(asked, timeout=10).raw_output_contents[0], np.float32),
        defense.protect(rows).ravel(),
    )
    code = grpc_package.StatusCode
    wrong: list[tuple[Callable[[Any], bytes], Any, int]] = [
        (lambda context: SECRET.encode(), code.INTERNAL, 502),
        (lambda context: b"", code.INTERNAL, 502),
        (lambda context: answer(b""), code.INTERNAL, 502),
        (lambda context: answer(np.full(30, np.nan, np.float32).tobytes()), code.INTERNAL, 502),
        (lambda context: answer(shape=[-1, 5]), code.INTERNAL, 502),
        (lambda context: answer(datatype="none"), code.INTERNAL, 502),
        (lambda context: answer(bytes(200_000)), code.INTERNAL, 502),
        (compressed, code.INTERNAL, 502),
        (lambda context: time.sleep(6) or b"", code.DEADLINE_EXCEEDED, 504),
        (ending(code.INVALID_ARGUMENT), code.INVALID_ARGUMENT, 400),
        (ending(code.UNAVAILABLE), code.UNAVAILABLE, 503),
        (ending(code.RESOURCE_EXHAUSTED), code.INTERNAL, 502),
        (ending(code.UNKNOWN), code.INTERNAL, 502),
    ]
    for number, (fake.answer, grpc_status, http_status) in enumerate(wrong):
        with pytest.raises(grpc_package.RpcError) as raised:
            stub.ModelInfer(asked, timeout=10)
        assert raised.value.code() is grpc_status, number
        assert is_refusal({"error": raised.value.details()}, rows)
        status, answered = curl(f"{gateway.http}/v2/models/model/infer", v2_request(rows))
        assert (status, is_refusal(answered, rows)) == (http_status, True), number
    asked.raw_input_contents[0] = bytes(50_000_000)
    with pytest.raises(grpc_package.RpcError) as raised:
        stub.ModelInfer(asked, timeout=10, compression=grpc_package.Compression.Gzip)
    assert raised.value.code() is code.RESOURCE_EXHAUSTED
    fake.close()
    assert curl(f"{gateway.http}/v2/health/ready")[0] == 503
    assert SECRET not in gateway.text


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
    assert curl(f"{server.http}/v2/models/model")[0] == 503


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
