"""The gateway under load for long: python soak.py [--minutes N] [--save FILE].

100 requests a second, the three forms of requests in turn, at a gateway in front of the predictor.
Reports failed requests, the response times of each minute, and how much memory the gateway holds,
every five seconds; growth is the slope of a line through that (Theil and Sen, which a few outliers
do not move), after a tenth of the time has passed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import servers
import uvloop
from load import Client, Form, OpenLoop, message, open_loop
from measurements import facts, quantiles_ms, save
from scipy.stats import theilslopes

from aeppt import PrivacyFunnel

RATE = 100.0
SAMPLE_SECONDS = 5.0
WARM_UP_SHARE = 0.1
MEBIBYTE = 2**20


def resident(pid: int) -> int:
    """Bytes of memory that a process and those it started hold."""
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    return sum(each.memory_info().rss for each in family)


async def loaded(
    server: servers.Server,
    seconds: float,
    sample_seconds: float = SAMPLE_SECONDS,
    rows: int = 1,
) -> tuple[OpenLoop, list[tuple[float, int]]]:
    """Load on the server for so long: what became of the requests, and (second, bytes) held.

    Each request has so many ``rows``.
    """
    samples: list[tuple[float, int]] = []
    start = time.perf_counter()

    async def watch() -> None:
        while True:
            samples.append((time.perf_counter() - start, resident(server.process.pid)))
            await asyncio.sleep(sample_seconds)

    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(Client(form, server.port(form))) for form in Form
        ]
        queries = [
            (client, message(client.form, inputs))
            for inputs in servers.queries(512 * rows).reshape(512, rows, -1)
            for client in clients
        ]
        watching = asyncio.create_task(watch())
        found = await open_loop(queries, RATE, seconds)
        watching.cancel()
    return found, samples


def growth(samples: list[tuple[float, int]], warm_up: float) -> dict[str, Any]:
    """What is held ``warm_up`` seconds after the start and at the end, and the slope between."""
    at, held = np.array([sample for sample in samples if sample[0] >= warm_up]).T
    held /= MEBIBYTE
    slope, _, low, high = theilslopes(held, at / 3600)
    return {
        "mib_after_warm_up": round(float(held[0]), 2),
        "mib_at_end": round(float(held[-1]), 2),
        "mib_per_hour": round(float(slope), 2),
        "mib_per_hour_95": [round(float(low), 2), round(float(high), 2)],
    }


def by_minute(found: OpenLoop) -> list[dict[str, Any]]:
    """Response times of each minute and how many requests failed in it."""
    size = round(60 * RATE)
    minutes = [found.seconds[first : first + size] for first in range(0, len(found.seconds), size)]
    return [{**quantiles_ms(minute), "failed": int(np.isnan(minute).sum())} for minute in minutes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--save", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--minutes", type=float, default=30.0)
    arguments = parser.parse_args()
    seconds = 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as folder:
        defense = Path(folder) / "defense.safetensors"
        servers.fitted(PrivacyFunnel(random_state=0)).save(defense)
        with (
            servers.classifier() as predictor,
            servers.gateway(predictor, "v2", defense) as gateway,
        ):
            found, samples = uvloop.run(loaded(gateway, seconds))
    report: dict[str, Any] = {
        **facts(),
        "minutes": arguments.minutes,
        "rate": RATE,
        "requests": len(found.seconds),
        "failed": sum(found.failures.values()),
        "failures": dict(found.failures),
        **quantiles_ms(found.seconds),
        "memory": growth(samples, WARM_UP_SHARE * seconds),
        "by_minute": by_minute(found),
        "resident_mib": [[round(at, 1), round(held / MEBIBYTE, 2)] for at, held in samples],
    }
    for name in ("requests", "failed", "failures", "p50_ms", "p99_ms", "memory"):
        print(name, report[name], file=sys.stderr)
    if arguments.save:
        save(report, arguments.save)


if __name__ == "__main__":
    main()
