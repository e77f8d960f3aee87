"""The scripts of benchmarks/paper: what they draw and count, what they keep, what they write."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from matplotlib.figure import Figure

from aeppt import AEPPT, Predictions, audit
from aeppt.attacks import ConfidenceAttack, NeuralNetworkAttack
from aeppt.evaluation.experiment import Sizes
from aeppt.evaluation.plots import to_svg
from aeppt.recipes import Dropout

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "paper"))
import answers
import figures
import member_ratio
import number_of_classes
import peers
import setups
import step_size
import trials
from answers import Spread

QUESTIONS = (
    "attack_quality",
    "step_size",
    "adversary_data",
    "member_ratio",
    "number_of_classes",
    "inference_model",
    "adaptive",
    "peers",
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache that no run has filled."""
    monkeypatch.setattr(setups, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def small() -> setups.Setup:
    """Baskets of a size on which everything takes moments."""
    return replace(setups.baskets(3), sizes=Sizes(30, 30, reference=10), epochs=2)


def rows(**metrics: list[float | None]) -> list[answers.Row]:
    """Rows of one attack each, in two seeds."""
    return [
        {"attack": attack, "seed": seed, "auc": None if value is None else {"value": value}}
        for attack, values in metrics.items()
        for seed, value in enumerate(values)
    ]


def test_spread_is_over_the_seeds_that_define_it():
    assert Spread.of([0.2, None, 0.6]) == (pytest.approx(0.4), 0.2, 0.6)
    assert np.isnan(Spread.of([None, None])).all()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.2, 0.6], "40.0 [20.0–60.0]"),
        ([0.12344, 0.12341], "12.3"),
        ([1.0], "100.0"),
        ([None], "undefined"),
    ],
)
def test_percent_shows_a_range_where_seeds_differ(values, text):
    assert Spread.of(values).percent == text


def test_strongest_is_chosen_anew_for_each_seed():
    found = rows(forest=[0.6, 0.9], network=[0.8, 0.7], undefined=[None, None])
    assert answers.strongest(found, "auc") == (pytest.approx(0.85), 0.8, 0.9)


def test_strongest_of_what_no_attack_defines_is_undefined():
    assert answers.strongest(rows(network=[None]), "auc").percent == "undefined"


def test_chosen_rows_have_all_factors():
    found = rows(forest=[0.6, 0.9], network=[0.8, 0.7])
    (row,) = answers.chosen(found, attack="network", seed=1)
    assert row["auc"] == {"value": 0.7}
    assert answers.distinct(found, "attack") == ["forest", "network"]


def test_table_is_markdown():
    assert answers.table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_json_has_one_row_per_line_and_no_nan():
    text = answers.as_json("adaptive", "synthetic", [{"l1": 0.5}, {"l1": None}])
    assert json.loads(text)["rows"] == [{"l1": 0.5}, {"l1": None}]
    assert len(text.splitlines()) == 4
    with pytest.raises(ValueError, match="not JSON compliant"):
        answers.as_json("adaptive", "synthetic", [{"l1": float("nan")}])


def test_ratio_is_drawn_exactly_and_without_repeats(make_predictions):
    known = make_predictions(members=90, others=180)
    sizes = set()
    for share in member_ratio.RATIOS:
        lesson = member_ratio.drawn(known, share, seed=0)
        sizes.add(len(lesson))
        assert lesson.is_member.sum() == round(share * len(lesson))
        assert len(np.unique(lesson.probs, axis=0)) == len(lesson)
        origin = [int(np.flatnonzero((known.probs == row).all(1))[0]) for row in lesson.probs]
        np.testing.assert_array_equal(lesson.labels, known.labels[origin])
        np.testing.assert_array_equal(lesson.is_member, known.is_member[origin])
    assert sizes == {100}  # 90 members at 9:1


def test_ratio_is_drawn_by_seed(make_predictions):
    known = make_predictions(members=60, others=60)
    first, again, other = (member_ratio.drawn(known, 0.5, seed).probs for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_other_options_keep_the_substitute(known: Predictions):
    parameters = {"direction": "member", "border": None, "method": "step", "hidden": (8,)}
    fitted = AEPPT(step_size=0.1, **parameters).fit(known.probs, known.is_member)
    options = {"space": "prob", "step_size": 0.2, "refine_steps": 0}
    other = step_size.with_options(fitted, **options)
    anew = AEPPT(**parameters, **options).fit(known.probs, known.is_member)
    np.testing.assert_array_equal(other.protect(known.probs), anew.protect(known.probs))
    assert fitted.step_size == 0.1
    assert not np.array_equal(other.protect(known.probs), fitted.protect(known.probs))


def test_experiment_is_made_once_for_each_recipe_and_seed(small, cache):
    drawn = []

    def load(count: int, seed: int):
        drawn.append((count, seed))
        return setups.baskets(3).load(count, seed)

    setup = replace(small, load=load)
    first, again = setups.experiment(setup, 1), setups.experiment(setup, 1)
    np.testing.assert_array_equal(first.target.probs, again.target.probs)
    assert drawn == [(170, 1)]  # three parts of 30, two of 30 and two of 10
    other = setups.experiment(setup, 1, Dropout())
    assert not np.array_equal(first.target.probs, other.target.probs)
    setups.experiment(replace(setup, epochs=3), 1)
    assert len(drawn) == len(list(cache.iterdir())) == 3


def test_attacker_with_other_data_meets_the_same_target(small):
    made, other = setups.experiment(small, 0), setups.with_shadow_of(small, 0, 12)
    np.testing.assert_array_equal(made.target.probs, other.target.probs)
    assert np.bincount(other.shadow.is_member).tolist() == [12, 12]


def test_memguard_stands_in_front_of_all_parties(small):
    made = setups.experiment(small, 0)
    behind = peers.behind_memguard(made, seed=0)
    for role in ("known", "target", "shadow"):
        before, after = getattr(made, role), getattr(behind, role)
        np.testing.assert_array_equal(before.labels, after.labels)
        np.testing.assert_array_equal(before.probs.argmax(1), after.probs.argmax(1))
        assert trials.mean_l1(before, after) > 0


def test_l1_is_the_mean_sum_of_changes():
    before = Predictions(np.array([[0.5, 0.5], [1.0, 0.0]]), np.zeros(2, int), [0, 1])
    after = before.with_probs(np.array([[0.75, 0.25], [1.0, 0.0]]))
    assert trials.mean_l1(before, after) == 0.25


def test_trials_find_what_an_audit_finds(small):
    made = setups.experiment(small, 0)
    attacks = [ConfidenceAttack(), NeuralNetworkAttack(hidden=(8,))]
    fitted = setups.defense(setups.DEFAULT, made.known, 0)
    copy = setups.defense(setups.DEFAULT, made.shadow, 1)
    other = trials.Trial({"form": "other"}, setups.defense(setups.PAPERS_FORM, made.known, 0))
    found = trials.tried(made, [trials.Trial({"form": "one"}, fitted, copy), other], attacks)
    report = audit(made.target, made.shadow, fitted, attacks=attacks, random_state=0)
    of_one = answers.chosen(found, form="one")
    assert len(of_one) == len(report.outcomes) == 6
    for outcome in report.outcomes:
        (row,) = answers.chosen(of_one, attack=outcome.attack, setting=outcome.setting)
        for metric in trials.METRICS:
            expected = outcome.metrics[metric]
            measured = row[metric] or {"value": np.nan, "low": np.nan, "high": np.nan}
            assert measured == pytest.approx(asdict(expected), abs=1e-5, nan_ok=True)
        assert row["label_only_floor"] == pytest.approx(asdict(report.floor), abs=1e-5)
        assert row["l1"] == pytest.approx(report.utility.all.distortion.l1, abs=1e-5)
        assert row["l1_members"] == pytest.approx(report.utility.l1_members, abs=1e-5)
        assert row["l1_non_members"] == pytest.approx(report.utility.l1_non_members, abs=1e-5)
    settings = answers.distinct(answers.chosen(found, form="other"), "setting")
    assert settings == ["undefended", "static"]


def test_work_counts_moved_rows_alone(fitted, known):
    searched = step_size.with_options(fitted, direction="member")
    _, info = searched.protect(known.probs, return_info=True)
    moved = info.score_before > 0
    assert 0 < moved.sum() < len(known)
    found = step_size.work(searched, known)
    assert found["steps"] == pytest.approx(info.steps[moved].mean())
    assert found["misled"] == pytest.approx((info.score_after[moved] <= 0).mean())


def test_work_of_no_moved_row_is_undefined(fitted, known):
    searched = step_size.with_options(fitted, direction="member")
    _, info = searched.protect(known.probs, return_info=True)
    still = info.score_before <= 0
    rows = Predictions(known.probs[still], known.labels[still], known.is_member[still])
    assert step_size.work(searched, rows) == {"steps": None, "misled": None}


def test_paper_refined_differs_in_refinement_alone():
    refined, paper = setups.FORMS[setups.REFINED], setups.FORMS[setups.PAPERS_FORM]
    assert {name for name in paper if paper[name] != refined[name]} == {"refine_steps"}
    assert (paper["direction"], paper["border"], paper["method"]) == ("member", None, "step")


def test_baskets_are_called_synthetic():
    assert "synthetic" in setups.DATA["baskets"](None).title


@pytest.mark.parametrize("data", [name for name in setups.DATA if name != "baskets"])
def test_data_that_needs_a_file_says_so(data):
    with pytest.raises(SystemExit, match="--path"):
        setups.DATA[data](None).records(0)


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 64, 64)])
def test_convolutional_network_takes_images_of_the_shape(shape):
    import torch

    model = setups.convolutional(shape, 7)
    assert model(torch.zeros(2, *shape)).shape == (2, 7)


def test_curves_show_means_ranges_and_labels():
    series = figures.Series("static", {1: Spread(0.5, 0.4, 0.6), 10: Spread(0.7, 0.7, 0.7)}, {})
    panel = figures.Panel("recall", [series], "form", floor={1: Spread(0.6, 0.6, 0.6)})
    figure = figures.curves("synthetic", [[panel]], [figures.Axis("amount", "{:,}".format)])
    (axes,) = figure.axes
    (container,) = axes.containers
    line, _, (bars,) = container
    np.testing.assert_allclose(line.get_ydata(orig=False), [0.5, 0.7])
    np.testing.assert_allclose(bars.get_segments()[0][:, 1], [0.4, 0.6])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "10"]
    svg = to_svg(figure)
    for text in ("synthetic", "recall", "form", "amount", "label-only floor", "static"):
        assert f">{text}<" in svg


def test_lanes_put_each_name_in_its_lane():
    spreads = {"first": Spread(0.5, 0.4, 0.6), "second": Spread(0.9, 0.9, 0.9)}
    panel = figures.Panel("recall", [figures.Series("static", spreads, {})])
    figure = figures.lanes("synthetic", [panel], ["first", "second"])
    (axes,) = figure.axes
    line = axes.containers[0][0]
    np.testing.assert_allclose(line.get_xdata(orig=False), [0.5, 0.9])
    np.testing.assert_allclose(line.get_ydata(orig=False), [0, 1])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]


def parts(question: str) -> tuple[Callable, Callable, Callable]:
    """How a question measures, tabulates and draws."""
    module: ModuleType = import_module(question)
    if hasattr(module, "SWEEP"):
        return module.measure, module.SWEEP.tabulate, module.SWEEP.draw
    if hasattr(module, "COMPARISON"):
        return module.COMPARISON.measure, module.COMPARISON.tabulate, module.COMPARISON.draw
    return module.measure, module.tabulate, module.draw


@pytest.mark.parametrize(
    "question",
    [
        pytest.param(name, marks=() if name == "attack_quality" else pytest.mark.slow)
        for name in QUESTIONS
    ],
)
def test_question_is_answered(question, small, monkeypatch):
    def few_baskets(n_classes: int) -> setups.Setup:
        return replace(small, load=setups.baskets(n_classes).load, name=f"few{n_classes}")

    monkeypatch.setattr(number_of_classes, "baskets", few_baskets)
    monkeypatch.setattr(import_module("adversary_data"), "AMOUNTS", (10, 30))
    measure, tabulate, draw = parts(question)
    measured = [{"seed": seed, **row} for seed in range(2) for row in measure(small, seed)]
    assert json.loads(answers.as_json(question, small.title, measured))["rows"] == measured
    lines = tabulate(measured).splitlines()
    assert len(lines) > 3
    assert len({line.count("|") for line in lines}) == 1
    figure = draw(measured, small.title)
    assert isinstance(figure, Figure)
    assert "synthetic" in to_svg(figure)


def test_page_is_that_of_the_results():
    page = answers.PAGE.read_text()
    for question in QUESTIONS:
        assert page.count(f"<!-- {question}: benchmarks/paper/{question}.py -->") == 1
        _, tabulate, _ = parts(question)
        assert answers.with_answers(page, question, tabulate) == page


def test_every_script_is_a_question_or_shared():
    shared = {"answers", "comparisons", "figures", "setups", "sweeps", "trials"}
    folder = Path(answers.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} == shared | set(QUESTIONS)


def test_answer_writes_all_three(small, tmp_path, monkeypatch):
    results, page = tmp_path / "paper", tmp_path / "paper.md"
    page.write_text("before\n<!-- q: benchmarks/paper/q.py -->\n<!-- end of q -->\nafter")
    monkeypatch.setattr(answers, "RESULTS", results)
    monkeypatch.setattr(answers, "PAGE", page)
    monkeypatch.setitem(setups.DATA, "baskets", lambda path: small)
    monkeypatch.setattr(sys, "argv", ["q.py", "--seeds", "2"])
    answers.answer(
        "q.py",
        measure=lambda setup, seed: [{"found": seed}],
        tabulate=lambda rows: f"{len(rows)} rows",
        draw=lambda rows, title: figures.lanes(title, [figures.Panel("x", [])], ["lane"]),
    )
    written = json.loads((results / "q-baskets.json").read_text())
    assert written["rows"] == [{"seed": 0, "found": 0}, {"seed": 1, "found": 1}]
    assert (results / "q-baskets.svg").read_text().startswith("<?xml")
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter")
    assert "2 rows" in text
    assert "**Synthetic baskets" in text
    assert "](paper/q-baskets.svg)" in text
