"""The script benchmarks/per_example.py: what its oracles release, what it keeps and writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from aeppt import Predictions, ShadowPredictions, audit
from aeppt.attacks import OnlineLiRA
from aeppt.evaluation import Experiment

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import oracles
import per_example
from oracles import Oracle

MODELS, RECORDS, CLASSES = 6, 80, 4


@pytest.fixture
def experiment() -> Experiment:
    """Models that are surer of what they were trained on, some of which nobody gets right."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, RECORDS)
    ease = rng.uniform(-1, 3, RECORDS)

    def said(is_member: np.ndarray) -> np.ndarray:
        logits = rng.normal(size=(RECORDS, CLASSES))
        logits[np.arange(RECORDS), labels] += ease + 1.5 * is_member
        odds = np.exp(logits)
        return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)

    halves = rng.permuted(np.arange(MODELS)[:, None] < np.full(RECORDS, MODELS // 2), axis=0)
    is_member = np.arange(RECORDS) < RECORDS // 2
    known, target, shadow = (Predictions(said(is_member), labels, is_member) for _ in range(3))
    probs = np.stack([said(half) for half in halves])
    return Experiment(known, target, shadow, ShadowPredictions(probs, labels, halves))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few releases, with few groups and codewords."""
    monkeypatch.setattr(per_example, "GRIDS", ((2, 1),))
    for name in ("ADVANTAGES", "ORACLE_ADVANTAGES"):
        monkeypatch.setattr(per_example, name, (0.05,))
    monkeypatch.setattr(per_example, "WEIGHTS", (1,))
    for name in ("QUANTILES", "CLUSTERS"):
        monkeypatch.setattr(per_example, name, 3)
    monkeypatch.setattr(oracles, "COARSE_CLUSTERS", 3)
    monkeypatch.setattr(oracles, "GRID", (3, 2))


def spread(mean: float) -> per_example.Row:
    return {"mean": mean, "min": mean, "max": mean}


def test_all_but_the_labels_alone_keep_the_ranking(experiment):
    for name, release in per_example.releases(experiment, 0).items():
        released = release()
        for before, after in (
            (experiment.target.probs, released.target.probs),
            (experiment.shadows.probs, released.shadows.probs),
        ):
            kept = (before.argsort(axis=-1) == after.argsort(axis=-1)).all()
            assert kept == (name != "labels alone"), name


def test_oracle_equalises_each_group(experiment):
    """Over many draws, in- and out-models differ in codewords hardly more than in their labels."""
    groups = Oracle(experiment, 0).quantiles(3)
    counts = np.zeros((3, 2, 2, 6))
    for seed in range(30):
        released = Oracle(experiment, seed).by_own_maps(groups, 0.0).shadows
        top = released.probs.max(axis=2)
        word = np.unique(top, return_inverse=True)[1].reshape(top.shape)
        right = released.probs.argmax(axis=2) == released.labels
        places = np.broadcast_to(groups, top.shape), released.trained_on, right, word
        np.add.at(counts, tuple(place.astype(int) for place in places), 1)
    shares = counts / counts.sum(axis=(2, 3), keepdims=True)  # [group, member, right, word]
    told = np.abs(shares[:, 1] - shares[:, 0]).sum(axis=(1, 2))
    by_label = np.abs((shares[:, 1] - shares[:, 0]).sum(axis=2)).sum(axis=1)
    assert by_label.max() > 0.1
    np.testing.assert_allclose(told, by_label, atol=0.05)


def test_own_row_is_the_same_whatever_the_model(experiment):
    released = Oracle(experiment, 0).with_own_row()
    rows = np.sort(released.shadows.probs, axis=2)
    np.testing.assert_array_equal(rows, np.broadcast_to(rows[0], rows.shape))
    np.testing.assert_array_equal(rows[0], np.sort(released.target.probs, axis=1))


def test_least_l1_is_that_of_the_median():
    said = np.array([[[0.6, 0.3, 0.1]], [[0.2, 0.7, 0.1]], [[0.0, 0.1, 0.9]], [[0.5, 0.3, 0.2]]])
    halves = np.array([[True], [False], [True], [False]])
    shadows = ShadowPredictions(said, [0], halves)
    record = Predictions(said[0], [0], [1])
    found = Oracle(Experiment(record, record, record, shadows), 0).least_l1()
    # Confidences 0.5, 0.6, 0.7, 0.9; next 0.1, 0.2, 0.3, 0.3; last 0, 0.1, 0.1, 0.2.
    assert found["confidence"] == pytest.approx(2 * 0.5 / 4)
    assert found["row"] == pytest.approx((0.5 + 0.3 + 0.2) / 4)


def test_attackers_are_those_of_an_audit(experiment):
    form = "PrivacyFunnel(confidence_levels=3, shapes=2)"
    released = per_example.behind(form, experiment, 5)
    found = per_example.judged(experiment, released, 5)
    defense = per_example._attackers_copy(
        per_example.made(form, per_example.DEFENSES), experiment.known, 5
    )
    report = audit(
        experiment.target,
        experiment.shadow,
        defense,
        attacks=(),
        random_state=5,
        shadows=experiment.shadows,
    )
    lira = [one for one in report.outcomes if one.attack.startswith("LiRA")]
    adaptive = max(one.metrics["auc"].value for one in lira if one.setting == "adaptive")
    static = max(one.metrics["auc"].value for one in lira if one.setting == "static")
    assert found["lira_auc_adaptive"] == adaptive
    assert found["lira_auc"] == max(adaptive, static)
    assert found["l1"] == (report.utility.l1_members + report.utility.l1_non_members) / 2


@pytest.mark.parametrize(
    ("over", "l1", "text"),
    [
        (
            0.02,
            0.1,
            "**yes** (within that L1 +2.0 points or more; within that leakage an L1 of 0.1",
        ),
        (0.04, 0.1, "**no** (within that L1 +4.0 points or more)"),
        (0.02, 0.2, "**no** (within that leakage an L1 of 0.200 or more)"),
        (0.04, 0.2, "**no** (neither)"),
    ],
)
@pytest.mark.parametrize("who", ["PrivacyFunnel", "oracle"])
def test_answer_is_yes_only_where_both_are_kept(who, over, l1, text):
    found = {
        f"{who} a": {"lira_auc_over": spread(over), "l1": spread(l1)},
        "other": {"lira_auc_over": spread(0.0), "l1": spread(0.0)},
    }
    assert f"{who} {text}" in per_example.answer(found, "lira_auc")


def test_all_is_measured_once_and_written(experiment, tmp_path, monkeypatch):
    docs, folder = tmp_path / "docs", tmp_path / "build"
    (docs / "results").mkdir(parents=True)
    (docs / "results.md").write_text("before\n")
    (folder / "digits").mkdir(parents=True)
    for seed in range(2):
        experiment.save(folder / "digits" / f"{seed}.npz")
    arguments = ["digits", "--seeds", "2", "--folder", str(folder), "--docs", str(docs)]
    monkeypatch.setattr(sys, "argv", ["per_example.py", *arguments])
    monkeypatch.setattr(per_example, "per_example_attacks", lambda seed: [OnlineLiRA()])
    per_example.main()
    written = {path: path.read_bytes() for path in docs.rglob("*.*")}
    content = json.loads((docs / "results" / "per-example-digits.json").read_text())
    assert content["seeds"] == 2
    assert set(content["found"]) == {*per_example.releases(experiment, 0), "least L1"}
    assert content["found"]["labels alone"]["lira_auc_over"] == spread(0.0)
    page = (docs / "results.md").read_text()
    assert page.startswith("before\n")
    assert page.count("| oracle ") == 4
    svg = (docs / "results" / "per-example-digits.svg").read_text()
    assert ">ranking alone<" in svg

    def measured_again(*arguments: object) -> None:
        raise AssertionError("this is finished")

    monkeypatch.setattr(per_example, "judged", measured_again)
    per_example.main()
    assert {path: path.read_bytes() for path in docs.rglob("*.*")} == written
