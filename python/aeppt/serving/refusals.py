"""Why a request is refused, and how that is told: once for REST and gRPC.

A message says what was wrong in words of the gateway alone. It never holds what a predictor said,
since that may hold inputs or predictions.
"""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """Name for the metrics, HTTP status, and the name of the gRPC status."""

    INVALID_REQUEST = ("invalid_request", 400, "INVALID_ARGUMENT")
    UNAUTHENTICATED = ("unauthenticated", 401, "UNAUTHENTICATED")
    NOT_FOUND = ("not_found", 404, "NOT_FOUND")
    WRONG_METHOD = ("wrong_method", 405, "UNIMPLEMENTED")
    SLOW_REQUEST = ("slow_request", 408, "DEADLINE_EXCEEDED")
    TOO_LARGE = ("too_large", 413, "RESOURCE_EXHAUSTED")
    INTERNAL = ("internal", 500, "INTERNAL")
    UNUSABLE_ANSWER = ("unusable_answer", 502, "INTERNAL")
    UNREACHABLE = ("unreachable", 503, "UNAVAILABLE")
    BUSY = ("busy", 503, "UNAVAILABLE")
    STOPPING = ("stopping", 503, "UNAVAILABLE")
    TIMEOUT = ("timeout", 504, "DEADLINE_EXCEEDED")

    def __init__(self, label: str, http_status: int, grpc_status: str) -> None:
        self.label = label
        self.http_status = http_status
        self.grpc_status = grpc_status


class RefusedError(Exception):
    """The request gets an error in place of an answer."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class InputError(ValueError):
    """An input is not what a model takes; the message names it, and tells nothing of values."""


def unusable(message: str) -> RefusedError:
    """The refusal of a predictor's answer that cannot be protected."""
    return RefusedError(Reason.UNUSABLE_ANSWER, f"the predictor's answer is unusable: {message}")


def invalid(message: str) -> RefusedError:
    """The refusal of a request that is not valid."""
    return RefusedError(Reason.INVALID_REQUEST, message)


def too_slow(seconds: float) -> RefusedError:
    """The refusal to wait longer for a predictor."""
    return RefusedError(Reason.TIMEOUT, f"the predictor took longer than {seconds:g} s")


def unreachable() -> RefusedError:
    """The refusal where a predictor does not answer at all."""
    return RefusedError(Reason.UNREACHABLE, "the predictor cannot be reached")
