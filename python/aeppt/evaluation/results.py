"""What an audit found: every attack in every setting, and the price of the defense."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aeppt.files import write_atomically
from aeppt.predictions import Predictions

#: How an attack met the predictions: without defense; with it, by an attacker who does not know it;
#: with it, by one who knows it and trained on outputs of an own copy.
Setting = Literal["undefended", "static", "adaptive"]
SETTINGS: tuple[Setting, ...] = ("undefended", "static", "adaptive")


@dataclass(frozen=True)
class Estimate:
    """A measured value with its 95 % confidence interval; all NaN where it is undefined."""

    value: float
    low: float
    high: float


UNDEFINED = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class CanaryAudit:
    """TPR at 0.1 % FPR with exact intervals, on the canaries and on all records.

    ``members`` and ``non_members`` count canaries. With fewer than 1000 non-members an FPR of 0.1 %
    allows no false positive at all.
    """

    canaries: Estimate
    population: Estimate
    members: int
    non_members: int


@dataclass(frozen=True)
class AttackOutcome:
    """One attack in one setting.

    ``scores`` [n] are higher for likelier members; above zero the attack says "member".
    ``metrics`` maps the names in :data:`aeppt.evaluation.metrics.METRICS` to estimates.
    ``advantage`` is what its balanced accuracy adds to the label-only floor's on the same records,
    None where it was not compared. ``warnings`` are what is suspicious about the scores, in words.
    ``canaries`` is what a per-example attack finds among the most vulnerable records.
    """

    attack: str
    setting: Setting
    scores: NDArray[np.float64]
    metrics: dict[str, Estimate]
    advantage: Estimate | None = None
    warnings: tuple[str, ...] = ()
    canaries: CanaryAudit | None = None

    @property
    def estimates(self) -> dict[str, Estimate]:
        """All that was measured: the metrics, and the advantage where there is one."""
        return self.metrics | ({} if self.advantage is None else {"advantage": self.advantage})


@dataclass(frozen=True)
class Quality:
    """How good predictions are at naming the true class."""

    accuracy: Estimate
    top_5_accuracy: Estimate  # undefined with five classes or fewer
    negative_log_likelihood: float  # mean, nats
    calibration_error: float  # expected calibration error, 15 equal-width bins


@dataclass(frozen=True)
class Distortion:
    """How far a defense moved the rows."""

    l1: float  # mean over rows of the sum of absolute changes
    l1_95_percent: float  # 95th percentile
    kl: float  # mean of KL(before, after), nats
    kl_95_percent: float
    rank_correlation: float  # Spearman's, between the classes before and after; mean over rows


@dataclass(frozen=True)
class SideUtility:
    """The predictions' use on one side, before and after the defense."""

    records: int
    before: Quality
    after: Quality
    distortion: Distortion


@dataclass(frozen=True)
class Utility:
    """What the predictions are worth to their rightful user, and what the defense changed."""

    all: SideUtility
    members: SideUtility
    non_members: SideUtility
    status_counts: dict[str, int]  # rows per search status, where the defense reports one
    seconds_per_record: float = math.nan  # that the defense adds; NaN where not measured

    @property
    def accuracy(self) -> Estimate:
        """Of all records, before."""
        return self.all.before.accuracy

    @property
    def accuracy_protected(self) -> Estimate:
        """Of all records, after."""
        return self.all.after.accuracy

    @property
    def calibration_error(self) -> float:
        """Of all records, before."""
        return self.all.before.calibration_error

    @property
    def calibration_error_protected(self) -> float:
        """Of all records, after."""
        return self.all.after.calibration_error

    @property
    def l1_members(self) -> float:
        """Mean over members of the sum of absolute changes."""
        return self.members.distortion.l1

    @property
    def l1_non_members(self) -> float:
        """Mean over non-members of the sum of absolute changes."""
        return self.non_members.distortion.l1

    def to_dict(self) -> dict[str, Any]:
        """All fields, and the figures above by their short names, as plain Python values."""
        return {
            "accuracy": asdict(self.accuracy),
            "accuracy_protected": asdict(self.accuracy_protected),
            "calibration_error": self.calibration_error,
            "calibration_error_protected": self.calibration_error_protected,
            "l1_members": self.l1_members,
            "l1_non_members": self.l1_non_members,
            **asdict(self),
        }


@dataclass(frozen=True)
class Certificate:
    """The result of :func:`aeppt.evaluation.certify`; advantages and limit in balanced accuracy.

    With the stated ``confidence``, no attacker who knows of a record one released row without its
    ranking, and whether the predicted label is right, has more than ``advantage_bound`` over the
    label-only ``floor``, on records like those held out. ``ranking_aware`` is what one learner
    gains who sees the ranking too: measured, not bounded.
    """

    advantage_bound: float
    measured_advantage: float  # of the best such attacker on the very records held out
    floor: float  # best balanced accuracy by the label alone; one half where it tells nothing
    confidence: float
    limit: float  # the greatest bound that is granted
    members: int
    non_members: int
    outcomes: int  # how many sorted rows, told apart by whether the label is right, occurred
    ranking_aware: Estimate

    @property
    def granted(self) -> bool:
        """Whether the bound keeps the limit."""
        return self.advantage_bound <= self.limit

    @property
    def statement(self) -> str:
        """What is certified, or why it is not, in a sentence."""
        held_out = f"{self.members} members and {self.non_members} non-members held out"
        attacker = (
            "who knows of a record only one released row without its ranking, and whether the "
            "predicted label is right"
        )
        over = f"points over the label-only floor of {100 * self.floor:.1f} %"
        bound = f"{math.ceil(1e4 * self.advantage_bound) / 100:.2f}"  # rounded, it is a bound still
        if self.granted:
            return (
                f"Certified at {100 * self.confidence:g} %: on records like the {held_out}, no "
                f"attacker {attacker}, gains more than {bound} {over}."
            )
        return (
            f"Certificate refused: by the {held_out}, an attacker {attacker}, may gain up to "
            f"{bound} {over} ({100 * self.confidence:g} % confidence); the limit is "
            f"{100 * self.limit:g}."
        )

    @property
    def measurements(self) -> str:
        """What attackers gained on the held-out records themselves, in a sentence."""
        low, value, high = (
            f"{100 * end:+.1f}".replace("-", "−")
            for end in (self.ranking_aware.low, self.ranking_aware.value, self.ranking_aware.high)
        )
        ranking_aware = (
            f"{value} points (95 % interval {low} to {high})"
            if math.isfinite(self.ranking_aware.value)
            else "an undefined number of points"
        )
        failed = (
            ", less than the label alone tells, so they failed and rule nothing out"
            if self.ranking_aware.high < 0
            else ""
        )
        return (
            f"Measured there, in {self.outcomes} different outcomes: the best such attacker gains "
            f"{100 * self.measured_advantage:.2f} points. Apart from that, the ranking is released "
            f"too: boosted trees that see it gain {ranking_aware}{failed}. "
            "The bound does not cover it."
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields and the verdict, as plain Python values."""
        return {"granted": self.granted, **asdict(self)}


@dataclass(frozen=True)
class AuditReport:
    """The result of :func:`aeppt.audit`."""

    title: str
    defense: str
    target: Predictions
    protected: Predictions
    outcomes: tuple[AttackOutcome, ...]
    floor: Estimate  # balanced accuracy of the label-only attack; no such defense goes below it
    utility: Utility
    facts: dict[str, str]  # what a reader needs to reproduce it: sizes, seed, versions, engine
    warnings: tuple[str, ...] = ()  # what the numbers of records leave open
    certificate: Certificate | None = None  # where records were held out for one

    def strongest(
        self, setting: Setting, metric: str = "balanced_accuracy"
    ) -> AttackOutcome | None:
        """The setting's attack with the greatest ``metric``; None where none is defined."""
        defined = [
            outcome
            for outcome in self.outcomes
            if outcome.setting == setting
            and np.isfinite(outcome.estimates.get(metric, UNDEFINED).value)
        ]
        return max(defined, key=lambda outcome: outcome.estimates[metric].value, default=None)

    def per_class(self, outcome: AttackOutcome) -> pd.DataFrame:
        """One of the report's outcomes within each true class.

        See :func:`aeppt.evaluation.metrics.per_class_metrics`.
        """
        from aeppt.evaluation.metrics import per_class_metrics

        return per_class_metrics(outcome.scores, self.target)

    @property
    def table(self) -> pd.DataFrame:
        """One row per attack and setting; each metric with its interval."""
        rows = []
        for outcome in self.outcomes:
            row: dict[str, Any] = {"attack": outcome.attack, "setting": outcome.setting}
            for name, estimate in outcome.estimates.items():
                row[name] = estimate.value
                row[f"{name}_low"] = estimate.low
                row[f"{name}_high"] = estimate.high
            rows.append(row)
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the rows themselves, as plain Python values.

        The classes are told apart for the strongest adaptive attack alone.
        """
        strongest = self.strongest("adaptive")
        classes = pd.DataFrame() if strongest is None else self.per_class(strongest).reset_index()
        return {
            "title": self.title,
            "defense": self.defense,
            "attacks": [
                {
                    "attack": outcome.attack,
                    "setting": outcome.setting,
                    **{name: asdict(value) for name, value in outcome.estimates.items()},
                    "warnings": list(outcome.warnings),
                    "canaries": None if outcome.canaries is None else asdict(outcome.canaries),
                }
                for outcome in self.outcomes
            ],
            "label_only_floor": asdict(self.floor),
            "certificate": None if self.certificate is None else self.certificate.to_dict(),
            "strongest_adaptive_per_class": classes.to_dict("records"),
            "utility": self.utility.to_dict(),
            "facts": self.facts,
            "warnings": list(self.warnings),
        }

    def to_json(self, path: str | Path) -> None:
        """Write :meth:`to_dict` as JSON; undefined values become null."""
        text = json.dumps(_without_nan(self.to_dict()), indent=2, allow_nan=False)
        write_atomically(path, lambda file: file.write(text.encode()))

    def to_html(self, path: str | Path) -> None:
        """Write one self-contained page, which opens without a network."""
        from aeppt.evaluation.page import render

        page = render(self)
        write_atomically(path, lambda file: file.write(page.encode()))


@dataclass(frozen=True)
class TradeOff:
    """What one setting of a defense costs, and what the strongest adaptive attack still finds."""

    defense: str
    knob: float  # the value of the parameter that trades one for the other
    l1: float  # mean over all records of the sum of absolute changes
    leakage: Estimate  # balanced accuracy of the strongest adaptive attack

    @classmethod
    def of(cls, report: AuditReport, defense: str, knob: float) -> TradeOff:
        """The point of one audit.

        Raises
        ------
        ValueError
            The audit holds no adaptive attack with a balanced accuracy.
        """
        strongest = report.strongest("adaptive")
        if strongest is None:
            raise ValueError(f"the audit {report.title!r} holds no measured adaptive attack")
        leakage = strongest.metrics["balanced_accuracy"]
        return cls(defense, knob, report.utility.all.distortion.l1, leakage)


def over_seeds(reports: Sequence[AuditReport]) -> pd.DataFrame:
    """How figures vary over audits that differ in their seed alone.

    Parameters
    ----------
    reports : sequence of AuditReport

    Returns
    -------
    DataFrame
        A row per attack, setting and metric: ``count`` of the reports where the metric is defined,
        its ``mean``, standard deviation ``std`` (n - 1; NaN for one report), ``min`` and ``max``.

    Raises
    ------
    ValueError
        No report is given.
    """
    if not reports:
        raise ValueError("no reports to summarise")
    rows = [
        (outcome.attack, outcome.setting, metric, estimate.value)
        for report in reports
        for outcome in report.outcomes
        for metric, estimate in outcome.estimates.items()
    ]
    table = pd.DataFrame(rows, columns=["attack", "setting", "metric", "value"])
    groups = table.groupby(["attack", "setting", "metric"], sort=False)["value"]
    return groups.agg(["count", "mean", "std", "min", "max"]).reset_index()


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
