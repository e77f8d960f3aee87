"""What predictions are worth to their rightful user, before and after a defense.

All figures are told apart for members and non-members, since a defense may spare one side at the
cost of the other. Logarithms see no probability below 1e-12, so that a class which a model or a
defense rules out costs 27.6 nats and not infinitely many.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import kl_div
from scipy.stats import rankdata

from aeppt.defenses import OutputDefense
from aeppt.evaluation.metrics import calibration_error, share
from aeppt.evaluation.results import (
    UNDEFINED,
    AuditReport,
    Distortion,
    Quality,
    SideUtility,
    Utility,
)
from aeppt.predictions import Predictions

LEAST_PROBABILITY = 1e-12
TOP = 5
TIMED = 100  # records


def with_latency(report: AuditReport, defense: OutputDefense) -> AuditReport:
    """The report, with the time that ``defense`` adds to a prediction.

    That is the median over :data:`TIMED` of the audited records, each protected alone, as a server
    does. It is not part of :func:`aeppt.audit`, whose result is the same for the same seed.
    """
    rows = np.linspace(0, len(report.target) - 1, TIMED).astype(int)
    defense.protect(report.target.probs[rows])  # what is only slow at first does not count
    times = []
    for row in rows:
        begin = time.perf_counter()
        defense.protect(report.target.probs[row : row + 1])
        times.append(time.perf_counter() - begin)
    utility = replace(report.utility, seconds_per_record=float(np.median(times)))
    return replace(report, utility=utility)


def measure_utility(
    target: Predictions,
    protected: Predictions,
    status_counts: dict[str, int],
    seconds_per_record: float = math.nan,
) -> Utility:
    """Quality of both predictions and the distance between them, on all records and per side.

    Parameters
    ----------
    target, protected : Predictions
        The same records before and after the defense.
    status_counts : dict
        Rows per search status, as :meth:`aeppt.defenses.ProtectionInfo.status_counts` says.
    seconds_per_record : float
        What the defense adds to a prediction, as the caller measured it; NaN is "not measured".

    Returns
    -------
    Utility

    Raises
    ------
    ValueError
        The records differ, or there are only members or only non-members.
    """
    if target.probs.shape != protected.probs.shape:
        raise ValueError(
            f"the predictions are {target.probs.shape} before and {protected.probs.shape} after"
        )
    for name in ("labels", "is_member"):
        if not np.array_equal(getattr(target, name), getattr(protected, name)):
            raise ValueError(f"{name} before and after differ; give the same records twice")
    if target.is_member.all() or not target.is_member.any():
        raise ValueError("utility is told apart by side, and needs members and non-members")
    return Utility(
        all=_side(target, protected, np.ones(len(target), bool)),
        members=_side(target, protected, target.is_member),
        non_members=_side(target, protected, ~target.is_member),
        status_counts=status_counts,
        seconds_per_record=seconds_per_record,
    )


def quality(predictions: Predictions) -> Quality:
    """How good the predictions are.

    Accuracies come with Wilson intervals. The top-5 accuracy orders equal probabilities by class,
    as the first arg-max does. The negative log-likelihood is clipped at 27.6 nats per record.
    """
    n, k = predictions.probs.shape
    right = predictions.labels[:, None] == np.argsort(-predictions.probs, axis=1, kind="stable")
    true = predictions.probs[np.arange(n), predictions.labels].astype(np.float64)
    return Quality(
        accuracy=share(int(right[:, 0].sum()), n),
        top_5_accuracy=share(int(right[:, :TOP].sum()), n) if k > TOP else UNDEFINED,
        negative_log_likelihood=float(-np.log(true.clip(LEAST_PROBABILITY)).mean()),
        calibration_error=calibration_error(predictions),
    )


def distortion(before: NDArray[np.floating], after: NDArray[np.floating]) -> Distortion:
    """How far the rows moved.

    Parameters
    ----------
    before, after : array [n, k]
        Probability vectors p and q. KL(p, q) takes q to be at least 1e-12.
    """
    p, q = before.astype(np.float64), after.astype(np.float64)
    l1 = np.abs(p - q).sum(axis=1)
    # Each term plus q - p, which sums to zero: so rounding cannot make the sum negative.
    kl = kl_div(p, q.clip(LEAST_PROBABILITY)).sum(axis=1)
    return Distortion(
        l1=float(l1.mean()),
        l1_95_percent=float(np.quantile(l1, 0.95)),
        kl=float(kl.mean()),
        kl_95_percent=float(np.quantile(kl, 0.95)),
        rank_correlation=float(rank_correlations(p, q).mean()),
    )


def rank_correlations(
    before: NDArray[np.floating], after: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Spearman's correlation of each row's entries before and after, ties averaged.

    It is undefined for a constant row, which has no order. Such a row counts as one where both are
    constant (there was no order to lose) and as zero where one is (the order was lost or made up).

    Parameters
    ----------
    before, after : array [n, k]

    Returns
    -------
    array [n], float64
        From -1 to 1.
    """
    left, right = (rankdata(rows, axis=1) - (rows.shape[1] + 1) / 2 for rows in (before, after))
    product = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    both_constant = ~left.any(axis=1) & ~right.any(axis=1)
    correlations: NDArray[np.float64] = np.divide(
        (left * right).sum(axis=1), product, out=both_constant.astype(np.float64), where=product > 0
    )
    return correlations


def _side(target: Predictions, protected: Predictions, side: NDArray[np.bool_]) -> SideUtility:
    before, after = target.take(side), protected.take(side)
    return SideUtility(
        records=len(before),
        before=quality(before),
        after=quality(after),
        distortion=distortion(before.probs, after.probs),
    )
