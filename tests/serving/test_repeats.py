"""Asking the running gateway again gains nothing: a random defense's draws hang on the query.

``benchmarks/serving/neighbours.py`` measures what copies tell that are further from the record.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from aeppt import PrivacyFunnel

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "serving"))
import neighbours
import predictor
import servers
from load import Answer, Client, Form, message

pytestmark = pytest.mark.slow
REPEATS, AT_ONCE = 1000, 8
NOISE = 1e-4  # of inputs of about one: were the values themselves hashed, the AUC would be 0.73


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    path = tmp_path_factory.mktemp("gateway") / "defense.safetensors"
    servers.fitted(PrivacyFunnel(random_state=0)).save(path)
    with servers.classifier() as model, servers.gateway(model, "grpc-v2", path) as running:
        yield running


@pytest.mark.parametrize("form", Form)
def test_the_same_query_gets_the_same_bytes(gateway: servers.Server, form: Form) -> None:
    request = message(form, servers.queries(1))

    async def asked() -> set[Answer]:
        async with Client(form, gateway.port(form)) as client:

            async def ask(times: int) -> set[Answer]:
                return {await client.ask(request) for _ in range(times)}

            parts = await asyncio.gather(*(ask(REPEATS // AT_ONCE) for _ in range(AT_ONCE)))
            return set().union(*parts)

    assert len(uvloop.run(asked())) == 1


def test_near_copies_tell_no_more_than_one_answer(
    gateway: servers.Server,
) -> None:
    inputs = servers.queries(1000, seed=5)
    is_member = predictor.looks_member(inputs)
    bare = predictor.probabilities(inputs).max(axis=1, keepdims=True)
    _, undefended, _ = neighbours.learned(bare, is_member)
    found = neighbours.attacked(gateway, inputs, copies=30, noise=NOISE)["auc"]
    auc, low, _ = found["mean and spread"]
    assert low < 0.5
    assert auc < found["one answer"][0] + 0.02
    assert undefended > 0.65  # the attacker would find what there is to find
