"""Response times at the running gateway tell nothing of membership, where they could.

The queries' order is random, so under "time tells nothing" the two sides' times are exchangeable,
whatever else the machine does meanwhile, and the rank-sum test is exact: a right gateway fails one
run in ten thousand. That the test sees a difference where there is one is asserted too, on the same
defense without constant time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import uvloop
from scipy.stats import mannwhitneyu

from aeppt import AEPPT

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "serving"))
import response_times
import servers
from load import Form

QUERIES = 600
FALSE_ALARM = 1e-4


@pytest.mark.slow
def test_constant_time_hides_what_the_search_would_tell(tmp_path: Path) -> None:
    inputs, is_member = response_times.balanced_queries(QUERIES, seed=3)

    def p_value(predictor: servers.Server, constant_time: bool) -> float:
        """Of the hypothesis that members and others take equally long."""
        defense = AEPPT(**response_times.SEARCH, constant_time=constant_time)
        path = tmp_path / f"{constant_time}.safetensors"
        servers.fitted(defense, 600).save(path)
        with servers.gateway(predictor, "grpc-v2", path) as gateway:
            seconds = uvloop.run(response_times.response_times(gateway, Form.grpc, inputs))
        return float(mannwhitneyu(seconds[is_member], seconds[~is_member]).pvalue)

    with servers.classifier() as predictor:
        assert p_value(predictor, constant_time=True) > FALSE_ALARM
        assert p_value(predictor, constant_time=False) < FALSE_ALARM
