"""The op as PyTorch sees it: schema, fake kernel, torch.compile, the fallback, and imports."""

from __future__ import annotations

import re
from types import ModuleType

import pytest
import torch
from search_helpers import DTYPES, Substitute, in_layout, run, run_script, trained_problem
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import aeppt_ext
from aeppt_ext import SearchOptions, SearchResult, ops
from aeppt_ext.options import OPTION_NAMES

OPTIONS = (
    SearchOptions(),
    SearchOptions(features="raw", direction="both", space="logit", norm="l2", step_size=0.3),
    SearchOptions(features="top3", max_l1=0.1, constant_time=True, max_steps=3),
    SearchOptions(features="sorted_raw", max_l1=0.1),
    SearchOptions(on_invalid="passthrough", refine_steps=0, max_l1=0.0),
)


def problem(features: str, n: int = 12) -> tuple[Tensor, Substitute]:
    probs, substitute = trained_problem(features, 10, n)
    return probs.float(), substitute.to(torch.float32)


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o.features}-{o.on_invalid}")
def test_opcheck(options: SearchOptions, layout: str) -> None:
    probs, substitute = problem(options.features)
    values = [getattr(options, name) for name in OPTION_NAMES]
    outcome = torch.library.opcheck(
        torch.ops.aeppt.perturb_search.default,
        (in_layout(probs, layout), substitute.weights, substitute.biases, *values),
    )
    assert set(outcome.values()) == {"SUCCESS"}


def test_the_schema_is_the_one_declared() -> None:
    assert str(torch.ops.aeppt.perturb_search.default._schema) == "aeppt::" + ops.SCHEMA
    declared = re.findall(r"(\w+)(?:,|\) ->)", ops.SCHEMA)
    assert tuple(declared[: 3 + len(OPTION_NAMES)]) == ("probs", "weights", "biases", *OPTION_NAMES)


@pytest.mark.parametrize("n", [0, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_fake_results_look_like_real_ones(dtype: torch.dtype, n: int) -> None:
    probs, substitute = trained_problem("sorted", 10, 20)
    probs, substitute = probs[:n].to(dtype).t().contiguous().t(), substitute.to(dtype)
    real = run("kernel", probs, substitute, SearchOptions())
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = run("kernel", mode.from_tensor(probs), substitute, SearchOptions())
    for name, left, right in zip(real._fields, real, fake, strict=True):
        assert left.shape == right.shape, name
        assert left.dtype == right.dtype, name
        assert left.stride() == right.stride(), name
        assert left.device == right.device, name


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_is_equal_to_eager(dynamic: bool) -> None:
    probs, substitute = problem("sorted", 40)
    options = SearchOptions(max_l1=0.3)

    def protect(logits: Tensor) -> SearchResult:
        rows = logits.exp()
        return aeppt_ext.perturb_search(rows, substitute.weights, substitute.biases, options)

    torch._dynamo.reset()
    compiled = torch.compile(protect, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for n in (40, 17) if dynamic else (40,):
        for left, right in zip(compiled(probs[:n].log()), protect(probs[:n].log()), strict=True):
            assert torch.equal(left, right)


def test_inductor_takes_the_op() -> None:
    probs, substitute = problem("sorted")
    options = SearchOptions()
    torch._dynamo.reset()
    compiled = torch.compile(aeppt_ext.perturb_search, fullgraph=True)
    result = compiled(probs, substitute.weights, substitute.biases, options)
    for left, right in zip(result, run("kernel", probs, substitute, options), strict=True):
        assert torch.equal(left, right)


def test_results_do_not_share_memory_with_the_input() -> None:
    probs, substitute = problem("sorted")
    result = run("kernel", probs, substitute, SearchOptions(max_steps=0))
    assert torch.equal(result.probs, probs)
    assert result.probs.data_ptr() != probs.data_ptr()


FALLBACK = """
import sys, warnings
sys.modules["aeppt_ext._C"] = None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import aeppt_ext
ours = [w for w in caught if "aeppt" in str(w.message)]
assert [w.category for w in ours] == [RuntimeWarning], ours
assert "aeppt runs without its compiled extension" in str(ours[0].message)

import torch
from aeppt_ext import SearchOptions, ops
from aeppt_ext.options import OPTION_NAMES
from search_helpers import ENGINES, run, trained_problem

torch.set_num_threads(1)
assert ops.compiled is None
assert "aeppt_ext._C" in ops.load_error
probs, substitute = trained_problem("sorted", 10, 40)
for options in (SearchOptions(), SearchOptions(space="logit", step_size=0.3, max_l1=0.1)):
    for left, right in zip(*(run(e, probs, substitute, options) for e in ENGINES), strict=True):
        assert torch.equal(left, right)
op = torch.ops.aeppt.perturb_search.default
assert str(op._schema) == "aeppt::" + ops.SCHEMA
values = [getattr(SearchOptions(), name) for name in OPTION_NAMES]
outcome = torch.library.opcheck(op, (probs, substitute.weights, substitute.biases, *values))
assert set(outcome.values()) == {"SUCCESS"}, outcome
compiled = torch.compile(aeppt_ext.perturb_search, fullgraph=True, backend="aot_eager")
result = compiled(probs, substitute.weights, substitute.biases, SearchOptions())
expected = run("reference", probs, substitute, SearchOptions())
assert all(torch.equal(left, right) for left, right in zip(result, expected, strict=True))
try:
    run("kernel", probs * 2, substitute, SearchOptions())
except ValueError as error:
    assert "probs row 0 is not a probability vector" in str(error)
else:
    raise AssertionError("a bad row was accepted")
try:
    run("kernel", probs, substitute, SearchOptions(constant_time=True))
except RuntimeError as error:
    assert "constant_time needs the compiled extension" in str(error)
else:
    raise AssertionError("time was said to be constant")
print("done")
"""


def test_without_the_extension_the_reference_answers() -> None:
    done = run_script(FALLBACK)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done"


def test_the_compute_layer_imports_only_torch() -> None:
    script = """
import sys, torch
before = {name.split(".")[0] for name in sys.modules}
import aeppt_ext
print(sorted({name.split(".")[0] for name in sys.modules} - before - sys.stdlib_module_names))
print([n for n in ("sklearn", "pandas", "scipy", "aeppt") if n in sys.modules])
"""
    done = run_script(script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['aeppt_ext']", "[]"]


def test_build_facts(compiled_module: ModuleType) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", compiled_module.version)
    assert re.match(r"(gcc|clang) \d+", compiled_module.compiler)
    sets = compiled_module.instruction_sets()
    assert sets["baseline"] is True
    assert set(sets) <= {
        "baseline",
        "avx2",
        "avx512",
        "avx512_bf16",
        "amx",
        "amx_emulated",
        "emulated",
    }
    assert sets[compiled_module.instruction_set()] is True
    architecture = r"\d+\.\d+[af]?(\+PTX)?"
    pattern = rf"({architecture}(;{architecture})*)?"
    assert re.fullmatch(pattern, compiled_module.cuda_architectures)
