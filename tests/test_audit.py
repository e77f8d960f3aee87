"""The audit: a complete grid, the label-only floor, honest files, weak defenses called broken."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import Tensor, nn
from typing_extensions import Self

from aeppt import AEPPT, Predictions, ShadowPredictions, Status, audit
from aeppt.attacks import (
    Attack,
    BoostedTreesAttack,
    ConfidenceAttack,
    CorrectnessAttack,
    DifficultyCalibration,
    NeuralNetworkAttack,
    QueriedModel,
    default_attacks,
    per_example_attacks,
    query_attacks,
)
from aeppt.defenses import OutputDefense, ProtectionInfo
from aeppt.evaluation import (
    AttackOutcome,
    AuditReport,
    audit_canaries,
    certify,
    most_vulnerable,
)
from aeppt.evaluation.metrics import METRICS, attack_metrics
from aeppt.evaluation.results import SETTINGS

Make = Callable[..., Predictions]


class Tempering(OutputDefense):
    """A weak defense: flattens every row alike, which an attacker simply learns again."""

    def __init__(self, power: float = 0.3) -> None:
        self.power = power

    def fit(self, probs: ArrayLike, is_member: ArrayLike) -> Self:
        self.module_ = nn.Identity()
        self.n_features_in_ = np.asarray(probs).shape[1]
        return self

    def build_module(self, tensors: dict[str, Tensor]) -> nn.Module:
        return nn.Identity()

    def _protect(self, probs: Tensor) -> tuple[Tensor, ProtectionInfo]:
        weighted = probs**self.power
        flat = weighted / weighted.sum(dim=1, keepdim=True)
        n = len(probs)
        return flat, ProtectionInfo(
            status=torch.full((n,), int(Status.SUCCESS), dtype=torch.int8),
            steps=torch.zeros(n, dtype=torch.int32),
            score_before=torch.zeros(n),
            score_after=torch.zeros(n),
            l1=(flat - probs).abs().sum(dim=1),
        )


class Lessons(Attack):
    """Remembers what each run was taught and asked."""

    name = "lessons"

    def __init__(self) -> None:
        self.runs: list[tuple[Predictions, list[Predictions]]] = []

    def run(self, shadow: Predictions, targets: Sequence[Predictions]) -> list[NDArray[np.float64]]:
        self.runs.append((shadow, list(targets)))
        return [np.where(target.is_correct, 1.0, -1.0) for target in targets]


@pytest.fixture(scope="module")
def target(make_predictions: Make) -> Predictions:
    return make_predictions(150, 120, seed=11)


@pytest.fixture(scope="module")
def shadow(make_predictions: Make) -> Predictions:
    return make_predictions(150, 150, seed=12)


@pytest.fixture(scope="module")
def report(target: Predictions, shadow: Predictions, fitted: AEPPT) -> AuditReport:
    """All default attacks on a leaking target behind a small AEPPT."""
    return audit(target, shadow, fitted, title="A title")


def outcome_of(report: AuditReport, attack: str, setting: str) -> AttackOutcome:
    (outcome,) = (o for o in report.outcomes if (o.attack, o.setting) == (attack, setting))
    return outcome


def balanced_accuracy(report: AuditReport, attack: str, setting: str) -> float:
    return outcome_of(report, attack, setting).metrics["balanced_accuracy"].value


# --- what a report holds ----------------------------------------------------------------------


def test_every_attack_meets_every_setting_once(report: AuditReport) -> None:
    grid = [(outcome.attack, outcome.setting) for outcome in report.outcomes]
    expected = {(attack.name, setting) for attack in default_attacks() for setting in SETTINGS}
    assert len(grid) == len(expected)
    assert set(grid) == expected


def test_metrics_are_those_of_the_scores(report: AuditReport, target: Predictions) -> None:
    for outcome in report.outcomes:
        assert outcome.scores.shape == (len(target),)
        assert outcome.metrics.keys() == METRICS.keys()
        recomputed = attack_metrics(outcome.scores, target.is_member)
        assert repr(recomputed) == repr(outcome.metrics)


def test_labels_and_so_accuracy_do_not_change(
    report: AuditReport, target: Predictions, fitted: AEPPT
) -> None:
    assert np.array_equal(report.protected.probs, fitted.protect(target.probs))
    assert np.array_equal(report.protected.probs.argmax(1), target.probs.argmax(1))
    assert report.utility.accuracy == report.utility.accuracy_protected
    assert report.utility.accuracy.value == target.is_correct.mean()
    assert report.target is target


def test_the_price_is_what_protect_says(
    report: AuditReport, target: Predictions, fitted: AEPPT
) -> None:
    _, info = fitted.protect(target.probs, return_info=True)
    utility = report.utility
    assert utility.l1_members == pytest.approx(info.l1[target.is_member].mean())
    assert utility.l1_non_members == pytest.approx(info.l1[~target.is_member].mean())
    assert utility.status_counts.keys() == {status.name for status in Status}
    assert sum(utility.status_counts.values()) == len(target)
    assert utility.status_counts["SUCCESS"] == (info.status == Status.SUCCESS).sum()
    assert 0 <= utility.calibration_error <= 1
    assert utility.calibration_error_protected != utility.calibration_error


def test_the_floor_is_the_correctness_attack(report: AuditReport, target: Predictions) -> None:
    for setting in SETTINGS:
        outcome = outcome_of(report, CorrectnessAttack.name, setting)
        assert outcome.metrics["balanced_accuracy"] == report.floor
    correct = target.is_correct
    expected = (correct[target.is_member].mean() + (~correct)[~target.is_member].mean()) / 2
    assert report.floor.value == pytest.approx(expected)


def test_the_leak_is_found_and_the_defense_hides_it(report: AuditReport) -> None:
    for attack in ("neural network", "entropy"):
        assert balanced_accuracy(report, attack, "undefended") > 0.75
        assert balanced_accuracy(report, attack, "static") < 0.6
        assert balanced_accuracy(report, attack, "adaptive") < 0.65


def test_the_table_has_a_row_per_outcome(report: AuditReport) -> None:
    table = report.table
    names = [*METRICS, "advantage"]
    columns = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    assert list(table.columns) == ["attack", "setting", *columns]
    assert len(table) == len(report.outcomes)
    row = table[(table["attack"] == "confidence") & (table["setting"] == "adaptive")].iloc[0]
    auc = outcome_of(report, "confidence", "adaptive").metrics["auc"]
    assert (row["auc"], row["auc_low"], row["auc_high"]) == (auc.value, auc.low, auc.high)


def test_the_json_is_strict_and_complete(
    target: Predictions, shadow: Predictions, fitted: AEPPT, tmp_path: Path
) -> None:
    class Nobody(Lessons):
        name = "nobody"

        def run(
            self, shadow: Predictions, targets: Sequence[Predictions]
        ) -> list[NDArray[np.float64]]:
            return [np.full(len(t), -1.0) for t in targets]

    report = audit(target, shadow, fitted, attacks=[Nobody()], title="Straße & <b>")
    path = tmp_path / "report.json"
    report.to_json(path)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    loaded = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert loaded["title"] == "Straße & <b>"
    assert loaded["defense"] == repr(fitted)
    assert loaded["label_only_floor"]["value"] == report.floor.value
    assert loaded["utility"]["status_counts"] == report.utility.status_counts
    (first, *_) = loaded["attacks"]
    assert (first["attack"], first["setting"]) == ("nobody", "undefended")
    assert first["precision"] == {"value": None, "low": None, "high": None}
    assert math.isnan(report.to_dict()["attacks"][0]["precision"]["value"])
    assert first["recall"]["value"] == 0
    assert list(tmp_path.iterdir()) == [path]


def test_facts_tell_sizes_seed_and_engine(report: AuditReport) -> None:
    facts = report.facts
    assert facts["target records"] == "150 members, 120 non-members"
    assert facts["shadow records"] == "150 members, 150 non-members"
    assert facts["classes"] == "5"
    assert facts["random state"] == "0"
    assert facts["engine"] in ("compiled", "plain PyTorch")
    assert facts["torch"] == torch.__version__
    assert any("120 non-members" in warning for warning in report.warnings)


def test_enough_non_members_need_no_caution(make_predictions: Make, fitted: AEPPT) -> None:
    many = audit(
        make_predictions(50, 1000, seed=1), make_predictions(seed=2), fitted, attacks=[Lessons()]
    )
    assert not many.warnings


def test_the_same_seed_gives_the_same_report(
    report: AuditReport, target: Predictions, shadow: Predictions, fitted: AEPPT
) -> None:
    again = audit(target, shadow, fitted, title="A title")
    assert again.to_dict() == report.to_dict()
    attacks = [NeuralNetworkAttack(hidden=(8,), random_state=seed) for seed in (0, 1)]
    scores = [audit(target, shadow, fitted, attacks=[a]).outcomes[0].scores for a in attacks]
    assert not np.array_equal(*scores)


# --- who learns on what -----------------------------------------------------------------------


def test_settings_teach_and_ask_the_right_predictions(
    target: Predictions, shadow: Predictions, fitted: AEPPT
) -> None:
    spy = Lessons()
    audit(target, shadow, fitted, attacks=[spy], random_state=4)
    (plain, asked), (adaptive, asked_again) = spy.runs
    protected = fitted.protect(target.probs)
    assert np.array_equal(plain.probs, shadow.probs)
    assert len(asked) == 2
    assert np.array_equal(asked[0].probs, target.probs)
    assert np.array_equal(asked[1].probs, protected)
    assert len(asked_again) == 1
    assert np.array_equal(asked_again[0].probs, protected)
    own_copy = clone(fitted).set_params(random_state=5).fit(shadow.probs, shadow.is_member)
    assert np.array_equal(adaptive.probs, own_copy.protect(shadow.probs))
    assert np.array_equal(adaptive.is_member, shadow.is_member)
    assert np.array_equal(adaptive.labels, shadow.labels)


def test_a_given_copy_of_the_defense_is_used(
    target: Predictions, shadow: Predictions, fitted: AEPPT
) -> None:
    class Spy(Tempering):
        def fit(self, probs: ArrayLike, is_member: ArrayLike) -> Self:
            raise AssertionError("a given defense must not be fitted again")

        def protect(self, probs: Any, *, return_info: bool = False) -> Any:
            asked.append(probs)
            return super().protect(probs, return_info=return_info)

    asked: list[Any] = []
    given = Spy(power=0.5)
    given.module_, given.n_features_in_ = nn.Identity(), 5
    lessons = Lessons()
    audit(target, shadow, fitted, shadow_defense=given, attacks=[lessons])
    assert len(asked) == 1
    assert np.array_equal(asked[0], shadow.probs)
    assert np.array_equal(
        lessons.runs[1][0].probs, Tempering(0.5).fit(shadow.probs, 0).protect(shadow.probs)
    )


def test_the_given_defense_is_not_changed(
    target: Predictions, shadow: Predictions, known: Predictions
) -> None:
    defense = AEPPT(hidden=(4,), random_state=2).fit(known.probs, known.is_member)
    before = defense.protect(known.probs)
    audit(target, shadow, defense, attacks=[Lessons()], random_state=8)
    assert defense.random_state == 2
    assert np.array_equal(defense.protect(known.probs), before)


def test_progress_rises_to_the_total(
    target: Predictions, shadow: Predictions, fitted: AEPPT
) -> None:
    calls: list[tuple[str, int, int]] = []
    attacks = [ConfidenceAttack(), Lessons()]
    audit(
        target,
        shadow,
        fitted,
        attacks=attacks,
        on_progress=lambda what, done, total: calls.append((what, done, total)),
    )
    done, totals = [call[1] for call in calls], {call[2] for call in calls}
    assert done == list(range(7))
    assert totals == {6}
    assert all(any(attack.name in what for what, _, _ in calls) for attack in attacks)


# --- records held out for a certificate ---------------------------------------------------------


def test_held_out_records_are_protected_and_certified(
    target: Predictions,
    shadow: Predictions,
    fitted: AEPPT,
    make_predictions: Make,
    tmp_path: Path,
) -> None:
    held_out = make_predictions(60, 40, seed=13)
    calls: list[tuple[str, int, int]] = []
    report = audit(
        target,
        shadow,
        fitted,
        attacks=[Lessons()],
        random_state=3,
        held_out=held_out,
        on_progress=lambda *call: calls.append(call),
    )
    released = held_out.with_probs(fitted.protect(held_out.probs))
    assert report.certificate == certify(released, random_state=3)
    assert report.certificate != certify(held_out, random_state=3)
    assert [call[1] for call in calls] == list(range(6))
    assert {call[2] for call in calls} == {5}
    report.to_json(tmp_path / "report.json")
    loaded = json.loads((tmp_path / "report.json").read_text())["certificate"]
    assert loaded == report.certificate.to_dict()
    assert (loaded["granted"], loaded["members"], loaded["non_members"]) == (False, 60, 40)


def test_without_held_out_records_nothing_is_certified(report: AuditReport) -> None:
    assert report.certificate is None
    assert report.to_dict()["certificate"] is None


def test_held_out_records_of_one_side_are_refused(
    target: Predictions, shadow: Predictions, fitted: AEPPT
) -> None:
    members = Predictions(target.probs, target.labels, np.ones(len(target)))
    with pytest.raises(ValueError, match="held-out members and non-members, got 270 and 0"):
        audit(target, shadow, fitted, attacks=[Lessons()], held_out=members)


# --- weak defenses ----------------------------------------------------------------------------


def test_a_defense_that_does_nothing_is_called_broken(
    target: Predictions, shadow: Predictions
) -> None:
    nothing = Tempering(power=1.0).fit(shadow.probs, shadow.is_member)
    report = audit(target, shadow, nothing)
    for attack in default_attacks():
        plain = balanced_accuracy(report, attack.name, "undefended")
        assert balanced_accuracy(report, attack.name, "static") == pytest.approx(plain, abs=0.01)
        assert balanced_accuracy(report, attack.name, "adaptive") == pytest.approx(plain, abs=0.02)
    assert balanced_accuracy(report, "entropy", "adaptive") > 0.75


def test_a_defense_that_only_fools_the_static_attacker_is_called_broken(
    target: Predictions, shadow: Predictions
) -> None:
    weak = Tempering().fit(shadow.probs, shadow.is_member)
    report = audit(target, shadow, weak)
    assert report.utility.accuracy == report.utility.accuracy_protected
    for attack in ("entropy", "neural network"):
        assert balanced_accuracy(report, attack, "static") < 0.6
        assert balanced_accuracy(report, attack, "adaptive") > 0.75
    for attack in default_attacks():
        static = balanced_accuracy(report, attack.name, "static")
        assert balanced_accuracy(report, attack.name, "adaptive") >= static - 0.03


# --- wrong uses -------------------------------------------------------------------------------


def test_wrong_inputs_are_refused(
    target: Predictions, shadow: Predictions, fitted: AEPPT, make_predictions: Make
) -> None:
    only_members = Predictions(target.probs, target.labels, np.ones(len(target)))
    with pytest.raises(ValueError, match="members and non-members"):
        audit(only_members, shadow, fitted, attacks=[ConfidenceAttack()])
    with pytest.raises(ValueError, match="members"):
        audit(target, Predictions(shadow.probs, shadow.labels, np.zeros(300)), fitted)
    with pytest.raises(ValueError, match="classes"):
        audit(target, make_predictions(k=4), fitted, attacks=[ConfidenceAttack()])
    with pytest.raises(ValueError, match="5 classes"):
        audit(make_predictions(k=4), make_predictions(k=4), fitted)
    with pytest.raises(NotFittedError):
        audit(target, shadow, AEPPT())
    with pytest.raises(NotFittedError):
        audit(target, shadow, fitted, shadow_defense=AEPPT())


class Rounding(Tempering):
    """A weak defense: rows in tenths, the label a little ahead, which hides little."""

    def _protect(self, probs: Tensor) -> tuple[Tensor, ProtectionInfo]:
        tenths = (10 * probs).round() / 10 + 0.01 * probs.argmax(1, keepdim=True).eq(
            torch.arange(probs.shape[1])
        )
        _, info = super()._protect(probs)
        return tenths / tenths.sum(dim=1, keepdim=True), info


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "defense",
    [Rounding(), AEPPT(hidden=(32,), direction="member", border=None)],
    ids=["rounding", "the paper's AEPPT"],
)
def test_the_adaptive_attacker_is_at_least_as_strong_on_a_weak_defense(
    make_predictions: Make, defense: OutputDefense, seed: int
) -> None:
    """Boosted trees that are retrained on protected outputs: the harness can say "broken"."""
    target, shadow, known = (make_predictions(600, 600, seed=seed + i) for i in (10, 20, 30))
    fitted = clone(defense).fit(known.probs, known.is_member)
    report = audit(target, shadow, fitted, attacks=[BoostedTreesAttack()])
    static, adaptive = (
        outcome_of(report, "boosted trees", setting).metrics for setting in ("static", "adaptive")
    )
    for metric in ("auc", "balanced_accuracy"):
        assert adaptive[metric].high >= static[metric].low
    assert adaptive["balanced_accuracy"].low > report.floor.high
    if isinstance(defense, AEPPT):  # misleads the static attacker, and only that one
        assert adaptive["balanced_accuracy"].low > static["balanced_accuracy"].value


# --- attackers with more in hand ----------------------------------------------------------------


@pytest.fixture(scope="module")
def shadows(target: Predictions, make_predictions: Make) -> ShadowPredictions:
    """Eight shadow models of the target's records, each surer of its own half of them."""
    rng = np.random.default_rng(5)
    n, k = target.probs.shape
    halves = np.stack([rng.permutation(n) < n // 2 for _ in range(4)])
    trained_on = np.concatenate([halves, ~halves])
    concentration = np.ones((8, n, k))
    rows = np.arange(n)
    concentration[:, rows, target.labels] = 2 + 8 * trained_on
    probs = rng.standard_gamma(concentration)
    return ShadowPredictions(probs / probs.sum(2, keepdims=True), target.labels, trained_on)


def test_many_shadow_models_add_the_per_example_attacks(
    target: Predictions,
    shadow: Predictions,
    shadows: ShadowPredictions,
    fitted: AEPPT,
    tmp_path: Path,
) -> None:
    report = audit(target, shadow, fitted, attacks=[CorrectnessAttack()], shadows=shadows)
    names = {outcome.attack for outcome in report.outcomes}
    assert names == {CorrectnessAttack.name, *(a.name for a in per_example_attacks())}
    for name in names:
        assert [o.setting for o in report.outcomes if o.attack == name] == list(SETTINGS)
    undefended = outcome_of(report, "LiRA online", "undefended").metrics["auc"].value
    assert undefended > 0.75
    assert outcome_of(report, "LiRA online", "adaptive").metrics["auc"].value < undefended
    assert "8" in report.facts["shadow models for per-example attacks"]
    # The most vulnerable tenth of the 270 records is judged apart, for these attacks alone.
    lira = outcome_of(report, "LiRA online", "undefended")
    chosen = most_vulnerable(shadows, 27)
    assert lira.canaries == audit_canaries(lira.scores, target.is_member, chosen)
    assert lira.canaries.members + lira.canaries.non_members == 27
    assert outcome_of(report, CorrectnessAttack.name, "static").canaries is None
    (entry,) = (
        e
        for e in report.to_dict()["attacks"]
        if (e["attack"], e["setting"]) == ("LiRA online", "undefended")
    )
    assert entry["canaries"]["canaries"]["value"] == lira.canaries.canaries.value
    report.to_html(tmp_path / "page.html")
    assert "27 most vulnerable records" in (tmp_path / "page.html").read_text()


def test_per_example_attackers_see_each_shadow_model_behind_a_copy_of_its_own(
    target: Predictions, shadow: Predictions, shadows: ShadowPredictions
) -> None:
    """Where the defense flattens rows, the adaptive attacker's shadows are flattened as well."""
    seen: list[ShadowPredictions] = []

    class Watching(DifficultyCalibration):
        rehearsals = 1

        def run(self, shadows: ShadowPredictions, target: Predictions) -> NDArray[np.float64]:
            seen.append(shadows)
            return super().run(shadows, target)

    fitted = Tempering(0.5).fit(target.probs, target.is_member)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aeppt.evaluation.harness.per_example_attacks", lambda seed: [Watching()])
        audit(target, shadow, fitted, attacks=[CorrectnessAttack()], shadows=shadows)
    undefended, static, adaptive = seen[1::2]  # after each rehearsal
    assert np.array_equal(undefended.probs, shadows.probs)
    assert np.array_equal(static.probs, shadows.probs)
    flat = shadows.probs**0.5
    np.testing.assert_allclose(adaptive.probs, flat / flat.sum(2, keepdims=True), rtol=1e-6)


def linear_model(seed: int) -> tuple[QueriedModel, Predictions]:
    """Records [120, 6] and a model whose answers depend on the record alone."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((120, 6))
    weights = np.random.default_rng(0).standard_normal((6, 4))

    def predict(rows: NDArray[np.floating]) -> NDArray[np.floating]:
        raised = np.exp(rows @ weights)
        return raised / raised.sum(1, keepdims=True)

    is_member = np.arange(120) % 2 == 0
    labels = predict(features).argmax(1)
    return QueriedModel(predict, features, labels, is_member), Predictions(
        predict(features), labels, is_member
    )


def test_models_to_query_add_the_attacks_that_ask_them() -> None:
    (target_model, target), (shadow_model, shadow) = linear_model(1), linear_model(2)
    defense = Tempering(0.5).fit(target.probs, target.is_member)
    report = audit(
        target,
        shadow,
        defense,
        attacks=[CorrectnessAttack()],
        queried=(target_model, shadow_model),
    )
    names = {outcome.attack for outcome in report.outcomes}
    assert names == {CorrectnessAttack.name, *(a.name for a in query_attacks())}
    # Labels are kept, also of queries that the attacker makes up: label-only attacks see no change.
    for name in names:
        if "label only" in name:
            scores = [outcome_of(report, name, setting).scores for setting in SETTINGS]
            assert np.array_equal(scores[0], scores[1])
            assert np.array_equal(scores[0], scores[2])
    # The repeated answers of a defended model are its own, not those of the bare model.
    repeated = [outcome_of(report, "repeated queries", s).scores for s in SETTINGS[:2]]
    assert not np.array_equal(*repeated)


def test_a_queried_model_of_other_records_is_refused(
    target: Predictions, shadow: Predictions, fitted: AEPPT
) -> None:
    models = linear_model(1)[0], linear_model(2)[0]
    with pytest.raises(ValueError, match="other labels than the target's"):
        audit(target, shadow, fitted, queried=models)
