"""The report of an audit as one HTML page, which needs no network, no script and no other file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from aeppt.evaluation import plots
from aeppt.evaluation.metrics import METRICS
from aeppt.evaluation.results import (
    SETTINGS,
    UNDEFINED,
    AttackOutcome,
    AuditReport,
    Estimate,
    Setting,
)

ADVANTAGE = "advantage over the label-only floor, in points of balanced accuracy"
#: Metrics of the adaptive attacker beside the balanced accuracies.
OVERVIEW = ("auc", "tpr_at_1_percent_fpr", "tpr_at_0.1_percent_fpr", "f1")
MOST_CURVES = 6  # attacks whose ROC curves are open to see
MOST_CLASSES = 10
MOST_OPEN = 8  # attacks up to which the tables of every metric are open to see


@dataclass(frozen=True)
class Verdict:
    """How the attacks compare with each other and with the label-only floor.

    ``strongest`` holds the attack of highest balanced accuracy per setting, where one is defined;
    ``above_floor`` the attacks per setting that lie wholly above the floor, strongest first;
    ``is_below_floor`` says whether the strongest adaptive attack lies wholly below it; ``low_fpr``
    is the adaptive attack that finds most members at a false-positive rate of 0.1 %.
    """

    strongest: dict[Setting, AttackOutcome]
    above_floor: dict[Setting, list[AttackOutcome]]
    is_below_floor: bool
    low_fpr: AttackOutcome | None

    @classmethod
    def of(cls, report: AuditReport) -> Verdict:
        """Judge the outcomes of ``report``."""
        found = {setting: report.strongest(setting) for setting in SETTINGS}
        strongest = {setting: best for setting, best in found.items() if best is not None}
        above_floor = {
            setting: sorted(
                (
                    outcome
                    for outcome in report.outcomes
                    if outcome.setting == setting and _excess(outcome, report.floor).low > 0
                ),
                key=lambda outcome: -_estimate(outcome, "balanced_accuracy").value,
            )
            for setting in SETTINGS
        }
        return cls(
            strongest,
            above_floor,
            is_below_floor=_excess(strongest.get("adaptive"), report.floor).high < 0,
            low_fpr=report.strongest("adaptive", "tpr_at_0.1_percent_fpr"),
        )


def render(report: AuditReport) -> str:
    """The page as text; the same report gives the same text.

    Parameters
    ----------
    report : AuditReport
        Attacks and settings may be missing, and metrics undefined (NaN).
    """
    is_member = report.target.is_member
    verdict = Verdict.of(report)
    by_attack = _strongest_first(report)
    measured = {key for outcome in report.outcomes for key in outcome.estimates}
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            title=report.title,
            report=report,
            estimate=_estimate,
            is_above=lambda outcome: _excess(outcome, report.floor).low > 0,
            is_member=is_member,
            members=np.count_nonzero(is_member),
            non_members=np.count_nonzero(~is_member),
            l1=np.abs(report.target.probs.astype(np.float64) - report.protected.probs).sum(1),
            verdict=verdict,
            warnings=_warnings(report),
            outcomes=[outcome for outcomes in by_attack.values() for outcome in outcomes.values()],
            by_attack=by_attack,
            are_open=len(by_attack) <= MOST_OPEN,
            curves=_first_curves(by_attack, verdict),
            classes=_most_exposed_classes(report, verdict),
            canaries=[outcome for outcome in report.outcomes if outcome.canaries is not None],
            graded=_first_graded(by_attack),
            shown=[key for key in OVERVIEW if key in measured],
            settings=[s for s in SETTINGS if any(s in outcomes for outcomes in by_attack.values())],
            metrics={
                key: name
                for key, name in {**METRICS, "advantage": ADVANTAGE}.items()
                if key in measured
            },
        )
    )


def environment() -> Environment:
    """Where templates of pages are found, and what they may use."""
    made = Environment(
        loader=PackageLoader("aeppt", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(value=_value, interval=_interval, figure=_figure)
    made.globals.update(isfinite=np.isfinite, plots=plots)
    return made


def _estimate(outcome: AttackOutcome | None, metric: str) -> Estimate:
    """The estimate, or an undefined one where the attack or the metric is missing."""
    return UNDEFINED if outcome is None else outcome.estimates.get(metric, UNDEFINED)


def _excess(outcome: AttackOutcome | None, floor: Estimate) -> Estimate:
    """Balanced accuracy beyond the floor: the paired advantage where measured, else the gap."""
    if outcome is not None and outcome.advantage is not None:
        return outcome.advantage
    own = _estimate(outcome, "balanced_accuracy")
    return Estimate(*(end - floor.value for end in (own.value, own.low, own.high)))


def _strongest_first(report: AuditReport) -> dict[str, dict[Setting, AttackOutcome]]:
    """The outcomes by attack and setting, by falling balanced accuracy of the adaptive attacker."""
    by_attack: dict[str, dict[Setting, AttackOutcome]] = {}
    for outcome in report.outcomes:
        by_attack.setdefault(outcome.attack, {})[outcome.setting] = outcome

    def strength(attack: str) -> float:
        value = _estimate(by_attack[attack].get("adaptive"), "balanced_accuracy").value
        return value if np.isfinite(value) else -np.inf

    return {attack: by_attack[attack] for attack in sorted(by_attack, key=strength, reverse=True)}


def _warnings(report: AuditReport) -> list[tuple[str, str]]:
    """Pairs of what a warning says, once, and whom it is about, "" for the whole audit."""
    warned: dict[str, dict[str, list[str]]] = {}  # text, attack, settings
    for outcome in report.outcomes:
        for text in outcome.warnings:
            warned.setdefault(text, {}).setdefault(outcome.attack, []).append(outcome.setting)
    pairs = [(text, "") for text in report.warnings]
    for text, attacks in warned.items():
        alike: dict[str, list[str]] = {}  # settings, attacks
        for attack, where in attacks.items():
            alike.setdefault(", ".join(where), []).append(attack)
        pairs.append((text, "; ".join(f"{where}: {', '.join(alike[where])}" for where in alike)))
    return pairs


def _first_curves(
    by_attack: dict[str, dict[Setting, AttackOutcome]], verdict: Verdict
) -> list[str]:
    """The strongest attacks, and the best at few false positives."""
    if len(by_attack) <= MOST_CURVES or verdict.low_fpr is None:
        return list(by_attack)[:MOST_CURVES]
    return list(dict.fromkeys([*list(by_attack)[: MOST_CURVES - 1], verdict.low_fpr.attack]))


def _most_exposed_classes(report: AuditReport, verdict: Verdict) -> list[dict[str, Any]]:
    """Where the strongest adaptive attack is right most often, with a row's figures by name."""
    if "adaptive" not in verdict.strongest:
        return []
    classes = report.per_class(verdict.strongest["adaptive"]).dropna(subset="balanced_accuracy")
    first = classes.sort_values("balanced_accuracy", ascending=False, kind="stable")
    return [
        {
            "label": label,
            "members": row["members"],
            "non_members": row["non_members"],
            **{
                metric: Estimate(row[metric], row[f"{metric}_low"], row[f"{metric}_high"])
                for metric in ("balanced_accuracy", "auc")
            },
        }
        for label, row in first.head(MOST_CLASSES).to_dict("index").items()
    ]


def _first_graded(by_attack: dict[str, dict[Setting, AttackOutcome]]) -> str | None:
    """The first attack that says more than yes or no, so that its scores are worth drawing."""
    for attack, outcomes in by_attack.items():
        if any(len(np.unique(outcome.scores)) > 2 for outcome in outcomes.values()):
            return attack
    return None


def _value(estimate: Estimate, metric: str = "") -> str:
    if metric == "auc":
        return f"{estimate.value:.3f}"
    if metric == "advantage":
        return _points(estimate.value)
    return f"{100 * estimate.value:.1f}\u202f%"


def _interval(estimate: Estimate, metric: str = "") -> str:
    """The interval in the unit of the value before it; empty where there is none."""
    if not np.isfinite([estimate.low, estimate.high]).all():
        return ""
    if metric == "auc":
        return f"{estimate.low:.3f}–{estimate.high:.3f}"
    if metric == "advantage":
        return f"{_points(estimate.low)} to {_points(estimate.high)}"
    return f"{100 * estimate.low:.1f}–{100 * estimate.high:.1f}"


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}".replace("-", "−")


def _figure(figure: Figure, name: str, description: str) -> Markup:
    """The figure as an inline SVG that scales with its column and takes the page's text colour.

    ``name`` must be unique on the page: it keeps the identifiers of the figures apart.
    """
    opening, body = re.split(r"(?<=>)", plots.to_svg(figure).partition("<svg")[2], maxsplit=1)
    view = re.findall(r'viewBox="[^"]*"', opening)[0]
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", body)
    body = body.replace(plots.INK, "currentColor")
    return Markup('<svg {} role="img" aria-label="{}">{}').format(
        Markup(view), description, Markup(body)
    )
