"""What the command line shows: progress, and an audit as one table."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from typing_extensions import Self

from aeppt.evaluation.metrics import METRICS
from aeppt.evaluation.results import SETTINGS, AuditReport, Estimate

if TYPE_CHECKING:
    from aeppt.serving.batch import Protection

#: Width of one column of "50.0 [45–55]" and of the settings, with their padding.
COLUMN_WIDTH = 15


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


def audit_table(report: AuditReport, width: int) -> Table:
    """Every attack in every setting beside the label-only floor, and the defense's price below.

    The metrics come in the order of :data:`METRICS`, as many as fit in ``width`` characters.
    """
    utility, certificate = report.utility, report.certificate
    certified = (
        f"\n{certificate.statement} {certificate.measurements}" if certificate is not None else ""
    )
    table = Table(
        title=f"{report.title} (per cent, with 95 % intervals)",
        caption=(
            f"Label-only floor: {_per_cent(report.floor)} balanced accuracy; no defense that "
            "keeps labels goes below it.\n"
            "static: the attacker does not know the defense; adaptive: trained on outputs of an "
            "own copy of it.\n"
            f"Model accuracy {utility.accuracy.value:.2%} before, "
            f"{utility.accuracy_protected.value:.2%} after. Mean L1 change: members "
            f"{utility.l1_members:.4f}, non-members {utility.l1_non_members:.4f}."
            f"{certified}"
        ),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    shown = list(METRICS)[: max(1, width // COLUMN_WIDTH - 1)]
    table.add_column("", min_width=12)
    for metric in shown:
        table.add_column(METRICS[metric], justify="right", max_width=13)
    for attack in dict.fromkeys(outcome.attack for outcome in report.outcomes):
        outcomes = [outcome for outcome in report.outcomes if outcome.attack == attack]
        table.add_section()
        table.add_row(f"[bold]{attack}[/]")
        for outcome in sorted(outcomes, key=lambda outcome: SETTINGS.index(outcome.setting)):
            cells = (_per_cent(outcome.metrics[metric]) for metric in shown)
            table.add_row(f"  {outcome.setting}", *cells)
    return table


def protection_summary(done: Protection, destination: Path) -> str:
    """One line: rows, statuses and distortion of what was done, and what was done before."""
    parts = []
    if done.files:
        rows, statuses = done.totals.rows, done.totals.statuses
        counts = ", ".join(f"{count:,} {name}" for name, count in statuses.items() if count)
        parts.append(
            f"{rows:,} rows protected: {destination} ({counts}; mean L1 change "
            f"{done.totals.l1 / rows:.4f})"
        )
    if done.kept_files:
        where = "" if done.files else f": {destination}"
        parts.append(
            f"{done.kept_rows:,} rows were finished before, in {done.kept_files:,} files{where}"
        )
    return "; ".join(parts)


def _per_cent(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "–"
    value = f"{100 * estimate.value:.1f}".replace("100.0", "100")
    return f"{value} [{100 * estimate.low:.0f}–{100 * estimate.high:.0f}]"
