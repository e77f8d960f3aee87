"""What a gateway is told when it starts: checked before anything listens."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from aeppt.defenses import OutputDefense, find_key, load_defense, with_key
from aeppt.serving.outputs import Kind

MIN_API_KEY = 16  # characters; a shorter one can be guessed
NUMBER_BYTES = 32  # of a float64 in JSON, with all its digits and what separates it


class PredictorProtocol(str, Enum):
    """How the predictor is asked."""

    v1 = "v1"
    v2 = "v2"
    grpc_v2 = "grpc-v2"


@dataclass(frozen=True)
class Configuration:
    """Where the gateway listens, what it stands before, and its limits.

    Parameters
    ----------
    defense : Path
        A saved defense.
    predictor : str or None
        HOST:PORT of the model server, port 80 if not given; or None, and ``model`` is given.
    model : Path or None
        A model's file, served without a second server.
    predictor_protocol : PredictorProtocol
        How the predictor is asked.
    model_name : str
        The name of the model, the gateway's and the predictor's.
    output : str or None
        The output to protect. May be None for V1, where predictions can be bare rows, and for a
        model file with one output.
    kind : Kind
        What the numbers of that output are.
    allowed_outputs : tuple of str
        Outputs that leave unprotected.
    host, http_port, grpc_port, metrics_port
        Where to listen; a port of 0 is chosen by the system. With ``metrics_port`` None there are
        no metrics: with them a client could tell what became of a row.
    timeout : float
        Seconds that a predictor may take, and a request to arrive.
    drain_seconds : int
        Seconds that requests in flight get at the end.
    max_request_bytes, max_rows : int
        The largest request.
    api_key_file, key_file, tls_cert, tls_key, client_ca : Path or None
        Accepted API keys, one a line; the keyed hash's secret key; TLS.
    constant_time : bool
        Hold answers for a time that depends on their number of rows alone; refuse a defense that
        takes more steps on some rows.

    Raises
    ------
    ValueError
        Options that do not fit together or are out of range.
    FileNotFoundError
        A file does not exist.
    """

    defense: Path
    predictor: str | None = None
    model: Path | None = None
    predictor_protocol: PredictorProtocol = PredictorProtocol.v2
    model_name: str = "model"
    output: str | None = None
    kind: Kind = Kind.probabilities
    allowed_outputs: tuple[str, ...] = ()
    host: str = "0.0.0.0"
    http_port: int = 8080
    grpc_port: int = 8081
    metrics_port: int | None = None
    timeout: float = 30.0
    drain_seconds: int = 30
    max_request_bytes: int = 16 * 2**20
    max_rows: int = 4096
    api_key_file: Path | None = None
    key_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | None = None
    constant_time: bool = False

    def __post_init__(self) -> None:
        if (self.predictor is None) == (self.model is None):
            raise ValueError("give either --predictor HOST:PORT or --model FILE")
        if self.predictor is not None:
            _check_address(self.predictor)
            if self.output is None and not self.asks_v1:
                raise ValueError("--output must name the predictor's output to protect")
        if self.output in self.allowed_outputs:
            raise ValueError(f"--allow-output {self.output} would let the protected output leave")
        if not self.model_name or "/" in self.model_name:
            raise ValueError(f"--model-name must be a name without '/', got {self.model_name!r}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key need each other")
        if self.client_ca is not None and self.tls_cert is None:
            raise ValueError("--client-ca needs --tls-cert and --tls-key")
        for option, number in (
            ("timeout", self.timeout),
            ("max-request-bytes", self.max_request_bytes),
            ("max-rows", self.max_rows),
        ):
            if not number > 0:
                raise ValueError(f"--{option} must be positive, got {number}")
        if not self.drain_seconds >= 0:
            raise ValueError(f"--drain-seconds must not be negative, got {self.drain_seconds}")
        for option, path in (
            ("model", self.model),
            ("api-key-file", self.api_key_file),
            ("key-file", self.key_file),
            ("tls-cert", self.tls_cert),
            ("tls-key", self.tls_key),
            ("client-ca", self.client_ca),
        ):
            if path is not None and not path.is_file():
                raise FileNotFoundError(f"there is no file {path} for --{option}")

    @property
    def asks_v1(self) -> bool:
        """Whether the predictor speaks V1, which has neither named tensors nor gRPC."""
        return self.predictor is not None and self.predictor_protocol is PredictorProtocol.v1

    def max_answer_bytes(self, n_classes: int) -> int:
        """How large a predictor's answer may be: the most rows in JSON, and a request's size.

        The latter is for what stands beside the predictions.
        """
        return self.max_rows * n_classes * NUMBER_BYTES + self.max_request_bytes

    def load_defense(self) -> OutputDefense:
        """The defense, with the secret key that was given for it.

        Raises
        ------
        FileNotFoundError, ValueError
            There is none, it is damaged, the key is not one, or its work depends on the row where
            that must not be.
        """
        defense = load_defense(self.defense)
        key = find_key(self.key_file)
        if key is not None:
            defense = with_key(defense, key)
        search = getattr(defense.module_, "options", None)
        if self.constant_time and search is not None and not search.constant_time:
            raise ValueError(
                f"--constant-time: {type(defense).__name__} in {self.defense} works longer on some "
                "rows than on others; fit it with constant_time=True, or take a defense that does "
                "not search, such as PrivacyFunnel"
            )
        return defense

    def api_keys(self) -> ApiKeys:
        """The accepted API keys.

        Raises
        ------
        ValueError
            The file holds none, or one that is too short.
        """
        if self.api_key_file is None:
            return ApiKeys(())
        lines = self.api_key_file.read_bytes().split(b"\n")
        keys = [line.strip() for line in lines if line.strip()]
        if not keys or min(map(len, keys)) < MIN_API_KEY:
            raise ValueError(
                f"{self.api_key_file} must hold API keys, one a line, of at least "
                f"{MIN_API_KEY} characters"
            )
        return ApiKeys(tuple(_digest(key) for key in keys))


@dataclass(frozen=True)
class ApiKeys:
    """Digests of the accepted API keys; with none of them everyone is let in."""

    digests: tuple[bytes, ...]

    def accept(self, authorization: bytes, x_api_key: bytes) -> bool:
        """Whether a header holds a key: ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``."""
        if not self.digests:
            return True
        scheme, _, token = authorization.partition(b" ")
        given = token.strip() if scheme.lower() == b"bearer" else x_api_key
        # Digests have one length, and all are compared: time tells nothing of the keys.
        digest = _digest(given)
        matches = [hmac.compare_digest(digest, accepted) for accepted in self.digests]
        return True in matches


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _check_address(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if colon and not (host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"--predictor must be HOST:PORT, got {address!r}")
    if not address or any(character in address for character in "/@?# "):
        raise ValueError(f"--predictor must be HOST:PORT, got {address!r}")
