"""What the gateway costs: python overhead.py [--save FILE] [--rounds N] [--seconds S].

A predictor of 100 classes, KServe's empty transformer in front of it, and the gateway in front of
it, all on this machine, are asked in turn, in every round, over each way that a request may take.
Open loop at 100 requests a second: response times, of all requests and of those sent while the
machine was not slow of itself (``probe.py``). Closed loop with 8 requests under way: throughput.
Figures are medians over the rounds.
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
from load import Client, Form, OpenLoop, closed_loop, message, open_loop
from measurements import facts, quantiles_ms, save
from probe import Probe

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


class Measured(NamedTuple):
    """One server in one round: response times, and answers a second."""

    timed: OpenLoop
    throughput: float


async def measured(form: Form, server: servers.Server, seconds: float) -> Measured:
    """Response times and throughput of one server."""
    inputs = servers.queries(QUERIES)
    async with Client(form, server.port(form)) as client:
        queries = [(client, message(form, row[None])) for row in inputs]
        await open_loop(queries, RATE, 1)  # warms up
        timed = await open_loop(queries, RATE, seconds)
        return Measured(timed, await closed_loop(queries, AT_ONCE, seconds / 2))


def figures(found: Measured, probe: Probe) -> dict[str, Any]:
    """Of one server in one round."""
    timed = found.timed
    quiet = ~probe.was_slow(timed.planned)
    return {
        **quantiles_ms(timed.seconds),
        **{f"quiet_{name}": ms for name, ms in quantiles_ms(timed.seconds[quiet]).items()},
        "quiet": round(float(quiet.mean()), 3),
        "client_late_p99_ms": round(1e3 * float(np.percentile(timed.lateness, 99)), 3),
        "failed": sum(timed.failures.values()),
        "failures": dict(timed.failures),
        "requests_per_second": round(found.throughput, 1),
    }


#: Of which it is told what the gateway adds; of all figures the median over the rounds.
TIMES = ("p50_ms", "p95_ms", "p99_ms", "quiet_p50_ms", "quiet_p95_ms", "quiet_p99_ms")
FIGURES = (*TIMES, "quiet", "requests_per_second", "client_late_p99_ms")


def summary(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Of one way: medians per target, and what the gateway adds."""
    medians: dict[str, dict[str, float]] = {
        target: {name: round(statistics.median(r[name] for r in of), 3) for name in FIGURES}
        for target, of in rounds.items()
    }
    direct, empty, gateway = (medians[target] for target in TARGETS)
    return {
        "medians": medians,
        **{f"added_{time}": round(gateway[time] - direct[time], 3) for time in TIMES},
        "throughput_of_empty": round(
            gateway["requests_per_second"] / empty["requests_per_second"], 3
        ),
        "failed": sum(r["failed"] for of in rounds.values() for r in of),
        "rounds": rounds,
    }


def measure(ways: Sequence[Way], rounds: int, seconds: float) -> dict[str, Any]:
    """All ways, ``rounds`` times, with all servers up throughout."""
    found: dict[str, dict[str, list[Measured]]] = {
        way.name: {target: [] for target in TARGETS} for way in ways
    }
    with ExitStack() as stack:
        probe = stack.enter_context(Probe())
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
                    one = uvloop.run(measured(way.form, server, seconds))
                    found[way.name][target].append(one)
                    median = 1e3 * np.nanmedian(one.timed.seconds)
                    print(number, way.name, target, f"{median:.2f} ms", file=sys.stderr, flush=True)
    return {
        way: summary({name: [figures(one, probe) for one in all_] for name, all_ in of.items()})
        for way, of in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--save", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each open loop")
    arguments = parser.parse_args()
    found = measure(WAYS, arguments.rounds, arguments.seconds)
    for name, way in found.items():
        all_, quiet = (
            f"p50 {way[f'added_{when}p50_ms']:+} ms, p99 {way[f'added_{when}p99_ms']:+} ms"
            for when in ("", "quiet_")
        )
        print(
            f"{name}: {all_}; while the machine was quiet {quiet}; "
            f"{way['throughput_of_empty']:.0%} of the empty transformer's throughput, "
            f"{way['failed']} failed"
        )
    if arguments.save:
        report = {**facts(), "rate": RATE, "at_once": AT_ONCE, "ways": found}
        save(report, arguments.save)


if __name__ == "__main__":
    main()
