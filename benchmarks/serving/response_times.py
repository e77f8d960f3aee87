"""What response times tell of membership: python response_times.py [--save FILE] [--queries N].

Queries which the model answers as it answers members, and others, are sent in random order, one at
a time, over one connection to the running gateway; each time is then an attacker's score. Their AUC
is one half where time tells nothing. A query holds its record several times, as an attacker's
would: what the record takes then stands out from what the request takes. ``AEPPT`` searches longer
for some rows than for others; asked for constant time it still sorts some faster, so the gateway
with ``--constant-time`` holds its answers too. ``PrivacyFunnel`` does not search.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import predictor
import servers
import uvloop
from load import Client, Form, message
from measurements import facts, quantiles_ms, save
from numpy.typing import NDArray

from aeppt import AEPPT, PrivacyFunnel
from aeppt.defenses import OutputDefense
from aeppt.roc import area_under_roc

WARM_UP = 100
COPIES = 8
#: A search of short steps, the more of them the surer the row: what constant time is there to hide.
SEARCH: Mapping[str, Any] = {"method": "step", "step_size": 0.015, "max_steps": 100}
CONSTANT = AEPPT(**SEARCH, constant_time=True)
#: A defense, and options of the gateway.
CASES: Mapping[str, tuple[OutputDefense, tuple[str, ...]]] = {
    "AEPPT, steps": (AEPPT(**SEARCH), ()),
    "AEPPT, steps, constant time": (CONSTANT, ()),
    "AEPPT, steps, constant time, held": (CONSTANT, ("--constant-time",)),
    "PrivacyFunnel": (PrivacyFunnel(random_state=0), ()),
    "PrivacyFunnel, held": (PrivacyFunnel(random_state=0), ("--constant-time",)),
}


async def response_times(
    server: servers.Server, form: Form, inputs: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Seconds [n] that the query for each record of ``inputs`` [n, d] took, one after another."""
    requests = [message(form, np.repeat(row[None], COPIES, axis=0)) for row in inputs]
    seconds = np.empty(len(requests))
    async with Client(form, server.port(form)) as client:
        for request in requests[:WARM_UP]:
            await client.ask(request)
        for i, request in enumerate(requests):
            start = time.perf_counter()
            await client.ask(request)
            seconds[i] = time.perf_counter() - start
    return seconds


def balanced_queries(n: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Inputs [n, d] in random order, and which of them [n], exactly half, look like members.

    The order is what makes the comparison sound: whatever else slows the machine down for a while
    strikes both sides alike.
    """
    inputs = servers.queries(n, seed)
    is_member = np.random.default_rng(seed).permuted(np.arange(n) < n // 2)
    inputs[:, 0] = np.where(is_member, 1, -1) * np.abs(inputs[:, 0])
    assert (predictor.looks_member(inputs) == is_member).all()
    return inputs, is_member


def measure(case: str, n: int, form: Form = Form.binary) -> dict[str, Any]:
    """The AUC of response times with its 95 % interval, and the times of both sides."""
    inputs, is_member = balanced_queries(n, seed=2)
    defense, options = CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "defense.safetensors"
        servers.fitted(defense).save(path)
        with (
            servers.classifier() as model,
            servers.gateway(model, "grpc-v2", path, None, *options) as gateway,
        ):
            seconds = uvloop.run(response_times(gateway, form, inputs))
    auc, low, high = area_under_roc(seconds, is_member)
    return {
        "auc": round(auc, 4),
        "auc_95": [round(low, 4), round(high, 4)],
        "members": quantiles_ms(seconds[is_member]),
        "others": quantiles_ms(seconds[~is_member]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--save", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--queries", type=int, default=20_000)
    arguments = parser.parse_args()
    found = {}
    for name in CASES:
        found[name] = measure(name, arguments.queries)
        print(name, found[name], file=sys.stderr, flush=True)
    if arguments.save:
        save({**facts(), "queries": arguments.queries, "defenses": found}, arguments.save)


if __name__ == "__main__":
    main()
