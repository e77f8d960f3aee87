"""Where predictions come from: a model server by one of three protocols, or a model in a file.

Each turns what goes wrong into a refusal whose message holds nothing that the predictor said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import aiohttp
import grpc
import numpy as np
import orjson
from kserve import InferInput, InferOutput, InferRequest, InferResponse
from kserve.errors import InvalidInput
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from kserve.protocol.infer_type import (
    RequestedOutput,
    serialize_byte_tensor,
    to_grpc_parameters,
    to_http_parameters,
)
from kserve.utils.numpy_codec import from_np_dtype, to_np_dtype
from numpy.typing import NDArray
from yarl import URL

from aeppt.serving.configuration import Configuration, PredictorProtocol
from aeppt.serving.refusals import (
    InputError,
    Reason,
    RefusedError,
    invalid,
    too_slow,
    unreachable,
    unusable,
)

if TYPE_CHECKING:
    from aeppt.serving.model_files import ModelFile

HEADER_LENGTH = "inference-header-content-length"
JSON, BINARY = "application/json", "application/octet-stream"
KEEP_ALIVE = 4.0  # seconds: less than the 5 after which uvicorn closes an idle connection
READY_SECONDS = 5.0  # the most that a predictor's readiness is waited for
READY_TIMEOUT = aiohttp.ClientTimeout(total=READY_SECONDS)
#: What NumPy makes of JSON's values, by what is wanted of them.
KINDS = {"b": "b", "i": "iuf", "u": "iuf", "f": "iuf"}
Specs = list[dict[str, Any]]


class Predictor(Protocol):
    """What the gateway asks of any of them."""

    @property
    def output(self) -> str | None:
        """The output that is to be protected; None where the model's only one is."""

    async def infer(self, request: InferRequest) -> InferResponse:
        """The answer to a V2 request."""

    async def predict(self, request: dict[str, Any]) -> object:
        """The predictions for a V1 request, whose ``instances`` are a list."""

    async def ready(self) -> bool:
        """Whether the model can be asked."""

    async def metadata(self) -> tuple[Specs, Specs]:
        """The model's inputs and outputs: names, datatypes and shapes."""

    async def close(self) -> None:
        """Release connections."""


def connect(configuration: Configuration, max_answer_bytes: int) -> Predictor:
    """The predictor that a configuration names, which may answer with so many bytes."""
    if configuration.model is not None:
        from aeppt.serving.model_files import load_model_file

        return LocalModel(load_model_file(configuration.model), configuration)
    if configuration.predictor_protocol is PredictorProtocol.grpc_v2:
        return GrpcPredictor(configuration, max_answer_bytes)
    return RestPredictor(configuration, max_answer_bytes)


class RestPredictor:
    """A model server that speaks V1 or V2 over HTTP; one client with kept connections."""

    def __init__(self, configuration: Configuration, max_answer_bytes: int) -> None:
        self.output = configuration.output
        v1 = configuration.asks_v1
        name = quote(configuration.model_name, safe="")
        model = f"http://{configuration.predictor}/{'v1' if v1 else 'v2'}/models/{name}"
        self._model = URL(model, encoded=True)
        self._infer = URL(f"{model}:predict" if v1 else f"{model}/infer", encoded=True)
        self._ready = URL(model if v1 else f"{model}/ready", encoded=True)
        self._v1 = v1
        self._timeout = configuration.timeout
        self._max_answer_bytes = max_answer_bytes
        # No proxies from the environment, no cookies, no compression: the predictor is near, and
        # a small compressed answer could grow without bounds.
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE),
            timeout=aiohttp.ClientTimeout(total=configuration.timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"accept-encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
        )

    async def infer(self, request: InferRequest) -> InferResponse:
        """The answer to a V2 request."""
        try:
            body, header_length = rest_request(request)
        except (InvalidInput, TypeError, UnicodeDecodeError, ValueError):
            raise invalid("the inputs cannot be sent on as JSON") from None
        headers = {"content-type": JSON}
        if header_length is not None:
            headers = {"content-type": BINARY, HEADER_LENGTH: str(header_length)}
        content, answered = await self._post(body, headers)
        try:
            return rest_response(content, answered.get(HEADER_LENGTH))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise unusable("it is no V2 response") from None

    async def predict(self, request: dict[str, Any]) -> object:
        """The predictions for a V1 request."""
        content, _ = await self._post(orjson.dumps(request), {"content-type": JSON})
        try:
            return orjson.loads(content)["predictions"]
        except (KeyError, TypeError, ValueError):
            raise unusable("it is no V1 response") from None

    async def _post(self, body: bytes, headers: dict[str, str]) -> tuple[bytes, Mapping[str, str]]:
        try:
            return await asyncio.wait_for(self._post_again(body, headers), self._timeout)
        except asyncio.TimeoutError:
            raise too_slow(self._timeout) from None
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            raise unreachable() from None
        except (aiohttp.ClientError, ValueError):
            raise unusable("it is no HTTP response") from None

    async def _post_again(
        self, body: bytes, headers: dict[str, str]
    ) -> tuple[bytes, Mapping[str, str]]:
        # A kept connection may have been closed meanwhile; to predict twice does no harm.
        try:
            return await self._post_once(body, headers)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            return await self._post_once(body, headers)

    async def _post_once(
        self, body: bytes, headers: dict[str, str]
    ) -> tuple[bytes, Mapping[str, str]]:
        async with self._client.post(
            self._infer, data=body, headers=headers, allow_redirects=False
        ) as response:
            _check_http_status(response.status)
            return await self._read(response), response.headers

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        parts: list[bytes] = []
        left = self._max_answer_bytes
        async for part in response.content.iter_any():
            parts.append(part)
            left -= len(part)
            if left < 0:
                raise unusable(f"it is larger than {self._max_answer_bytes} bytes")
        return b"".join(parts)

    async def ready(self) -> bool:
        """Whether the model can be asked."""
        try:
            async with self._client.get(
                self._ready, timeout=READY_TIMEOUT, allow_redirects=False
            ) as response:
                return response.status == 200
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError):
            return False

    async def metadata(self) -> tuple[Specs, Specs]:
        """The model's inputs and outputs; V1 has no way to tell them."""
        if self._v1:
            return [], []
        try:
            async with self._client.get(self._model, allow_redirects=False) as response:
                described = orjson.loads(await self._read(response))
            return _specs(described["inputs"]), _specs(described["outputs"])
        except asyncio.TimeoutError:
            raise too_slow(self._timeout) from None
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            raise unreachable() from None
        except (aiohttp.ClientError, AttributeError, KeyError, TypeError, ValueError):
            raise unusable("it does not describe the model") from None

    async def close(self) -> None:
        """Release the connections."""
        await self._client.close()


def _check_http_status(status: int) -> None:
    if status == 200:
        return
    told = f"HTTP status {status}"
    if status in (400, 413, 415, 422):
        raise invalid(f"the predictor refused the request ({told})")
    if status in (429, 503):
        raise RefusedError(Reason.UNREACHABLE, f"the predictor is not available ({told})")
    raise unusable(told)


class GrpcPredictor:
    """A model server that speaks V2 over gRPC."""

    def __init__(self, configuration: Configuration, max_answer_bytes: int) -> None:
        self.output = configuration.output
        address = str(configuration.predictor)
        self._channel = grpc.aio.insecure_channel(
            address if ":" in address else f"{address}:80",  # gRPC itself would take 443
            options=[
                ("grpc.max_receive_message_length", max_answer_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.enable_http_proxy", 0),
                # By default a predictor that came back may not be noticed for two minutes.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
            ],
        )
        self._stub = GRPCInferenceServiceStub(self._channel)
        self._max_answer_bytes = max_answer_bytes
        self._name = configuration.model_name
        self._timeout = configuration.timeout

    async def infer(self, request: InferRequest) -> InferResponse:
        """The answer to a V2 request."""
        try:
            message = grpc_request(request)
        except (TypeError, ValueError):
            raise invalid("the inputs cannot be sent on over gRPC") from None
        try:
            response = await self._stub.ModelInfer(message, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            raise self._refusal(error.code()) from None
        try:
            return InferResponse.from_grpc(response)
        except Exception:  # likewise, at a bad answer
            raise unusable("it is no V2 response") from None

    async def predict(self, request: dict[str, Any]) -> object:
        """Refuse: there is no V1 over gRPC."""
        raise RefusedError(Reason.NOT_FOUND, "the predictor speaks V2 only")

    def _refusal(self, code: grpc.StatusCode) -> RefusedError:
        status = f"gRPC status {code.name}"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return too_slow(self._timeout)
        if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE):
            return invalid(f"the predictor refused the request ({status})")
        if code is grpc.StatusCode.UNAVAILABLE:
            return RefusedError(Reason.UNREACHABLE, f"the predictor cannot be reached ({status})")
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:  # the predictor's word, or this side's
            return unusable(f"{status}, or it is larger than {self._max_answer_bytes} bytes")
        return unusable(status)

    async def ready(self) -> bool:
        """Whether the model can be asked."""
        request = pb.ModelReadyRequest(name=self._name)
        try:
            return bool((await self._stub.ModelReady(request, timeout=READY_SECONDS)).ready)
        except grpc.aio.AioRpcError:
            return False

    async def metadata(self) -> tuple[Specs, Specs]:
        """The model's inputs and outputs."""
        request = pb.ModelMetadataRequest(name=self._name)
        try:
            described = await self._stub.ModelMetadata(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            raise self._refusal(error.code()) from None
        inputs, outputs = (
            [
                {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
                for spec in specs
            ]
            for specs in (described.inputs, described.outputs)
        )
        return inputs, outputs

    async def close(self) -> None:
        """Release what is held."""
        await self._channel.close()


class LocalModel:
    """A model in a file, run in a thread of this process."""

    def __init__(self, model: ModelFile, configuration: Configuration) -> None:
        self._model = model
        self._name = configuration.model_name
        self._timeout = configuration.timeout
        names = [spec.name for spec in model.outputs]
        self.output = configuration.output or names[0]
        if configuration.output is None and len(names) > 1:
            raise ValueError(f"--output must name one of the model's: {', '.join(names)}")
        missing = {self.output, *configuration.allowed_outputs} - set(names)
        if missing:
            raise ValueError(
                f"{configuration.model} has no output {min(missing)!r}; its outputs are "
                f"{', '.join(names)}"
            )

    async def infer(self, request: InferRequest) -> InferResponse:
        """The answer to a V2 request."""
        feed = {tensor.name: input_array(tensor) for tensor in request.inputs}
        outputs = [
            InferOutput(name, list(array.shape), from_np_dtype(array.dtype), array)
            for name, array in (await self._run(feed)).items()
        ]
        return InferResponse(request.id, self._name, outputs)

    async def predict(self, request: dict[str, Any]) -> object:
        """``instances`` are rows of the one input, or dictionaries with a row for each input."""
        instances, inputs = request["instances"], self._model.inputs
        keyed = bool(instances) and all(isinstance(instance, dict) for instance in instances)
        if not keyed and len(inputs) > 1:
            raise invalid("each instance must be an object with one entry for each input")
        feed = {}
        for name, datatype, _ in inputs:
            try:
                given = [instance[name] for instance in instances] if keyed else instances
            except KeyError:
                raise invalid(f"not every instance has the input {name!r}") from None
            feed[name] = array_of(given, datatype, f"input {name!r}")
        return (await self._run(feed))[self.output].tolist()

    async def _run(self, feed: dict[str, NDArray]) -> dict[str, NDArray]:
        try:
            return await asyncio.wait_for(asyncio.to_thread(self._model, feed), self._timeout)
        except asyncio.TimeoutError:
            raise too_slow(self._timeout) from None
        except InputError as error:
            raise invalid(str(error)) from None
        except (IndexError, TypeError, ValueError):
            raise invalid("the inputs do not fit the model") from None
        except Exception:  # its text may hold what it computed
            raise unusable("the model failed") from None

    async def ready(self) -> bool:
        """Whether the model can be asked."""
        return True

    async def metadata(self) -> tuple[Specs, Specs]:
        """The model's inputs and outputs."""
        inputs, outputs = (
            [spec._asdict() | {"shape": list(spec.shape)} for spec in specs]
            for specs in (self._model.inputs, self._model.outputs)
        )
        return inputs, outputs

    async def close(self) -> None:
        """Release what is held."""
        return None


def input_array(tensor: InferInput) -> NDArray:
    """An input's array; a refusal where its data do not fit its datatype and shape."""
    what = f"input {tensor.name!r}"
    try:
        if tensor._raw_data is None and to_np_dtype(tensor.datatype) not in (None, np.object_):
            return array_of(tensor.data, tensor.datatype, what).reshape(tensor.shape)
        array: NDArray = tensor.as_numpy()
    except RefusedError:
        raise
    except Exception:  # NumPy and kserve raise what they like at bad inputs
        raise invalid(f"the data of {what} do not fit its datatype and shape") from None
    return array


def array_of(values: list[Any], datatype: str, what: str) -> NDArray:
    """Values out of JSON as an array of a datatype that can hold every one of them.

    NumPy itself would cut off fractions, read texts as numbers and let large ones overflow.

    Raises
    ------
    RefusedError
        They are of another kind, one of them does not fit, or they do not form an array.
    """
    wanted = np.dtype(to_np_dtype(datatype))
    try:
        if wanted == np.object_:
            return np.asarray(values, wanted)
        given = np.asarray(values)
    except ValueError:
        raise invalid(f"{what} has rows of different lengths") from None
    if given.size > 0 and given.dtype.kind not in KINDS[wanted.kind]:
        raise invalid(f"{what} must hold nothing but {datatype} values")
    with np.errstate(invalid="ignore", over="ignore"):
        array = given.astype(wanted)
    fits = np.isfinite(array) if wanted.kind == "f" else array == given
    if not fits.all():
        place = np.argwhere(~fits)[0].tolist()
        raise invalid(f"{what} has a value, at {place}, that {datatype} cannot hold")
    return array


def rest_request(request: InferRequest) -> tuple[bytes, int | None]:
    """A V2 request's body, and the length of its JSON where binary tensors follow.

    It asks for binary outputs, which spares the predictor writing JSON; a server that cannot write
    them ignores that.
    """
    inputs, raw_inputs = [], []
    for tensor in request.inputs:
        parameters = to_http_parameters(tensor.parameters or {})
        data, raw = tensor.data, tensor._raw_data
        if to_np_dtype(tensor.datatype) is not None:  # others only the predictor knows
            input_array(tensor)
        if raw is not None:
            data = None
            parameters["binary_data_size"] = len(raw)  # over gRPC it is not told
        elif tensor.datatype == "BYTES":
            data = [item.decode() if isinstance(item, bytes) else item for item in data]
        inputs.append(InferInput(tensor.name, tensor.shape, tensor.datatype, data, parameters))
        raw_inputs.append(raw)
    sent = InferRequest(
        request.model_name,
        inputs,
        request.id,
        raw_inputs,
        parameters=to_http_parameters(request.parameters or {}) | {"binary_data_output": True},
        request_outputs=[
            RequestedOutput(output.name, {"binary_data": True})
            for output in request.request_outputs or []
        ],
    )
    body, header_length = sent.to_rest()
    return (body, header_length) if isinstance(body, bytes) else (orjson.dumps(body), None)


def rest_response(content: bytes, header_length: str | None) -> InferResponse:
    """A V2 response out of its body; arrays are not made yet."""
    start = len(content) if header_length is None else int(header_length)
    head = orjson.loads(content[:start])
    outputs, raw_outputs = [], []
    for output in head["outputs"]:
        parameters = output.get("parameters") or {}
        size = parameters.get("binary_data_size")
        raw_outputs.append(None if size is None else content[start : start + size])
        start += size or 0
        outputs.append(
            InferOutput(output["name"], output["shape"], output["datatype"], output.get("data"))
        )
    return InferResponse(head.get("id"), "", outputs, raw_outputs=raw_outputs)


def grpc_request(request: InferRequest) -> pb.ModelInferRequest:
    """A V2 request as a message with raw tensors, without what only concerns REST."""
    inputs, contents = [], []
    for tensor in request.inputs:
        array = input_array(tensor)
        contents.append(raw_bytes(array))
        shape = list(array.shape)
        inputs.append({"name": tensor.name, "datatype": tensor.datatype, "shape": shape})
    parameters = {
        name: value
        for name, value in (request.parameters or {}).items()
        if name != "binary_data_output"
    }
    return pb.ModelInferRequest(
        id=request.id or "",
        model_name=request.model_name,
        inputs=inputs,
        raw_input_contents=contents,
        parameters=to_grpc_parameters(parameters),
        outputs=[{"name": output.name} for output in request.request_outputs or []],
    )


def raw_bytes(array: NDArray) -> bytes:
    """An array as the protocol's raw tensor."""
    if array.dtype != np.object_:
        return array.tobytes()
    serialized = serialize_byte_tensor(array)
    return bytes(serialized.item()) if serialized.size else b""


def _specs(described: list[dict[str, Any]]) -> Specs:
    return [
        {"name": spec["name"], "datatype": spec.get("datatype", ""), "shape": spec.get("shape", [])}
        for spec in described
    ]
