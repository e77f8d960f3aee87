"""A model server or a gateway that ends and comes back while clients ask 50 times a second."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, cycle
from threading import Event, Thread
from typing import Any

import grpc as grpc_package
import numpy as np
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from numpy.typing import NDArray

from aeppt import PrivacyFunnel

pytestmark = pytest.mark.slow

PER_SECOND = 50
TIMEOUT = 2  # what a gateway lets a predictor take
BOUND = 10  # seconds until any answer, on a machine that does other work too
RECOVERY = 30
#: What a client may be told: by HTTP, by gRPC, or by no answer at all.
CLEAR = {502, 503, 504, "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "no connection"}

Ask = Callable[[NDArray], tuple[Any, NDArray | None]]


def over_http(address: str) -> Ask:
    """Ask a gateway by REST: the status, and the numbers if there are any."""

    def ask(rows: NDArray) -> tuple[Any, NDArray | None]:
        tensor = {"name": "rows", "shape": list(rows.shape), "datatype": "FP32"}
        body = json.dumps({"inputs": [tensor | {"data": rows.ravel().tolist()}]})
        connection = http.client.HTTPConnection(address, timeout=BOUND)
        try:
            connection.request("POST", "/v2/models/model/infer", body)
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException):
            return "no connection", None
        finally:
            connection.close()
        if response.status != 200:
            assert list(answer) == ["error"]
            return response.status, None
        return 200, np.array(answer["outputs"][0]["data"], np.float32).reshape(rows.shape)

    return ask


def over_grpc(address: str) -> Ask:
    """The same by gRPC."""
    backoff = [("grpc.max_reconnect_backoff_ms", 500), ("grpc.initial_reconnect_backoff_ms", 100)]
    stub = GRPCInferenceServiceStub(grpc_package.insecure_channel(address, backoff))

    def ask(rows: NDArray) -> tuple[Any, NDArray | None]:
        tensor = {"name": "rows", "datatype": "FP32", "shape": list(rows.shape)}
        request = pb.ModelInferRequest(
            model_name="model", inputs=[tensor], raw_input_contents=[rows.tobytes()]
        )
        try:
            answer = stub.ModelInfer(request, timeout=BOUND)
        except grpc_package.RpcError as error:
            return error.code().name, None
        (raw,) = answer.raw_output_contents
        return 200, np.frombuffer(raw, np.float32).reshape(rows.shape)

    return ask


class Load:
    """Requests at a constant rate, by turns to several ways in; each answer is checked."""

    def __init__(self, ways: list[Ask], defense: PrivacyFunnel) -> None:
        self._batches = np.random.default_rng(3).dirichlet([4, 2, 1, 1, 1], (20, 3))
        self._batches = self._batches.astype(np.float32)
        self._protected = [defense.protect(batch) for batch in self._batches]
        self._ways = ways
        self._end = Event()
        self.statuses: list[Counter[Any]] = [Counter() for _ in ways]
        self.latest: list[Any] = [None for _ in ways]
        self.wrong: list[Any] = []
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        started = time.monotonic()
        with ThreadPoolExecutor(PER_SECOND * BOUND // 2) as threads:
            for number, way in zip(count(), cycle(range(len(self._ways)))):
                threads.submit(self._ask, way, number % len(self._batches))
                if self._end.wait(max(0, started + (number + 1) / PER_SECOND - time.monotonic())):
                    break

    def _ask(self, way: int, batch: int) -> None:
        try:
            started = time.monotonic()
            status, answer = self._ways[way](self._batches[batch])
            seconds = time.monotonic() - started
            right = status in CLEAR or np.array_equal(answer, self._protected[batch])
            if not right or seconds > BOUND:
                self.wrong.append((way, status, answer, seconds))
            self.statuses[way][status] += 1
            self.latest[way] = status
        except Exception as error:
            self.wrong.append(error)

    def wait_for(self, done: Callable[[Any], bool]) -> None:
        """Wait until the latest answer of every way in is as wanted."""
        deadline = time.monotonic() + RECOVERY
        while not all(map(done, self.latest)):
            assert time.monotonic() < deadline, (self.latest, self.statuses, self.wrong)
            time.sleep(0.02)


@pytest.fixture
def gateways(start: Any, model_server: Any) -> Iterator[list[Any]]:
    """Gateways that ask by REST and by gRPC."""
    shared = ("--output", "probs", "--timeout", TIMEOUT)
    started = [
        start("--predictor", model_server.http, *shared),
        start("--predictor", model_server.grpc, "--predictor-protocol", "grpc-v2", *shared),
    ]
    yield started
    for gateway in started:
        assert not [line for line in gateway.log if line["event"] == "internal error"]
        gateway.process.kill()
        gateway.process.join()


def test_a_model_server_that_is_killed(
    gateways: list[Any], model_server: Any, defense: PrivacyFunnel
) -> None:
    ways = [way(address) for gateway in gateways for way, address in ways_in(gateway)]
    with Load(ways, defense) as load:
        load.wait_for(lambda status: status == 200)
        for _ in range(3):
            model_server.kill()
            load.wait_for(lambda status: status in CLEAR)
            model_server.start()
            load.wait_for(lambda status: status == 200)
    assert load.wrong == []
    assert all(statuses[200] > 0 for statuses in load.statuses)


def test_a_gateway_that_is_started_again(
    gateways: list[Any], start: Any, model_server: Any, defense: PrivacyFunnel
) -> None:
    gateway = gateways[0]
    again = [
        *("--predictor", model_server.http, "--output", "probs", "--timeout", TIMEOUT),
        *("--http-port", gateway.http.split(":")[1], "--grpc-port", gateway.grpc.split(":")[1]),
    ]
    with Load([way(address) for way, address in ways_in(gateway)], defense) as load:
        load.wait_for(lambda status: status == 200)
        for _ in range(2):
            assert gateway.stop() == 0
            load.wait_for(lambda status: status in CLEAR)
            gateway = start(*again)
            load.wait_for(lambda status: status == 200)
    assert load.wrong == []
    assert all(statuses[200] > 0 for statuses in load.statuses)


def ways_in(gateway: Any) -> list[tuple[Callable[[str], Ask], str]]:
    """How a client reaches a gateway."""
    return [(over_http, gateway.http), (over_grpc, gateway.grpc)]
