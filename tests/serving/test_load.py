"""The gateway under load: no request fails, and what a request takes is given back.

Response times and throughput are ``benchmarks/serving``'s business: a test that asserts them fails
on a busy machine.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import uvloop

from aeppt import PrivacyFunnel

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "serving"))
import servers
import soak
from load import message

SECONDS, WARM_UP = 60, 15
#: What memory may grow by in the 4,500 requests after warm-up. A leak of the least that a request
#: brings, its body, would be three times that.
LEAST_BODY = 150  # bytes


@pytest.mark.slow
def test_a_minute_of_load_fails_nobody_and_leaks_nothing(tmp_path: Path) -> None:
    defense = tmp_path / "defense.safetensors"
    servers.fitted(PrivacyFunnel(random_state=0)).save(defense)
    log = tmp_path / "gateway.log"
    with (
        servers.classifier() as predictor,
        servers.gateway(predictor, "v2", defense, log) as gateway,
    ):
        found, samples = uvloop.run(soak.loaded(gateway, SECONDS, sample_seconds=1))
    assert len(found.seconds) == SECONDS * soak.RATE
    assert found.failures == {}, log.read_text()[-2000:]
