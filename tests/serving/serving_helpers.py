"""What the tests of the gateway send, and what must never come back."""

from __future__ import annotations

import socket
from typing import Any

from numpy.typing import NDArray

SECRET = "a text that holds an input"  # the model server says it wherever it can


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def v2_request(rows: NDArray, **more: Any) -> dict[str, Any]:
    """A V2 request in JSON for ``rows``, and what else it shall hold."""
    tensor = {"name": "rows", "shape": list(rows.shape), "datatype": "FP32"}
    return {"inputs": [tensor | {"data": rows.ravel().tolist()}], **more}
