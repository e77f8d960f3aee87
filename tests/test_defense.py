"""AEPPT as an estimator: scikit-learn's rules, what protect promises, and files of a defense."""

from __future__ import annotations

import inspect
import json
import os
import pickle
from collections.abc import Callable
from itertools import product
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

from aeppt import AEPPT, Predictions, Status, load_defense

PARAMETERS = tuple(inspect.signature(AEPPT).parameters)
#: Parameter sets whose saved file must give back the same defense.
SAVED: list[dict[str, Any]] = [
    {"hidden": (12,)},
    {"hidden": ()},
    {"hidden": (7,), "features": "raw", "border": None, "direction": "member"},
    {"hidden": (6, 5, 4), "features": "top3", "space": "prob", "norm": "l2", "step_size": 0.05},
    {"hidden": (8,), "margin": 0.25, "tie_gap": 1e-4, "refine_steps": 3, "max_l1": 0.125},
    {"hidden": (8,), "constant_time": True, "on_invalid": "passthrough", "random_state": 7},
]


def assert_keeps_promises(given_rows: NDArray[Any], protected: NDArray[Any]) -> None:
    """Same labels under the first-index rule, and every row a distribution."""
    assert protected.dtype == given_rows.dtype
    assert protected.shape == given_rows.shape
    assert np.array_equal(protected.argmax(axis=1), given_rows.argmax(axis=1))
    assert np.isfinite(protected).all()
    assert (protected >= 0).all()
    assert np.abs(protected.sum(axis=1, dtype=np.float64) - 1).max(initial=0) <= 1e-6


# --- scikit-learn's rules ---------------------------------------------------------------------


def test_init_only_stores_its_arguments() -> None:
    sentinels = {name: object() for name in PARAMETERS}
    made = AEPPT(**sentinels)  # type: ignore[arg-type]
    assert vars(made) == sentinels


def test_parameters_survive_get_set_and_clone() -> None:
    values = {"step_size": 0.1, "hidden": (4, 3), "border": None, "max_l1": 0.5, "space": "prob"}
    made = AEPPT(**values)  # type: ignore[arg-type]
    assert set(made.get_params()) == set(PARAMETERS)
    assert AEPPT().set_params(**made.get_params()).get_params() == made.get_params()
    copy = clone(made)
    assert copy is not made
    assert copy.get_params() == made.get_params()
    with pytest.raises(ValueError, match="no_such"):
        made.set_params(no_such=1)


def test_fit_returns_self_sets_names_with_underscore_and_keeps_parameters(
    known: Predictions,
) -> None:
    made = AEPPT(hidden=(4,))
    before = dict(vars(made))
    assert made.fit(known.probs, known.is_member) is made
    added = set(vars(made)) - set(before)
    assert added == {"module_", "n_features_in_"}
    assert {name: vars(made)[name] for name in before} == before
    assert made.n_features_in_ == 5


def test_a_clone_of_a_fitted_defense_is_not_fitted(fitted: AEPPT, known: Predictions) -> None:
    with pytest.raises(NotFittedError):
        clone(fitted).protect(known.probs)


def test_fitting_again_forgets_the_first_fit(
    known: Predictions, make_predictions: Callable[..., Predictions]
) -> None:
    other = make_predictions(k=3, seed=5)
    again = AEPPT(hidden=(4,)).fit(known.probs, known.is_member).fit(other.probs, other.is_member)
    once = AEPPT(hidden=(4,)).fit(other.probs, other.is_member)
    assert again.n_features_in_ == 3
    assert np.array_equal(again.protect(other.probs), once.protect(other.probs))


@pytest.mark.parametrize("use", ["protect", "transform", "save"])
def test_an_unfitted_defense_says_so(use: str, known: Predictions, tmp_path: Path) -> None:
    argument = tmp_path / "d.safetensors" if use == "save" else known.probs
    with pytest.raises(NotFittedError, match="AEPPT"):
        getattr(AEPPT(), use)(argument)
    assert list(tmp_path.iterdir()) == []


# --- what fit accepts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step_size", -0.1),
        ("step_size", np.nan),
        ("step_size", np.inf),
        ("max_steps", -1),
        ("max_steps", 2.5),
        ("direction", "members"),
        ("space", "log"),
        ("norm", "l1"),
        ("features", "top5"),
        ("hidden", (0,)),
        ("hidden", (8, -1)),
        ("hidden", (2.5,)),
        ("border", -0.1),
        ("border", 1.1),
        ("border", np.nan),
        ("margin", -1.0),
        ("tie_gap", 0.0),
        ("tie_gap", 0.5),
        ("refine_steps", -1),
        ("max_l1", -0.5),
        ("max_l1", np.nan),
        ("on_invalid", "ignore"),
        ("random_state", -1),
    ],
)
def test_a_bad_parameter_is_named_when_fit_runs(name: str, value: Any, known: Predictions) -> None:
    made = AEPPT(**{"hidden": (4,), name: value})
    with pytest.raises(ValueError, match=name):
        made.fit(known.probs, known.is_member)
    assert not hasattr(made, "module_")


@pytest.mark.parametrize(("name", "value"), [("hidden", 8), ("step_size", "0.3"), ("border", "x")])
def test_a_parameter_of_a_wrong_type_is_named(name: str, value: Any, known: Predictions) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        AEPPT(**{"hidden": (4,), name: value}).fit(known.probs, known.is_member)


def test_fit_needs_both_sides(known: Predictions) -> None:
    for membership in (np.ones(400), np.zeros(400)):
        with pytest.raises(ValueError, match=f"got {int(membership.sum())} members of 400"):
            AEPPT(hidden=(4,)).fit(known.probs, membership)


def test_fit_names_a_bad_row_and_a_bad_shape(known: Predictions) -> None:
    probs = known.probs.copy()
    probs[17, 2] = np.nan
    with pytest.raises(ValueError, match=r"probs row 17 .*column 2"):
        AEPPT(hidden=(4,)).fit(probs, known.is_member)
    with pytest.raises(ValueError, match=r"is_member must be \[400\]"):
        AEPPT(hidden=(4,)).fit(known.probs, known.is_member[:-1])
    with pytest.raises(ValueError, match="is_member row 0"):
        AEPPT(hidden=(4,)).fit(known.probs, np.full(400, 3))
    with pytest.raises(TypeError, match="float16"):
        AEPPT(hidden=(4,)).fit(known.probs.astype(np.float16), known.is_member)


def test_tensors_and_arrays_fit_the_same(fitted: AEPPT, known: Predictions) -> None:
    probs = torch.from_numpy(known.probs).requires_grad_()
    other = AEPPT(hidden=(16,)).fit(probs, torch.from_numpy(known.is_member))
    assert np.array_equal(other.protect(known.probs), fitted.protect(known.probs))


def test_the_same_seed_gives_the_same_defense(fitted: AEPPT, known: Predictions) -> None:
    again = AEPPT(hidden=(16,)).fit(known.probs, known.is_member)
    other = AEPPT(hidden=(16,), random_state=1).fit(known.probs, known.is_member)
    for name, tensor in fitted.module_.state_dict().items():
        assert torch.equal(again.module_.state_dict()[name], tensor), name
    assert np.array_equal(again.protect(known.probs), fitted.protect(known.probs))
    assert not np.array_equal(other.protect(known.probs), fitted.protect(known.probs))


def test_fit_leaves_the_global_random_states_alone(known: Predictions) -> None:
    np.random.seed(3)  # noqa: NPY002, the global state is what is tested
    torch.manual_seed(3)
    first = np.random.random(), torch.rand(1).item()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    AEPPT(hidden=(4,)).fit(known.probs, known.is_member)
    assert (np.random.random(), torch.rand(1).item()) == first  # noqa: NPY002


# --- what protect promises --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("direction", "space", "norm", "features"),
    list(product(("member", "both"), ("prob", "logit"), ("linf", "l2"), ("sorted", "raw", "top3"))),
)
def test_every_combination_misleads_the_substitute(
    direction: Any, space: Any, norm: Any, features: Any, known: Predictions
) -> None:
    made = AEPPT(
        direction=direction,
        space=space,
        norm=norm,
        features=features,
        hidden=(8,),
        step_size=0.3 if space == "logit" else 0.03,
        max_steps=60,
    ).fit(known.probs, known.is_member)
    for rows in (known.probs, known.probs.astype(np.float32)):
        protected, info = made.protect(rows, return_info=True)
        assert_keeps_promises(rows, protected)
        success, unchanged = info.status == Status.SUCCESS, info.status == Status.UNCHANGED
        assert success.mean() > 0.15, "at border 0.5, a quarter of all rows are beyond it"
        side = np.where(info.score_before > 0, 1.0, -1.0)
        assert (side[success] * info.score_after[success] <= 0).all()
        assert np.array_equal(protected[unchanged], rows[unchanged])
        assert (info.steps[unchanged] == 0).all()
        if direction == "member":
            assert (info.score_before[success] > 0).all()
            assert (info.score_before[unchanged] <= 0).all()
        else:
            assert not unchanged.any()


def test_info_has_one_entry_per_row_and_tells_the_truth(fitted: AEPPT, known: Predictions) -> None:
    protected, info = fitted.protect(known.probs, return_info=True)
    assert info._fields == ("status", "steps", "score_before", "score_after", "l1")
    for column in info:
        assert isinstance(column, np.ndarray)
        assert column.shape == (400,)
    assert (info.status.dtype, info.steps.dtype) == (np.int8, np.int32)
    assert np.allclose(info.l1, np.abs(protected - known.probs).sum(axis=1), atol=1e-9)
    _, again = fitted.protect(protected, return_info=True)
    assert np.allclose(again.score_before, info.score_after, atol=1e-4)
    assert (info.steps <= fitted.max_steps).all()
    _, of_tensor = fitted.protect(torch.from_numpy(known.probs), return_info=True)
    for name in info._fields:
        column = getattr(of_tensor, name)
        assert isinstance(column, torch.Tensor)
        assert np.array_equal(column.numpy(), getattr(info, name))


def test_protection_hides_members_from_a_threshold(fitted: AEPPT, known: Predictions) -> None:
    def gap(rows: NDArray[Any]) -> float:
        top = rows.max(axis=1)
        return float(top[known.is_member].mean() - top[~known.is_member].mean())

    assert gap(known.probs) > 0.15
    assert abs(gap(fitted.protect(known.probs))) < 0.05


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
    dtype: type, layout: Callable[[NDArray[Any]], Any], fitted: AEPPT, known: Predictions
) -> None:
    rows = known.probs[:64].astype(dtype)
    before = rows.copy()
    shaped = layout(rows)
    protected = fitted.protect(shaped)
    assert isinstance(protected, np.ndarray)
    assert protected.flags.writeable
    assert_keeps_promises(rows, protected)
    assert np.array_equal(protected, fitted.protect(before))
    assert np.array_equal(np.asarray(shaped), before), "the input was changed"
    assert not np.shares_memory(protected, np.asarray(shaped))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "layout",
    [
        lambda rows: rows.clone(),
        lambda rows: rows.T.contiguous().T,
        lambda rows: rows.repeat_interleave(2, dim=1)[:, ::2],
        lambda rows: rows[:1].expand(64, -1),
        lambda rows: rows.clone().requires_grad_(),
    ],
    ids=["plain", "transposed", "columns", "expanded", "requires-grad"],
)
def test_tensors_of_any_layout_give_the_same(
    dtype: torch.dtype,
    layout: Callable[[torch.Tensor], torch.Tensor],
    fitted: AEPPT,
    known: Predictions,
) -> None:
    shaped = layout(torch.from_numpy(known.probs[:64]).to(dtype))
    before = shaped.detach().clone(memory_format=torch.contiguous_format)
    protected = fitted.protect(shaped)
    assert isinstance(protected, torch.Tensor)
    assert (protected.dtype, protected.device) == (dtype, shaped.device)
    assert not protected.requires_grad
    assert_keeps_promises(before.numpy(), protected.numpy())
    assert np.array_equal(protected.numpy(), fitted.protect(before.numpy()))
    assert torch.equal(shaped.detach(), before), "the input was changed"


def test_rows_that_stay_are_copied_not_shared(known: Predictions) -> None:
    made = AEPPT(hidden=(4,), direction="member").fit(known.probs, known.is_member)
    rows = known.probs.copy()
    protected = made.protect(rows)
    protected[:] = 0
    assert np.array_equal(rows, known.probs)


def test_transform_is_protect(fitted: AEPPT, known: Predictions) -> None:
    assert np.array_equal(fitted.transform(known.probs), fitted.protect(known.probs))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_rows_come_back_as_no_rows(dtype: type, fitted: AEPPT) -> None:
    protected, info = fitted.protect(np.empty((0, 5), dtype), return_info=True)
    assert protected.shape == (0, 5)
    assert protected.dtype == dtype
    assert all(column.shape == (0,) for column in info)
    assert fitted.protect(torch.empty(0, 5)).shape == (0, 5)


def test_a_row_is_answered_alike_alone_and_in_company(fitted: AEPPT, known: Predictions) -> None:
    rows = known.probs[190:230].astype(np.float32)
    together = fitted.protect(rows)
    alone = np.concatenate([fitted.protect(rows[i : i + 1]) for i in range(len(rows))])
    assert np.array_equal(together, alone)
    assert np.array_equal(fitted.protect(rows[::-1]), together[::-1])


ROWS = arrays(np.float64, st.tuples(st.integers(1, 6), st.just(5)), elements=st.floats(0, 1)).map(
    lambda weights: (weights + 1e-3) / (weights + 1e-3).sum(axis=1, keepdims=True)
)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, single=st.booleans())
def test_any_distribution_keeps_its_label(
    rows: NDArray[np.float64], single: bool, fitted: AEPPT
) -> None:
    given_rows = rows.astype(np.float32) if single else rows
    assert_keeps_promises(given_rows, fitted.protect(given_rows))


@settings(max_examples=60, deadline=None)
@given(row=st.lists(st.sampled_from([0, 1, 1, 2, 2]), min_size=5, max_size=5).filter(any))
def test_ties_keep_the_first_index(row: list[int], fitted: AEPPT) -> None:
    for dtype in (np.float32, np.float64):
        tied = (np.array([row], np.float64) / sum(row)).astype(dtype)
        assert_keeps_promises(tied, fitted.protect(tied))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_corners_and_the_middle_keep_their_labels(dtype: type, fitted: AEPPT) -> None:
    rows = np.concatenate([np.eye(5), np.full((1, 5), 0.2)]).astype(dtype)
    assert_keeps_promises(rows, fitted.protect(rows))


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_a_wrong_number_of_classes_is_named(kind: Callable[..., Any], fitted: AEPPT) -> None:
    for shape in ((3, 4), (5,), (1, 2, 5)):
        with pytest.raises(ValueError, match=r"\[n, 5\].*" + str(list(shape)).replace("[", r"\[")):
            fitted.protect(kind(np.full(shape, 1 / shape[-1])))


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
    kind: Callable[..., Any], row: list[float], reason: str, fitted: AEPPT, known: Predictions
) -> None:
    rows = known.probs.copy()
    rows[123] = row
    with pytest.raises(ValueError, match=f"row 123 .*{reason}"):
        fitted.protect(kind(rows))


@pytest.mark.parametrize("dtype", ["float16", "int64"])
def test_other_number_types_are_refused(dtype: str, fitted: AEPPT) -> None:
    rows = np.eye(5).astype(dtype)
    for given_rows in (rows, torch.from_numpy(rows)):
        with pytest.raises(TypeError, match="float32 or float64"):
            fitted.protect(given_rows)


def test_passthrough_returns_bad_rows_and_protects_the_others(known: Predictions) -> None:
    made = AEPPT(hidden=(8,), on_invalid="passthrough").fit(known.probs, known.is_member)
    rows = known.probs[:20].copy()
    rows[3] = [np.nan, 0.5, 0.5, 0, 0]
    rows[11] = [0.9, 0.9, 0, 0, 0]
    protected, info = made.protect(rows, return_info=True)
    bad = np.isin(np.arange(20), [3, 11])
    assert np.array_equal(info.status == Status.INVALID, bad)
    assert np.array_equal(protected[bad], rows[bad], equal_nan=True)
    assert np.array_equal(protected[~bad], made.protect(known.probs[:20])[~bad])


# --- what the parameters do -------------------------------------------------------------------


@pytest.mark.parametrize("border", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_border_is_a_quantile_of_the_members(border: float, known: Predictions) -> None:
    made = AEPPT(hidden=(8,), border=border).fit(known.probs, known.is_member)
    _, info = made.protect(known.probs[known.is_member], return_info=True)
    slack = 1e-5  # fit places the border in float32
    assert (info.score_before > slack).mean() <= 1 - border + 0.01
    assert (info.score_before > -slack).mean() >= 1 - border - 0.01


def test_without_a_border_the_trained_one_stays(known: Predictions) -> None:
    trained = AEPPT(hidden=(8,), border=None).fit(known.probs, known.is_member)
    shifted = AEPPT(hidden=(8,), border=0.5).fit(known.probs, known.is_member)
    scores = [made.protect(known.probs, return_info=True)[1] for made in (trained, shifted)]
    difference = scores[0].score_before - scores[1].score_before
    assert np.ptp(difference) < 1e-4, "a border moves all scores by the same amount"
    guess = scores[0].score_before > 0
    assert (guess == known.is_member).mean() > 0.75


def test_a_linear_substitute_works(known: Predictions) -> None:
    made = AEPPT(hidden=()).fit(known.probs, known.is_member)
    assert len(made.module_.state_dict()) == 2
    protected, info = made.protect(known.probs, return_info=True)
    assert_keeps_promises(known.probs, protected)
    assert (info.status == Status.SUCCESS).mean() > 0.9


@pytest.mark.parametrize("space", ["logit", "prob"])
def test_constant_time_gives_the_same_answer(space: Any, known: Predictions) -> None:
    arguments: dict[str, Any] = {"hidden": (8,), "space": space, "max_steps": 20}
    quick = AEPPT(**arguments).fit(known.probs, known.is_member)
    constant = AEPPT(**arguments, constant_time=True).fit(known.probs, known.is_member)
    for rows in (known.probs, known.probs.astype(np.float32)):
        left, right = (made.protect(rows, return_info=True) for made in (quick, constant))
        assert np.array_equal(left[0], right[0])
        for name in left[1]._fields:
            assert np.array_equal(getattr(left[1], name), getattr(right[1], name)), name


@pytest.mark.parametrize("budget", [0.0, 0.05, 0.2])
def test_a_budget_is_kept(budget: float, known: Predictions) -> None:
    made = AEPPT(hidden=(8,), max_l1=budget).fit(known.probs, known.is_member)
    free = AEPPT(hidden=(8,)).fit(known.probs, known.is_member)
    protected, info = made.protect(known.probs, return_info=True)
    _, spent = free.protect(known.probs, return_info=True)
    assert_keeps_promises(known.probs, protected)
    assert np.abs(protected - known.probs).sum(axis=1).max() <= budget + 1e-9
    cut = info.status == Status.BUDGET
    assert cut.any()
    assert (spent.l1[cut] > budget).all()
    assert (info.status[spent.l1 <= budget] == Status.SUCCESS).all()


def test_margin_takes_rows_past_the_border(known: Predictions) -> None:
    made = AEPPT(hidden=(8,), margin=0.2).fit(known.probs, known.is_member)
    _, info = made.protect(known.probs, return_info=True)
    success = info.status == Status.SUCCESS
    assert success.any()
    side = np.where(info.score_before > 0, 1.0, -1.0)
    assert (side[success] * info.score_after[success] <= -0.2).all()


def test_no_steps_change_nothing(known: Predictions) -> None:
    made = AEPPT(hidden=(8,), max_steps=0).fit(known.probs, known.is_member)
    protected, info = made.protect(known.probs, return_info=True)
    assert np.array_equal(protected, known.probs)
    assert not info.l1.any()


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameters", SAVED, ids=[str(sorted(p)) for p in SAVED])
def test_a_saved_defense_comes_back_the_same(
    parameters: dict[str, Any], known: Predictions, tmp_path: Path
) -> None:
    made = AEPPT(**parameters).fit(known.probs, known.is_member)
    made.save(tmp_path / "d.safetensors")
    back = load_defense(str(tmp_path / "d.safetensors"))
    assert type(back) is AEPPT
    assert back.get_params() == made.get_params()
    assert isinstance(back.hidden, tuple)
    assert back.n_features_in_ == 5
    for rows in (known.probs, known.probs.astype(np.float32)):
        (left, told), (right, told_back) = (d.protect(rows, return_info=True) for d in (made, back))
        assert np.array_equal(left, right)
        assert np.array_equal(told.score_after, told_back.score_after)


@pytest.fixture
def saved(fitted: AEPPT, tmp_path: Path) -> Path:
    path = tmp_path / "defense.safetensors"
    fitted.save(path)
    return path


def rewrite(path: Path, drop: str | None = None, **changes: str | None) -> None:
    """Save ``path`` again with other metadata (None removes a key), or without a tensor."""
    with safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), **changes}
        tensors = {name: file.get_tensor(name) for name in file.keys() if name != drop}  # noqa: SIM118
    kept = {key: value for key, value in metadata.items() if value is not None}
    save_file(tensors, path, metadata=kept)


def test_the_file_is_plain_tensors_and_json(saved: Path, fitted: AEPPT) -> None:
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
        names = set(file.keys())
    assert names == set(fitted.module_.state_dict())
    assert metadata["defense"] == "AEPPT"
    assert json.loads(metadata["parameters"])["hidden"] == [16]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match=str(path)):
            load_defense(path)


def test_a_file_cut_anywhere_is_called_damaged(saved: Path) -> None:
    content = saved.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for length in (0, 1, 7, 8, 9, header // 2, header - 1, header, header + 9, len(content) - 1):
        saved.write_bytes(content[:length])
        with pytest.raises(ValueError, match=f"{saved} is damaged"):
            load_defense(saved)


def test_random_bytes_are_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "noise.safetensors"
    for seed, length in product(range(3), (10, 1000)):
        path.write_bytes(np.random.default_rng(seed).bytes(length))
        with pytest.raises(ValueError, match=str(path)):
            load_defense(path)


def test_a_flipped_byte_of_the_header_is_refused_or_harmless(saved: Path) -> None:
    content = saved.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    refused = 0
    for at in range(0, header, 3):
        saved.write_bytes(content[:at] + bytes([content[at] ^ 0x15]) + content[at + 1 :])
        try:
            load_defense(saved)
        except ValueError as error:
            assert str(saved) in str(error)
            refused += 1
    assert refused > 0


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    for name, write in (
        ("plain", lambda path: path.write_bytes(pickle.dumps(Trap()))),
        ("torch", lambda path: torch.save({"trap": Trap()}, path)),
    ):
        path = tmp_path / f"{name}.safetensors"
        write(path)
        with pytest.raises(ValueError, match=f"{path} is damaged"):
            load_defense(path)
    assert not (tmp_path / "sprung").exists()


def test_a_foreign_safetensors_file_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"weight_0": torch.zeros(3)}, path, metadata=metadata)
        with pytest.raises(ValueError, match="not a saved aeppt defense"):
            load_defense(path)


def test_a_later_format_is_refused(saved: Path) -> None:
    rewrite(saved, format_version="2")
    with pytest.raises(ValueError, match=r"format version 2.*reads 1"):
        load_defense(saved)


def test_an_unknown_defense_is_named(saved: Path) -> None:
    rewrite(saved, defense="Wishful")
    with pytest.raises(ValueError, match=r"'Wishful'.*AEPPT"):
        load_defense(saved)


@pytest.mark.parametrize("tensor", ["weight_0", "bias_0", "weight_1", "bias_1"])
def test_a_missing_tensor_is_called_damaged(tensor: str, saved: Path) -> None:
    rewrite(saved, drop=tensor)
    with pytest.raises(ValueError, match=f"damaged aeppt defense.*{tensor}"):
        load_defense(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": None},
        {"parameters": "{"},
        {"parameters": "[]"},
        {"parameters": "null"},
        {"parameters": '{"no_such": 1}'},
        {"parameters": '{"hidden": [16], "step_size": -1}'},
        {"parameters": '{"hidden": [16, 16]}'},
        {"parameters": '{"hidden": 3}'},
        {"n_classes": None},
        {"n_classes": "many"},
        {"n_classes": "7"},
    ],
    ids=str,
)
def test_metadata_that_do_not_fit_are_called_damaged(
    changes: dict[str, str | None], saved: Path
) -> None:
    rewrite(saved, **changes)
    with pytest.raises(ValueError, match=f"{saved} is a damaged aeppt defense"):
        load_defense(saved)


def test_a_save_that_fails_leaves_the_old_file_alone(
    saved: Path, known: Predictions, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()
    other = AEPPT(hidden=(4,), random_state=9).fit(known.probs, known.is_member)

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        other.save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_save_into_no_folder_is_named(fitted: AEPPT, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="its folder does not exist"):
        fitted.save(tmp_path / "none" / "d.safetensors")


def test_a_saved_file_has_the_usual_permissions(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    assert saved.stat().st_mode == (tmp_path / "usual").stat().st_mode
