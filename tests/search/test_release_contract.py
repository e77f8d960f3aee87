"""The ranking release as PyTorch sees it, what it refuses, its instruction sets and its threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import ModuleType

import pytest
import torch
from release_helpers import KEY, assert_identical, make_tables, problem, run
from search_helpers import DTYPES, ENGINES, dirichlet, in_layout, run_script
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from aeppt_ext import ReleaseResult, ReleaseTables, check_tables, ops, rank_release

# ---- bad input ----


def valid_problem(dtype: torch.dtype = torch.float32) -> tuple[Tensor, ReleaseTables]:
    """Rows of 5 classes, and tables of 3 × 2 cells."""
    generator = torch.Generator().manual_seed(1)
    return dirichlet(20, 5, 1.0, generator).to(dtype), make_tables(5, dtype, generator, (3, 2), 2)


SPOILED_ROWS = {
    "nan": (float("nan"), "column 2 is nan (must be finite and not negative)"),
    "infinite": (float("inf"), "column 2 is inf (must be finite and not negative)"),
    "negative": (-0.25, "column 2 is -0.25 (must be finite and not negative)"),
    "too much": (5.0, "(must be 1 within 0.001)"),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", SPOILED_ROWS)
def test_a_bad_row_is_named(case: str, dtype: torch.dtype) -> None:
    probs, tables = valid_problem(dtype)
    value, reason = SPOILED_ROWS[case]
    probs[11, 2] = value
    probs[15, 0] = float("nan")  # a later one is not the first
    messages = []
    for engine in ENGINES:
        with pytest.raises(ValueError, match="probs row") as caught:
            run(engine, probs, tables, on_invalid="raise")
        messages.append(str(caught.value).split("\n")[0])
    assert messages[0] == messages[1]
    assert messages[0].startswith("probs row 11 is not a probability vector: ")
    assert reason in messages[0]


SPOILED_ARGUMENTS = {
    "one dimension": ({"probs": torch.ones(5)}, ValueError, r"probs must be \[n, k\], got \[5\]"),
    "one class": ({"probs": torch.ones(4, 1)}, ValueError, "probs must have at least 2 classes"),
    "float16": (
        {"probs": torch.ones(4, 5).half() / 5},
        TypeError,
        "probs must be float32 or float64",
    ),
    "edges in a matrix": (
        {"confidence_edges": torch.ones(2, 1).double()},
        ValueError,
        r"confidence_edges must be \[c - 1\], got \[2, 1\]",
    ),
    "shapes of too few": (
        {"shape_edges": torch.ones(2, 1).double()},
        ValueError,
        r"shape_edges must be \[3, s - 1\], got \[2, 1\]",
    ),
    "shapes in a vector": (
        {"shape_edges": torch.ones(3).double()},
        ValueError,
        r"shape_edges must be \[3, s - 1\], got \[3\]",
    ),
    "maps of too many": (
        {"map_of_class": torch.zeros(6).int()},
        ValueError,
        r"map_of_class must be \[5\], got \[6\]",
    ),
    "cumulative too small": (
        {"cumulative": torch.ones(2, 6, 5).double()},
        ValueError,
        r"cumulative must be \[m, 6, 6\] for 6 cells, got \[2, 6, 5\]",
    ),
    "no map": (
        {"cumulative": torch.ones(0, 6, 6).double()},
        ValueError,
        r"cumulative must be \[m, 6, 6\] for 6 cells, got \[0, 6, 6\]",
    ),
    "codebook too short": (
        {"codebook": torch.ones(5, 5)},
        ValueError,
        r"codebook must be \[6, 5\], got \[5, 5\]",
    ),
    "codebook of other dtype": (
        {"codebook": torch.ones(6, 5).double()},
        TypeError,
        "codebook must be .*got ",
    ),
    "edges in float32": (
        {"confidence_edges": torch.ones(2)},
        TypeError,
        "confidence_edges must be .*got ",
    ),
    "maps in int64": (
        {"map_of_class": torch.zeros(5).long()},
        TypeError,
        "map_of_class must be .*got ",
    ),
    "short key": ({"key": KEY[:8]}, ValueError, r"key must be \[16\], got \[8\]"),
    "key of integers": ({"key": KEY.int()}, TypeError, "key must be uint8, got "),
    "unknown choice": (
        {"on_invalid": "skip"},
        ValueError,
        "on_invalid must be one of 'raise', 'passthrough', got 'skip'",
    ),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", SPOILED_ARGUMENTS)
def test_wrong_arguments_are_refused(engine: str, case: str) -> None:
    probs, tables = valid_problem()
    changed, error, message = SPOILED_ARGUMENTS[case]
    arguments = {"probs": probs, "key": KEY, "on_invalid": "raise", **tables._asdict(), **changed}
    tables = ReleaseTables(*(arguments[name] for name in ReleaseTables._fields))
    with pytest.raises(error, match=message):
        run(engine, arguments["probs"], tables, arguments["key"], arguments["on_invalid"])


SPOILED_TABLES = {
    "confidence_edges": (1, 0.0, r"confidence_edges must ascend; .* \[0\]"),
    "shape_edges": ((2, 1), -1.0, r"shape_edges must ascend in each row; .* \[2, 0\]"),
    "map_of_class": (3, 2, r"map_of_class must be in \[0, 2\); .* \[3\]"),
    "cumulative": ((1, 4, 2), 0.0, r"cumulative must not decrease, .* \[1, 4, 2\]"),
    "codebook": ((2, 1), 1.0, r"codebook must decrease strictly in each row; .* \[2, 0\]"),
}


@pytest.mark.parametrize("name", SPOILED_TABLES)
def test_tables_that_make_no_sense_are_named(name: str) -> None:
    tables = make_tables(5, torch.float32, torch.Generator().manual_seed(2), (3, 3), 2)
    check_tables(tables)
    place, value, message = SPOILED_TABLES[name]
    getattr(tables, name)[place] = value
    with pytest.raises(ValueError, match=message):
        check_tables(tables)


def test_other_faults_of_tables_are_named() -> None:
    tables = make_tables(5, torch.float32, torch.Generator().manual_seed(2), (3, 3), 2)
    with pytest.raises(ValueError, match=r"cumulative must end at one; .* \[0, 0\]"):
        check_tables(tables._replace(cumulative=tables.cumulative * 0.5))
    with pytest.raises(ValueError, match="codebook must sum to one in each row"):
        check_tables(tables._replace(codebook=tables.codebook * 0.5))
    with pytest.raises(ValueError, match="codebook must be positive"):
        check_tables(tables._replace(codebook=tables.codebook - 0.5))


def test_tables_that_make_no_sense_are_not_read_outside() -> None:
    probs, tables = valid_problem()
    for wrong in (-5, 1 << 30):
        maps = torch.full((5,), wrong, dtype=torch.int32)
        nonsense = tables._replace(map_of_class=maps, cumulative=torch.zeros_like(tables[3]))
        kernel, plain = (run(engine, probs, nonsense) for engine in ENGINES)
        assert_identical(kernel, plain)
        assert (kernel.codeword == 5).all()


# ---- the op ----


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize("on_invalid", ["raise", "passthrough"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: torch.dtype, on_invalid: str, layout: str) -> None:
    probs, tables = valid_problem(dtype)
    outcome = torch.library.opcheck(
        torch.ops.aeppt.rank_release.default, (in_layout(probs, layout), *tables, KEY, on_invalid)
    )
    assert set(outcome.values()) == {"SUCCESS"}


def test_the_schema_is_the_one_declared() -> None:
    assert str(torch.ops.aeppt.rank_release.default._schema) == "aeppt::" + ops.RELEASE_SCHEMA


@pytest.mark.parametrize("n", [0, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_fake_results_look_like_real_ones(dtype: torch.dtype, n: int) -> None:
    probs, tables = valid_problem(dtype)
    probs = in_layout(probs[:n], "transposed")
    real = rank_release(probs, tables, KEY)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = rank_release(mode.from_tensor(probs), tables, KEY)
    for name, left, right in zip(real._fields, real, fake, strict=True):
        assert (left.shape, left.dtype, left.stride()) == (
            right.shape,
            right.dtype,
            right.stride(),
        ), name


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_is_equal_to_eager(dynamic: bool) -> None:
    probs, tables = valid_problem()

    def protect(logits: Tensor) -> ReleaseResult:
        return rank_release(logits.exp(), tables, KEY)

    torch._dynamo.reset()
    compiled = torch.compile(protect, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for n in (20, 7) if dynamic else (20,):
        logits = probs[:n].log()
        assert_identical(compiled(logits), protect(logits))


def test_inductor_takes_the_op() -> None:
    probs, tables = valid_problem()
    torch._dynamo.reset()
    compiled = torch.compile(rank_release, fullgraph=True)
    assert_identical(compiled(probs, tables, KEY), rank_release(probs, tables, KEY))


FALLBACK = """
import sys, warnings
sys.modules["aeppt_ext._C"] = None
warnings.simplefilter("ignore")
import torch
from aeppt_ext import Status, ops, rank_release
from release_helpers import KEY, assert_identical, problem, run

assert ops.compiled is None
probs, tables = problem(10, torch.float32)
expected = run("reference", probs, tables)
assert_identical(run("kernel", probs, tables), expected)
op = torch.ops.aeppt.rank_release.default
assert str(op._schema) == "aeppt::" + ops.RELEASE_SCHEMA
valid = probs[expected.status != Status.INVALID]
outcome = torch.library.opcheck(op, (valid, *tables, KEY, "raise"))
assert set(outcome.values()) == {"SUCCESS"}, outcome
compiled = torch.compile(rank_release, fullgraph=True, backend="aot_eager")
assert_identical(compiled(probs, tables, KEY, "passthrough"), expected)
print("done")
"""


def test_without_the_extension_the_reference_answers() -> None:
    done = run_script(FALLBACK)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done"


# ---- instruction sets ----

CHECK = """
import torch
from aeppt_ext import _C
from release_helpers import CLASSES, assert_identical, problem, run

torch.set_num_threads(1)
for k in CLASSES:
    for dtype in (torch.float32, torch.float64):
        probs, tables = problem(k, dtype)
        assert_identical(run("kernel", probs, tables), run("reference", probs, tables))
        assert_identical(run("kernel", probs[5:6], tables), run("reference", probs[5:6], tables))
print(_C.instruction_set())
"""


@pytest.mark.parametrize(
    "name", ["amx", "avx512_bf16", "avx512", "avx2", "baseline", "amx_emulated", "emulated"]
)
def test_each_variant_is_equal_to_the_reference(name: str, compiled_module: ModuleType) -> None:
    if not compiled_module.instruction_sets().get(name, False):
        pytest.skip(f"this build on this processor has no {name}")
    done = run_script(CHECK, {"AEPPT_ISA": name, "AEPPT_TEST_DEVICE": "cpu"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == name


# ---- threads ----

compiled_only = pytest.mark.skipif(ops.compiled is None, reason="needs the compiled extension")

PROGRAM = """
import os
import torch
from release_helpers import KEY, make_tables
from aeppt_ext import rank_release

tables = make_tables(10, torch.float32, torch.Generator().manual_seed(0))

def release(rows):
    return rank_release(torch.arange(10.0).softmax(0).expand(rows, -1), tables, KEY)

def threads():
    return len(os.listdir("/proc/self/task"))

release(1)
"""


@compiled_only
@pytest.mark.parametrize(("rows", "threads"), [(100_000, 1), (100_000, 3), (100, 3)])
def test_takes_as_many_threads_as_torch_has_and_rows_need(rows: int, threads: int) -> None:
    counted = f"before = threads(); release({rows}); print(threads() - before)"
    done = run_script(f"{PROGRAM}torch.set_num_threads({threads})\n{counted}", {"AEPPT_ISA": ""})
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == (threads - 1 if rows > 1000 else 0)


@compiled_only
def test_interrupt_ends_a_call_and_loses_nothing() -> None:
    """On the emulated GPU, which takes minutes for what the processor itself does at once."""
    text = """
print("ready", flush=True)
try:
    release(20_000_000)
except KeyboardInterrupt:
    print("interrupted", release(3).status.tolist())
"""
    folder = os.path.dirname(__file__)  # noqa: PTH120
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM + text],
        env=os.environ
        | {"AEPPT_ISA": "emulated", "PYTHONPATH": os.pathsep.join([folder, *sys.path])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    stop = threading.Timer(1.0, process.send_signal, [signal.SIGINT])
    stop.start()
    try:
        answer, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert answer.strip() == "interrupted [1, 1, 1]"


@compiled_only
def test_other_python_threads_go_on_during_a_call() -> None:
    probs, tables = problem(10, torch.float32)
    many = probs.repeat(100_000, 1)
    caller = threading.Thread(target=rank_release, args=(many, tables, KEY, "passthrough"))
    caller.start()
    assert caller.is_alive(), "the call held Python's lock until it was done"
    caller.join()
