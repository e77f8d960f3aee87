"""The area under the ROC curve with its confidence interval: for audits, and inside of defenses."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

CONFIDENCE = 0.95


def area_under_roc(
    scores: NDArray[np.floating], is_member: NDArray[np.bool_]
) -> tuple[float, float, float]:
    """The area, and its 95 % interval by DeLong et al. 1988 through mid-ranks.

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
    half = float(norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt(variance)
    return value, max(0.0, value - half), min(1.0, value + half)
