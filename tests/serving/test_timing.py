"""Response times at the running gateway tell nothing of membership where it holds its answers.

The queries' order is random, so where time tells nothing the two sides' times are exchangeable,
whatever else the machine does meanwhile, and the rank-sum test is exact: a right gateway fails one
run in ten thousand. That the same test sees a defense that searches longer for some rows than for
others is asserted too. ``benchmarks/serving/response_times.py`` has the areas under the ROC curve.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import uvloop
from scipy.stats import mannwhitneyu

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "serving"))
import response_times
import servers
from load import Form

QUERIES = 500
FALSE_ALARM = 1e-4
HEARD = 0.05  # what leaks must be this unlikely by chance, also while other programs add noise


@pytest.mark.slow
def test_time_tells_nothing_where_answers_are_held(tmp_path: Path) -> None:
    inputs, is_member = response_times.balanced_queries(QUERIES, seed=3)

    def p_value(predictor: servers.Server, case: str) -> float:
        """Of the hypothesis that members and others take equally long."""
        path = tmp_path / "defense.safetensors"
        defense, options = response_times.CASES[case]
        servers.fitted(defense, 1000).save(path)
        with servers.gateway(predictor, "grpc-v2", path, None, *options) as gateway:
            seconds = uvloop.run(response_times.response_times(gateway, Form.grpc, inputs))
        return float(mannwhitneyu(seconds[is_member], seconds[~is_member]).pvalue)

    with servers.classifier() as predictor:
        assert p_value(predictor, "AEPPT, steps, constant time, held") > FALSE_ALARM
        assert p_value(predictor, "AEPPT, steps") < HEARD
