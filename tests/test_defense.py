"""What AEPPT does to a row and what its parameters do; what a damaged file of a defense leads to.

What all defenses promise is tested in ``test_defense_conformance.py``.
"""

from __future__ import annotations

import json
import os
import pickle
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

from aeppt import AEPPT, Predictions, Status, load_defense

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


def test_the_same_seed_gives_the_same_defense(fitted: AEPPT, known: Predictions) -> None:
    again = AEPPT(hidden=(16,)).fit(known.probs, known.is_member)
    other = AEPPT(hidden=(16,), random_state=1).fit(known.probs, known.is_member)
    for name, tensor in fitted.module_.state_dict().items():
        assert torch.equal(again.module_.state_dict()[name], tensor), name
    assert np.array_equal(again.protect(known.probs), fitted.protect(known.probs))
    assert not np.array_equal(other.protect(known.probs), fitted.protect(known.probs))


# --- what protect does ------------------------------------------------------------------------


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


def rewrite(path: Path, **changes: str | None) -> None:
    """Save ``path`` again with other metadata; None removes a key."""
    with safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), **changes}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
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
