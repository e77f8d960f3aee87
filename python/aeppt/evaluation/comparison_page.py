"""A comparison as one HTML page, which needs no network, no script and no other file."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aeppt.evaluation.comparison import CONTENDER, Comparison, undominated
from aeppt.evaluation.page import environment
from aeppt.evaluation.results import UNDEFINED, Estimate

MOST_OPEN = 8  # contenders up to which the tables of every attack are open to see


@dataclass(frozen=True)
class Contender:
    """A row of the comparison's table, with its number on the page and its name."""

    number: int
    name: str
    row: dict[Hashable, Any]

    def __getitem__(self, column: str) -> Any:
        return self.row[column]

    def estimate(self, column: str) -> Estimate:
        """A column with its interval."""
        return Estimate(*(self.row[f"{column}{end}"] for end in ("", "_low", "_high")))


@dataclass(frozen=True)
class Verdict:
    """Who leaks least, and who is not outdone.

    ``undefended`` is what the strongest attack finds where nothing defends the first way of
    training; ``least`` the contender of least adaptive leakage, ``alike`` those whose intervals
    meet its own, and ``undominated`` those that no other outdoes in leakage, mean L1 and accuracy
    together, both least leakage first.
    """

    undefended: Estimate
    least: Contender | None
    alike: list[Contender]
    undominated: list[Contender]

    @classmethod
    def of(cls, contenders: list[Contender], baseline: str) -> Verdict:
        """Judge contenders that come least leakage first."""
        judged = [one for one in contenders if np.isfinite(one["adaptive"])]
        plain = (one.estimate("undefended") for one in judged if one["training"] == baseline)
        least = judged[0] if judged else None
        return cls(
            undefended=next(plain, UNDEFINED),
            least=least,
            alike=[one for one in judged[1:] if one["adaptive_low"] <= judged[0]["adaptive_high"]],
            undominated=[one for one in contenders if one["is_undominated"]],
        )

    @property
    def is_no_better(self) -> bool:
        """Whether the least leakage cannot be told apart from that without any defense."""
        return self.least is not None and self.least["adaptive_high"] >= self.undefended.low


def names(table: pd.DataFrame) -> list[str]:
    """What to call the contenders: by their defense, and where there are several, their training.

    Parameters
    ----------
    table : DataFrame
        As :attr:`Comparison.table`.
    """
    if table["training"].nunique() == 1:
        return list(table["defense"])
    return [f"{training}, {defense}" for training, defense in table[CONTENDER].itertuples(False)]


def frontiers(comparison: Comparison, cost: str) -> dict[str, NDArray[np.bool_]]:
    """Contenders that no other outdoes in adaptive leakage and ``cost``, a column of the table.

    Of all contenders, and apart of the first way of training where there are others: not everybody
    can train anew.
    """
    table = comparison.table
    lines = {"frontier": undominated(table[["adaptive", cost]])}
    is_baseline = (table["training"] == comparison.baseline).to_numpy()
    if not is_baseline.all():
        own = is_baseline.copy()
        own[is_baseline] = undominated(table.loc[is_baseline, ["adaptive", cost]])
        lines[f"frontier of {comparison.baseline} alone"] = own
    return lines


def render(comparison: Comparison) -> str:
    """The page as text; the same comparison gives the same text."""
    table = comparison.table
    contenders = [
        Contender(number, name, row)
        for number, (name, row) in enumerate(
            zip(names(table), table.to_dict("records"), strict=True), 1
        )
    ]
    measured = table.notna().any()
    return (
        environment()
        .get_template("comparison.html.j2")
        .render(
            title=comparison.title,
            comparison=comparison,
            contenders=contenders,
            verdict=Verdict.of(contenders, comparison.baseline),
            trainings=table["training"].nunique(),
            kinds=list(comparison.cells["training"].unique()),
            seeds=int(table["seeds"].max()),
            has=dict(measured),
            leakage=[one.estimate("adaptive") for one in contenders],
            frontiers=lambda cost: frontiers(comparison, cost),
            changes_accuracy=bool(table["accuracy_cost"].any()),
            by_attack={
                setting: _by_attack(comparison, setting) for setting in ("adaptive", "static")
            },
            are_open=len(contenders) <= MOST_OPEN,
        )
    )


def _by_attack(comparison: Comparison, setting: str) -> dict[str, list[float]]:
    """The mean balanced accuracy of each attack against each contender, strongest attack first."""
    found = comparison.attacks[comparison.attacks["setting"] == setting]
    grid = found.pivot_table("balanced_accuracy", "attack", CONTENDER, sort=False)
    grid = grid.reindex(columns=pd.MultiIndex.from_frame(comparison.table[CONTENDER]))
    strongest = grid.max(axis=1).sort_values(ascending=False, kind="stable").index
    return {str(attack): list(grid.loc[attack]) for attack in strongest}
