"""Defenses side by side: what is kept and used again, what the table says, and the page."""

from __future__ import annotations

import importlib
import json
import linecache
import os
import re
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import ArrayLike
from torch import Tensor, nn
from typing_extensions import Self

from aeppt import AEPPT, Predictions, ShadowPredictions
from aeppt.attacks import ConfidenceAttack, EntropyAttack
from aeppt.data.records import Records
from aeppt.defenses.base import OutputDefense, checked_fit
from aeppt.defenses.undefended import Undefended
from aeppt.evaluation import plots
from aeppt.evaluation.comparison import Comparison, _warnings, compare, undominated
from aeppt.evaluation.comparison_page import frontiers, names, render
from aeppt.evaluation.experiment import (
    Experiment,
    Predict,
    Sizes,
    given_experiment,
    run_experiment,
)
from aeppt.evaluation.fingerprint import _source, fingerprint
from aeppt.evaluation.metrics import METRICS
from aeppt.evaluation.results import Estimate

Make = Callable[..., Predictions]

ATTACKS = (ConfidenceAttack(),)
TIMES = ["seconds_per_record", "training_seconds", "training_ratio"]

#: What was done, by what it was; in this process.
DONE: list[str] = []


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    DONE.clear()


class Mixed(nn.Module):
    """Rows mixed with the uniform one."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, probs: Tensor) -> Tensor:
        return (1 - self.strength) * probs + self.strength / probs.shape[1]


class Mixing(OutputDefense):
    """Mixes each row with the uniform one; notes that it is fitted, and fails as told."""

    def __init__(
        self, strength: float = 0.5, fails: str | None = None, random_state: int = 0
    ) -> None:
        self.strength = strength
        self.fails = fails
        self.random_state = random_state

    def fit(self, probs: ArrayLike, is_member: ArrayLike) -> Self:
        rows, _ = checked_fit(probs, is_member)
        DONE.append(f"fit {self.strength} {self.random_state}")
        if self.fails == "bad value":
            raise ValueError("the strength is odd")
        if self.fails == "bad key":
            raise KeyError("odd")
        if self.fails == f"interrupted {self.random_state}":
            raise KeyboardInterrupt
        self.module_ = self.build_module({})
        self.n_features_in_ = rows.shape[1]
        return self

    def build_module(self, tensors: dict[str, Tensor]) -> nn.Module:
        return Mixed(self.strength)


def made_experiment(make: Make, seed: int, leak: float = 8.0) -> Experiment:
    DONE.append(f"experiment {seed}")
    parts = (make(60, 60, leak=leak, seed=10 * seed + part) for part in range(3))
    return Experiment(*parts, training_seconds=1.5 + seed)


@pytest.fixture(scope="module")
def experiments(make_predictions: Make) -> dict[str, Callable[[int], Experiment]]:
    """Two ways of training, of which the second leaks less."""
    return {
        "Plain": partial(made_experiment, make_predictions),
        "Careful": partial(made_experiment, make_predictions, leak=2.0),
    }


def run(experiments: Any, folder: Path, **options: Any) -> Comparison:
    """A comparison that takes no time."""
    given: dict[str, Any] = {
        "defenses": {"none": Undefended(), "mixing": Mixing()},
        "seeds": [0, 1],
        "attacks": ATTACKS,
    }
    return compare(experiments, **{**given, **options}, folder=folder)


@pytest.fixture(scope="module")
def first(experiments: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Path]:
    """A finished comparison and its folder, which is not to be written to."""
    folder = tmp_path_factory.mktemp("first")
    return run(experiments, folder), folder


@pytest.fixture
def folder(first: tuple[Comparison, Path], tmp_path: Path) -> Path:
    """A copy of the folder of a finished comparison."""
    shutil.copytree(first[1], tmp_path / "copy")
    DONE.clear()
    return tmp_path / "copy"


def results(comparison: Comparison) -> list[dict[str, Any]]:
    """The table without times, which are never the same again; what is undefined is None."""
    rows = comparison.to_dict()["contenders"]
    return [{name: row[name] for name in row if name not in TIMES} for row in rows]


def kept(folder: Path, kind: str) -> list[Path]:
    """The files of one kind of work."""
    return sorted(folder.glob(f"{kind}-*"))


# --- what is kept -----------------------------------------------------------------------------


def test_what_is_done_is_what_is_asked_for(experiments: Any, tmp_path: Path) -> None:
    run(experiments, tmp_path, contenders=[("Plain", "mixing")])
    assert [
        *("experiment 0", "experiment 1"),
        *("fit 0.5 0", "fit 0.5 1"),  # with the first seed, and the attacker's copy
        *("fit 0.5 1", "fit 0.5 2"),
        "fit 0.5 0",  # to measure its latency
    ] == DONE
    assert [len(kept(tmp_path, kind)) for kind in ("experiment", "audit", "latency")] == [2, 2, 1]


def test_nothing_is_done_twice(
    experiments: Any, first: tuple[Comparison, Path], folder: Path
) -> None:
    again = run(experiments, folder)
    assert DONE == []
    assert again.to_dict() == first[0].to_dict()


def test_more_seeds_and_defenses_make_only_what_they_add(experiments: Any, folder: Path) -> None:
    more = {"none": Undefended(), "mixing": Mixing(), "weak": Mixing(0.1)}
    run(experiments, folder, seeds=[0, 1, 2], defenses=more)
    assert DONE.count("experiment 2") == 2
    assert not {"experiment 0", "experiment 1", "fit 0.5 0"} & set(DONE)
    assert len(kept(folder, "audit")) == 2 * 3 * 3


@pytest.mark.parametrize(
    "changed",
    [
        {"defenses": {"none": Undefended(), "mixing": Mixing(strength=0.25)}},
        {"attacks": (EntropyAttack(),)},
        {"attacks": (ConfidenceAttack(per_class=False),)},
    ],
    ids=["a defense's parameter", "an attack", "an attack's parameter"],
)
def test_what_changed_is_done_anew(
    changed: Any, experiments: Any, folder: Path, tmp_path: Path
) -> None:
    changed["seeds"] = [0]
    after = run(experiments, folder, **changed)
    assert DONE
    assert not any(what.startswith("experiment") for what in DONE)
    assert results(after) == results(run(experiments, tmp_path / "new", **changed))
    if "defenses" in changed:  # the audits of the other defense stay
        assert len(kept(folder, "audit")) == 8 + 2


def test_another_way_of_training_under_the_same_name_is_made_anew(
    make_predictions: Make, tmp_path: Path
) -> None:
    leaking, careful = (
        run({"T": partial(made_experiment, make_predictions, leak=leak)}, tmp_path, seeds=[0])
        for leak in (8.0, 2.0)
    )
    assert leaking.table["adaptive"].max() > careful.table["adaptive"].max()
    assert DONE.count("experiment 0") == 2


def test_given_predictions_serve_every_seed(make_predictions: Make, tmp_path: Path) -> None:
    experiment = made_experiment(make_predictions, 0)
    comparison = run({"own": experiment}, tmp_path)
    assert kept(tmp_path, "experiment") == []
    assert comparison.cells.groupby("defense")["floor"].nunique().eq(1).all()
    assert "given" in comparison.facts["seeds"]
    DONE.clear()
    other = replace(experiment, target=make_predictions(60, 60, seed=99))
    run({"own": other}, tmp_path)
    assert DONE, "the audits of other predictions were used again"


@pytest.mark.parametrize("kind", ["experiment", "audit", "latency"])
@pytest.mark.parametrize("damage", ["cut", "changed", "emptied"])
def test_a_damaged_file_is_made_anew_with_a_warning(
    kind: str, damage: str, experiments: Any, first: tuple[Comparison, Path], folder: Path
) -> None:
    file = kept(folder, kind)[0]
    content = file.read_bytes()
    if damage == "changed":
        digit = max(at for at in range(len(content) * 3 // 4) if content[at : at + 1].isdigit())
        other = b"1" if content[digit : digit + 1] != b"1" else b"2"
        file.write_bytes(content[:digit] + other + content[digit + 1 :])
    else:
        file.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    with pytest.warns(UserWarning, match=f"{re.escape(file.name)}.*damaged.*made anew"):
        again = run(experiments, folder)
    assert results(again) == results(first[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(experiments, folder)


def test_an_interruption_leaves_what_is_finished(
    experiments: Any, first: tuple[Comparison, Path], tmp_path: Path
) -> None:
    failing = {"none": Undefended(), "mixing": Mixing(fails="interrupted 1")}
    with pytest.raises(KeyboardInterrupt):
        run(experiments, tmp_path, defenses=failing)
    assert len(kept(tmp_path, "experiment")) == 4
    assert kept(tmp_path, "audit")
    DONE.clear()
    assert results(run(experiments, tmp_path)) == results(first[0])
    assert not any(what.startswith("experiment") for what in DONE)


def heedless_experiment(make: Make, seed: int) -> Experiment:
    """As scikit-learn's networks do, it takes Ctrl-C for the wish to end early."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
        signal.sigtimedwait([], 1)  # gives the handler time to run
    except KeyboardInterrupt:
        DONE.append("went on")
    return made_experiment(make, seed)


def test_work_that_swallows_an_interruption_is_not_kept(
    make_predictions: Make, tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run({"T": partial(heedless_experiment, make_predictions)}, tmp_path)
    assert DONE == []
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("seeds", [[0, 1], [0, 1, 2]], ids=["all found", "some found"])
def test_progress_counts_all_pieces_once(seeds: list[int], experiments: Any, folder: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    run(experiments, folder, seeds=seeds, on_progress=lambda *call: calls.append(call))
    total = 2 * len(seeds) + 4 * len(seeds) + 4
    assert [(done, of) for _, done, of in calls] == [(n, total) for n in range(1, total + 1)]
    assert len({what for what, *_ in calls}) == total
    assert "audit of Careful, mixing, seed 1" in [what for what, *_ in calls]


@pytest.mark.slow
def test_two_workers_find_what_one_does(make_predictions: Make, tmp_path: Path) -> None:
    given = {"own": made_experiment(make_predictions, 0)}
    defenses = {"none": Undefended(), "AEPPT": AEPPT(hidden=(16,))}
    one, two = (
        run(given, tmp_path / str(n), defenses=defenses, attacks="default", workers=n)
        for n in (1, 2)
    )
    assert results(one) == results(two)
    assert one.attacks.equals(two.attacks)


def test_threads_are_as_before(experiments: Any, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run(experiments, tmp_path, contenders=[("Plain", "none")], seeds=[0])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


# --- what each cell is ------------------------------------------------------------------------


def test_the_seed_is_that_of_defense_and_attackers(first: tuple[Comparison, Path]) -> None:
    (file,) = first[1].glob("audit-Plain-mixing-seed-1-*.json")
    facts = json.loads(file.read_text())["content"]["facts"]
    assert facts["random state"] == "1"
    assert "random_state=1" in facts["defense parameters"]


def test_a_cell_is_the_audit_of_its_experiment(
    experiments: Any, first: tuple[Comparison, Path]
) -> None:
    cells = first[0].cells.query("training == 'Careful' and seed == 1").set_index("defense")
    target = experiments["Careful"](1).target
    others = ~target.is_member
    assert cells["accuracy"].to_dict() == pytest.approx(
        dict.fromkeys(("none", "mixing"), target.is_correct[others].mean())
    )
    assert cells["l1"].to_dict() == pytest.approx(
        {"none": 0, "mixing": 0.5 * np.abs(target.probs - 0.2).sum(1).mean()}
    )
    assert cells["training_seconds"].to_dict() == {"none": 2.5, "mixing": 2.5}
    floor = (target.is_correct[~others].mean() + (~target.is_correct[others]).mean()) / 2
    assert cells["floor"].to_dict() == pytest.approx(dict.fromkeys(("none", "mixing"), floor))


def test_latency_is_measured_once_per_contender(first: tuple[Comparison, Path]) -> None:
    measured = first[0].cells.groupby("seed")["seconds_per_record"].count()
    assert measured.to_dict() == {0: 4, 1: 0}
    assert first[0].table["seconds_per_record"].between(0, 1).all()


def test_chosen_contenders_alone_are_compared(experiments: Any, folder: Path) -> None:
    chosen = [("Careful", "mixing"), ("Plain", "none"), ("Careful", "mixing")]
    comparison = run(experiments, folder, contenders=chosen)
    pairs = comparison.table[["training", "defense"]].itertuples(index=False, name=None)
    assert sorted(pairs) == [("Careful", "mixing"), ("Plain", "none")]
    assert comparison.baseline == "Careful"
    assert DONE == []


def test_shadow_models_bring_per_example_attacks(
    make_predictions: Make, first: tuple[Comparison, Path], tmp_path: Path
) -> None:
    experiment = made_experiment(make_predictions, 0)
    target, rng = experiment.target, np.random.default_rng(0)
    half = np.stack([rng.permutation(120) % 2 == 0 for _ in range(2)])
    trained_on = np.concatenate([half, ~half])
    probs = np.stack([make_predictions(60, 60, seed=50 + model).probs for model in range(4)])
    shadows = ShadowPredictions(probs, target.labels, trained_on)
    given = {"own": replace(experiment, shadows=shadows)}
    table = run(given, tmp_path, seeds=[0], defenses={"none": Undefended()}).table
    assert table["lira_auc"].between(0, 1).all()
    assert first[0].table[["lira_auc", "canary_tpr"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        ("bad value", r"^audit of Plain, bad, seed 0: the strength is odd$"),
        ("bad key", r"^audit of Plain, bad, seed 0: KeyError: 'odd'$"),
    ],
)
def test_an_error_names_its_cell(fails: str, message: str, experiments: Any, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(experiments, folder, defenses={"none": Undefended(), "bad": Mixing(fails=fails)})


def unready_experiment(seed: int) -> Experiment:
    raise RuntimeError("no machine")


def test_an_error_names_its_experiment(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="experiment T, seed 0: RuntimeError: no machine"):
        run({"T": unready_experiment}, tmp_path)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"seeds": []}, ValueError, "seeds must be one or more"),
        ({"seeds": [1, 1]}, ValueError, "once each"),
        ({"seeds": [-1]}, ValueError, "from 0 on"),
        ({"workers": 0}, ValueError, "workers must be at least 1, got 0"),
        ({"attacks": ()}, ValueError, "at least one attack"),
        ({"defenses": {}}, ValueError, "nothing to compare"),
        ({"contenders": []}, ValueError, "nothing to compare"),
        ({"contenders": [("Plain", "x")]}, ValueError, r"no contender \('Plain', 'x'\).*mixing"),
        ({"defenses": {"d": AEPPT}}, TypeError, r"defenses\['d'\] must be an OutputDefense"),
        ({"experiments": {"e": 3}}, TypeError, r"experiments\['e'\] must be an Experiment"),
        (
            {"experiments": {"e": partial(unready_experiment, (n for n in "a"))}},
            TypeError,
            r"experiments\['e'\].*pickle",
        ),
    ],
)
def test_bad_input_is_named(
    options: dict[str, Any], kind: type[Exception], message: str, experiments: Any, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        run(options.pop("experiments", experiments), tmp_path / "folder", **options)
    assert DONE == []


# --- the table --------------------------------------------------------------------------------


def outcome(
    training: str, defense: str, seed: int, attack: str, setting: str, value: float, **more: float
) -> dict[str, Any]:
    row: dict[str, Any] = {"training": training, "defense": defense, "seed": seed}
    row |= {"attack": attack, "setting": setting, "canary_tpr": np.nan}
    for metric in (*METRICS, "advantage"):
        row |= {metric: np.nan, f"{metric}_low": np.nan, f"{metric}_high": np.nan}
    row |= {
        "balanced_accuracy": value,
        "balanced_accuracy_low": value - 0.02,
        "balanced_accuracy_high": value + 0.03,
        "advantage": value - 0.5,
        "advantage_low": value - 0.55,
        "advantage_high": value - 0.45,
    }
    return row | more


def cell(training: str, defense: str, seed: int, **more: float) -> dict[str, Any]:
    return {
        **{"training": training, "defense": defense, "seed": seed},
        **{"floor": 0.5, "accuracy_before": 0.9, "accuracy": 0.9},
        **{"calibration_error_before": 0.1, "calibration_error": 0.1},
        **{"l1": 0.0, "l1_members": 0.0, "l1_non_members": 0.0},
        **{"seconds_per_record": np.nan, "training_seconds": np.nan},
        **more,
    }


def by_hand(cells: list[dict[str, Any]], outcomes: list[dict[str, Any]]) -> Comparison:
    facts = {"target records": "200 members, 150 non-members", "classes": "10", "seeds": "0, 1"}
    return Comparison("By <hand>", pd.DataFrame(cells), pd.DataFrame(outcomes), facts)


def one_contender(*outcomes: tuple[int, str, str, float]) -> pd.Series:
    """The table's row of one contender with these seeds, attacks, settings and values."""
    rows = [outcome("T", "D", *one) for one in outcomes]
    cells = [cell("T", "D", seed) for seed in {seed for seed, *_ in outcomes}]
    return by_hand(cells, rows).table.iloc[0]


def test_the_strongest_attack_is_chosen_in_each_seed() -> None:
    row = one_contender(
        *((0, "a", "adaptive", 0.60), (1, "a", "adaptive", 0.50)),
        *((0, "b", "adaptive", 0.52), (1, "b", "adaptive", 0.70)),
    )
    assert row["adaptive"] == pytest.approx(0.65)  # the best on average has 0.61
    assert (row["adaptive_min"], row["adaptive_max"]) == (0.60, 0.70)
    assert row["adaptive_std"] == pytest.approx(0.1 / np.sqrt(2))
    assert row["adaptive_low"] == pytest.approx(0.63)
    assert row["adaptive_high"] == pytest.approx(0.68)
    assert row["advantage_low"] == pytest.approx(0.10)
    assert row["seeds"] == 2


def test_the_attack_that_is_strongest_most_often_is_named() -> None:
    row = one_contender(
        *((seed, "a", "adaptive", value) for seed, value in enumerate((0.60, 0.60, 0.51))),
        *((seed, "b", "adaptive", value) for seed, value in enumerate((0.59, 0.59, 0.99))),
    )
    assert row["adaptive_attack"] == "a"


def test_the_adaptive_attacker_is_never_weaker_than_the_static() -> None:
    row = one_contender((0, "a", "static", 0.7), (0, "a", "adaptive", 0.6), (0, "b", "static", 0.5))
    assert row["adaptive"] == row["static"] == 0.7
    weaker = one_contender((0, "a", "static", 0.5), (0, "a", "adaptive", 0.6))
    assert (weaker["static"], weaker["adaptive"]) == (0.5, 0.6)


def test_an_attack_without_a_figure_does_not_count() -> None:
    row = one_contender((0, "a", "adaptive", np.nan), (0, "b", "adaptive", 0.6))
    assert (row["adaptive"], row["adaptive_attack"]) == (0.6, "b")
    assert np.isnan(row["static"])


def test_other_figures_are_the_highest_of_each_seed() -> None:
    low, high = {"auc": 0.6, "tpr_at_0.1_percent_fpr": 0.1}, {"auc": 0.8, "canary_tpr": 0.4}
    rows = [
        outcome("T", "D", 0, "LiRA online", "static", 0.5, **low),
        outcome("T", "D", 0, "LiRA offline", "adaptive", 0.5, **high),
        outcome("T", "D", 0, "RMIA online", "adaptive", 0.5, auc=0.99),
        outcome("T", "D", 1, "LiRA online", "adaptive", 0.5, **low),
        outcome("T", "D", 1, "LiRA online", "undefended", 0.9, auc=0.99),
    ]
    row = by_hand([cell("T", "D", seed) for seed in (0, 1)], rows).table.iloc[0]
    assert row["lira_auc"] == pytest.approx((0.8 + 0.6) / 2)
    assert row["tpr_at_0.1_percent_fpr"] == pytest.approx(0.1)
    assert row["canary_tpr"] == pytest.approx(0.4)


def contenders_by_hand() -> Comparison:
    """Plain undefended, Plain defended, and Other, which costs accuracy and helps most."""
    figures = {
        ("Plain", "none"): (0.80, {"training_seconds": 2.0}),
        ("Plain", "noise <1>"): (0.70, {"training_seconds": 2.0, "l1": 0.25, "accuracy": 0.9}),
        ("Other", "none"): (
            0.60,
            {"training_seconds": 6.0, "accuracy_before": 0.8, "accuracy": 0.8},
        ),
        ("Other", "noise <1>"): (
            0.65,
            {"training_seconds": 6.0, "accuracy_before": 0.8, "accuracy": 0.79, "l1": 0.5},
        ),
    }
    cells, outcomes = [], []
    for (training, defense), (value, costs) in figures.items():
        for seed in (0, 1):
            latency = {"seconds_per_record": 0.00123} if seed == 0 else {}
            cells.append(cell(training, defense, seed, **costs, **latency))
            for setting in ("undefended", "static", "adaptive"):
                found = 0.8 if setting == "undefended" else value + 0.01 * seed
                outcomes.append(outcome(training, defense, seed, "a & b", setting, found))
                outcomes.append(outcome(training, defense, seed, "weak", setting, 0.5))
    return by_hand(cells, outcomes)


def test_costs_are_counted_from_the_first_training_undefended() -> None:
    table = contenders_by_hand().table.set_index(["training", "defense"])
    assert table["accuracy_cost"].to_dict() == pytest.approx(
        {
            ("Other", "none"): 0.1,
            ("Other", "noise <1>"): 0.11,
            ("Plain", "noise <1>"): 0.0,
            ("Plain", "none"): 0.0,
        }
    )
    assert table.loc[("Other", "none"), "training_ratio"] == 3.0
    assert table.loc[("Plain", "none"), "training_ratio"] == 1.0


def test_the_least_leakage_comes_first_and_the_outdone_are_told() -> None:
    comparison = contenders_by_hand()
    assert list(comparison.table["adaptive"]) == pytest.approx([0.605, 0.655, 0.705, 0.805])
    assert list(comparison.table["is_undominated"]) == [True, False, True, True]
    assert names(comparison.table)[0] == "Other, none"
    assert names(comparison.table[comparison.table["training"] == "Plain"]) == ["noise <1>", "none"]


def test_frontiers_of_all_and_of_the_first_training() -> None:
    lines = frontiers(contenders_by_hand(), "l1")
    assert [list(line) for line in lines.values()] == [
        [True, False, False, False],  # Other without defense leaks least at no distortion
        [False, False, True, True],
    ]
    alone = contenders_by_hand()
    alone = by_hand(
        alone.cells[alone.cells["training"] == "Plain"].to_dict("records"),
        alone.outcomes[alone.outcomes["training"] == "Plain"].to_dict("records"),
    )
    assert list(frontiers(alone, "l1")) == ["frontier"]


def test_the_json_is_strict_and_complete(first: tuple[Comparison, Path], tmp_path: Path) -> None:
    comparison = first[0]
    comparison.to_json(tmp_path / "c.json")
    text = (tmp_path / "c.json").read_text()
    assert "NaN" not in text
    loaded = json.loads(text)
    assert loaded["baseline"] == "Plain"
    rows = loaded["contenders"]
    assert [row["adaptive"] for row in rows] == list(comparison.table["adaptive"])
    assert rows[0]["lira_auc"] is None
    for row in rows:  # there is one attack
        found = {entry["setting"]: entry["balanced_accuracy"] for entry in row["attacks"]}
        assert found["undefended"] == row["undefended"]
        assert found["static"] == row["static"]
        assert found["adaptive"] <= row["adaptive"]
    assert loaded["facts"]["defense mixing"] == "Mixing()"


def test_warnings_of_one_kind_are_told_once(first: tuple[Comparison, Path]) -> None:
    told = first[0].warnings
    assert len(told) == len(set(told))
    few = [text for text in told if "that a false-positive rate of 0.1 % needs" in text]
    assert few == [
        "60 non-members are fewer than the 1000 that a false-positive rate of 0.1 % needs: the TPR "
        "there allows no false positive, and is known only roughly (in 8 of 8 audits)"
    ]


def test_warnings_name_a_few_attacks_and_count_many() -> None:
    def entry(attack: str, setting: str, *warnings: str) -> dict[str, Any]:
        return {"attack": attack, "setting": setting, "warnings": warnings}

    audits = [
        {"warnings": ["7 rows"], "attacks": [entry(a, "adaptive", "equal") for a in "ab"]},
        {"warnings": ["8 rows"], "attacks": [entry(a, "adaptive", "ties") for a in "abcd"]},
        {"warnings": [], "attacks": [entry("a", "static", "misled"), entry("a", "adaptive")]},
    ]
    assert _warnings(audits) == (
        "7 rows (in 2 of 3 audits)",
        "equal (in 1 of 3 audits, of the adaptive attack a and of b)",
        "ties (in 1 of 3 audits, of 4 adaptive attacks)",
    )


# --- the frontier -----------------------------------------------------------------------------


def test_the_frontier_by_hand() -> None:
    costs = [[1, 5], [2, 3], [3, 3], [4, 1], [4, 1], [5, 5], [1, 5]]
    assert list(undominated(costs)) == [True, True, False, True, True, False, True]


def test_rows_without_a_figure_neither_outdo_nor_stand() -> None:
    assert list(undominated([[0.0, np.nan], [1.0, 1.0], [2.0, 2.0]])) == [False, True, False]


@given(
    arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 3)), elements=st.integers(0, 3))
)
def test_the_frontier_is_what_its_definition_says(costs: np.ndarray) -> None:
    expected = [
        not any((other <= row).all() and (other < row).any() for other in costs) for row in costs
    ]
    assert list(undominated(costs)) == expected
    assert undominated(costs).any()


def test_the_frontier_is_drawn_through_its_points() -> None:
    costs, values = np.array([0.3, 0.0, 0.2, 0.1]), [0.5, 0.9, 0.8, 0.6]
    estimates = [Estimate(value, value - 0.05, value + 0.05) for value in values]
    figure = plots.leakage_against_cost(
        *(costs, estimates, ["A", "A", "B", "B"], ["A", "B"], np.array([0.5, 0.5, 0.4, 0.4])),
        *({"frontier": np.array([True, True, False, True])}, "cost", ["one", "two", "three", "4"]),
    )
    (axes,) = figure.axes
    (line,) = [line for line in axes.lines if line.get_label() == "frontier"]
    xs, ys = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    assert list(xs[1:-1]) == [0.0, 0.1, 0.3]
    assert list(ys[1:-1]) == [0.9, 0.6, 0.5]
    assert line.get_drawstyle() == "steps-post"
    words = [text.get_text() for text in axes.texts]
    assert words[0] == "label-only floors"
    assert {"1  one", "3  three", "1", "4"} <= set(words)
    bold = {text.get_text() for text in axes.texts if text.get_weight() == "bold"}
    assert bold == {"1  one", "2  two", "4  4"}


def test_numbers_avoid_points_and_each_other() -> None:
    points = np.array([[0.0, 0.0], [8.0, 6.0], [-8.0, 6.0], [30.0, 0.0]])
    offsets = np.array(list(plots._beside(points)))
    placed = points + offsets
    for number, place in enumerate(placed):
        gaps = np.abs(np.delete(placed, number, axis=0) - place) - plots.NUMBER_BOX
        assert (gaps >= 0).any(axis=1).all()
        to_points = np.abs(points - place) - (plots.NUMBER_BOX + plots.MARKER_SIZE) / 2
        assert (to_points >= 0).any(axis=1).all()
    assert (offsets[3] > 0).all(), "a point alone has its number above and to the right"


# --- the page ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page() -> str:
    return render(contenders_by_hand())


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of words and tables alone."""
    monkeypatch.setattr("aeppt.evaluation.page._figure", lambda figure, name, description: "")


def text_of(page: str) -> str:
    body = re.sub(r"<style.*?</style>", "", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body)).replace("\u202f", " ")


def verdict_of(page: str) -> str:
    return text_of(page[page.index('<p class="verdict') : page.index('<div class="grid tiles">')])


def rows_of(page: str, heading: str) -> list[str]:
    """The text of the table rows below a heading."""
    part = page[page.index(f"<h2>{heading}</h2>") :]
    body = part[part.index("<tbody>") : part.index("</tbody>")]
    return [" ".join(text_of(row).split()) for row in body.split("</tr>")[:-1]]


def test_the_verdict_names_the_least_leakage_and_its_price(page: str) -> None:
    verdict = verdict_of(page)
    assert "Other, none leaks least, and still leaks" in verdict
    assert "60.5 % (58.5–63.5)" in verdict
    assert "the strongest attack reaches 80.0 % (78.0–83.0)" in verdict
    assert "the accuracy on fresh records by −10.0 points" in verdict
    assert "3 times the training time" in verdict
    assert "3 of 4 contenders are not outdone" in verdict
    assert "so small a lead may be chance" in verdict  # the next interval begins at 63.5
    assert not re.search(r"\b(safe|private|secure)\b", text_of(page), flags=re.I)


def test_the_tables_hold_every_figure(page: str) -> None:
    leaks = rows_of(page, "What leaks")
    assert leaks[0].startswith("1 ◆ none Other 60.5 % 58.5–63.5 a &amp; b seeds 60.0–61.0 ▲ +10.5")
    assert leaks[1].startswith("2 noise &lt;1&gt; Other 65.5 %")
    costs = rows_of(page, "What it costs")
    assert costs[0] == "1 ◆ none Other 80.0 % 80.0 % −10.0 0.100 0.100 0.000 0.000 0.000 1.2 6 × 3"
    assert "90.0 % 90.0 % +0.0 0.100 0.100 0.250" in costs[2]
    choice = rows_of(page, "The choice")
    assert [row.split(" 6")[0].split(" 7")[0].split(" 8")[0] for row in choice] == [
        "Other, none",
        "Plain, noise &lt;1&gt;",
        "Plain, none",
    ]
    assert "80.5" in choice[-1]


def test_every_attack_is_shown_strongest_first(page: str) -> None:
    rows = rows_of(page, "Every attack")
    assert rows == ["a &amp; b 60.5 65.5 70.5 80.5", "weak 50.0 50.0 50.0 50.0"]


def test_facts_and_warnings_are_shown(undrawn: None) -> None:
    told = replace(contenders_by_hand(), warnings=("few <records> (in 1 of 8 audits)",))
    page = render(told)
    assert "Few &lt;records&gt; (in 1 of 8 audits)." in page
    assert "target records 200 members, 150 non-members" in text_of(page)


def test_what_is_undefined_is_blank(page: str) -> None:
    assert not re.search(r"\bnan\b", text_of(page), flags=re.I)
    assert "AUC of LiRA" not in page.partition("How to read")[0]
    assert "—" in rows_of(page, "What leaks")[0]  # TPR at 0.1 % FPR


def test_one_contender_without_costs_is_a_page_too() -> None:
    comparison = by_hand([cell("T", "D", 0)], [outcome("T", "D", 0, "a", "adaptive", 0.6)])
    text = text_of(render(comparison))
    assert "D leaks least" in text
    assert "No contender changes the accuracy" in text
    assert "The choice" not in text
    assert not re.search(r"\bnan\b", text, flags=re.I)


def test_without_an_adaptive_attack_nothing_is_judged(undrawn: None) -> None:
    comparison = by_hand([cell("T", "D", 0)], [outcome("T", "D", 0, "a", "undefended", 0.6)])
    assert "Not judged" in text_of(render(comparison))


def test_the_page_stands_alone(page: str) -> None:
    assert "http" not in page
    assert not re.search(r"<(script|link|iframe|img|object|embed|base)\b", page)
    identifiers = re.findall(r'\bid="([^"]*)"', page)
    assert len(identifiers) == len(set(identifiers))
    references = re.findall(r'(?:href="|url\()#([^")]*)', page)
    assert references
    assert set(references) <= set(identifiers)
    xml = re.sub(r"<!DOCTYPE[^>]*>|<meta[^>]*>|<br>| open(?=>)", "", page)
    ElementTree.fromstring(xml.replace("<svg ", '<svg xmlns:xlink="x" '))


def test_same_comparison_same_page(page: str, tmp_path: Path) -> None:
    contenders_by_hand().to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page


# --- experiments ------------------------------------------------------------------------------


def blobs(n: int) -> Records:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    features = rng.normal(labels[:, None], 1.0, (n, 2)).astype(np.float32)
    return Records(features, labels.astype(np.int64), 3)


def remember(records: Records, reference: Records, seed: int) -> Predict:
    """Training by heart: sure of its own records, and of nothing else."""
    DONE.append(f"{len(records)} {len(reference)}")
    known = {
        row.tobytes(): label for row, label in zip(records.features, records.labels, strict=True)
    }

    def predict(features: np.ndarray) -> np.ndarray:
        probs = np.full((len(features), 3), 1 / 3, np.float32)
        for row, feature in enumerate(features):
            if feature.tobytes() in known:
                probs[row] = np.eye(3)[known[feature.tobytes()]]
        return probs

    return predict


def test_an_experiment_gives_each_party_its_records() -> None:
    experiment = run_experiment(remember, blobs(200), Sizes(30, 20, 10, 4), 0)
    assert ["20 10", "30 10", *["30 10"] * 4] == DONE
    sure = [part.probs.max(1) == 1 for part in (experiment.known, experiment.target)]
    for part, is_sure in zip((experiment.known, experiment.target), sure, strict=True):
        assert np.array_equal(is_sure, part.is_member)
    assert len(experiment.shadow) == 40
    assert experiment.shadows is not None
    assert np.array_equal(experiment.shadows.labels, experiment.target.labels)
    assert np.array_equal(experiment.shadows.probs.max(2) == 1, experiment.shadows.trained_on)
    assert experiment.training_seconds > 0
    again = run_experiment(remember, blobs(200), Sizes(30, 20, 10, 4), 0)
    assert np.array_equal(again.target.probs, experiment.target.probs)
    other = run_experiment(remember, blobs(200), Sizes(30, 20, 10, 4), 1)
    assert not np.array_equal(other.target.labels, experiment.target.labels)


@pytest.mark.parametrize("models", [0, 4])
def test_an_experiment_is_read_back(models: int, tmp_path: Path) -> None:
    experiment = run_experiment(remember, blobs(200), Sizes(20, 20, 0, models), 0)
    experiment.save(tmp_path / "e.npz")
    loaded = Experiment.load(tmp_path / "e.npz")
    assert fingerprint(loaded) == fingerprint(experiment)
    assert (loaded.shadows is None) == (models == 0)


def test_a_file_that_is_no_experiment_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", probs=np.ones(3))
    with pytest.raises(ValueError, match=r"other\.npz is damaged or not a saved experiment"):
        Experiment.load(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError, match="none"):
        Experiment.load(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 5), "members must be at least 1, got 0"),
        ((5, 0), "shadow_members must be at least 1"),
        ((5, 5, -1), "reference must be at least 0"),
        ((5, 5, 0, 2), "shadow_models must be 0 or an even number from 4 on, got 2"),
        ((5, 5, 0, 5), "got 5"),
    ],
)
def test_bad_sizes_are_named(sizes: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sizes(*sizes)


def test_a_defender_and_the_attacked_share_no_non_members(make_predictions: Make) -> None:
    target, shadow = make_predictions(30, 41, seed=1), make_predictions(30, 30, seed=2)
    trained_on = np.random.default_rng(0).random((4, 71)) < 0.5
    shadows = ShadowPredictions(np.stack([target.probs] * 4), target.labels, trained_on)
    experiment = given_experiment(target, shadow, shadows=shadows)
    known, asked = experiment.known, experiment.target
    assert (known.is_member.sum(), asked.is_member.sum()) == (30, 30)
    others = np.concatenate([part.probs[~part.is_member] for part in (known, asked)])
    assert {row.tobytes() for row in others} == {
        row.tobytes() for row in target.probs[~target.is_member]
    }
    assert len(others) == 41
    assert experiment.shadows is not None
    assert np.array_equal(experiment.shadows.probs[0], asked.probs)
    own = given_experiment(target, shadow, known=make_predictions(30, 30, seed=3))
    assert own.target is target


def test_the_same_non_members_twice_are_refused(make_predictions: Make) -> None:
    target, shadow = make_predictions(30, 40, seed=1), make_predictions(30, 30, seed=2)
    with pytest.raises(ValueError, match="predictions on non-members; fit defenses on others"):
        given_experiment(target, shadow, known=target)
    members = Predictions(target.probs, target.labels, np.ones(70))
    with pytest.raises(ValueError, match="2 non-members or more, it has 0"):
        given_experiment(members, shadow)
    shadows = ShadowPredictions(target.probs[None], target.labels[::-1], np.ones((1, 70)))
    with pytest.raises(ValueError, match="labels differ"):
        given_experiment(target, shadow, shadows=shadows)


# --- fingerprints -----------------------------------------------------------------------------


def closure(value: Any) -> Callable[[], Any]:
    return lambda: value


def test_a_fingerprint_tells_what_decides_a_result() -> None:
    rows = np.arange(6.0)
    different = [
        *(0, 1, "a", (1, 2), [1, 2], rows, rows.astype(np.float32), rows[::-1].copy()),
        *(closure(0), closure(1), closure, partial(closure, 0), blobs, remember),
        *(Mixing(), Mixing(strength=0.1), Undefended(), EntropyAttack(), Mixing),
    ]
    prints = [fingerprint(value) for value in different]
    assert len(set(prints)) == len(prints)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in prints)


def test_equal_values_have_one_fingerprint() -> None:
    text = "".join(["ab", "cd"])
    assert fingerprint([text, text]) == fingerprint(["abcd", "".join("abcd")])
    assert fingerprint(np.arange(6)[::2]) == fingerprint(np.array([0, 2, 4]))
    assert fingerprint(closure(3), Mixing(0.2)) == fingerprint(closure(3), Mixing(0.2))


@pytest.mark.parametrize(
    ("module", "text"),
    [("helped", "helper"), ("derived", "class Base"), ("derived", "class Derived")],
    ids=["another function of the module", "a base of the class", "the class"],
)
def test_a_fingerprint_follows_the_source(
    module: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {
        "helped": "def helper():\n    return 1\ndef thing():\n    return helper()\n",
        "base": "class Base:\n    def two(self):\n        return 2\n",
        "derived": "from base import Base\nclass Derived(Base):\n    n = 3\nthing = Derived()\n",
    }
    monkeypatch.syspath_prepend(tmp_path)
    prints = []
    for change in ("", "", "  # changed"):  # the same, then one line of one module changed
        for name, source in sources.items():
            changed = re.sub(f"(?m)^(.*{text}.*:)$", rf"\1{change}", source)
            (tmp_path / f"{name}.py").write_text(changed)
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        linecache.clearcache()
        _source.cache_clear()
        prints.append(fingerprint(importlib.import_module(module).thing))
    assert prints[0] == prints[1] != prints[2]


def test_what_cannot_be_told_apart_is_refused() -> None:
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(TypeError, match="cannot be told apart"):
        fingerprint(itself)


@pytest.fixture(autouse=True)
def no_leftovers(tmp_path: Path) -> Iterator[None]:
    """No test leaves a temporary file, interrupted or not."""
    yield
    assert not [file for file in tmp_path.rglob(".*") if file.is_file()]
