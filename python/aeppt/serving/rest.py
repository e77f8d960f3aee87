"""The gateway over HTTP: a table of what exists, and V1 and V2 as JSON and binary tensors.

KServe's own application is not used, since it has routes that must not exist here (explain, load,
unload, OpenAI's). What is not in :meth:`RestApplication._table` is not there.
"""

from __future__ import annotations

import asyncio
import gc
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import numpy as np
import orjson
from kserve import InferInput, InferRequest, InferResponse
from kserve.protocol.infer_type import RequestedOutput
from numpy.typing import NDArray

from aeppt.serving.configuration import ApiKeys, Configuration
from aeppt.serving.gateway import Gateway, rows_of
from aeppt.serving.predictors import BINARY, HEADER_LENGTH, JSON, raw_bytes
from aeppt.serving.refusals import Reason, RefusedError, invalid
from aeppt.serving.telemetry import Metrics, log, place
from aeppt.version import __version__

#: With these the request's body may not have been read: the connection cannot be used again.
BODY_UNREAD = {
    reason.http_status
    for reason in (
        Reason.UNAUTHENTICATED,
        Reason.NOT_FOUND,
        Reason.WRONG_METHOD,
        Reason.SLOW_REQUEST,
        Reason.TOO_LARGE,
        Reason.BUSY,
        Reason.STOPPING,
    )
}
#: Of the largest request, what the bodies of all that are being answered may hold together.
MOST_HELD = 16
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Request(NamedTuple):
    """What a handler is given."""

    headers: dict[bytes, bytes]
    body: bytes


class Reply(NamedTuple):
    """What a handler answers."""

    body: bytes
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    rows: int = 0  # of a prediction
    status: int = 200


Handler = Callable[[Request], Awaitable[Reply]]


class RestApplication:
    """The gateway as an ASGI application: limits, keys, errors, log and metrics of every request.

    ``stopping`` makes it refuse new requests.
    """

    def __init__(
        self, gateway: Gateway, configuration: Configuration, api_keys: ApiKeys, metrics: Metrics
    ) -> None:
        self._gateway = gateway
        self._api_keys = api_keys
        self._metrics = metrics
        self._max_bytes = configuration.max_request_bytes
        self._held = 0  # bytes of the bodies of requests that are not answered yet
        self._timeout = configuration.timeout
        self._open, self._table = self._routes(configuration)
        self._paths = {path for _, path in self._table}
        self.stopping = False

    def _routes(
        self, configuration: Configuration
    ) -> tuple[set[str], dict[tuple[str, str], Handler]]:
        """Paths that need no API key, and all that exist with their handlers."""
        v1 = f"/v1/models/{configuration.model_name}"
        v2 = f"/v2/models/{configuration.model_name}"
        live, ready = {"/", "/v2/health/live"}, {"/v2/health/ready", v1, f"{v2}/ready"}
        table: dict[tuple[str, str], Handler] = {}
        table |= {("GET", path): self._live for path in live}
        table |= {("GET", path): self._ready for path in ready}
        table |= {("GET", path): self._models for path in ("/v1/models", "/v2/models")}
        table |= {("GET", "/v2"): self._server_metadata, ("GET", v2): self._model_metadata}
        if configuration.asks_v1 or configuration.model is not None:
            table["POST", f"{v1}:predict"] = self._predict
        if not configuration.asks_v1:
            table["POST", f"{v2}/infer"] = self._infer
        return live | ready, table

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        method, path = scope["method"], scope["path"]
        try:
            reply = await self._answer(method, path, dict(scope["headers"]), receive)
        except RefusedError as refusal:
            self._metrics.refuse(refusal.reason)
            body = orjson.dumps({"error": refusal.message})
            reply = Reply(body, status=refusal.reason.http_status)
        except Exception as error:  # whatever it is, its text stays here
            self._metrics.refuse(Reason.INTERNAL)
            reply = Reply(b'{"error":"internal error"}', status=Reason.INTERNAL.http_status)
            log("internal error", exception=type(error).__name__, where=place(error))
        headers = [
            (b"content-type", reply.content_type.encode()),
            (b"content-length", str(len(reply.body)).encode()),
            *((name.encode(), value.encode()) for name, value in reply.headers),
        ]
        if reply.status in BODY_UNREAD:
            headers.append((b"connection", b"close"))
        if reply.status == Reason.UNAUTHENTICATED.http_status:
            headers.append((b"www-authenticate", b"Bearer"))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})
        seconds = time.perf_counter() - started
        if method == "POST":
            self._metrics.observe(seconds)
        log(
            "request",
            method=method if path in self._paths else None,
            path=path if path in self._paths else None,  # others may hold anything
            status=reply.status,
            rows=reply.rows,
            milliseconds=round(1000 * seconds, 3),
        )

    async def _answer(
        self, method: str, path: str, headers: dict[bytes, bytes], receive: Receive
    ) -> Reply:
        if path not in self._open:
            if not self._api_keys.accept(
                headers.get(b"authorization", b""), headers.get(b"x-api-key", b"")
            ):
                raise RefusedError(Reason.UNAUTHENTICATED, "this needs a valid API key")
            if self.stopping:
                raise RefusedError(Reason.STOPPING, "the gateway is stopping")
        handler = self._table.get((method, path))
        if handler is None and path in self._paths:
            raise RefusedError(Reason.WRONG_METHOD, "the path does not take this method")
        if handler is None:
            raise RefusedError(Reason.NOT_FOUND, "there is no such path or model")
        if method != "POST":
            return await handler(Request(headers, b""))
        body = bytearray()
        try:
            await self._read(headers, receive, body)
            return await handler(Request(headers, bytes(body)))
        finally:
            self._held -= len(body)

    async def _read(self, headers: dict[bytes, bytes], receive: Receive, body: bytearray) -> None:
        too_large = RefusedError(
            Reason.TOO_LARGE, f"the request is larger than {self._max_bytes} bytes"
        )
        announced = headers.get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self._max_bytes:
            raise too_large

        async def read() -> None:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise invalid("the client went away")
                part = message.get("body", b"")
                body.extend(part)
                self._held += len(part)
                more = message.get("more_body", False)
                if len(body) > self._max_bytes:
                    raise too_large
                if self._held > MOST_HELD * self._max_bytes:
                    raise RefusedError(Reason.BUSY, "the gateway answers too much at once")

        try:
            await asyncio.wait_for(read(), self._timeout)
        except asyncio.TimeoutError:
            raise RefusedError(
                Reason.SLOW_REQUEST, f"the request took longer than {self._timeout:g} s to arrive"
            ) from None

    async def _live(self, request: Request) -> Reply:
        return Reply(b'{"live":true}')

    async def _ready(self, request: Request) -> Reply:
        ready = not self.stopping and await self._gateway.healthy()
        body = orjson.dumps({"name": self._gateway.name, "ready": ready})
        return Reply(body, status=200 if ready else Reason.UNREACHABLE.http_status)

    async def _models(self, request: Request) -> Reply:
        return Reply(orjson.dumps({"models": [self._gateway.name]}))

    async def _server_metadata(self, request: Request) -> Reply:
        facts = {"name": "aeppt", "version": __version__, "extensions": ["binary_tensor_data"]}
        return Reply(orjson.dumps(facts))

    async def _model_metadata(self, request: Request) -> Reply:
        return Reply(
            orjson.dumps(
                {
                    "name": self._gateway.name,
                    "platform": "",
                    "inputs": await self._gateway.get_input_types(),
                    "outputs": await self._gateway.get_output_types(),
                }
            )
        )

    async def _predict(self, request: Request) -> Reply:
        answer, _ = await self._gateway(json_object(request.body))
        rows = len(answer["predictions"])
        return Reply(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), rows=rows)

    async def _infer(self, request: Request) -> Reply:
        asked = decoded(
            request.body, request.headers.get(HEADER_LENGTH.encode()), self._gateway.name
        )
        answer, _ = await self._gateway(asked)
        body, header_length = encoded(answer, asked)
        rows = rows_of(answer.outputs[0].shape)
        if header_length is None:
            return Reply(body, rows=rows)
        return Reply(body, BINARY, ((HEADER_LENGTH, str(header_length)),), rows)


def json_object(text: bytes) -> dict[str, Any]:
    """The object that a JSON text holds, or a refusal."""
    gc.disable()  # it would look through millions of lists, again and again, for cycles
    try:
        value = orjson.loads(text)
    except ValueError:
        value = None
    finally:
        gc.enable()
    if not isinstance(value, dict):
        raise invalid("the request is not a JSON object")
    return value


def decoded(body: bytes, header_length: bytes | None, model_name: str) -> InferRequest:
    """The V2 request in ``body``; its tensors stay lists or bytes, as they came.

    Raises
    ------
    RefusedError
        It is no V2 request.
    """
    if header_length is not None and not re.fullmatch(rb"\d{1,18}", header_length):
        raise invalid(f"{HEADER_LENGTH} is not a number")
    start = len(body) if header_length is None else int(header_length)
    head = json_object(body[:start])
    identity, parameters = head.get("id"), head.get("parameters") or {}
    if not isinstance(identity, str | None) or not isinstance(parameters, dict):
        raise invalid('"id" must be a string and "parameters" an object')
    inputs, raw_inputs = [], []
    try:
        for given in head["inputs"]:
            own = dict(given.get("parameters") or {})
            size = own.get("binary_data_size")
            if (size is None) == ("data" not in given):
                raise invalid("an input must have either data or binary_data_size")
            data, raw = given.get("data"), None
            if size is not None:
                if type(size) is not int or not 0 <= size <= len(body) - start:
                    raise invalid("an input's binary_data_size does not fit the body")
                raw = body[start : start + size]
                start += size
            elif not isinstance(data, list):
                raise invalid("an input's data must be a list")
            inputs.append(InferInput(given["name"], given["shape"], given["datatype"], data, own))
            raw_inputs.append(raw)
        outputs = [
            RequestedOutput(given["name"], dict(given.get("parameters") or {}))
            for given in head.get("outputs") or []
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise invalid("the request is not of the Open Inference Protocol") from None
    if start != len(body):
        raise invalid("bytes are left over after the inputs")
    return InferRequest(
        model_name, inputs, identity, raw_inputs, parameters=parameters, request_outputs=outputs
    )


def encoded(answer: InferResponse, asked: InferRequest) -> tuple[bytes, int | None]:
    """A response's body, each output as the request wants it, and the length of its JSON part.

    The length is None where no output is binary.
    """
    by_default = bool((asked.parameters or {}).get("binary_data_output"))
    wanted = {output.name: output.binary_data for output in asked.request_outputs or []}
    outputs, tail = [], []
    for output in answer.outputs:
        described = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
        binary = wanted.get(output.name)
        if by_default if binary is None else binary:
            tail.append(raw_bytes(output.data))
            described["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            described["data"] = _plain(output.data)
        outputs.append(described)
    head: dict[str, Any] = {"model_name": answer.model_name, "outputs": outputs}
    if asked.id:
        head["id"] = asked.id
    json = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([json, *tail]), len(json)) if tail else (json, None)


def _plain(array: NDArray) -> NDArray | list[Any]:
    flat = np.ascontiguousarray(array.ravel())
    if flat.dtype != np.object_:
        return flat
    return [x.decode(errors="replace") if isinstance(x, bytes) else x for x in flat]
