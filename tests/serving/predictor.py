"""A model server for the tests, made with kserve: run as a process, it answers as it is told to.

The input holds the rows that it answers, so that a test knows what the gateway protected. The
request's id says how it misbehaves. Its first line of output tells its ports.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from typing import Any

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.errors import InvalidInput
from kserve.utils.numpy_codec import from_np_dtype

SECRET = "a text that holds an input"


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
            await asyncio.sleep(1)
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


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def main() -> None:
    """Print the two ports, then serve."""
    http_port, grpc_port = free_port(), free_port()
    model = Rows("model")
    model.load()
    print(http_port, grpc_port, flush=True)
    sys.stdout = sys.stderr
    server = ModelServer(
        http_port=http_port, grpc_port=grpc_port, enable_latency_logging=False, grace_period=1
    )
    logging.getLogger("kserve").setLevel(logging.CRITICAL)
    logging.getLogger("kserve.trace").setLevel(logging.CRITICAL)
    server.start([model])


if __name__ == "__main__":
    main()
