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

SECONDS, WARM_UP = 60, 15
#: Of each request, so that a leak shows.
ROWS = 16
#: What memory may grow by after that, in bytes: the 4,500 answers alone, without the requests or
#: anything made of them, are 30 MB and more. Without a leak the allocator makes it grow by 4 MB.
GROWTH = 10e6


@pytest.mark.slow
def test_a_minute_of_load_fails_nobody_and_leaks_nothing(tmp_path: Path) -> None:
    defense, log = tmp_path / "defense.safetensors", tmp_path / "gateway.log"
    servers.fitted(PrivacyFunnel(random_state=0)).save(defense)
    with (
        servers.classifier() as predictor,
        servers.gateway(predictor, "v2", defense, log) as gateway,
    ):
        found, samples = uvloop.run(soak.loaded(gateway, SECONDS, 1, ROWS))
    assert not found.failures, log.read_text()[-2000:]
    assert np.isfinite(found.seconds).sum() == SECONDS * soak.RATE
    held = [bytes_held for second, bytes_held in samples if second >= WARM_UP]
    # Medians of ten: a single sample may catch what a request holds for a moment.
    assert np.median(held[-10:]) - np.median(held[:10]) < GROWTH
