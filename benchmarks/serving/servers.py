"""Servers of their own processes, for the benchmarks: the predictor, KServe's transformer, ours."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import predictor
from load import MODEL, Form
from numpy.typing import NDArray
from typing_extensions import Self

from aeppt.defenses import OutputDefense

HERE = Path(__file__).parent
START_SECONDS = 60
_AEPPT = [sys.executable, "-P", "-c", "from aeppt.cli import main; main()"]


def free_ports(n: int) -> list[int]:
    """TCP ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(n)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Server:
    """A process that serves the model by HTTP and by gRPC, while in the ``with`` block.

    Parameters
    ----------
    command : sequence of str
        With the fields ``{http_port}`` and ``{grpc_port}``.
    log : path or None
        Where its output goes; nowhere by default.
    """

    def __init__(self, command: Sequence[str], log: Path | None = None) -> None:
        self.http_port, self.grpc_port = free_ports(2)
        self.command = [
            part.format(http_port=self.http_port, grpc_port=self.grpc_port) for part in command
        ]
        self.log = log or Path(os.devnull)

    def port(self, form: Form) -> int:
        """Where it listens for requests of that form."""
        return self.grpc_port if form is Form.grpc else self.http_port

    def address(self, protocol: str) -> str:
        """Where it listens for KServe's ``protocol``, "v2" or "grpc-v2"."""
        return f"127.0.0.1:{self.grpc_port if protocol == 'grpc-v2' else self.http_port}"

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            # One thread each: what is measured is a request, and there are three processes.
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _wait(self) -> None:
        url = f"http://127.0.0.1:{self.http_port}/v2/models/{MODEL}/ready"
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.command} ended: see {self.log}")
            try:
                with urllib.request.urlopen(url, timeout=1) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                pass
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.command} did not get ready: see {self.log}")
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


_PORTS = ["--http_port", "{http_port}", "--grpc_port", "{grpc_port}", "--model_name", MODEL]


def classifier(log: Path | None = None) -> Server:
    """The predictor alone."""
    return Server([sys.executable, str(HERE / "predictor.py"), *_PORTS], log)


def empty_transformer(behind: Server, protocol: str, log: Path | None = None) -> Server:
    """KServe's transformer; ``protocol`` to the predictor is "v2" or "grpc-v2"."""
    script = str(HERE / "empty_transformer.py")
    forward = ["--predictor_host", behind.address(protocol), "--predictor_protocol", protocol]
    return Server([sys.executable, script, *_PORTS, *forward], log)


def gateway(
    behind: Server, protocol: str, defense: Path, log: Path | None = None, *further: str
) -> Server:
    """``aeppt serve`` with a saved defense; ``protocol`` as in :func:`empty_transformer`.

    ``further`` are more of the command's options.
    """
    options = {
        "defense": str(defense),
        "predictor": behind.address(protocol),
        "predictor-protocol": protocol,
        "output": "output-0",  # the name that KServe gives a lone output
        "model-name": MODEL,
        "host": "127.0.0.1",
        "http-port": "{http_port}",
        "grpc-port": "{grpc_port}",
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    return Server([*_AEPPT, "serve", *flags, *further], log)


def queries(n: int, seed: int = 0) -> NDArray[np.float32]:
    """Inputs [n, 32], half of which the predictor answers as it answers members."""
    inputs = np.random.default_rng(seed).normal(size=(n, predictor.INPUTS))
    return inputs.astype(np.float32)


def fitted(defense: OutputDefense, n: int = 2000) -> OutputDefense:
    """The defense, fitted on the predictor's answers to ``n`` queries."""
    inputs = queries(n, seed=1)
    return defense.fit(predictor.probabilities(inputs), predictor.looks_member(inputs))
