"""The HTML report of an audit: what it must say, must not say, and must survive."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace

import matplotlib
import numpy as np
import pytest

from aeppt.evaluation import plots
from aeppt.evaluation.metrics import METRICS, attack_metrics, share
from aeppt.evaluation.page import render
from aeppt.evaluation.results import (
    SETTINGS,
    AttackOutcome,
    AuditReport,
    Estimate,
    Setting,
    Utility,
)
from aeppt.predictions import Predictions

ATTACKS = ("correctness", "confidence", "neural network")
UNDEFINED = Estimate(np.nan, np.nan, np.nan)


def made_report(
    n: int = 400,
    k: int = 10,
    settings: Sequence[Setting] = SETTINGS,
    adaptive_strength: float = 2.0,
    floor: float = 0.55,
) -> AuditReport:
    """A report on random predictions, whose attacks are as strong as asked."""
    generator = np.random.default_rng(0)
    is_member = np.arange(n) % 2 == 0
    target = Predictions(
        generator.dirichlet(np.full(k, 0.3), n), generator.integers(0, k, n), is_member
    )
    moved = np.where(is_member[:, None], 0.9 * target.probs + 0.1 / k, target.probs)
    strength = {"undefended": 4.0, "static": 0.0, "adaptive": adaptive_strength}
    outcomes = []
    for attack in ATTACKS:
        for setting in settings:
            scores = strength[setting] * (is_member - 0.5) + generator.normal(size=n)
            if attack == "correctness":
                scores = np.where(target.is_correct, 1.0, -1.0)
            outcomes.append(
                AttackOutcome(attack, setting, scores, attack_metrics(scores, is_member))
            )
    return AuditReport(
        title="Purchase & co",
        defense="AEPPT(step_size=0.05)",
        target=target,
        protected=target.with_probs(moved),
        outcomes=tuple(outcomes),
        floor=Estimate(floor, floor - 0.02, floor + 0.02),
        utility=Utility(share(9, 10), share(8, 10), 0.0312, 0.0654, 0.1234, 0.0, {"SUCCESS": 77}),
        facts={"engine": "compiled", "seed": "4711"},
    )


def with_scores(report: AuditReport, scores: np.ndarray) -> AuditReport:
    metrics = attack_metrics(scores, report.target.is_member)
    outcomes = [replace(outcome, scores=scores, metrics=metrics) for outcome in report.outcomes]
    return replace(report, outcomes=tuple(outcomes))


def with_adaptive_interval(report: AuditReport, estimate: Estimate) -> AuditReport:
    """All adaptive attacks get this balanced accuracy."""
    return replace(
        report,
        outcomes=tuple(
            replace(outcome, metrics={**outcome.metrics, "balanced_accuracy": estimate})
            if outcome.setting == "adaptive"
            else outcome
            for outcome in report.outcomes
        ),
    )


@pytest.fixture(scope="module")
def page() -> str:
    return render(made_report())


@pytest.fixture
def undrawn(monkeypatch):
    """For tests of words and tables alone: figures are made but not drawn, which takes longest."""
    monkeypatch.setattr("aeppt.evaluation.page._figure", lambda figure, name, description: "")


def text_of(page: str) -> str:
    """The page as read: no style, no tags, single spaces."""
    body = re.sub(r"<style.*?</style>", "", page, flags=re.S)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def verdict_of(page: str) -> str:
    return text_of(page[page.index('<p class="verdict') : page.index('<div class="grid tiles">')])


def test_page_holds_every_attack_setting_metric_and_interval(page):
    text = text_of(page)
    for attack in ATTACKS:
        assert attack in text
    for setting in SETTINGS:
        assert setting in text
    for name in METRICS.values():
        assert name.lower() in text.lower()
    for outcome in made_report().outcomes:
        for metric, estimate in outcome.metrics.items():
            factor, digits = (1, 3) if metric == "auc" else (100, 1)
            low, high = factor * estimate.low, factor * estimate.high
            assert f"{low:.{digits}f}–{high:.{digits}f}" in text


def test_floor_utility_and_facts_are_shown(page):
    text = text_of(page)
    assert "label-only floor 55.0 % 53.0–57.0" in text
    assert "gives 55.0 % (53.0–57.0)" in verdict_of(page).replace(" ", " ")
    for shown in ("0.0312", "0.0654", "0.1234", "success 77", "seed 4711", "engine compiled"):
        assert shown in text


@pytest.mark.parametrize(
    ("adaptive", "leaks"),
    [
        (Estimate(0.70, 0.66, 0.74), True),
        (Estimate(0.58, 0.551, 0.61), True),
        (Estimate(0.58, 0.55, 0.61), False),  # touches the floor's value, lies not above it
        (Estimate(0.50, 0.46, 0.54), False),
        (UNDEFINED, False),
    ],
)
def test_still_leaks_is_said_exactly_above_the_floor(undrawn, adaptive, leaks):
    page = render(with_adaptive_interval(made_report(floor=0.55), adaptive))
    assert ("still leaks" in page) == leaks
    assert ("Not judged" in page) == np.isnan(adaptive.value)


def test_only_adaptive_attacks_make_it_leak(undrawn):
    page = render(with_adaptive_interval(made_report(), Estimate(0.5, 0.45, 0.55)))
    assert "still leaks" not in page
    assert "No adaptive attack of this audit lies above" in verdict_of(page)
    undefended = next(o for o in made_report().outcomes if o.attack == "neural network")
    assert undefended.metrics["balanced_accuracy"].low > 0.9


def test_the_page_never_promises_safety(undrawn):
    for strength in (0.0, 2.0):
        text = text_of(render(made_report(adaptive_strength=strength)))
        assert not re.search(r"\b(safe|private|secure)\b", text, flags=re.I)


def test_without_an_adaptive_attacker_nothing_is_judged(undrawn):
    page = render(made_report(settings=("undefended", "static")))
    assert "Not judged" in verdict_of(page)
    assert "still leaks" not in page
    assert '<th scope="col" class="adaptive">' not in page


def test_an_undefined_floor_judges_nothing(undrawn):
    page = render(replace(made_report(), floor=UNDEFINED))
    assert "cannot judge" in verdict_of(page)
    assert "still leaks" not in page


def test_attacks_that_fail_without_a_defense_show_nothing(undrawn):
    noise = np.random.default_rng(1).normal(size=400)
    weak = with_scores(made_report(), noise)
    assert "cannot show what the defense achieves" in verdict_of(render(weak))
    assert "cannot show" not in verdict_of(render(made_report()))


def test_user_text_is_escaped():
    evil = "</title></text><script>alert('x')</script>"
    report = made_report()
    outcomes = tuple(replace(outcome, attack=evil) for outcome in report.outcomes)
    page = render(replace(report, title=evil, defense=evil, outcomes=outcomes, facts={evil: evil}))
    assert "<script" not in page
    assert page.count("</title>") == 1
    assert page.count("&lt;script&gt;") > 5


def test_dollar_signs_are_no_formulas():
    report = made_report()
    outcomes = tuple(replace(outcome, attack="costs $1 or $x^2$") for outcome in report.outcomes)
    first_figure = (
        render(replace(report, outcomes=outcomes)).partition("<svg")[2].partition("</svg>")[0]
    )
    assert ">costs $1 or $x^2$</text>" in first_figure


def test_nothing_is_loaded_from_elsewhere(page):
    assert "http" not in page
    assert "@import" not in page
    assert not re.search(r"<(script|link|iframe|img|object|embed|base)\b", page)
    assert all(ref.startswith("#") for ref in re.findall(r'(?:href|src)="([^"]*)"', page))
    assert all(ref.startswith("#") for ref in re.findall(r"url\(([^)]*)\)", page))


def test_identifiers_are_unique_and_references_resolve(page):
    identifiers = re.findall(r'\bid="([^"]*)"', page)
    assert len(identifiers) == len(set(identifiers))
    references = re.findall(r'(?:href="|url\()#([^")]*)', page)
    assert references
    assert set(references) <= set(identifiers)


def test_same_report_same_page(page):
    assert render(made_report()) == page


def test_the_users_matplotlib_settings_do_not_reach_in(page):
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "axes.facecolor": "red"}):
        assert render(made_report()) == page


def test_undefined_metrics_are_dashes():
    report = made_report()
    outcomes = tuple(
        replace(outcome, metrics=dict.fromkeys(METRICS, UNDEFINED)) for outcome in report.outcomes
    )
    page = render(replace(report, outcomes=outcomes))
    assert page.count("—†") == len(outcomes) * len(METRICS)
    assert not re.search(r"\bnan\b", text_of(page), flags=re.I)


def test_missing_outcomes_are_dashes(undrawn):
    report = made_report()
    page = render(replace(report, outcomes=report.outcomes[:-1]))
    assert page.count("—†") == len(METRICS)


def test_constant_scores():
    report = made_report()
    constant = render(with_scores(report, np.full(400, 3.0)))
    assert "there are no scores to draw" in constant


@pytest.mark.parametrize(("n", "k"), [(4, 2), (4, 5), (50, 2)])
def test_few_rows_and_few_classes(n, k):
    assert f"{k} classes" in text_of(render(made_report(n=n, k=k)))


def test_one_sided_records_have_no_roc_curve():
    report = made_report()
    everyone = Predictions(report.target.probs, report.target.labels, np.ones(400, bool))
    assert "needs both members and non-members" in render(replace(report, target=everyone))


def test_no_attacks():
    assert "holds no attacks" in render(replace(made_report(), outcomes=()))


def test_unchanged_rows_are_counted(page):
    report = made_report()
    assert "non-members (100\u202f% unchanged)" in page
    assert "no row was changed" in render(replace(report, protected=report.target))


def test_large_audits_stay_small_and_fast():
    report = made_report(n=100_000)
    begin = time.perf_counter()
    page = render(report)
    assert time.perf_counter() - begin < 10  # about 2 on an idle machine
    assert len(page.encode()) < 1_000_000


def test_roc_curve_keeps_the_lowest_rate():
    is_member = np.repeat([True, False], 50_000)
    scores = np.random.default_rng(0).normal(size=100_000) + is_member
    (axes,) = plots.roc_curves(is_member, [AttackOutcome("a", "static", scores, {})]).axes
    false, true = axes.lines[-1].get_data()
    assert false[0] == pytest.approx(1 / 50_000)
    assert len(false) <= 500
    assert (np.diff(true) >= 0).all()
    threshold = np.sort(scores[~is_member])[-2]  # one false positive above it
    assert true[0] == pytest.approx(np.mean(scores[is_member] > threshold), abs=1e-4)


def test_reliability_agrees_with_a_hand_count():
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    figure = plots.reliability_diagram(probs, probs, np.array([0, 0, 0, 1]))
    confidence, accuracy = figure.axes[0].lines[1].get_data()
    np.testing.assert_allclose(confidence, [0.6, 0.9])
    np.testing.assert_allclose(accuracy, [0.5, 1.0])


def test_histograms_are_shares_of_each_side():
    is_member = np.repeat([True, False], [10, 1000])
    scores = np.random.default_rng(0).normal(size=1010)
    figure = plots.score_histogram(is_member, scores, "adaptive")
    for patch in figure.axes[0].patches:
        assert patch.get_data().values.sum() == pytest.approx(1)


def test_report_writes_the_page(tmp_path, page):
    made_report().to_html(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page
