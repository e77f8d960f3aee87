"""The area under the ROC curve with its confidence interval: for audits, and inside of defenses."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

CONFIDENCE = 0.95
QUANTILE = float(norm.ppf((1 + CONFIDENCE) / 2))


def area_under_roc(
    scores: NDArray[np.floating], is_member: NDArray[np.bool_]
) -> tuple[float, float, float]:
    """The area, and its 95 % interval: DeLong et al. 1988 through mid-ranks, on the logit scale.

    Where all members are above all others, or below, or all are alike, they see no variance; the
    interval is then Newcombe's (2006, Statistics in Medicine 25, method 5).

    Parameters
    ----------
    scores : array [n]
        Higher for "member".
    is_member : array [n], bool
        Both sides must occur; the interval of a single record on a side is [0, 1].
    """
    members, others = scores[is_member], scores[~is_member]
    ranks = rankdata(np.concatenate([members, others]))
    # Per record, the share of the other side that it beats.
    beaten = (ranks[: len(members)] - rankdata(members)) / len(others)
    beating = 1 - (ranks[len(members) :] - rankdata(others)) / len(members)
    value = float(beaten.mean())
    if len(members) < 2 or len(others) < 2:
        return value, 0.0, 1.0
    variance = beaten.var(ddof=1) / len(members) + beating.var(ddof=1) / len(others)
    if variance == 0:
        return value, *_newcombe(value, len(members), len(others))
    half = QUANTILE * math.sqrt(variance) / (value * (1 - value))
    low, high = expit(logit(value) + np.array([-half, half])).tolist()
    return value, low, high


def _newcombe(value: float, members: int, others: int) -> tuple[float, float]:
    """The areas from which ``value`` is as far as their own standard error allows."""
    n = (members + others) / 2 - 1

    def excess(area: float) -> float:
        spread = 1 + n * (1 - area) / (2 - area) + n * area / (1 + area)
        variance = area * (1 - area) * spread / (members * others)
        return (area - value) ** 2 - QUANTILE**2 * variance

    tiny = 1e-9  # at 0 and 1 themselves there is no variance
    low = 0.0 if value <= tiny else brentq(excess, 0, value - tiny)
    high = 1.0 if value >= 1 - tiny else brentq(excess, value + tiny, 1)
    return low, high
