"""What attacks find of a target's predictions behind several defenses.

As :func:`aeppt.audit` for each, only faster: what attackers learn on undefended predictions they
learn once for all defenses, and adaptive attackers are asked only where a question is about them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
from answers import Row

from aeppt import AEPPT, Predictions
from aeppt.attacks import Attack, CorrectnessAttack
from aeppt.defenses.base import OutputDefense
from aeppt.evaluation.experiment import Experiment
from aeppt.evaluation.metrics import attack_metrics
from aeppt.evaluation.results import Estimate

METRICS = ("balanced_accuracy", "precision", "recall", "auc")
DIGITS = 5


class Trial(NamedTuple):
    """A defense of the target, and what tells it from the others.

    ``copy`` is that of an attacker who knows the defense, fitted on the shadow model's predictions;
    None asks no such attacker.
    """

    factors: dict[str, Any]
    defense: AEPPT
    copy: AEPPT | None = None


def tried(made: Experiment, trials: Sequence[Trial], attacks: Sequence[Attack]) -> list[Row]:
    """A row for each attack, trial and setting: its factors, metrics with intervals, and costs."""
    (label_only,) = CorrectnessAttack()(made.shadow, made.target)
    floor = attack_metrics(label_only, made.target.is_member)["balanced_accuracy"]
    protected = [behind(trial.defense, made.target) for trial in trials]
    lessons = [trial.copy and behind(trial.copy, made.shadow) for trial in trials]
    costs = [_costs(made.target, after) for after in protected]
    rows = []
    for attack in attacks:
        undefended, *static = attack(made.shadow, made.target, *protected)
        for place, trial in enumerate(trials):
            found = {"undefended": undefended, "static": static[place]}
            lesson = lessons[place]
            if lesson is not None:
                (found["adaptive"],) = attack(lesson, protected[place])
            for setting, scores in found.items():
                metrics = attack_metrics(scores, made.target.is_member)
                rows.append(
                    {
                        **trial.factors,
                        "attack": attack.name,
                        "setting": setting,
                        **{metric: _plain(metrics[metric]) for metric in METRICS},
                        "label_only_floor": _plain(floor),
                        **costs[place],
                    }
                )
    return rows


def behind(defense: OutputDefense, predictions: Predictions) -> Predictions:
    """What the defense makes of the predictions."""
    return predictions.with_probs(defense.protect(predictions.probs))


def mean_l1(before: Predictions, after: Predictions) -> float:
    """The mean over records of the sum of absolute changes."""
    return round(float(np.abs(before.probs - after.probs).sum(axis=1).mean()), DIGITS)


def _costs(before: Predictions, after: Predictions) -> dict[str, float]:
    l1 = np.abs(before.probs - after.probs).sum(axis=1)  # [n]
    sides = {"l1": l1, "l1_members": l1[before.is_member], "l1_non_members": l1[~before.is_member]}
    return {name: round(float(of_side.mean()), DIGITS) for name, of_side in sides.items()}


def _plain(estimate: Estimate) -> dict[str, float] | None:
    """The estimate as JSON has it; None where it is undefined."""
    if not math.isfinite(estimate.value):
        return None
    return {name: round(value, DIGITS) for name, value in asdict(estimate).items()}
