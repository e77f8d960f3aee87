"""What an audit found: every attack in every setting, and the price of the defense."""

from __future__ import annotations

import json
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


@dataclass(frozen=True)
class AttackOutcome:
    """One attack in one setting.

    ``scores`` [n] are higher for likelier members; above zero the attack says "member".
    ``metrics`` maps the names in :data:`aeppt.evaluation.metrics.METRICS` to estimates.
    """

    attack: str
    setting: Setting
    scores: NDArray[np.float64]
    metrics: dict[str, Estimate]


@dataclass(frozen=True)
class Utility:
    """What the predictions are worth to their rightful user, and what the defense changed."""

    accuracy: Estimate
    accuracy_protected: Estimate
    calibration_error: float  # expected calibration error, 15 equal-width bins
    calibration_error_protected: float
    l1_members: float  # mean over members of the sum of absolute changes
    l1_non_members: float
    status_counts: dict[str, int]  # rows per search status, where the defense reports one


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

    @property
    def table(self) -> pd.DataFrame:
        """One row per attack and setting; each metric with its interval."""
        rows = []
        for outcome in self.outcomes:
            row: dict[str, Any] = {"attack": outcome.attack, "setting": outcome.setting}
            for name, estimate in outcome.metrics.items():
                row[name] = estimate.value
                row[f"{name}_low"] = estimate.low
                row[f"{name}_high"] = estimate.high
            rows.append(row)
        return pd.DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the rows themselves, as plain Python values."""
        return {
            "title": self.title,
            "defense": self.defense,
            "attacks": [
                {
                    "attack": outcome.attack,
                    "setting": outcome.setting,
                    **{name: asdict(estimate) for name, estimate in outcome.metrics.items()},
                }
                for outcome in self.outcomes
            ],
            "label_only_floor": asdict(self.floor),
            "utility": asdict(self.utility),
            "facts": self.facts,
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


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
