"""A predictor and gateways as real processes, started as a user starts them."""

from __future__ import annotations

import json
import multiprocessing
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray

from aeppt import Predictions, PrivacyFunnel

sys.path.insert(0, str(Path(__file__).parent))

from serving_helpers import free_port

START_SECONDS = 60
#: Imports once what gateways and the predictor need, and forks each of them.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["aeppt.serving.server", "kserve"])
DATATYPES = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}


class Server:
    """A running gateway: its ports, and what it logged."""

    def __init__(self, arguments: list[str], log: Path, host: str = "127.0.0.1") -> None:
        self._log = log
        ports = ("--http-port", "0", "--grpc-port", "0")
        self.process = forked("gateway.py", [log, "--host", host, *ports, *arguments])
        deadline = time.monotonic() + START_SECONDS
        while not (serving := [line for line in self.log if line["event"] == "serving"]):
            assert self.process.is_alive(), self.text
            assert time.monotonic() < deadline, self.text
            time.sleep(0.02)
        name = f"[{host}]" if ":" in host else host
        self.http = f"{name}:{serving[0]['http_port']}"
        self.grpc = f"{name}:{serving[0]['grpc_port']}"

    @property
    def text(self) -> str:
        """All that the gateway wrote."""
        return self._log.read_text() if self._log.exists() else ""

    @property
    def log(self) -> list[dict[str, Any]]:
        """Its complete lines, all of them JSON."""
        lines = self.text.split("\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def stop(self) -> int | None:
        """Ask it to end; its exit code."""
        self.process.terminate()
        self.process.join(START_SECONDS)
        return self.process.exitcode


def forked(script: str, arguments: Sequence[object]) -> Any:
    """A process that runs a script beside this file, with its imports done already."""
    path = Path(__file__).with_name(script)
    given = {"arguments": [str(argument) for argument in arguments]}
    process = FORKS.Process(target=runpy.run_path, args=(str(path), given, "__main__"))
    process.start()
    return process


Curl = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="session")
def curl() -> Curl:
    """``curl(url, body, *options)``: the status, and the JSON of the answer (or its text)."""

    def call(url: str, body: object = None, *options: str) -> tuple[int, Any]:
        data = ["--data-binary", "@-"] if body is not None else []
        given = body if isinstance(body, bytes) else json.dumps(body).encode()
        done = subprocess.run(
            ["curl", "-s", "-m", "20", "-w", "\n%{http_code}", *data, *options, url],
            input=given,
            capture_output=True,
            check=True,
        )
        content, _, status = done.stdout.decode(errors="replace").rpartition("\n")
        try:
            return int(status), json.loads(content)
        except ValueError:
            return int(status), content

    return call


@pytest.fixture(scope="session")
def defense(known: Predictions) -> PrivacyFunnel:
    """A small defense of five classes."""
    return PrivacyFunnel(random_state=0).fit(known.probs, known.is_member)


@pytest.fixture(scope="session")
def defense_file(defense: PrivacyFunnel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The defense, saved."""
    path = tmp_path_factory.mktemp("defense") / "defense.safetensors"
    defense.save(path)
    return path


@pytest.fixture(scope="session")
def rows() -> NDArray[np.float32]:
    """Six predictions of five classes."""
    drawn = np.random.default_rng(1).dirichlet([6, 2, 1, 1, 1], 6).astype(np.float32)
    return drawn / drawn.sum(axis=1, keepdims=True)


@pytest.fixture(scope="session")
def predictor() -> Iterator[tuple[str, str]]:
    """The addresses of the model server that tests share, REST and gRPC."""
    model_server = ModelServer()
    yield model_server.http, model_server.grpc
    model_server.kill()


class ModelServer:
    """A process of ``predictor.py`` that can be started again on its ports."""

    def __init__(self) -> None:
        self._ports = free_port(), free_port()
        self.http, self.grpc = (f"127.0.0.1:{port}" for port in self._ports)
        self.start()

    def start(self) -> None:
        """Start it; it listens a moment later."""
        self._process = forked("predictor.py", self._ports)

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self._process.kill()
        self._process.join()


@pytest.fixture
def model_server() -> Iterator[ModelServer]:
    """A model server of the test's own."""
    server = ModelServer()
    yield server
    server.kill()


class GrpcError(Exception):
    """What Triton's client raised: the status, and the message."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


@pytest.fixture(scope="session")
def triton_grpc() -> Iterator[Callable[..., Any]]:
    """``triton_grpc(url, method, **arguments)``: Triton's gRPC client; see ``triton_client.py``."""
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("triton_client.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def call(url: str, method: str, **arguments: Any) -> Any:
            asked = {"url": url, "method": method, **arguments}
            stdin.write(json.dumps(asked).encode() + b"\n")
            stdin.flush()
            reply = json.loads(stdout.readline())
            if "error" in reply:
                raise GrpcError(*reply["error"])
            return reply["value"]

        yield call
        stdin.close()


@pytest.fixture(scope="session")
def infer(triton_grpc: Callable[..., Any]) -> Callable[..., dict[str, NDArray]]:
    """``infer(gateway, protocol, rows, datatype, outputs, id)`` by Triton's http or grpc client."""

    def call(
        gateway: Server,
        protocol: str,
        rows: NDArray,
        datatype: str = "FP32",
        outputs: tuple[str, ...] = (),
        id: str = "",
    ) -> dict[str, NDArray]:
        if protocol == "grpc":
            options = {"datatype": datatype, "outputs": outputs, "id": id}
            arrays = triton_grpc(gateway.grpc, "infer", rows=rows.tolist(), **options)
            return {name: np.array(values, dtype) for name, (dtype, values) in arrays.items()}
        client = triton.InferenceServerClient(gateway.http)
        tensor = triton.InferInput("rows", list(rows.shape), datatype)
        tensor.set_data_from_numpy(rows.astype(DATATYPES[datatype]))
        requested = [triton.InferRequestedOutput(name) for name in outputs] or None
        answer = client.infer("model", [tensor], outputs=requested, request_id=id)
        names = [output["name"] for output in answer.get_response()["outputs"]]
        return {name: answer.as_numpy(name) for name in names}

    return call


Start = Callable[..., Server]


@pytest.fixture(scope="session")
def start(defense_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """``start(*arguments, host=)``: a gateway with these options of ``aeppt serve``."""
    running: list[Server] = []

    def call(*arguments: object, host: str = "127.0.0.1") -> Server:
        log = tmp_path_factory.mktemp("gateway") / "log"
        given = ["--defense", str(defense_file), *map(str, arguments)]
        running.append(Server(given, log, host))
        return running[-1]

    yield call
    for server in running:
        server.process.kill()
        server.process.join()


@pytest.fixture(scope="session")
def rest(start: Start, predictor: tuple[str, str], curl: Curl) -> Server:
    """A gateway that asks over REST, with small limits."""
    limits = ("--timeout", 4, "--max-rows", 64, "--max-request-bytes", 100_000)
    server = start("--predictor", predictor[0], "--output", "probs", *limits)
    _wait_until_ready(server, curl)
    return server


@pytest.fixture(scope="session")
def grpc(start: Start, predictor: tuple[str, str], curl: Curl) -> Server:
    """A gateway that asks over gRPC, and lets out the embedding too."""
    server = start(
        *("--predictor", predictor[1], "--predictor-protocol", "grpc-v2", "--timeout", 4),
        *("--output", "probs", "--allow-output", "embedding"),
    )
    _wait_until_ready(server, curl)
    return server


@pytest.fixture(params=["rest", "grpc"])
def gateway(request: pytest.FixtureRequest) -> Server:
    """Each of the two in turn."""
    server: Server = request.getfixturevalue(request.param)
    return server


def _wait_until_ready(server: Server, curl: Curl) -> None:
    deadline = time.monotonic() + START_SECONDS
    while curl(f"{server.http}/v2/models/model/ready")[0] != 200:
        assert time.monotonic() < deadline, "the predictor did not become ready"
        time.sleep(0.05)
