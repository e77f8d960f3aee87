"""What the command line shows: progress, and an audit as one table."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from typing_extensions import Self

from aeppt.evaluation.metrics import METRICS
from aeppt.evaluation.results import SETTINGS, AuditReport, Estimate
from aeppt_ext import Status

SHOWN = ("balanced_accuracy", "precision", "recall", "auc", "tpr_at_1_percent_fpr")


class ProgressDisplay:
    """A progress bar that follows ``update(what, done, total)``; a total of 0 means unknown."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.task = self.progress.add_task("", total=None)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def update(self, what: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` pieces of ``what`` are finished."""
        self.progress.update(self.task, description=what, completed=done, total=total or None)


def audit_table(report: AuditReport) -> Table:
    """Every attack in every setting, the label-only floor, and the defense's price below."""
    utility = report.utility
    table = Table(
        title=report.title,
        caption=(
            f"Intervals are 95 %. Label-only floor: balanced accuracy "
            f"{_percent(report.floor)}; no defense that keeps labels goes below it.\n"
            f"Accuracy {utility.accuracy.value:.2%} before, "
            f"{utility.accuracy_protected.value:.2%} after. Mean L1 change: members "
            f"{utility.l1_members:.4f}, non-members {utility.l1_non_members:.4f}.\n"
            "static: the attacker does not know the defense; adaptive: trained on outputs of an "
            "own copy of it."
        ),
        caption_justify="left",
    )
    table.add_column("attack")
    table.add_column("setting")
    for metric in SHOWN:
        table.add_column(METRICS[metric], justify="right", no_wrap=True)
    previous = None
    for outcome in sorted(
        report.outcomes, key=lambda o: (_position(report, o.attack), SETTINGS.index(o.setting))
    ):
        if previous not in (None, outcome.attack):
            table.add_section()
        name = outcome.attack if outcome.attack != previous else ""
        table.add_row(
            name, outcome.setting, *(_percent(outcome.metrics[metric]) for metric in SHOWN)
        )
        previous = outcome.attack
    return table


def protection_summary(summary: dict[str, Any], info: Any) -> None:
    """Add one chunk's statuses and total L1 change to ``summary``."""
    counts = summary.setdefault("status", {status.name: 0 for status in Status})
    for status in Status:
        counts[status.name] += int(np.count_nonzero(info.status == status))
    summary["l1"] = summary.get("l1", 0.0) + float(info.l1.sum(dtype=np.float64))


def _position(report: AuditReport, attack: str) -> int:
    return [outcome.attack for outcome in report.outcomes].index(attack)


def _percent(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "–"
    return f"{estimate.value:.1%} [{100 * estimate.low:.0f}–{100 * estimate.high:.0f}]"
