"""Triton's gRPC client as a process: a line of JSON in, a line of JSON out.

It cannot be imported beside kserve: both define the protocol's messages.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton

DATATYPES = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}
clients: dict[str, triton.InferenceServerClient] = {}


def connected(url: str, tls: dict[str, str] | None) -> triton.InferenceServerClient:
    """A client, with the files of a certificate where ``tls`` names them."""
    if tls is None:
        return triton.InferenceServerClient(url)
    return triton.InferenceServerClient(
        url,
        ssl=True,
        root_certificates=tls["ca"],
        certificate_chain=tls["certificate"],
        private_key=tls["key"],
    )


def call(url: str, method: str, tls: dict[str, str] | None = None, **arguments: Any) -> Any:
    """What the client's method returns."""
    client = clients.setdefault(f"{url} {tls}", connected(url, tls))
    if method == "get_model_metadata":
        return client.get_model_metadata("model", as_json=True)
    if method != "infer":
        return getattr(client, method)(**arguments)
    array = np.array(arguments["rows"], DATATYPES[arguments["datatype"]])
    tensor = triton.InferInput("rows", list(array.shape), arguments["datatype"])
    tensor.set_data_from_numpy(array)
    outputs = [triton.InferRequestedOutput(name) for name in arguments["outputs"]] or None
    answer = client.infer(
        "model",
        [tensor],
        outputs=outputs,
        request_id=arguments["id"],
        headers=arguments.get("headers"),
    )
    arrays = {output.name: answer.as_numpy(output.name) for output in answer.get_response().outputs}
    return {name: [str(array.dtype), array.tolist()] for name, array in arrays.items()}


for line in sys.stdin:
    try:
        reply = {"value": call(**json.loads(line))}
    except triton.InferenceServerException as error:
        reply = {"error": [error.status(), error.message()]}
    print(json.dumps(reply), flush=True)
