"""Load on a server of the Open Inference Protocol, from one process: ``Client``, and two loops.

``open_loop`` plans when each request is to be sent and counts its time from then on, also where the
server or the client is late: what a slow server makes its users wait is not left out. Every request
finds a free connection or opens a new one. ``closed_loop`` keeps so many requests under way at
once, and counts what is answered.

The client must leave the processor to the servers, so it sends bytes made beforehand: over HTTP/1.1
by asyncio and httptools, on uvloop; gRPC by grpcio without messages' (de)serialization.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import grpc
import httptools
import numpy as np
import orjson
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from numpy.typing import NDArray
from typing_extensions import Self

MODEL = "model"
TIMEOUT = 10.0  # seconds after which a request counts as failed
_HEADER_LENGTH = "inference-header-content-length"


class Form(str, Enum):
    """How a request and its answer are written."""

    json = "REST, JSON"
    binary = "REST, binary"
    grpc = "gRPC"


class Answer(NamedTuple):
    """What came back: the body, and over HTTP the length of its JSON part where it is not all."""

    body: bytes
    json_length: int | None = None


class RequestFailed(Exception):  # noqa: N818 - said of a request, as HTTP does
    """A request without an answer; the message says why."""


def message(form: Form, inputs: NDArray[np.float32]) -> bytes:
    """A request for the answers to ``inputs`` [n, d], all that is sent of it."""
    tensor: dict[str, Any] = {"name": "input-0", "shape": list(inputs.shape), "datatype": "FP32"}
    if form is Form.grpc:
        request = ModelInferRequest(
            model_name=MODEL, id="1", inputs=[tensor], raw_input_contents=[inputs.tobytes()]
        )
        serialized: bytes = request.SerializeToString()
        return serialized
    if form is Form.json:
        tensor["data"] = inputs.ravel().tolist()
        head, raw = orjson.dumps({"id": "1", "inputs": [tensor]}), b""
        kind = "content-type: application/json"
    else:
        tensor["parameters"] = {"binary_data_size": inputs.nbytes}
        wanted = {"binary_data_output": True}
        head = orjson.dumps({"id": "1", "inputs": [tensor], "parameters": wanted})
        raw = inputs.tobytes()
        kind = f"content-type: application/octet-stream\r\n{_HEADER_LENGTH}: {len(head)}"
    start = (
        f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nhost: localhost\r\n{kind}\r\n"
        f"content-length: {len(head) + len(raw)}\r\n\r\n"
    )
    return start.encode() + head + raw


def answered(form: Form, answer: Answer) -> NDArray[np.float32]:
    """The probabilities [n, k] that an answer holds."""
    if form is Form.grpc:
        response = ModelInferResponse.FromString(answer.body)
        shape = list(response.outputs[0].shape)
        if response.raw_output_contents:
            return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(shape)
        return np.array(response.outputs[0].contents.fp32_contents, np.float32).reshape(shape)
    # Who asked for a binary answer may be given JSON: KServe's transformer does that.
    output = orjson.loads(answer.body[: answer.json_length])["outputs"][0]
    if "data" in output:
        return np.array(output["data"], np.float32).reshape(output["shape"])
    raw = answer.body[answer.json_length :]
    return np.frombuffer(raw, np.float32).reshape(output["shape"])


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection that carries one request at a time."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.pending: asyncio.Future[Answer] | None = None
        self.body: list[bytes] = []
        self.json_length: int | None = None

    async def ask(self, request: bytes) -> Answer:
        loop = asyncio.get_running_loop()
        self.pending = loop.create_future()
        self.body, self.json_length = [], None
        timer = loop.call_later(TIMEOUT, self.finish, RequestFailed("no answer in time"))
        self.transport.write(request)
        try:
            return await self.pending
        finally:
            timer.cancel()

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.finish(RequestFailed("connection lost"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == _HEADER_LENGTH.encode():
            self.json_length = int(value)

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        status = self.parser.get_status_code()
        body = b"".join(self.body)
        if status == 200:
            self.finish(Answer(body, self.json_length))
        else:
            self.finish(RequestFailed(f"HTTP {status}: {body[:200].decode(errors='replace')}"))

    def finish(self, result: Answer | RequestFailed) -> None:
        if self.pending is None or self.pending.done():
            return
        if isinstance(result, Answer):
            self.pending.set_result(result)
        else:
            self.pending.set_exception(result)


class Client:
    """Connections to one server on this machine; made and used within one event loop.

    Parameters
    ----------
    form : Form
        Of the requests it is to send.
    port : int
        Where the server listens for HTTP, or with ``Form.grpc`` for gRPC.
    """

    def __init__(self, form: Form, port: int) -> None:
        self.form, self.port = form, port
        self._free: list[_Connection] = []
        if form is Form.grpc:
            self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
            # Without serializers bytes go out and come back.
            self._infer = self._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    async def ask(self, request: bytes) -> Answer:
        """The answer to a request made by :func:`message`.

        Raises
        ------
        RequestFailed
            No connection, or it was lost; no answer in time; or a status other than success.
        """
        if self.form is Form.grpc:
            try:
                return Answer(await self._infer(request, timeout=TIMEOUT))
            except grpc.aio.AioRpcError as error:
                raise RequestFailed(f"gRPC {error.code().name}: {error.details()}") from error
        connection = await self._connection()
        try:
            answer = await connection.ask(request)
        except RequestFailed:
            connection.transport.close()
            raise
        self._free.append(connection)
        return answer

    async def _connection(self) -> _Connection:
        while self._free:
            connection = self._free.pop()
            if not connection.transport.is_closing():
                return connection
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(_Connection, "127.0.0.1", self.port)
        except OSError as error:
            raise RequestFailed(f"no connection: {error}") from error
        return connection

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._free:
            connection.transport.close()
        if self.form is Form.grpc:
            await self._channel.close()


@dataclass
class OpenLoop:
    """What became of each planned request."""

    planned: NDArray[np.float64]  # [n], of time.perf_counter
    seconds: NDArray[np.float64]  # [n], from when it was planned; NaN where it failed
    lateness: NDArray[np.float64]  # [n], seconds by which the client itself was late
    failures: Counter[str]


#: A request and who is to send it.
Query = tuple[Client, bytes]


async def open_loop(queries: Sequence[Query], rate: float, seconds: float) -> OpenLoop:
    """Send ``rate`` requests a second, evenly spaced, the given ones in turn."""
    loop = asyncio.get_running_loop()
    n = round(rate * seconds)
    planned = time.perf_counter() + 0.1 + np.arange(n) / rate
    found = OpenLoop(planned, np.full(n, np.nan), np.zeros(n), Counter())
    under_way: set[asyncio.Task[None]] = set()
    all_sent = loop.create_future()

    async def send(i: int) -> None:
        found.lateness[i] = time.perf_counter() - planned[i]
        client, request = queries[i % len(queries)]
        try:
            await client.ask(request)
        except RequestFailed as failure:
            found.failures[str(failure)] += 1
        else:
            found.seconds[i] = time.perf_counter() - planned[i]

    def start(i: int) -> None:
        task = loop.create_task(send(i))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        if i == n - 1:
            all_sent.set_result(None)

    def clock() -> None:
        # Of a thread of its own: an event loop's timers are true to a millisecond only.
        for i, due in enumerate(planned):
            time.sleep(max(0.0, due - time.perf_counter()))
            loop.call_soon_threadsafe(start, i)

    threading.Thread(target=clock, daemon=True).start()
    await all_sent
    await asyncio.gather(*under_way)
    return found


async def closed_loop(
    queries: Sequence[Query], at_once: int, seconds: float, warm_up: float = 1
) -> float:
    """Answers a second with ``at_once`` requests under way at all times.

    Raises
    ------
    RequestFailed
        One failed: then there is no throughput to speak of.
    """
    begin = time.perf_counter() + warm_up
    end = begin + seconds

    async def keep_asking(first: int) -> int:
        answers, i = 0, first
        while True:
            client, request = queries[i % len(queries)]
            await client.ask(request)
            now = time.perf_counter()
            if now >= end:
                return answers
            answers += now >= begin
            i += at_once

    return sum(await asyncio.gather(*map(keep_asking, range(at_once)))) / seconds
