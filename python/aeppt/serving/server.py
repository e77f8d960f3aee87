"""Running the gateway: ports, TLS, and an end that lets requests in flight finish."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
from collections.abc import Iterator

import grpc
import uvicorn
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import (
    add_GRPCInferenceServiceServicer_to_server,
)
from prometheus_client import start_http_server

from aeppt.serving.configuration import Configuration
from aeppt.serving.gateway import Gateway
from aeppt.serving.grpc_service import GatewayInterceptor, GatewayService
from aeppt.serving.predictors import connect
from aeppt.serving.rest import RestApplication
from aeppt.serving.telemetry import Metrics, configure_logging, log


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
    metrics = Metrics()
    api_keys = configuration.api_keys()
    predictor = connect(configuration)
    gateway = Gateway(
        configuration.model_name,
        predictor,
        configuration.release(getattr(predictor, "output", configuration.output)),
        metrics,
        configuration.max_rows,
    )
    application = RestApplication(gateway, configuration, api_keys, metrics)
    listening = _listen(configuration.host, configuration.http_port)
    rest = _RestServer(_rest_config(configuration, application))
    service, grpc_port = None, None
    if not configuration.asks_v1:
        service, grpc_port = _grpc_server(
            configuration, gateway, GatewayInterceptor(api_keys, metrics)
        )
        await service.start()
    if configuration.metrics_port is not None:
        start_http_server(configuration.metrics_port, configuration.host, metrics.registry)

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    running = asyncio.create_task(rest.serve([listening]))
    log("serving", http_port=listening.getsockname()[1], grpc_port=grpc_port)
    await stop.wait()

    log("stopping")
    application.stopping = True
    rest.should_exit = True
    ending = [running] if service is None else [running, service.stop(configuration.drain_seconds)]
    await asyncio.gather(*ending)
    await predictor.close()
    log("stopped")


class _RestServer(uvicorn.Server):
    """Leaves the signals to :func:`_serve`, which stops gRPC at the same time."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=2048)
    except OSError as error:
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from None


def _rest_config(configuration: Configuration, application: RestApplication) -> uvicorn.Config:
    client_ca = configuration.client_ca
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=int(configuration.drain_seconds) or None,
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
        options=[
            ("grpc.max_receive_message_length", configuration.max_request_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ],
    )
    add_GRPCInferenceServiceServicer_to_server(GatewayService(gateway), server)
    address = f"{configuration.host}:{configuration.grpc_port}"
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
        raise OSError(f"cannot listen on {address} for gRPC") from None
