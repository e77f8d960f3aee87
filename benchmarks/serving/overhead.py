"""What the gateway costs: python overhead.py [--save FILE] [--rounds N] [--seconds S].

A predictor of 100 classes, KServe's empty transformer in front of it, and the gateway in front of
it, all on this machine, are asked in turn, in every round, over each way that a request may take.
Open loop at 100 requests a second: response times. Closed loop with 8 requests under way:
throughput. Figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import servers
import uvloop
from load import Client, Form, closed_loop, message, open_loop
from measurements import facts, quantiles_ms, save

from aeppt import PrivacyFunnel

RATE = 100.0
AT_ONCE = 8
QUERIES = 512
TARGETS = ("predictor", "empty transformer", "gateway")


class Way(NamedTuple):
    """How a client asks, and by which protocol the predictor is asked then."""

    form: Form
    behind: str

    @property
    def name(self) -> str:
        """Both, for people."""
        return f"{self.form.value}; behind: {'gRPC' if self.behind == 'grpc-v2' else 'REST'}"


WAYS = (
    Way(Form.json, "v2"),
    Way(Form.binary, "v2"),
    Way(Form.json, "grpc-v2"),
    Way(Form.grpc, "grpc-v2"),
)


async def measured(form: Form, server: servers.Server, seconds: float) -> dict[str, Any]:
    """Response times and throughput of one server."""
    inputs = servers.queries(QUERIES)
    async with Client(form, server.port(form)) as client:
        queries = [(client, message(form, row[None])) for row in inputs]
        await open_loop(queries, RATE, 1)  # warms up
        timed = await open_loop(queries, RATE, seconds)
        throughput = await closed_loop(queries, AT_ONCE, seconds / 2)
    return {
        **quantiles_ms(timed.seconds),
        "client_late_p99_ms": round(1e3 * float(np.percentile(timed.lateness, 99)), 3),
        "failed": sum(timed.failures.values()),
        "failures": dict(timed.failures),
        "requests_per_second": round(throughput, 1),
    }


FIGURES = ("p50_ms", "p95_ms", "p99_ms", "requests_per_second", "client_late_p99_ms")


def summary(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Of one way: medians per target, and what the gateway adds."""
    medians: dict[str, dict[str, float]] = {
        target: {name: round(statistics.median(r[name] for r in of), 3) for name in FIGURES}
        for target, of in rounds.items()
    }
    direct, empty, gateway = (medians[target] for target in TARGETS)
    return {
        "medians": medians,
        "added_p50_ms": round(gateway["p50_ms"] - direct["p50_ms"], 3),
        "added_p99_ms": round(gateway["p99_ms"] - direct["p99_ms"], 3),
        "throughput_of_empty": round(
            gateway["requests_per_second"] / empty["requests_per_second"], 3
        ),
        "failed": sum(r["failed"] for of in rounds.values() for r in of),
        "rounds": rounds,
    }


def measure(ways: Sequence[Way], rounds: int, seconds: float) -> dict[str, Any]:
    """All ways, ``rounds`` times, with all servers up throughout."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {
        way.name: {target: [] for target in TARGETS} for way in ways
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        defense = folder / "defense.safetensors"
        servers.fitted(PrivacyFunnel(random_state=0)).save(defense)
        predictor = stack.enter_context(servers.classifier())
        behind = {way.behind for way in ways}
        running = {
            (target, protocol): stack.enter_context(
                servers.empty_transformer(predictor, protocol)
                if target == "empty transformer"
                else servers.gateway(predictor, protocol, defense)
            )
            for protocol in sorted(behind)
            for target in TARGETS[1:]
        }
        for number in range(rounds):
            for way in ways:
                # Each goes first in its turn.
                for target in TARGETS[number % 3 :] + TARGETS[: number % 3]:
                    server = running.get((target, way.behind), predictor)
                    figures = uvloop.run(measured(way.form, server, seconds))
                    found[way.name][target].append(figures)
                    print(number, way.name, target, figures, file=sys.stderr, flush=True)
    return {way: summary(of) for way, of in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--save", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each open loop")
    arguments = parser.parse_args()
    found = measure(WAYS, arguments.rounds, arguments.seconds)
    for name, way in found.items():
        print(
            f"{name}: p50 +{way['added_p50_ms']} ms, p99 +{way['added_p99_ms']} ms, "
            f"{way['throughput_of_empty']:.0%} of the empty transformer's throughput, "
            f"{way['failed']} failed"
        )
    if arguments.save:
        report = {**facts(), "rate": RATE, "at_once": AT_ONCE, "ways": found}
        save(report, arguments.save)


if __name__ == "__main__":
    main()
