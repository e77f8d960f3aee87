"""The report of an audit as one HTML page, which needs no network, no script and no other file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from aeppt.evaluation import plots
from aeppt.evaluation.metrics import METRICS
from aeppt.evaluation.results import SETTINGS, AttackOutcome, AuditReport, Estimate, Setting

_UNDEFINED = Estimate(np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class Verdict:
    """How the attacks compare with each other and with the label-only floor.

    ``strongest`` holds the attack of highest balanced accuracy per setting, where one is defined;
    ``above_floor`` the attacks per setting whose whole interval lies above the floor's value;
    ``low_fpr`` the adaptive attack that finds most members at a false positive rate of 0.1 %.
    """

    strongest: dict[Setting, AttackOutcome]
    above_floor: dict[Setting, list[AttackOutcome]]
    low_fpr: AttackOutcome | None

    @classmethod
    def of(cls, report: AuditReport) -> Verdict:
        """Judge the outcomes of ``report``."""
        strongest, above_floor = {}, {}
        for setting in SETTINGS:
            outcomes = [outcome for outcome in report.outcomes if outcome.setting == setting]
            best = _strongest(outcomes, "balanced_accuracy")
            if best is not None:
                strongest[setting] = best
            above_floor[setting] = [
                outcome
                for outcome in outcomes
                if _estimate(outcome, "balanced_accuracy").low > report.floor.value
            ]
        adaptive = [outcome for outcome in report.outcomes if outcome.setting == "adaptive"]
        return cls(strongest, above_floor, _strongest(adaptive, "tpr_at_0.1_percent_fpr"))


def render(report: AuditReport) -> str:
    """The page as text; the same report gives the same text.

    Parameters
    ----------
    report : AuditReport
        Attacks and settings may be missing, and metrics undefined (NaN).
    """
    is_member = report.target.is_member
    by_attack: dict[str, dict[Setting, AttackOutcome]] = {}
    for outcome in report.outcomes:
        by_attack.setdefault(outcome.attack, {})[outcome.setting] = outcome
    measured = {key for outcome in report.outcomes for key in outcome.metrics}
    environment = Environment(
        loader=PackageLoader("aeppt", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(value=_value, interval=_interval, figure=_figure)
    environment.globals.update(estimate=_estimate, isfinite=np.isfinite, plots=plots)
    return environment.get_template("page.html.j2").render(
        report=report,
        is_member=is_member,
        members=np.count_nonzero(is_member),
        non_members=np.count_nonzero(~is_member),
        l1=np.abs(report.target.probs.astype(np.float64) - report.protected.probs).sum(1),
        verdict=Verdict.of(report),
        by_attack=by_attack,
        graded=_first_graded(by_attack),
        settings=[s for s in SETTINGS if any(s in outcomes for outcomes in by_attack.values())],
        metrics={key: name for key, name in METRICS.items() if key in measured},
    )


def _estimate(outcome: AttackOutcome | None, metric: str) -> Estimate:
    """The estimate, or an undefined one where the attack or the metric is missing."""
    return _UNDEFINED if outcome is None else outcome.metrics.get(metric, _UNDEFINED)


def _strongest(outcomes: Iterable[AttackOutcome], metric: str) -> AttackOutcome | None:
    defined = [outcome for outcome in outcomes if np.isfinite(_estimate(outcome, metric).value)]
    return max(defined, key=lambda outcome: _estimate(outcome, metric).value, default=None)


def _first_graded(by_attack: dict[str, dict[Setting, AttackOutcome]]) -> str | None:
    """The first attack that says more than yes or no, so that its scores are worth drawing."""
    for attack, outcomes in by_attack.items():
        if any(len(np.unique(outcome.scores)) > 2 for outcome in outcomes.values()):
            return attack
    return None


def _value(estimate: Estimate, metric: str = "") -> str:
    if metric == "auc":
        return f"{estimate.value:.3f}"
    return f"{100 * estimate.value:.1f}\u202f%"


def _interval(estimate: Estimate, metric: str = "") -> str:
    """The interval in the unit of the value before it; empty where there is none."""
    if not np.isfinite([estimate.low, estimate.high]).all():
        return ""
    if metric == "auc":
        return f"{estimate.low:.3f}–{estimate.high:.3f}"
    return f"{100 * estimate.low:.1f}–{100 * estimate.high:.1f}"


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
