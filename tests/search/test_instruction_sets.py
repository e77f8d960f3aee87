"""Every instruction-set variant that this processor can run agrees with the reference."""

from __future__ import annotations

import json
from types import ModuleType

import pytest
from search_helpers import run_script

CHECK = """
import json, itertools, torch
from aeppt_ext import SearchOptions, _C
from aeppt_ext.options import FEATURES, METHODS, NORMS, SPACES
from search_helpers import ENGINES, Agreement, run, trained_problem

torch.set_num_threads(1)
found = {"isa": _C.instruction_set()}
for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
    agreement = Agreement(tolerance)
    for k, n in ((3, 50), (10, 100), (130, 20), (300, 10)):
        for features, space, norm, method in itertools.product(FEATURES, SPACES, NORMS, METHODS):
            probs, substitute = trained_problem(features, k, n, (37, 20))
            probs, substitute = probs.to(dtype), substitute.to(dtype)
            options = SearchOptions(
                features=features, direction="both", space=space, norm=norm, method=method,
                margin=0.2, step_size=0.02 if space == "prob" else 0.3, max_steps=25,
            )
            results = [run(engine, probs, substitute, options) for engine in ENGINES]
            agreement.add(*results, f"k={k} {features} {space} {norm} {method}")
            alone = run("kernel", probs[5:6], substitute, options)
            assert torch.equal(alone.probs, results[0].probs[5:6])
    found[str(dtype)] = vars(agreement)
print(json.dumps(found))
"""


#: The fastest first; then those that emulate another machine.
NATIVE = ("amx", "avx512_bf16", "avx512", "avx2", "baseline")
EMULATED = ("amx_emulated", "emulated")


@pytest.mark.parametrize("name", [*NATIVE, *EMULATED])
def test_each_variant_agrees_with_the_reference(name: str, compiled_module: ModuleType) -> None:
    if not compiled_module.instruction_sets().get(name, False):
        pytest.skip(f"this build on this processor has no {name}")
    done = run_script(CHECK, {"AEPPT_ISA": name})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["isa"] == name
    single, double = found["torch.float32"], found["torch.float64"]
    assert double["other_status"] == double["flips"] == 0, double["notes"]
    assert single["other_status"] <= 0.001 * single["rows"], single["notes"]
    assert single["flips"] <= 0.003 * single["rows"], single["notes"]
    assert single["successes"] > 0.5 * single["searched"]


def test_an_unknown_instruction_set_is_an_error(compiled_module: ModuleType) -> None:
    script = """
import torch, aeppt_ext
from aeppt_ext import SearchOptions
probs = torch.full((2, 4), 0.25)
aeppt_ext.perturb_search(probs, [torch.ones(1, 4)], [torch.zeros(1)], SearchOptions())
"""
    done = run_script(script, {"AEPPT_ISA": "sse9"})
    assert done.returncode == 1
    message = done.stderr.strip().splitlines()[-1]
    told, names = message.split(", but this build on this processor has: ")
    assert told.endswith("AEPPT_ISA is 'sse9'")
    sets = compiled_module.instruction_sets()
    assert set(names.split(", ")) == {name for name, supported in sets.items() if supported}


def test_an_empty_choice_means_the_fastest(compiled_module: ModuleType) -> None:
    done = run_script("from aeppt_ext import _C; print(_C.instruction_set())", {"AEPPT_ISA": ""})
    sets = compiled_module.instruction_sets()
    fastest = next(name for name in NATIVE if sets.get(name, False))
    assert done.stdout.strip() == fastest
