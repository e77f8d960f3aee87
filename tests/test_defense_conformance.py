"""What every defense promises, tested for every defense that the registry knows.

A new defense joins by a line in ``DEFENSES`` and one in ``PARAMETERS``; without either the suite
fails. What each defense does to a row is tested elsewhere.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import aeppt.defenses
from aeppt import Predictions, ProtectedModel, Status, load_defense
from aeppt.defenses import DEFENSES, OutputDefense

#: Parameter sets of each defense, by its name. Those whose numbers come from a key have a seed.
PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "AEPPT": [
        {"hidden": (8,)},
        {"hidden": (6,), "direction": "member", "border": None, "space": "prob", "step_size": 0.05},
    ],
    "AdaptiveAEPPT": [{"max_rounds": 2, "hidden": (6,), "max_steps": 20}],
    "DynaNoise": [
        {"random_state": 0},
        {"base_variance": 1.0, "lambda_scale": 0.0, "temperature": 1.0, "random_state": 0},
    ],
    "GaussianNoise": [
        {"random_state": 0},
        {"scale": 0.3, "space": "prob", "random_state": 0},
    ],
    "HAMPOutput": [{"random_state": 0}],
    "LabelOnly": [{}],
    "MemGuard": [{"hidden": (8,), "max_steps": 30, "budget": 0.1, "random_state": 0}],
    "NeighborhoodBlending": [
        {"random_state": 0},
        {"n_neighbors": 3, "epsilon": 100.0, "strength": 0.5, "random_state": 0},
    ],
    "PrivacyFunnel": [
        {"random_state": 0},
        {
            "advantage": 0.1,
            "serving_prior": 0.5,
            "distortion": "kl",
            "confidence_levels": 3,
            "shapes": 1,
            "random_state": 0,
        },
    ],
    "ReverseSigmoid": [{}, {"beta": 2.0, "gamma": 3.0}],
    "Rounding": [{}, {"decimals": 0}],
    "Temperature": [{}, {"temperature": 0.2}],
    "TopK": [{}, {"k": 1}],
    "Undefended": [{}],
}


@dataclass(frozen=True)
class Case:
    """One defense under one set of parameters."""

    kind: type[OutputDefense]
    parameters: dict[str, Any] = field(hash=False)

    def made(self, **changes: Any) -> OutputDefense:
        return self.kind(**{**self.parameters, **changes})


CASES = [
    Case(DEFENSES[name], parameters) for name in DEFENSES for parameters in PARAMETERS.get(name, [])
]
#: By convention, ``random_state`` defaults to None where it seeds a key.
KEYED = [
    case
    for case in CASES
    if getattr(inspect.signature(case.kind).parameters.get("random_state"), "default", 0) is None
]


def named(case: Case) -> str:
    return f"{case.kind.__name__}-{'-'.join(map(str, case.parameters))}"


@pytest.fixture(params=CASES, ids=named, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    made: Case = request.param
    return made


@pytest.fixture(scope="module")
def fitted_on(
    case: Case, make_predictions: Callable[..., Predictions]
) -> Callable[[int], OutputDefense]:
    """``fitted_on(k)``: the defense fitted on k classes; tests must not change it."""

    @lru_cache
    def fit(k: int) -> OutputDefense:
        known = make_predictions(60, 60, k)
        return case.made().fit(known.probs, known.is_member)

    return fit


@pytest.fixture(scope="module")
def defense(case: Case, known: Predictions) -> OutputDefense:
    """The defense fitted on ``known``; tests must not change it."""
    return case.made().fit(known.probs, known.is_member)


@pytest.fixture(scope="module")
def rows(make_predictions: Callable[..., Predictions]) -> NDArray[np.float64]:
    """40 predictions of 5 classes that no defense was fitted on."""
    return make_predictions(20, 20, seed=3).probs


def assert_keeps_promises(
    defense: OutputDefense, given_rows: NDArray[Any], protected: NDArray[Any]
) -> None:
    """Every row a distribution of the given dtype, of the same label where that is promised."""
    assert protected.dtype == given_rows.dtype
    assert protected.shape == given_rows.shape
    assert np.isfinite(protected).all()
    assert (protected >= 0).all()
    assert np.abs(protected.sum(axis=1, dtype=np.float64) - 1).max(initial=0) <= 1e-6
    if defense.keeps_label:
        assert np.array_equal(protected.argmax(axis=1), given_rows.argmax(axis=1))


# --- the registry -----------------------------------------------------------------------------


def subclasses(kind: type) -> Iterator[type]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


def test_the_registry_holds_every_defense_of_the_package() -> None:
    for module in pkgutil.iter_modules(aeppt.defenses.__path__):
        importlib.import_module(f"aeppt.defenses.{module.name}")
    written = {
        kind.__name__
        for kind in subclasses(OutputDefense)
        if kind.__module__.startswith("aeppt.") and not inspect.isabstract(kind)
    }
    assert written == set(DEFENSES)
    assert written <= set(aeppt.defenses.__all__)
    assert all(name == kind.__name__ for name, kind in DEFENSES.items())


def test_this_suite_tests_every_defense_of_the_registry() -> None:
    assert set(PARAMETERS) == set(DEFENSES)
    assert all(PARAMETERS.values())


def test_whether_numbers_come_from_a_key_shows_in_the_parameters(
    case: Case, defense: OutputDefense
) -> None:
    assert ("key" in defense.module_.state_dict()) == (case in KEYED)


# --- scikit-learn's rules ---------------------------------------------------------------------


def test_init_only_stores_its_arguments(case: Case) -> None:
    sentinels = {name: object() for name in inspect.signature(case.kind).parameters}
    assert vars(case.kind(**sentinels)) == sentinels


def test_parameters_survive_get_set_and_clone(case: Case) -> None:
    made = case.made()
    assert set(made.get_params()) == set(inspect.signature(case.kind).parameters)
    assert {name: made.get_params()[name] for name in case.parameters} == case.parameters
    assert case.kind().set_params(**made.get_params()).get_params() == made.get_params()
    copied = clone(made)
    assert copied is not made
    assert copied.get_params() == made.get_params()
    with pytest.raises(ValueError, match="no_such"):
        made.set_params(no_such=1)


def test_fit_returns_self_and_adds_only_the_module_and_the_number_of_classes(
    case: Case, known: Predictions
) -> None:
    made = case.made()
    before = dict(vars(made))
    assert made.fit(known.probs, known.is_member) is made
    assert set(vars(made)) - set(before) == {"module_", "n_features_in_"}
    assert {name: vars(made)[name] for name in before} == before
    assert made.n_features_in_ == 5


def test_an_unfitted_defense_and_the_clone_of_a_fitted_one_say_so(
    case: Case, defense: OutputDefense, known: Predictions, tmp_path: Path
) -> None:
    for unfitted in (case.made(), clone(defense)):
        for use in (
            lambda made: made.protect(known.probs),
            lambda made: made.transform(known.probs),
            lambda made: made.save(tmp_path / "d.safetensors"),
            lambda made: ProtectedModel(torch.nn.Identity(), made),
        ):
            with pytest.raises(NotFittedError, match=case.kind.__name__):
                use(unfitted)
    assert list(tmp_path.iterdir()) == []


def test_fitting_again_forgets_the_first_fit(
    case: Case, known: Predictions, make_predictions: Callable[..., Predictions]
) -> None:
    other = make_predictions(k=3, seed=5)
    again = case.made().fit(known.probs, known.is_member).fit(other.probs, other.is_member)
    once = case.made().fit(other.probs, other.is_member)
    assert again.n_features_in_ == 3
    assert np.array_equal(again.protect(other.probs), once.protect(other.probs))


# --- what fit accepts -------------------------------------------------------------------------


def test_fit_needs_both_sides(case: Case, known: Predictions) -> None:
    for membership in (np.ones(400), np.zeros(400)):
        made = case.made()
        with pytest.raises(ValueError, match=f"got {int(membership.sum())} members of 400"):
            made.fit(known.probs, membership)
        assert not hasattr(made, "module_")


def test_fit_names_a_bad_row_and_a_bad_shape(case: Case, known: Predictions) -> None:
    probs = known.probs.copy()
    probs[17, 2] = np.nan
    with pytest.raises(ValueError, match=r"probs row 17 .*column 2"):
        case.made().fit(probs, known.is_member)
    with pytest.raises(ValueError, match=r"is_member must be \[400\]"):
        case.made().fit(known.probs, known.is_member[:-1])
    with pytest.raises(ValueError, match="is_member row 0"):
        case.made().fit(known.probs, np.full(400, 3))
    with pytest.raises(TypeError, match="float16"):
        case.made().fit(known.probs.astype(np.float16), known.is_member)


def test_tensors_and_arrays_fit_the_same(
    case: Case, defense: OutputDefense, known: Predictions, rows: NDArray[np.float64]
) -> None:
    probs = torch.from_numpy(known.probs.copy()).requires_grad_()
    other = case.made().fit(probs, torch.from_numpy(known.is_member))
    with torch.no_grad():  # what was fitted is a copy
        probs.fill_(0.2)
    assert np.array_equal(other.protect(rows), defense.protect(rows))


def test_neither_fit_nor_protect_touches_the_global_random_states(
    case: Case, known: Predictions
) -> None:
    np.random.seed(3)  # noqa: NPY002, the global state is what is tested
    torch.manual_seed(3)
    first = np.random.random(), torch.rand(1).item()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    case.made().fit(known.probs, known.is_member).protect(known.probs)
    assert (np.random.random(), torch.rand(1).item()) == first  # noqa: NPY002


# --- rows -------------------------------------------------------------------------------------


def distributions(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of ``weights`` over their sums; a row of zeros becomes one-hot at its last class."""
    weights = weights.copy()
    weights[weights.sum(axis=1) == 0, -1] = 1
    return weights / weights.sum(axis=1, keepdims=True)


ROWS = arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.just(5)),
    elements=st.floats(0, 1).map(lambda weight: weight**4),  # small entries as well as great ones
).map(distributions)
#: Entries that are often equal, the greatest too, and often zero.
TIED_ROWS = arrays(
    np.float64, st.tuples(st.integers(1, 6), st.just(5)), elements=st.sampled_from([0.0, 1, 2])
).map(distributions)


@settings(max_examples=30, deadline=None)
@given(given_rows=ROWS | TIED_ROWS, single=st.booleans())
def test_any_row_stays_a_distribution_and_keeps_its_label(
    given_rows: NDArray[np.float64], single: bool, defense: OutputDefense
) -> None:
    given_rows = given_rows.astype(np.float32) if single else given_rows
    assert_keeps_promises(defense, given_rows, defense.protect(given_rows))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [2, 5, 1000])
def test_few_and_many_classes_corners_ties_and_the_middle(
    k: int,
    dtype: type,
    fitted_on: Callable[[int], OutputDefense],
    make_predictions: Callable[..., Predictions],
) -> None:
    corners = np.eye(k)[[0, k // 2, k - 1]]
    edge = (corners + np.roll(corners, 1, axis=0)) / 2
    almost = 0.9999999 * corners + 1e-7 / k
    middle = np.full((1, k), 1 / k)
    given_rows = np.concatenate([corners, edge, almost, middle, make_predictions(3, 3, k).probs])
    given_rows = distributions(given_rows).astype(dtype)
    made = fitted_on(k)
    assert_keeps_promises(made, given_rows, made.protect(given_rows))


def test_no_rows_come_back_as_no_rows(defense: OutputDefense) -> None:
    for dtype in (np.float32, np.float64):
        protected, info = defense.protect(np.empty((0, 5), dtype), return_info=True)
        assert protected.shape == (0, 5)
        assert protected.dtype == dtype
        assert all(column.shape == (0,) for column in info)
    assert defense.protect(torch.empty(0, 5)).shape == (0, 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [2, 5, 33])
def test_an_answer_depends_on_the_row_alone_to_the_last_bit(
    k: int,
    dtype: type,
    fitted_on: Callable[[int], OutputDefense],
    make_predictions: Callable[..., Predictions],
) -> None:
    made = fitted_on(k)
    given_rows = make_predictions(20, 21, k, seed=4).probs.astype(dtype)
    together = made.protect(given_rows)
    assert np.array_equal(made.protect(given_rows), together), "asked again"
    for size in (1, 2, 7):
        parts = [made.protect(given_rows[at : at + size]) for at in range(0, 41, size)]
        assert np.array_equal(np.concatenate(parts), together), f"in parts of {size}"
    order = np.random.default_rng(0).permutation(41)
    assert np.array_equal(made.protect(given_rows[order]), together[order]), "in another order"
    assert np.array_equal(made.protect(np.tile(given_rows, (9, 1)))[-41:], together), "among many"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "layout",
    [
        lambda rows: rows.copy(),
        lambda rows: np.asfortranarray(rows),
        lambda rows: np.repeat(rows, 2, axis=1)[:, ::2],
        lambda rows: np.repeat(rows, 3, axis=0)[::3],
        lambda rows: rows[::-1, ::-1].copy()[::-1, ::-1],
        lambda rows: np.frombuffer(rows.tobytes(), rows.dtype).reshape(rows.shape),
        lambda rows: rows.tolist() if rows.dtype == np.float64 else rows,
    ],
    ids=["plain", "fortran", "columns", "rows", "negative", "read-only", "list"],
)
def test_arrays_of_any_layout_give_the_same(
    dtype: type,
    layout: Callable[[NDArray[Any]], Any],
    defense: OutputDefense,
    rows: NDArray[np.float64],
) -> None:
    plain = rows.astype(dtype)
    shaped = layout(plain.copy())
    protected = defense.protect(shaped)
    assert isinstance(protected, np.ndarray)
    assert protected.flags.writeable
    assert_keeps_promises(defense, plain, protected)
    assert np.array_equal(protected, defense.protect(plain))
    assert not np.shares_memory(protected, np.asarray(shaped))
    protected[:] = 0
    assert np.array_equal(np.asarray(shaped), plain), "the input was changed"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "layout",
    [
        lambda rows: rows.clone(),
        lambda rows: rows.T.contiguous().T,
        lambda rows: rows.repeat_interleave(2, dim=1)[:, ::2],
        lambda rows: rows[:1].expand(40, -1),
        lambda rows: rows.clone().requires_grad_(),
    ],
    ids=["plain", "transposed", "columns", "expanded", "requires-grad"],
)
def test_tensors_of_any_layout_give_what_arrays_give(
    dtype: torch.dtype,
    layout: Callable[[torch.Tensor], torch.Tensor],
    defense: OutputDefense,
    rows: NDArray[np.float64],
) -> None:
    shaped = layout(torch.from_numpy(rows).to(dtype))
    before = shaped.detach().clone(memory_format=torch.contiguous_format)
    protected = defense.protect(shaped)
    assert isinstance(protected, torch.Tensor)
    assert (protected.dtype, protected.device) == (dtype, shaped.device)
    assert not protected.requires_grad
    assert np.array_equal(protected.numpy(), defense.protect(before.numpy()))
    protected.zero_()
    assert torch.equal(shaped.detach(), before), "the input was changed"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_on_a_gpu_stay_there(
    dtype: torch.dtype, defense: OutputDefense, rows: NDArray[np.float64]
) -> None:
    moved = copy.deepcopy(defense)
    moved.module_.to("cuda")
    given_rows = torch.from_numpy(rows).to("cuda", dtype)
    protected, info = moved.protect(given_rows, return_info=True)
    assert protected.device == given_rows.device
    assert all(column.device == given_rows.device for column in info)
    assert_keeps_promises(defense, given_rows.cpu().numpy(), protected.cpu().numpy())
    assert torch.equal(moved.protect(given_rows[7:9]), protected[7:9])


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_a_wrong_number_of_classes_is_named(
    kind: Callable[..., Any], defense: OutputDefense
) -> None:
    for shape in ((3, 4), (5,), (1, 2, 5)):
        with pytest.raises(ValueError, match=r"\[n, 5\].*" + str(list(shape)).replace("[", r"\[")):
            defense.protect(kind(np.full(shape, 1 / shape[-1])))


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([np.nan, 0.25, 0.25, 0.25, 0.25], "column 0 is nan"),
        ([0.25, np.inf, 0.25, 0.25, 0.25], "column 1 is inf"),
        ([0.5, 0.5, -0.25, 0.25, 0.0], "column 2 is -0.25"),
        ([0.5, 0.5, 0.5, 0.0, 0.0], "sums to 1.5"),
    ],
)
def test_a_bad_row_is_named(
    kind: Callable[..., Any],
    row: list[float],
    reason: str,
    defense: OutputDefense,
    rows: NDArray[np.float64],
) -> None:
    bad = rows.copy()
    bad[23] = row
    with pytest.raises(ValueError, match=f"row 23 .*{reason}"):
        defense.protect(kind(bad))


@pytest.mark.parametrize("dtype", ["float16", "int64", "bool"])
def test_other_number_types_are_refused(dtype: str, defense: OutputDefense) -> None:
    given_rows = np.eye(5).astype(dtype)
    for values in (given_rows, torch.from_numpy(given_rows)):
        with pytest.raises(TypeError, match=f"float32 or float64, got .*{dtype}"):
            defense.protect(values)


def test_info_has_one_entry_per_row_and_tells_the_truth(
    defense: OutputDefense, rows: NDArray[np.float64]
) -> None:
    protected, info = defense.protect(rows, return_info=True)
    for column in info:
        assert isinstance(column, np.ndarray)
        assert column.shape == (40,)
    assert (info.status.dtype, info.steps.dtype) == (np.int8, np.int32)
    assert np.allclose(info.l1, np.abs(protected - rows).sum(axis=1), atol=1e-9)
    unchanged = info.status == Status.UNCHANGED
    assert np.array_equal(protected[unchanged], rows[unchanged])
    assert sum(info.status_counts().values()) == 40
    _, of_tensor = defense.protect(torch.from_numpy(rows), return_info=True)
    for of_array, column in zip(info, of_tensor, strict=True):
        assert isinstance(column, torch.Tensor)
        assert np.array_equal(column.numpy(), of_array, equal_nan=True)


def test_transform_is_protect(defense: OutputDefense, rows: NDArray[np.float64]) -> None:
    assert np.array_equal(defense.transform(rows), defense.protect(rows))


def test_a_protected_model_answers_as_the_defense_does(defense: OutputDefense) -> None:
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Linear(3, 5)
    with torch.no_grad():
        model.weight.normal_(0, 2, generator=generator)
    inputs = torch.randn(30, 3, generator=generator)
    served = ProtectedModel(model, defense)
    probs = torch.softmax(model(inputs), dim=1)
    expected = defense.protect(probs)
    assert torch.equal(served.predict_proba(inputs), expected)
    assert torch.equal(served(inputs).argmax(1), expected.argmax(1))
    if defense.keeps_label:
        assert torch.equal(served(inputs).argmax(1), probs.argmax(1))


# --- files ------------------------------------------------------------------------------------


def test_a_saved_defense_comes_back_the_same(
    case: Case, defense: OutputDefense, rows: NDArray[np.float64], tmp_path: Path
) -> None:
    defense.save(tmp_path / "d.safetensors")
    back = load_defense(tmp_path / "d.safetensors")
    assert type(back) is case.kind
    assert back.get_params() == defense.get_params()
    assert back.n_features_in_ == 5
    for given_rows in (rows, rows.astype(np.float32)):
        (left, told), (right, told_back) = (
            made.protect(given_rows, return_info=True) for made in (defense, back)
        )
        assert np.array_equal(left, right)
        for column, column_back in zip(told, told_back, strict=True):
            assert np.array_equal(column, column_back, equal_nan=True)


def test_a_file_without_one_of_its_tensors_is_called_damaged(
    defense: OutputDefense, tmp_path: Path
) -> None:
    path = tmp_path / "d.safetensors"
    defense.save(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert set(tensors) == set(defense.module_.state_dict())
    for name in tensors:
        save_file({kept: t for kept, t in tensors.items() if kept != name}, path, metadata)
        with pytest.raises(ValueError, match=f"damaged aeppt defense.*{name}"):
            load_defense(path)


@pytest.mark.parametrize("k", [3, 7])
def test_a_file_whose_tensors_have_another_number_of_classes_is_called_damaged(
    k: int, defense: OutputDefense, tmp_path: Path
) -> None:
    path = tmp_path / "d.safetensors"
    defense.save(path)
    with safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), "n_classes": str(k)}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata)
    if set(tensors) <= {"key"}:  # nothing in the file hangs on the number
        assert load_defense(path).n_features_in_ == k
    else:
        with pytest.raises(ValueError, match=f"{path} is a damaged aeppt defense"):
            load_defense(path)


# --- keys -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", KEYED, ids=named)
def test_a_seed_is_a_key(case: Case, known: Predictions, rows: NDArray[np.float64]) -> None:
    def answer(seed: int | None) -> NDArray[np.float64]:
        made = case.made(random_state=seed).fit(known.probs, known.is_member)
        return made.protect(rows)

    assert np.array_equal(answer(0), answer(0))
    assert np.array_equal(answer(0), answer(np.int64(0)))
    assert not np.array_equal(answer(0), answer(1))
    with pytest.raises((TypeError, ValueError), match="random_state"):
        answer("0")  # type: ignore[arg-type]


@pytest.mark.parametrize("case", KEYED, ids=named)
def test_without_a_seed_every_fit_has_a_key_of_its_own_that_the_file_keeps(
    case: Case, known: Predictions, rows: NDArray[np.float64], tmp_path: Path
) -> None:
    one, other = (case.made(random_state=None).fit(known.probs, known.is_member) for _ in range(2))
    assert not np.array_equal(one.protect(rows), other.protect(rows))
    one.save(tmp_path / "d.safetensors")
    back = load_defense(tmp_path / "d.safetensors")
    assert np.array_equal(back.protect(rows), one.protect(rows))
    assert back.get_params()["random_state"] is None
