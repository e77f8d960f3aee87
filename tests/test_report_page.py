"""The HTML report of an audit: what it must say, must not say, and must survive."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from aeppt.evaluation import plots
from aeppt.evaluation.metrics import METRICS, attack_metrics, judged, per_class_metrics
from aeppt.evaluation.page import render
from aeppt.evaluation.results import (
    SETTINGS,
    AttackOutcome,
    AuditReport,
    Certificate,
    Estimate,
    Setting,
    TradeOff,
    over_seeds,
)
from aeppt.evaluation.utility import measure_utility
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
    protected = target.with_probs(
        np.where(is_member[:, None], 0.9 * target.probs + 0.1 / k, target.probs)
    )
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
        protected=protected,
        outcomes=tuple(outcomes),
        floor=Estimate(floor, floor - 0.02, floor + 0.02),
        utility=measure_utility(target, protected, {"SUCCESS": 77}, seconds_per_record=0.0023),
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


def with_advantage(report: AuditReport, estimate: Estimate) -> AuditReport:
    """All adaptive attacks get this advantage over the floor."""
    return replace(
        report,
        outcomes=tuple(
            replace(outcome, advantage=estimate) if outcome.setting == "adaptive" else outcome
            for outcome in report.outcomes
        ),
    )


def long_report(attacks: int = 24, n: int = 400) -> AuditReport:
    """Many attacks, each stronger than the one before, the last without any strength."""
    generator = np.random.default_rng(0)
    report = made_report(n=n)
    is_member = report.target.is_member
    floor = np.where(report.target.is_correct, 1.0, -1.0)
    outcomes = [
        judged(
            f"attack {number}",
            setting,
            0.1 * (number % (attacks - 1)) * is_member + 0.1 * generator.normal(size=n) - 0.05,
            floor,
            is_member,
        )
        for number in range(attacks)
        for setting in SETTINGS
    ]
    value = attack_metrics(floor, is_member)["balanced_accuracy"]
    return replace(report, outcomes=tuple(outcomes), floor=value)


@pytest.fixture(scope="module")
def page() -> str:
    return render(made_report())


@pytest.fixture(scope="module")
def long_page() -> str:
    return render(long_report())


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
    for shown in ("success 77", "seed 4711", "engine compiled", "added per record 2.3"):
        assert shown in text
    utility = made_report().utility
    for side in (utility.all, utility.members, utility.non_members):
        for quality in (side.before, side.after):
            accuracy = quality.accuracy
            interval = f"{100 * accuracy.low:.1f}–{100 * accuracy.high:.1f}"
            assert f"{100 * accuracy.value:.1f} % {interval}" in text.replace("\u202f", " ")
            assert f"{quality.negative_log_likelihood:.4f}" in text
            assert f"{quality.calibration_error:.4f}" in text
        assert all(f"{value:.4g}" in text for value in vars(side.distortion).values())


def test_only_where_there_are_classes_is_a_top_five_shown(undrawn, page):
    assert "top-5 accuracy" in page
    assert "top-5 accuracy" not in render(made_report(k=5))


@pytest.mark.parametrize(
    ("adaptive", "leaks"),
    [
        (Estimate(0.70, 0.66, 0.74), True),
        (Estimate(0.58, 0.551, 0.61), True),
        (Estimate(0.58, 0.55, 0.61), False),  # touches the floor's value, lies not above it
        (Estimate(0.53, 0.50, 0.56), False),
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
    assert "Nothing found above the label-only floor" in verdict_of(page)
    undefended = next(o for o in made_report().outcomes if o.attack == "neural network")
    assert undefended.metrics["balanced_accuracy"].low > 0.9


def test_the_paired_advantage_decides_where_it_is_measured(undrawn):
    report = with_adaptive_interval(made_report(floor=0.55), Estimate(0.58, 0.54, 0.62))
    assert "Nothing found" in verdict_of(render(report))
    above = render(with_advantage(report, Estimate(0.03, 0.012, 0.047)))
    assert "still leaks" in verdict_of(above)
    assert "+3.0 (+1.2 to +4.7) points against the label-only floor of 55.0 %" in verdict_of(
        above
    ).replace("\u202f", " ")
    touching = render(with_advantage(report, Estimate(0.03, -0.012, 0.047)))
    assert "Nothing found" in verdict_of(touching)
    assert "−1.2 to +4.7" in verdict_of(touching)


def test_attacks_wholly_below_the_floor_find_nothing_out(undrawn):
    report = with_adaptive_interval(made_report(floor=0.7), Estimate(0.5, 0.45, 0.55))
    verdict = verdict_of(render(report))
    assert "Not judged" in verdict
    assert "knows less than the label alone" in verdict
    assert "Nothing found" not in verdict


@pytest.mark.parametrize(
    ("bound", "verdict", "border"),
    [(0.0432, "Certified at 95 %", False), (0.0612, "Certificate refused", True)],
)
def test_a_certificate_stands_beneath_the_verdict(undrawn, page, bound, verdict, border):
    certificate = Certificate(
        bound, 0.0123, 0.55, 0.95, 0.05, 1000, 900, 8, Estimate(-0.003, -0.011, 0.005)
    )
    certified = render(replace(made_report(), certificate=certificate))
    block = certified[certified.index('<p class="verdict certificate') :]
    block = block[: block.index("</p>")]
    assert text_of(block).strip() == f"{certificate.statement} {certificate.measurements}"
    assert text_of(block).strip().startswith(verdict)
    assert ("leak" in block.partition(">")[0]) == border
    assert "<dt>Certificate</dt>" in certified
    assert "ertifi" not in text_of(page)


def test_the_strongest_attack_comes_first(long_page):
    text = text_of(long_page[long_page.index('<table class="overview">') :])
    first = text[: text.index("Small type")]
    named = [int(number) for number in re.findall(r"attack (\d+)", first)]
    values = {
        int(o.attack.split()[1]): o.metrics["balanced_accuracy"].value
        for o in long_report().outcomes
        if o.setting == "adaptive"
    }
    assert len(named) == 24
    assert [values[number] for number in named] == sorted(values.values(), reverse=True)
    assert f"strongest adaptive attack, attack {named[0]}," in verdict_of(long_page)


def test_many_attacks_are_folded_and_a_few_are_not(page, long_page):
    assert page.count("<details open>") == 1
    assert "The other" not in page
    assert long_page.count("<details>") == 2
    assert "The other 18 attacks" in long_page


def test_warnings_stand_on_top_each_once(undrawn):
    report = made_report()
    told = replace(
        report,
        warnings=("too few <records>",),
        outcomes=tuple(
            replace(outcome, warnings=("equal scores",)) if number in (0, 1, 2, 4) else outcome
            for number, outcome in enumerate(report.outcomes)
        ),
    )
    page = render(told)
    text = text_of(page[page.index('class="warnings"') : page.index('<div class="grid tiles">')])
    assert "Too few &lt;records&gt;." in text
    assert text.count("Equal scores.") == 1
    assert "Undefined" not in text
    everywhere, once = "undefended, static, adaptive: correctness", "static: confidence"
    assert f"{everywhere}; {once}." in text.replace("Undefended", "undefended")
    assert 'class="warnings"' not in render(report)


def test_exposed_classes_are_those_of_the_strongest_attack(undrawn):
    report = made_report()
    strongest = report.strongest("adaptive")
    assert strongest is not None
    values = {
        o.attack: o.metrics["balanced_accuracy"].value
        for o in report.outcomes
        if o.setting == "adaptive"
    }
    assert values[strongest.attack] == max(values.values())
    classes = report.per_class(strongest)
    assert classes.equals(per_class_metrics(strongest.scores, report.target))
    page = render(report)
    table = page[page.index('<table class="classes">') :]
    shown = re.findall(r'<th scope="row">(\d+)</th>', table[: table.index("</table>")])
    order = classes["balanced_accuracy"].sort_values(ascending=False, kind="stable").index
    assert [int(label) for label in shown] == list(order)


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


def test_every_element_is_closed_where_it_belongs(page, long_page):
    for text in (page, long_page):
        xml = re.sub(r"<!DOCTYPE[^>]*>|<meta[^>]*>|<br>| open(?=>)", "", text)
        ElementTree.fromstring(xml.replace("<svg ", '<svg xmlns:xlink="x" '))


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
    # The overview shows three settings, and the advantage and four metrics of the adaptive one;
    # the tables below hold everything but the balanced accuracy.
    assert page.count("—†") == len(outcomes) * (len(METRICS) - 1) + len(ATTACKS) * (3 + 5)
    assert not re.search(r"\bnan\b", text_of(page), flags=re.I)


def test_missing_outcomes_are_dashes(undrawn):
    report = made_report()
    page = render(replace(report, outcomes=report.outcomes[:-1]))
    advantages, overview = len(ATTACKS), 1 + 4
    assert page.count("—†") == advantages + overview + len(METRICS) - 1


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


def test_many_attacks_stay_one_page_of_moderate_size(long_page):
    assert len(long_page.encode()) < 1_500_000
    identifiers = re.findall(r'\bid="([^"]*)"', long_page)
    assert len(identifiers) == len(set(identifiers))


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


# --- what a report is as data -----------------------------------------------------------------


def test_the_json_holds_advantages_warnings_classes_and_both_utilities(tmp_path):
    report = replace(long_report(attacks=3), warnings=("few records",))
    report.to_json(tmp_path / "report.json")
    loaded = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    for outcome, entry in zip(report.outcomes, loaded["attacks"], strict=True):
        assert entry["advantage"]["value"] == outcome.advantage.value
        assert entry["warnings"] == list(outcome.warnings)
    assert loaded["warnings"] == ["few records"]
    classes = report.per_class(report.strongest("adaptive"))
    assert [row["class"] for row in loaded["strongest_adaptive_per_class"]] == list(range(10))
    assert [row["auc"] for row in loaded["strongest_adaptive_per_class"]] == list(classes["auc"])
    utility = loaded["utility"]
    assert utility["l1_members"] == utility["members"]["distortion"]["l1"]
    assert utility["calibration_error"] == utility["all"]["before"]["calibration_error"]


def test_the_table_shows_an_advantage_where_it_was_measured():
    assert "advantage" not in made_report().table
    report = long_report(attacks=2)
    assert report.table["advantage_low"].tolist() == [o.advantage.low for o in report.outcomes]


def test_seeds_are_summarised_per_attack_setting_and_metric():
    def one(accuracy: float, precision: float) -> AuditReport:
        metrics = {"balanced_accuracy": Estimate(accuracy, 0, 1)}
        metrics["precision"] = UNDEFINED if np.isnan(precision) else Estimate(precision, 0, 1)
        outcome = AttackOutcome("a", "static", np.zeros(400), metrics, Estimate(0.1, 0, 1))
        return replace(made_report(), outcomes=(outcome, replace(outcome, setting="adaptive")))

    table = over_seeds([one(0.5, 0.7), one(0.6, np.nan), one(0.7, 0.9)])
    assert list(table["metric"]) == 2 * ["balanced_accuracy", "precision", "advantage"]
    row = table[(table["setting"] == "adaptive") & (table["metric"] == "balanced_accuracy")].iloc[0]
    assert row["attack"] == "a"
    assert list(row[["count", "min", "max"]]) == [3, 0.5, 0.7]
    assert (row["mean"], row["std"]) == (pytest.approx(0.6), pytest.approx(0.1))
    precision = table[table["metric"] == "precision"].iloc[0]
    assert list(precision[["count", "min", "max"]]) == [2, 0.7, 0.9]
    assert np.isnan(over_seeds([one(0.5, 0.7)])["std"]).all()
    with pytest.raises(ValueError, match="no reports"):
        over_seeds([])


def test_a_trade_off_is_the_strongest_adaptive_attack_at_its_price():
    report = made_report()
    point = TradeOff.of(report, "softening", 0.1)
    l1 = np.abs(report.target.probs - report.protected.probs).sum(axis=1)
    assert point.l1 == pytest.approx(l1.mean())
    adaptive = [o.metrics["balanced_accuracy"] for o in report.outcomes if o.setting == "adaptive"]
    assert point.leakage == max(adaptive, key=lambda estimate: estimate.value)
    with pytest.raises(ValueError, match="no measured adaptive attack"):
        TradeOff.of(made_report(settings=("static",)), "softening", 0.1)


def test_the_trade_off_figure_draws_a_named_line_per_defense():
    points = [
        TradeOff(name, knob, l1, Estimate(value, value - 0.02, value + 0.03))
        for name, knob, l1, value in [
            ("first", 4.0, 0.3, 0.6),
            ("first", 1.0, 0.1, 0.8),
            ("second", 0.5, 0.2, 0.61),
        ]
    ]
    figure = plots.leakage_against_distortion(
        points, Estimate(0.55, 0.5, 0.6), Estimate(0.9, 0.85, 0.95)
    )
    (axes,) = figure.axes
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [set(line.get_ydata()) for line in dashed] == [{0.55}]
    assert any(list(line.get_xdata()) == [0.1, 0.3] for line in axes.lines)
    texts = {text.get_text(): text for text in axes.texts}
    assert texts.keys() == {"label-only floor", "undefended", "first, 1 to 4", "second, 0.5"}
    heights = [texts[name].get_position()[1] for name in ("second, 0.5", "first, 1 to 4")]
    assert heights[0] == 0.61
    assert heights[0] - heights[1] > 0.01, "names must not cover each other"
    segments = [path for c in axes.collections for path in c.get_segments()]
    assert any(np.allclose(path, [[0.1, 0.78], [0.1, 0.83]]) for path in segments)
