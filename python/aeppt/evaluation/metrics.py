"""Figures that judge an attack or a prediction, each with a 95 % confidence interval.

Counts and curves are scikit-learn's, intervals of shares SciPy's. An attack's threshold is taken as
given: intervals tell how the figure would vary over other records, not over other shadow models.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, rankdata
from sklearn.metrics import roc_auc_score, roc_curve

from aeppt.evaluation.results import Estimate
from aeppt.predictions import Predictions

CONFIDENCE = 0.95
CALIBRATION_BINS = 15

#: The metrics of an attack, and what to call them.
METRICS = {
    "balanced_accuracy": "balanced accuracy",
    "precision": "precision",
    "recall": "recall",
    "auc": "AUC",
    "tpr_at_1_percent_fpr": "TPR at 1 % FPR",
    "tpr_at_0.1_percent_fpr": "TPR at 0.1 % FPR",
}


def share(hits: int, total: int, method: Literal["wilson", "exact"] = "wilson") -> Estimate:
    """``hits`` of ``total`` with its Wilson (or ``"exact"``, Clopper-Pearson) interval."""
    if total == 0:
        return Estimate(math.nan, math.nan, math.nan)
    interval = binomtest(hits, total).proportion_ci(CONFIDENCE, method=method)
    return Estimate(hits / total, float(interval.low), float(interval.high))


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
    if is_member.all() or not is_member.any():
        raise ValueError("metrics of an attack need members and non-members")
    accused = scores > 0
    true_positives = int((accused & is_member).sum())
    members, others = int(is_member.sum()), int((~is_member).sum())
    recall = share(true_positives, members)
    specificity = share(int((~accused & ~is_member).sum()), others)
    return {
        "balanced_accuracy": _mean_of_two(recall, specificity),
        "precision": share(true_positives, int(accused.sum())),
        "recall": recall,
        "auc": _auc(scores, is_member),
        "tpr_at_1_percent_fpr": tpr_at_fpr(scores, is_member, 0.01),
        "tpr_at_0.1_percent_fpr": tpr_at_fpr(scores, is_member, 0.001),
    }


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


def _mean_of_two(left: Estimate, right: Estimate) -> Estimate:
    """The mean of two independent shares; interval by Newcombe 1998 (square-and-add)."""
    value = (left.value + right.value) / 2
    down = math.hypot(left.value - left.low, right.value - right.low) / 2
    up = math.hypot(left.high - left.value, right.high - right.value) / 2
    return Estimate(value, value - down, value + up)


def _auc(scores: NDArray[np.float64], is_member: NDArray[np.bool_]) -> Estimate:
    """Area under the ROC curve; interval by DeLong et al. 1988 through mid-ranks."""
    value = float(roc_auc_score(is_member, scores))
    members, others = scores[is_member], scores[~is_member]
    ranks = rankdata(np.concatenate([members, others]))
    # Per record, the share of the other side that it beats.
    beaten = (ranks[: len(members)] - rankdata(members)) / len(others)
    beating = 1 - (ranks[len(members) :] - rankdata(others)) / len(members)
    if len(members) < 2 or len(others) < 2:
        return Estimate(value, 0.0, 1.0)
    variance = beaten.var(ddof=1) / len(members) + beating.var(ddof=1) / len(others)
    half = float(norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt(variance)
    return Estimate(value, max(0.0, value - half), min(1.0, value + half))
