"""Running the gateway: ports, TLS, and an end that lets requests in flight finish."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import ssl
from collections.abc import Iterator
from functools import partial
from typing import Any

import grpc
import uvicorn
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import (
    add_GRPCInferenceServiceServicer_to_server,
)
from prometheus_client import start_http_server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aeppt.serving.configuration import ApiKeys, Configuration
from aeppt.serving.gateway import Gateway
from aeppt.serving.grpc_service import GatewayInterceptor, GatewayService
from aeppt.serving.outputs import Release
from aeppt.serving.pacing import Pace
from aeppt.serving.predictors import connect
from aeppt.serving.rest import RestApplication
from aeppt.serving.telemetry import Metrics, configure_logging, log

#: The most bytes of a request's line and headers together.
MAX_HEAD_BYTES = 2**16
#: The most requests over gRPC that are answered at once; others are refused.
MAX_CONCURRENT_RPCS = 256


def serve(configuration: Configuration) -> None:
    """Serve until SIGTERM or SIGINT, then let requests in flight finish.

    Raises
    ------
    OSError
        A port is in use, or a file cannot be read.
    ValueError
        The defense, a key or the model's file is not valid.
    """
    configure_logging()
    # uvloop where it is installed, as uvicorn would choose.
    new_loop = uvicorn.Config("", log_config=None).get_loop_factory() or asyncio.new_event_loop
    loop = new_loop()
    try:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(_serve(configuration))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _serve(configuration: Configuration) -> None:
    defense, api_keys = configuration.load_defense(), configuration.api_keys()
    predictor = connect(configuration, configuration.max_answer_bytes(defense.n_features_in_))
    try:
        allowed = frozenset(configuration.allowed_outputs)
        release = Release(defense, predictor.output, configuration.kind, allowed)
        metrics = Metrics()
        gateway = Gateway(
            configuration.model_name,
            predictor,
            release,
            metrics,
            configuration.max_rows,
            Pace.of(defense) if configuration.constant_time else None,
        )
        # What is loaded by now stays: looking through it takes the garbage collector 0.2 s, which
        # a request would have to wait.
        gc.collect()
        gc.freeze()
        await _listen_and_answer(configuration, gateway, api_keys, metrics)
    finally:
        await predictor.close()
    log("stopped")


async def _listen_and_answer(
    configuration: Configuration, gateway: Gateway, api_keys: ApiKeys, metrics: Metrics
) -> None:
    application = RestApplication(gateway, configuration, api_keys, metrics)
    rest = _RestServer(_rest_config(configuration, application))
    service, grpc_port = None, None
    if not configuration.asks_v1:
        service, grpc_port = _grpc_server(
            configuration, gateway, GatewayInterceptor(api_keys, metrics)
        )
    with _listen(configuration.host, configuration.http_port) as listening:
        if configuration.metrics_port is not None:
            _serve_metrics(configuration.host, configuration.metrics_port, metrics)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        if service is not None:
            await service.start()
        running = asyncio.create_task(rest.serve([listening]))
        log("serving", http_port=listening.getsockname()[1], grpc_port=grpc_port)
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()

        log("stopping")
        application.stopping = rest.should_exit = True
        if service is not None:
            await service.stop(configuration.drain_seconds)
        await running


class _RestServer(uvicorn.Server):
    """Leaves the signals to :func:`_serve`, which stops gRPC at the same time."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose request's line and headers are too long, or too late."""

    def __init__(self, *args: Any, seconds: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seconds = seconds
        self._head_bytes = 0
        self._waiting: asyncio.TimerHandle | None = None  # while a head is to come

    def _wait(self) -> None:
        self._stop_waiting()
        self._head_bytes = 0
        self._waiting = self.loop.call_later(self._seconds, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._waiting is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(f"cannot listen on {host}, port {port}: {error.strerror}") from None


def _serve_metrics(host: str, port: int, metrics: Metrics) -> None:
    try:
        start_http_server(port, host, metrics.registry)
    except OSError as error:
        raise OSError(f"cannot listen on {host}, port {port}: {error.strerror}") from None


def _rest_config(configuration: Configuration, application: RestApplication) -> uvicorn.Config:
    client_ca = configuration.client_ca
    config = uvicorn.Config(
        application,
        http=partial(_BoundedProtocol, seconds=configuration.timeout),  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=configuration.drain_seconds,
        ssl_certfile=configuration.tls_cert,
        ssl_keyfile=configuration.tls_key,
        ssl_ca_certs=None if client_ca is None else str(client_ca),
        ssl_cert_reqs=ssl.CERT_NONE if client_ca is None else ssl.CERT_REQUIRED,
    )
    try:
        config.load()
    except ssl.SSLError:
        raise ValueError(
            f"{configuration.tls_cert} and {configuration.tls_key} must be a certificate and its "
            "private key, in PEM, and --client-ca certificates"
        ) from None
    return config


def _grpc_server(
    configuration: Configuration, gateway: Gateway, interceptor: GatewayInterceptor
) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server(
        interceptors=[interceptor],
        maximum_concurrent_rpcs=MAX_CONCURRENT_RPCS,
        options=[
            ("grpc.max_receive_message_length", configuration.max_request_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ],
    )
    add_GRPCInferenceServiceServicer_to_server(GatewayService(gateway), server)
    host, port = configuration.host, configuration.grpc_port
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if configuration.tls_cert is None or configuration.tls_key is None:
            return server, server.add_insecure_port(address)
        ca = configuration.client_ca
        credentials = grpc.ssl_server_credentials(
            [(configuration.tls_key.read_bytes(), configuration.tls_cert.read_bytes())],
            root_certificates=None if ca is None else ca.read_bytes(),
            require_client_auth=ca is not None,
        )
        return server, server.add_secure_port(address, credentials)
    except RuntimeError:
        raise OSError(f"cannot listen on {host}, port {port}, for gRPC") from None
