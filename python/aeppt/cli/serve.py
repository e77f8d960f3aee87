"""``aeppt serve``: a gateway before a model server, or a model's file served, both protected."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from aeppt.serving.configuration import Configuration, PredictorProtocol
from aeppt.serving.outputs import Kind

MODEL, RELEASE, LISTEN, SECURITY, LIMITS = (
    "What is asked",
    "What leaves",
    "Where it listens",
    "Keys and TLS",
    "Limits",
)


def serve(
    defense: Annotated[
        Path, typer.Option(help="The saved defense.", rich_help_panel=RELEASE)
    ] = Path("defense.safetensors"),
    predictor: Annotated[
        str | None,
        typer.Option(
            "--predictor",
            "--predictor_host",
            help="HOST:PORT of a model server, whatever it runs.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    predictor_protocol: Annotated[
        PredictorProtocol,
        typer.Option(
            "--predictor-protocol",
            "--predictor_protocol",
            help="How the model server is asked.",
            rich_help_panel=MODEL,
        ),
    ] = PredictorProtocol.v2,
    model: Annotated[
        Path | None,
        typer.Option(
            help="A .pt2, .onnx or .skops file to serve, in place of --predictor.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    model_name: Annotated[
        str,
        typer.Option(
            "--model-name",
            "--model_name",
            help="The model's name, here and at the model server.",
            rich_help_panel=MODEL,
        ),
    ] = "model",
    output: Annotated[
        str | None,
        typer.Option(
            help="The output to protect. With V1, the key in each prediction, if they are objects.",
            rich_help_panel=RELEASE,
        ),
    ] = None,
    kind: Annotated[
        Kind, typer.Option(help="What its numbers are.", rich_help_panel=RELEASE)
    ] = Kind.probabilities,
    allow_output: Annotated[
        list[str] | None,
        typer.Option(
            help="An output that may leave as it is, unprotected; may be repeated. All others "
            "are dropped.",
            rich_help_panel=RELEASE,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen on.", rich_help_panel=LISTEN)
    ] = "0.0.0.0",
    http_port: Annotated[
        int,
        typer.Option(
            "--http-port",
            "--http_port",
            help="For REST; 0 for any.",
            rich_help_panel=LISTEN,
            min=0,
            max=65535,
        ),
    ] = 8080,
    grpc_port: Annotated[
        int,
        typer.Option(
            "--grpc-port",
            "--grpc_port",
            help="For gRPC; 0 for any.",
            rich_help_panel=LISTEN,
            min=0,
            max=65535,
        ),
    ] = 8081,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            help="For metrics; must be closed to clients. If not given, there are none.",
            rich_help_panel=LISTEN,
            min=1,
            max=65535,
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="API keys to accept, one a line.", rich_help_panel=SECURITY),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            help="The secret key of the defense's keyed hash, in place of the saved one; or in "
            "the environment, as AEPPT_KEY.",
            rich_help_panel=SECURITY,
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate chain, PEM.", rich_help_panel=SECURITY)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="Its private key, PEM.", rich_help_panel=SECURITY)
    ] = None,
    client_ca: Annotated[
        Path | None,
        typer.Option(
            help="Clients must have a certificate of this authority, PEM.",
            rich_help_panel=SECURITY,
        ),
    ] = None,
    constant_time: Annotated[
        bool,
        typer.Option(
            "--constant-time",
            help="Hold each answer for a time that depends on its number of rows alone; refuse "
            "a defense that takes more steps on some rows.",
            rich_help_panel=SECURITY,
        ),
    ] = False,
    timeout: Annotated[
        float, typer.Option(help="Seconds that the model may take.", rich_help_panel=LIMITS)
    ] = 30.0,
    drain_seconds: Annotated[
        int,
        typer.Option(
            help="Seconds that requests in flight get after SIGTERM.", rich_help_panel=LIMITS
        ),
    ] = 30,
    max_request_bytes: Annotated[
        int, typer.Option(help="The largest request, in bytes.", rich_help_panel=LIMITS)
    ] = 16 * 2**20,
    max_rows: Annotated[
        int, typer.Option(help="The most rows in one request.", rich_help_panel=LIMITS)
    ] = 4096,
) -> None:
    """Stand before a model server and let out only protected predictions.

    Speaks V1 and V2 of the Open Inference Protocol over REST, and V2 over gRPC.
    """
    configuration = Configuration(
        defense=defense,
        predictor=predictor,
        model=model,
        predictor_protocol=predictor_protocol,
        model_name=model_name,
        output=output,
        kind=kind,
        allowed_outputs=tuple(allow_output or ()),
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        timeout=timeout,
        drain_seconds=drain_seconds,
        max_request_bytes=max_request_bytes,
        max_rows=max_rows,
        api_key_file=api_key_file,
        key_file=key_file,
        tls_cert=tls_cert,
        tls_key=tls_key,
        client_ca=client_ca,
        constant_time=constant_time,
    )
    # kserve reads the command line when it is imported, and must not take this one for its own.
    sys.argv = sys.argv[:1]
    try:
        from aeppt.serving.server import serve as run
    except ModuleNotFoundError as error:
        raise ValueError(
            f'serving needs {error.name}, which is not installed: install aeppt\'s extra "serve"'
        ) from None
    run(configuration)
