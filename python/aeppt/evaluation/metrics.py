"""Figures that judge an attack or a prediction, each with a 95 % confidence interval.

Curves are scikit-learn's, intervals of shares SciPy's. An attack's threshold is taken as given:
intervals tell how the figure would vary over other records, not over other shadow models. What
cannot be judged well is said in warnings, which are lines of text for the report, never errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import roc_curve

from aeppt.evaluation.results import UNDEFINED, AttackOutcome, Estimate, Setting
from aeppt.predictions import Predictions
from aeppt.roc import CONFIDENCE, area_under_roc

CALIBRATION_BINS = 15
MOST_SHARED = 0.05  # a share of records found on both sides that deserves a warning
FEWEST_SHADOW_RECORDS = 50  # of one side; fewer deserve a warning
MOST_TIES = 0.05  # a share of equal scores that deserves a warning
MOST_NAMED = 10  # classes that one warning names

#: The metrics of an attack, and what to call them.
METRICS = {
    "balanced_accuracy": "balanced accuracy",
    "precision": "precision",
    "recall": "recall",
    "auc": "AUC",
    "tpr_at_1_percent_fpr": "TPR at 1 % FPR",
    "tpr_at_0.1_percent_fpr": "TPR at 0.1 % FPR",
    "f1": "F1",
}
#: The false-positive rates of those metrics.
FALSE_POSITIVE_RATES = (0.01, 0.001)


def share(hits: int, total: int, method: Literal["wilson", "exact"] = "wilson") -> Estimate:
    """``hits`` of ``total`` with its Wilson (or ``"exact"``, Clopper-Pearson) interval."""
    if total == 0:
        return UNDEFINED
    interval = binomtest(hits, total).proportion_ci(CONFIDENCE, method=method)
    return Estimate(hits / total, float(interval.low), float(interval.high))


def judged(
    attack: str,
    setting: Setting,
    scores: NDArray[np.float64],
    floor_scores: NDArray[np.float64],
    is_member: NDArray[np.bool_],
) -> AttackOutcome:
    """An attack's scores with all that this module says of them.

    Parameters
    ----------
    attack : str
        The attack's name.
    setting : Setting
    scores : array [n]
        Higher for likelier members; above zero the attack says "member".
    floor_scores : array [n]
        Those of :class:`aeppt.attacks.CorrectnessAttack` for the same records.
    is_member : array [n], bool
        The truth; both sides must occur.

    Raises
    ------
    ValueError
        Only members or only non-members are given, or the scores are not of the same records.
    """
    return AttackOutcome(
        attack,
        setting,
        scores,
        attack_metrics(scores, is_member),
        advantage(scores, floor_scores, is_member),
        score_warnings(scores, is_member, setting),
    )


def attack_metrics(
    scores: NDArray[np.float64], is_member: NDArray[np.bool_]
) -> dict[str, Estimate]:
    """All of :data:`METRICS` for an attack's scores.

    Parameters
    ----------
    scores : array [n]
        Higher for likelier members; above zero the attack says "member".
    is_member : array [n], bool
        The truth; both sides must occur.

    Raises
    ------
    ValueError
        Only members or only non-members are given.
    """
    _require_both_sides(is_member)
    accused = scores > 0
    true_positives = int((accused & is_member).sum())
    return {
        "balanced_accuracy": _balanced_accuracy(scores, is_member),
        "precision": share(true_positives, int(accused.sum())),
        "recall": share(true_positives, int(is_member.sum())),
        "auc": _auc(scores, is_member),
        "tpr_at_1_percent_fpr": tpr_at_fpr(scores, is_member, 0.01),
        "tpr_at_0.1_percent_fpr": tpr_at_fpr(scores, is_member, 0.001),
        "f1": _f1(true_positives, int((accused | is_member).sum())),
    }


def advantage(
    scores: NDArray[np.float64], floor_scores: NDArray[np.float64], is_member: NDArray[np.bool_]
) -> Estimate:
    """Balanced accuracy that an attack adds to the label-only floor's, paired on the same records.

    The interval is that of Newcombe 1998 (Statistics in Medicine 17, 2635-2650, method 10) for
    paired shares, within members and within non-members, both joined by square-and-add: it needs no
    seed, and where attack and floor agree on every record it keeps a width, unlike a bootstrap.

    Parameters
    ----------
    scores, floor_scores : array [n]
        Of the attack and of :class:`aeppt.attacks.CorrectnessAttack`; above zero means "member".
    is_member : array [n], bool
        The truth; both sides must occur.

    Raises
    ------
    ValueError
        Only members or only non-members are given, or the scores are not of the same records.
    """
    _require_both_sides(is_member)
    if scores.shape != floor_scores.shape:
        raise ValueError(
            f"the attack has {len(scores)} scores and the floor {len(floor_scores)}; an advantage "
            "needs both for the same records"
        )
    hits, floor_hits = (scores > 0) == is_member, (floor_scores > 0) == is_member
    return _mean_of_two(
        _paired_difference(hits[is_member], floor_hits[is_member]),
        _paired_difference(hits[~is_member], floor_hits[~is_member]),
    )


def per_class_metrics(scores: NDArray[np.float64], target: Predictions) -> pd.DataFrame:
    """An attack's balanced accuracy and AUC within each true class.

    Parameters
    ----------
    scores : array [n]
        Of the target's records.
    target : Predictions

    Returns
    -------
    DataFrame
        Per class, 0 to k - 1: ``members``, ``non_members``, and ``balanced_accuracy`` and ``auc``
        with their ``_low`` and ``_high`` ends; NaN where a class lacks members or non-members
        (:func:`size_warnings` names those).
    """
    rows = []
    for label in range(target.n_classes):
        of_class = target.labels == label
        is_member = target.is_member[of_class]
        members, others = int(is_member.sum()), int((~is_member).sum())
        row: dict[str, float] = {"members": members, "non_members": others}
        for name, measure in (("balanced_accuracy", _balanced_accuracy), ("auc", _auc)):
            estimate = measure(scores[of_class], is_member) if members and others else UNDEFINED
            row[name] = estimate.value
            row[f"{name}_low"], row[f"{name}_high"] = estimate.low, estimate.high
        rows.append(row)
    return pd.DataFrame(rows).rename_axis("class")


def record_warnings(target: Predictions, shadow: Predictions) -> tuple[str, ...]:
    """What is doubtful about the records of an audit, one line each.

    Parameters
    ----------
    target : Predictions
        The records that attacks are judged on.
    shadow : Predictions
        Those that attackers learn on.
    """
    warnings = list(size_warnings(target))
    rows = np.column_stack([target.probs.astype(np.float64), target.labels])
    distinct, row = np.unique(rows, axis=0, return_inverse=True)
    counts = [np.bincount(row.ravel()[side], minlength=len(distinct)) for side in _sides(target)]
    shared = int(np.minimum(*counts).sum())
    if shared > MOST_SHARED * min(int(count.sum()) for count in counts):
        warnings.append(
            f"{shared} members have the very prediction and label of a non-member: the same "
            "records may be on both sides, or the model gives few different answers"
        )
    fewest = min(int(side.sum()) for side in _sides(shadow))
    if fewest < FEWEST_SHADOW_RECORDS:
        warnings.append(
            f"attackers learn on {fewest} shadow records of one side; with more, some may find more"
        )
    return tuple(warnings)


def _sides(predictions: Predictions) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    return predictions.is_member, ~predictions.is_member


def size_warnings(
    target: Predictions, rates: Sequence[float] = FALSE_POSITIVE_RATES
) -> tuple[str, ...]:
    """What the numbers of records leave open, one line each.

    Parameters
    ----------
    target : Predictions
        The records that attacks are judged on.
    rates : sequence of float
        The false-positive rates at which a TPR is asked for.
    """
    others = int((~target.is_member).sum())
    warnings = [
        f"{others} non-members are fewer than the {1 / rate:.0f} that a false-positive rate of "
        f"{100 * rate:g} % needs: the TPR there allows no false positive, and is known only roughly"
        for rate in rates
        if others < round(1 / rate)
    ]
    members_of, others_of = (
        np.bincount(target.labels[side], minlength=target.n_classes) for side in _sides(target)
    )
    one_sided = np.flatnonzero((members_of == 0) | (others_of == 0))
    if len(one_sided):
        named = ", ".join(map(str, one_sided[:MOST_NAMED]))
        more = len(one_sided) - MOST_NAMED
        warnings.append(
            f"without members or without non-members, hence not measured apart: class {named}"
            + (f" and {more} more" if more > 0 else "")
        )
    return tuple(warnings)


def score_warnings(
    scores: NDArray[np.float64], is_member: NDArray[np.bool_], setting: Setting
) -> tuple[str, ...]:
    """What is suspicious about an attack's scores, one line each.

    Parameters
    ----------
    scores : array [n]
        Higher for likelier members; above zero the attack says "member".
    is_member : array [n], bool
        The truth; both sides must occur.
    setting : Setting
        A static attacker may be misled by the defense; any other should not be.
    """
    levels = np.unique(scores)
    if len(levels) == 1:
        return ("all scores are equal: the attack learned nothing",)
    warnings = []
    if _auc(scores, is_member).high < 0.5:
        warnings.append(
            "the AUC lies wholly below one half: the defense misleads the attack, whose answers "
            "tell members once they are turned round"
            if setting == "static"
            else "the AUC lies wholly below one half: suspect the direction of the scores or the "
            "split, such as members and non-members swapped"
        )
    if np.mean(scores == 0) > MOST_TIES:
        warnings.append(
            f"more than {100 * MOST_TIES:g} % of the scores lie on the threshold itself, where the "
            'attack says "non-member" without knowing'
        )
    top = scores == levels[-1]
    for rate in FALSE_POSITIVE_RATES if len(levels) > 2 else ():  # else there is only yes and no
        if top[is_member].any() and top[~is_member].mean() > rate:
            warnings.append(
                f"members and non-members share the highest score: the TPR at {100 * rate:g} % FPR "
                "is zero whatever the attack knows"
            )
            break
    return tuple(warnings)


def tpr_at_fpr(
    scores: NDArray[np.float64], is_member: NDArray[np.bool_], most_fpr: float
) -> Estimate:
    """The best true-positive rate at a false-positive rate of at most ``most_fpr``.

    Exact (Clopper-Pearson) interval at that threshold (Carlini et al. 2022 argue for this metric).
    """
    fpr, tpr, _ = roc_curve(is_member, scores, drop_intermediate=False)
    members = int(is_member.sum())
    best = float(tpr[fpr <= most_fpr].max())
    return share(round(best * members), members, method="exact")


def calibration_error(predictions: Predictions) -> float:
    """Expected calibration error of the top label (Guo et al. 2017), 15 equal-width bins."""
    confidence = predictions.probs.max(axis=1).astype(np.float64)
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gap = np.bincount(bins, predictions.is_correct - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gap).sum() / len(predictions))


def _require_both_sides(is_member: NDArray[np.bool_]) -> None:
    if is_member.all() or not is_member.any():
        raise ValueError("metrics of an attack need members and non-members")


def _balanced_accuracy(scores: NDArray[np.float64], is_member: NDArray[np.bool_]) -> Estimate:
    accused = scores > 0
    recall = share(int((accused & is_member).sum()), int(is_member.sum()))
    specificity = share(int((~accused & ~is_member).sum()), int((~is_member).sum()))
    return _mean_of_two(recall, specificity)


def _f1(true_positives: int, accused_or_members: int) -> Estimate:
    """F1 = 2 J / (1 + J), where J is the share of true positives among accused or members.

    That rises with J (Hand et al. 2021, Machine Learning 110), so the ends of J's exact
    (Clopper-Pearson) interval become those of F1.
    """
    jaccard = share(true_positives, accused_or_members, method="exact")
    return Estimate(*(2 * j / (1 + j) for j in (jaccard.value, jaccard.low, jaccard.high)))


def _paired_difference(hits: NDArray[np.bool_], floor_hits: NDArray[np.bool_]) -> Estimate:
    """Difference of two shares of the same records; interval by Newcombe 1998, method 10."""
    n = len(hits)
    left, right = share(int(hits.sum()), n), share(int(floor_hits.sum()), n)
    both, neither = int((hits & floor_hits).sum()), int((~hits & ~floor_hits).sum())
    only_left, only_right = int((hits & ~floor_hits).sum()), int((~hits & floor_hits).sum())
    dependence: float = both * neither - only_left * only_right
    if dependence > 0:
        dependence = max(dependence - n / 2, 0)  # the method's correction for continuity
    scale = n**2 * math.sqrt(left.value * (1 - left.value) * right.value * (1 - right.value))
    correlation = dependence / scale if scale else 0.0

    def combined(one: float, other: float) -> float:
        return math.sqrt(one**2 - 2 * correlation * one * other + other**2)

    value = left.value - right.value
    return Estimate(
        value,
        value - combined(left.value - left.low, right.high - right.value),
        value + combined(left.high - left.value, right.value - right.low),
    )


def _mean_of_two(left: Estimate, right: Estimate) -> Estimate:
    """The mean of two independent estimates; interval by Newcombe 1998 (square-and-add)."""
    value = (left.value + right.value) / 2
    down = math.hypot(left.value - left.low, right.value - right.low) / 2
    up = math.hypot(left.high - left.value, right.high - right.value) / 2
    return Estimate(value, value - down, value + up)


def _auc(scores: NDArray[np.float64], is_member: NDArray[np.bool_]) -> Estimate:
    return Estimate(*area_under_roc(scores, is_member))
