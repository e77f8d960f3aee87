"""The gateway over gRPC: the Open Inference Protocol's service, without its model repository."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from kserve import InferRequest, InferResponse
from kserve.constants.constants import GRPC_CONTENT_DATATYPE_MAPPINGS
from kserve.errors import InvalidInput
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceServicer
from kserve.protocol.grpc.servicer import InferenceServicer

from aeppt.serving.configuration import ApiKeys
from aeppt.serving.gateway import Gateway, rows_of
from aeppt.serving.predictors import raw_bytes
from aeppt.serving.refusals import Reason, RefusedError, invalid
from aeppt.serving.telemetry import Metrics, log, place
from aeppt.version import __version__

SERVICE = "/inference.GRPCInferenceService/"
INFER = f"{SERVICE}ModelInfer"
OPEN = {f"{SERVICE}{method}" for method in ("ServerLive", "ServerReady", "ModelReady")}


class GatewayService(GRPCInferenceServiceServicer):
    """What exists over gRPC; methods that are not defined here answer UNIMPLEMENTED."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer that the server runs."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer whether the predictor can be asked."""
        return pb.ServerReadyResponse(ready=await self._gateway.healthy())

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer whether the predictor can be asked."""
        self._check_name(request.name)
        return pb.ModelReadyResponse(ready=await self._gateway.healthy())

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Describe the server."""
        return pb.ServerMetadataResponse(name="aeppt", version=__version__)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Describe the inputs, and the outputs that may leave."""
        self._check_name(request.name)
        return pb.ModelMetadataResponse(
            name=self._gateway.name,
            inputs=await self._gateway.get_input_types(),
            outputs=await self._gateway.get_output_types(),
        )

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer a V2 request."""
        self._check_name(request.model_name)
        try:
            InferenceServicer.validate_grpc_request(request)
            asked = InferRequest.from_grpc(request)
        except (InvalidInput, IndexError):
            raise invalid("the request is not of the Open Inference Protocol") from None
        answer, _ = await self._gateway(asked)
        return encoded(answer, asked)

    def _check_name(self, name: str) -> None:
        if name != self._gateway.name:
            raise RefusedError(Reason.NOT_FOUND, "there is no such model")


def encoded(answer: InferResponse, asked: InferRequest) -> Any:
    """A response as a message: raw where the request was, and where FP16 leaves no other way."""
    raw = asked.use_binary_outputs or any(out.datatype == "FP16" for out in answer.outputs)
    message = pb.ModelInferResponse(id=asked.id, model_name=answer.model_name)
    for output in answer.outputs:
        tensor = message.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        if raw:
            message.raw_output_contents.append(raw_bytes(output.data))
        else:
            contents = getattr(tensor.contents, GRPC_CONTENT_DATATYPE_MAPPINGS[output.datatype])
            items = output.data.ravel().tolist()
            contents.extend(item.encode() if isinstance(item, str) else item for item in items)
    return message


class GatewayInterceptor(grpc.aio.ServerInterceptor):
    """Keys, errors, log and metrics of every call."""

    def __init__(self, api_keys: ApiKeys, metrics: Metrics) -> None:
        self._api_keys = api_keys
        self._metrics = metrics

    async def intercept_service(
        self,
        continuation: Callable[[Any], Awaitable[Any]],
        handler_call_details: Any,
    ) -> Any:
        """Stand around the method's handler."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        metadata = dict(handler_call_details.invocation_metadata or ())
        is_accepted = method in OPEN or self._api_keys.accept(
            _bytes(metadata.get("authorization")), _bytes(metadata.get("x-api-key"))
        )

        async def answer(request: Any, context: Any) -> Any:
            started = time.perf_counter()
            refusal, rows = None, 0
            try:
                if not is_accepted:
                    raise RefusedError(Reason.UNAUTHENTICATED, "this needs a valid API key")
                response = await handler.unary_unary(request, context)
                if method == INFER:
                    rows = rows_of(response.outputs[0].shape)
            except RefusedError as caught:
                refusal = caught
            except NotImplementedError:  # what the service does not define
                refusal = RefusedError(Reason.WRONG_METHOD, "this gateway has no such method")
            except Exception as error:  # whatever it is, its text stays here
                refusal = RefusedError(Reason.INTERNAL, "internal error")
                log("internal error", exception=type(error).__name__, where=place(error))
            seconds = time.perf_counter() - started
            status = grpc.StatusCode["OK" if refusal is None else refusal.reason.grpc_status]
            if method == INFER:
                self._metrics.observe(seconds)
            log(
                "request",
                method="gRPC",
                path=method,
                status=status.name,
                rows=rows,
                milliseconds=round(1000 * seconds, 3),
            )
            if refusal is not None:
                self._metrics.refuse(refusal.reason)
                await context.abort(status, refusal.message)
            return response

        # What has no key is not even decoded.
        decode = handler.request_deserializer if is_accepted else None
        return grpc.unary_unary_rpc_method_handler(answer, decode, handler.response_serializer)


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""
