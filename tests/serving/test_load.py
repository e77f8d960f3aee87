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
#: What memory may grow by after that, in bytes: the bodies of the 4,500 requests alone, without
#: their answers or anything made of them, are 2.1 MB. Without a leak it grows by 0.4 MB.
GROWTH = 1.5e6


@pytest.mark.slow
def test_a_minute_of_load_fails_nobody_and_leaks_nothing(tmp_path: Path) -> None:
    defense, log = tmp_path / "defense.safetensors", tmp_path / "gateway.log"
    servers.fitted(PrivacyFunnel(random_state=0)).save(defense)
    with (
        servers.classifier() as predictor,
        servers.gateway(predictor, "v2", defense, log) as gateway,
    ):
        found, samples = uvloop.run(soak.loaded(gateway, SECONDS, sample_seconds=1))
    assert not found.failures, log.read_text()[-2000:]
    assert np.isfinite(found.seconds).sum() == SECONDS * soak.RATE
    held = [bytes_held for second, bytes_held in samples if second >= WARM_UP]
    # Medians of ten: a single sample may catch what a request holds for a moment.
    assert np.median(held[-10:]) - np.median(held[:10]) < GROWTH
