"""What the gateway tells of itself: metrics and one line of JSON per request, never a payload."""

from __future__ import annotations

import logging
import sys
import warnings
from datetime import datetime, timezone
from pathlib import Path
from typing import TextIO

import orjson
from prometheus_client import CollectorRegistry, Counter, Histogram

from aeppt.serving.outputs import Protection
from aeppt.serving.refusals import Reason
from aeppt_ext import Status

logger = logging.getLogger("aeppt.serving")
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """Counters and histograms in an own registry: sums over requests, nothing per record."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._rows = Counter(
            "aeppt_protected_rows",
            "Rows protected, by what became of them",
            ["status"],
            registry=self.registry,
        )
        self._refused = Counter(
            "aeppt_refused_requests", "Requests refused", ["reason"], registry=self.registry
        )
        self._protection = Histogram(
            "aeppt_protection_seconds",
            "Time that protecting a request's rows took",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._request = Histogram(
            "aeppt_request_seconds",
            "Time from a prediction request's arrival to its answer",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._by_status = [self._rows.labels(status.name) for status in Status]
        self._by_reason = {reason: self._refused.labels(reason.label) for reason in Reason}

    def count(self, protection: Protection) -> None:
        """Count what was protected."""
        for counter, rows in zip(self._by_status, protection.status_counts.tolist(), strict=True):
            if rows:
                counter.inc(rows)
        self._protection.observe(protection.seconds)

    def refuse(self, reason: Reason) -> None:
        """Count a refused request."""
        self._by_reason[reason].inc()

    def observe(self, seconds: float) -> None:
        """Count a prediction request's time."""
        self._request.observe(seconds)


def log(event: str, **facts: object) -> None:
    """Write one line of JSON."""
    logger.info("", extra={"facts": {"event": event, **facts}})


def place(error: BaseException) -> str:
    """Where an error was raised, ``module:line``; its message may hold a payload."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_globals['__name__']}:{trace.tb_lineno}"


class JsonLines(logging.Formatter):
    """Records as lines of JSON; of other packages' records only where they were made.

    Messages of a server, a client or a model may hold a request or an answer.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record's line."""
        facts = getattr(record, "facts", None)
        if record.name != logger.name or facts is None:
            facts = {
                "event": "message",
                "logger": record.name,
                "where": f"{record.module}:{record.lineno}",
            }
            if record.exc_info and record.exc_info[0]:
                facts["exception"] = record.exc_info[0].__name__
        at = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        return orjson.dumps({"time": at, "level": record.levelname, **facts}).decode()


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    log("warning", category=category.__name__, where=f"{Path(filename).stem}:{lineno}")


def configure_logging() -> None:
    """Send all logging and all warnings to the standard error stream, by :class:`JsonLines`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.root.handlers = [handler]
    logging.root.setLevel(logging.WARNING)
    warnings.showwarning = _log_warning
    for name in ("kserve", "kserve.trace", "uvicorn", "uvicorn.error", "uvicorn.access", "httpx"):
        foreign = logging.getLogger(name)
        foreign.handlers, foreign.propagate = [], True
        foreign.setLevel(logging.WARNING)
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
