"""A model server for the tests, made with kserve, on the two ports in ``arguments``.

Its model "model" answers what it is told to: the input holds the rows that it answers, so that a
test knows what the gateway protected, and the request's id says how it misbehaves. Its model
"classifier" answers every valid request with probabilities, and others with an error.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.errors import InvalidInput
from kserve.utils.numpy_codec import from_np_dtype
from numpy.typing import NDArray

SECRET = "a text that holds an input"
WEIGHTS = np.random.default_rng(0).normal(size=(3, 5))


class Rows(Model):  # type: ignore[misc]
    """Answers the input's rows, and an output beside them that must not leave."""

    async def predict(self, payload: Any, *_: Any) -> Any:
        if isinstance(payload, InferRequest):
            return await self.infer(payload)
        instances = payload["instances"]
        fault = payload.get("signature_name")
        if fault == "fewer":
            instances = instances[1:]
        if fault == "ragged":
            instances = [[0.5, 0.5], [1.0]]
        if fault == "text":
            instances = ["0.5"] * len(instances)
        if fault == "keyed":
            keyed = [{"probs": row, "embedding": [9.0], "note": SECRET} for row in instances]
            return {"predictions": keyed, "note": SECRET}
        return {"predictions": instances, "note": SECRET}

    async def infer(self, request: InferRequest) -> InferResponse:
        rows = request.inputs[0].as_numpy()
        fault = request.id or ""
        if fault == "slow":
            await asyncio.sleep(30)
        elif fault == "pause":
            await asyncio.sleep(2)
        elif fault == "error":
            raise RuntimeError(SECRET)
        elif fault == "refused":
            raise InvalidInput(SECRET)
        elif fault == "nan":
            rows = np.full_like(rows, np.nan)
        elif fault == "scaled":
            rows = rows * 2
        elif fault == "negative":
            rows = np.roll(rows, 1) - 1
        elif fault == "classes":
            rows = rows[:, :-1]
        elif fault == "integers":
            rows = np.ones(rows.shape, np.int64)
        elif fault == "deep":
            rows = rows[None]
        name = "other" if fault == "missing" else "probs"
        embedding = np.full((len(rows), 2), 9.0, np.float32)
        arrays = {name: rows, "embedding": embedding}
        outputs = []
        for key, array in arrays.items():
            outputs.append(InferOutput(key, list(array.shape), from_np_dtype(array.dtype)))
            outputs[-1].set_data_from_numpy(array, binary_data=True)
        return InferResponse(
            request.id,
            self.name,
            outputs,
            parameters={"note": SECRET},
            use_binary_outputs=request.use_binary_outputs,
            requested_outputs=request.request_outputs,
        )

    def get_input_types(self) -> list[dict[str, Any]]:
        return [{"name": "rows", "datatype": "FP32", "shape": [-1, 5]}]

    def get_output_types(self) -> list[dict[str, Any]]:
        return [
            {"name": "probs", "datatype": "FP32", "shape": [-1, 5]},
            {"name": "embedding", "datatype": "FP32", "shape": [-1, 2]},
        ]


class Classifier(Rows):
    """Three features, five classes; refuses what is no row of three numbers."""

    async def predict(self, payload: Any, *_: Any) -> Any:
        if isinstance(payload, InferRequest):
            return await self.infer(payload)
        instances = payload["instances"]
        if not all(isinstance(instance, list) for instance in instances):
            raise InvalidInput("the instances are not rows")
        return {"predictions": probabilities(instances).tolist()}

    async def infer(self, request: InferRequest) -> InferResponse:
        (tensor,) = request.inputs if len(request.inputs) == 1 else (None,)
        if tensor is None or (tensor.name, tensor.datatype) != ("features", "FP32"):
            raise InvalidInput("there is one input, features, in FP32")
        probs = probabilities(tensor.as_numpy()).astype(np.float32)
        output = InferOutput("probs", list(probs.shape), "FP32")
        output.set_data_from_numpy(probs, binary_data=request.use_binary_outputs)
        return InferResponse(
            request.id, self.name, [output], use_binary_outputs=request.use_binary_outputs
        )


def probabilities(features: Any) -> NDArray[np.float64]:
    """Whatever the numbers are, infinite ones included."""
    try:
        rows = np.asarray(features, np.float64)
    except (OverflowError, TypeError, ValueError):
        raise InvalidInput("the features are not numbers") from None
    if rows.ndim not in (1, 2) or rows.shape[-1] != len(WEIGHTS):
        raise InvalidInput("the features are not rows of three")
    scores = np.exp(np.nan_to_num(np.clip(rows, -1, 1)) @ WEIGHTS)
    return scores / scores.sum(axis=-1, keepdims=True)


http_port, grpc_port = map(int, arguments)  # noqa: F821  given by who runs this
models = [Rows("model"), Classifier("classifier")]
for model in models:
    model.load()
for stream in (1, 2):  # an access log among others
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
server = ModelServer(
    http_port=http_port, grpc_port=grpc_port, enable_latency_logging=False, grace_period=1
)
logging.getLogger("kserve").setLevel(logging.CRITICAL)
logging.getLogger("kserve.trace").setLevel(logging.CRITICAL)
server.start(models)
