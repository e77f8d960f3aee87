"""What the search refuses, and what it says; both engines must say the same."""

from __future__ import annotations

import math

import pytest
import torch
from search_helpers import (
    DTYPES,
    ENGINES,
    KERNEL_DEVICE,
    Substitute,
    call_raw_op,
    dirichlet,
    random_substitute,
    run,
    trained_problem,
)
from torch import Tensor

from aeppt_ext import SearchOptions, Status, reference

OPTIONS = SearchOptions()
PASS_ON = SearchOptions(on_invalid="passthrough")


def valid_problem(n: int, k: int, dtype: torch.dtype) -> tuple[Tensor, Substitute]:
    generator = torch.Generator().manual_seed(1)
    probs = dirichlet(n, k, 1.0, generator).to(dtype)
    return probs, random_substitute(probs, "sorted", (8,), generator)


def refusal(engine: str, probs: Tensor, substitute: Substitute) -> str:
    """The message of the ValueError that ``engine`` raises."""
    before = probs.clone()
    with pytest.raises(ValueError, match="probs row") as caught:
        run(engine, probs, substitute, OPTIONS)
    torch.testing.assert_close(probs, before, rtol=0, atol=0, equal_nan=True)
    return str(caught.value).split("\n")[0]


SPOILED = {
    "nan": (math.nan, "column 2 is nan (must be finite and not negative)"),
    "infinite": (math.inf, "column 2 is inf (must be finite and not negative)"),
    "minus infinite": (-math.inf, "column 2 is -inf (must be finite and not negative)"),
    "negative": (-0.25, "column 2 is -0.25 (must be finite and not negative)"),
    "too much": (5.0, "(must be 1 within 0.001)"),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_bad_row_is_named(spoiled: str, dtype: torch.dtype) -> None:
    probs, substitute = valid_problem(200, 5, dtype)
    value, reason = SPOILED[spoiled]
    probs[131, 2] = value
    probs[170, 0] = math.nan  # a later one is not the first
    messages = [refusal(engine, probs, substitute) for engine in ENGINES]
    assert messages[0] == messages[1]
    assert messages[0].startswith("probs row 131 is not a probability vector: ")
    assert reason in messages[0]
    assert messages[0].endswith('; mend or remove the row, or pass on_invalid="passthrough"')


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("total", [0.0, 0.9985, 1.0015, 2.0])
def test_a_wrong_sum_is_stated(total: float, dtype: torch.dtype) -> None:
    probs, substitute = valid_problem(3, 4, dtype)
    probs[1] = torch.tensor([total / 2, total / 2, 0, 0], dtype=dtype)
    messages = [refusal(engine, probs, substitute) for engine in ENGINES]
    assert messages[0] == messages[1]
    assert f"probs row 1 is not a probability vector: it sums to {total:g} " in messages[0]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [-9.9e-4, 9.9e-4])
def test_a_sum_inside_the_tolerance_is_accepted(
    engine: str, dtype: torch.dtype, offset: float
) -> None:
    probs, substitute = valid_problem(3, 4, dtype)
    result = run(engine, probs * (1 + offset), substitute, OPTIONS)
    assert ((result.probs.double().sum(1) - 1).abs() <= 1e-6).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("constant_time", [False, True])
def test_passthrough_returns_bad_rows_as_they_came(
    engine: str, dtype: torch.dtype, constant_time: bool
) -> None:
    probs, substitute = trained_problem("sorted", 10, 60)
    probs, substitute = probs.to(dtype), substitute.to(dtype)
    bad = {
        0: torch.full((10,), math.nan, dtype=dtype),
        7: torch.tensor([math.inf] + [0.0] * 9, dtype=dtype),
        8: torch.tensor([1.5, -0.5] + [0.0] * 8, dtype=dtype),
        31: torch.zeros(10, dtype=dtype),
        59: probs[59] * 1.002,
    }
    mixed = probs.clone()
    for row, values in bad.items():
        mixed[row] = values
    given = mixed.clone()
    options = SearchOptions(on_invalid="passthrough", constant_time=constant_time)
    result = run(engine, mixed, substitute, options)
    torch.testing.assert_close(mixed, given, rtol=0, atol=0, equal_nan=True)

    rows = torch.tensor(sorted(bad))
    assert (result.status == int(Status.INVALID)).nonzero()[:, 0].tolist() == sorted(bad)
    bits = {torch.float32: torch.int32, torch.float64: torch.int64}[dtype]
    assert torch.equal(result.probs.contiguous().view(bits)[rows], mixed.view(bits)[rows])
    assert (result.steps[rows] == 0).all()

    good = torch.ones(60, dtype=torch.bool)
    good[rows] = False
    alone = run(engine, probs[good], substitute, options)
    for mixed_column, column in zip(result, alone, strict=True):
        if engine == "kernel":
            assert torch.equal(mixed_column[good], column)
        else:  # the matrix products of another number of rows may differ in the last bits
            torch.testing.assert_close(mixed_column[good], column, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_engines_report_the_same_columns_for_bad_rows(dtype: torch.dtype) -> None:
    probs, substitute = valid_problem(3, 4, dtype)
    probs[0] = 0.5
    probs[2, 1] = math.nan
    kernel, plain = (run(engine, probs, substitute, PASS_ON) for engine in ENGINES)
    for name, left, right in zip(kernel._fields, kernel, plain, strict=True):
        torch.testing.assert_close(
            left, right, rtol=1e-4, atol=1e-5, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [OPTIONS, PASS_ON, SearchOptions(max_l1=0.1)])
def test_no_rows_give_no_rows(engine: str, dtype: torch.dtype, options: SearchOptions) -> None:
    _, substitute = valid_problem(4, 5, dtype)
    result = run(engine, torch.empty(0, 5, dtype=dtype), substitute, options)
    assert result.probs.shape == (0, 5)
    assert all(column.shape == (0,) for column in result[1:])
    types = [dtype, torch.int8, torch.int32, dtype, dtype, dtype]
    assert [column.dtype for column in result] == types


def spoil_shape(case: str, probs: Tensor, substitute: Substitute) -> tuple[Tensor, Substitute]:
    """A valid problem with one defect of shape or dtype."""
    weights, biases = list(substitute.weights), list(substitute.biases)
    if case == "one dimension":
        probs = probs[0]
    elif case == "three dimensions":
        probs = probs.unsqueeze(0)
    elif case == "one class":
        probs, weights[0] = torch.ones(3, 1), weights[0][:, :1]
    elif case == "float16":
        probs = probs.half()
        weights, biases = [w.half() for w in weights], [b.half() for b in biases]
    elif case == "integers":
        probs = torch.eye(5, dtype=torch.int64)
    elif case == "other dtype":
        weights, biases = [w.double() for w in weights], [b.double() for b in biases]
    elif case == "first layer too wide":
        weights[0] = torch.zeros(8, 6)
    elif case == "layers do not meet":
        weights[1] = torch.zeros(1, 9)
    elif case == "weight is a vector":
        weights[1] = torch.zeros(8)
    elif case == "bias too long":
        biases[0] = torch.zeros(9)
    elif case == "bias is a matrix":
        biases[1] = torch.zeros(1, 1)
    elif case == "two outputs":
        weights[1], biases[1] = torch.zeros(2, 8), torch.zeros(2)
    elif case == "a bias is missing":
        biases.pop()
    elif case == "no layers":
        weights, biases = [], []
    return probs, Substitute(weights, biases)


SHAPE_ERRORS = {
    "one dimension": (ValueError, r"probs must be \[n, k\], got \[5\]"),
    "three dimensions": (ValueError, r"probs must be \[n, k\], got \[1, 20, 5\]"),
    "one class": (ValueError, r"probs must have at least 2 classes, got \[3, 1\]"),
    "float16": (TypeError, "probs must be float32 or float64, got "),
    "integers": (TypeError, "probs must be float32 or float64, got "),
    "other dtype": (TypeError, "the substitute must have the dtype of probs, "),
    "first layer too wide": (
        ValueError,
        r"weight 0 of the substitute must be \[out, 5\] for 5 classes, got \[8, 6\]",
    ),
    "layers do not meet": (ValueError, r"weight 1 of .* must be \[out, 8\] .*got \[1, 9\]"),
    "weight is a vector": (ValueError, r"weight 1 of .* must be \[out, 8\] .*got \[8\]"),
    "bias too long": (ValueError, r"bias 0 of the substitute must be \[8\], got \[9\]"),
    "bias is a matrix": (ValueError, r"bias 1 of the substitute must be \[1\], got \[1, 1\]"),
    "two outputs": (ValueError, "the substitute's last layer must have one output, got 2"),
    "a bias is missing": (ValueError, "as many weights as biases, at least one; got 2 and 1"),
    "no layers": (ValueError, "as many weights as biases, at least one; got 0 and 0"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", SHAPE_ERRORS)
def test_wrong_shapes_and_dtypes_are_refused(engine: str, case: str) -> None:
    probs, substitute = spoil_shape(case, *valid_problem(20, 5, torch.float32))
    error, message = SHAPE_ERRORS[case]
    with pytest.raises(error, match=message):
        run(engine, probs, substitute, OPTIONS)


def test_top3_takes_three_inputs() -> None:
    probs, substitute = valid_problem(20, 5, torch.float32)
    with pytest.raises(ValueError, match=r"weight 0 .* must be \[out, 3\] for 5 classes"):
        run("kernel", probs, substitute, SearchOptions(features="top3"))
    assert reference.feature_width("top3", 5) == 3
    assert reference.feature_width("top3", 2) == 2


def test_sorted_raw_takes_the_row_twice() -> None:
    probs, substitute = valid_problem(20, 5, torch.float32)
    with pytest.raises(ValueError, match=r"weight 0 of the substitute must be \[out, 10\] for 5"):
        run("kernel", probs, substitute, SearchOptions(features="sorted_raw"))
    assert reference.feature_width("sorted_raw", 5) == 10


BAD_OPTIONS = [
    ("features", "top5"),
    ("direction", "nonmember"),
    ("space", "Prob"),
    ("norm", "l1"),
    ("on_invalid", ""),
    ("step_size", -0.1),
    ("step_size", 2e6),
    ("step_size", math.inf),
    ("step_size", math.nan),
    ("margin", -1e-9),
    ("margin", math.nan),
    ("margin", math.inf),
    ("tie_gap", 0.0),
    ("tie_gap", 9e-7),
    ("tie_gap", 0.11),
    ("tie_gap", math.nan),
    ("max_l1", -0.1),
    ("max_l1", math.inf),
    ("max_l1", math.nan),
    ("max_steps", -1),
    ("max_steps", 1_000_001),
    ("refine_steps", -1),
    ("refine_steps", 1_000_001),
]


@pytest.mark.parametrize(("name", "value"), BAD_OPTIONS)
def test_bad_options_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be .*got .*{value}"):
        SearchOptions(**{name: value})  # type: ignore[arg-type]
    probs, substitute = valid_problem(4, 5, torch.float32)
    with pytest.raises(ValueError, match=f"^{name} must be "):
        call_raw_op(probs, substitute, **{name: value})


@pytest.mark.parametrize("name", ["max_steps", "refine_steps"])
def test_numbers_of_steps_are_integers(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be an integer"):
        SearchOptions(**{name: 2.5})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["step_size", "margin", "tie_gap", "max_l1"])
def test_options_at_the_ends_of_their_ranges_are_accepted(name: str) -> None:
    probs, substitute = valid_problem(4, 5, torch.float32)
    low = 1e-6 if name == "tie_gap" else 0.0
    high = {"tie_gap": 0.1, "max_l1": 2.0}.get(name, 1.0)
    for value in (low, high):
        options = SearchOptions(**{name: value})  # type: ignore[arg-type]
        assert getattr(options, name) == value
        direct = call_raw_op(probs.to(KERNEL_DEVICE), substitute.to(KERNEL_DEVICE), **{name: value})
        typed = run("kernel", probs, substitute, options)
        assert torch.equal(direct.probs.cpu(), typed.probs)
