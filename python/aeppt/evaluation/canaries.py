"""Leakage of the most vulnerable records, beside that of all (Aerni et al. 2024, CCS).

A defense can protect the average record and leave a few exposed. Two kinds of records show it:
those that shadow models tell apart best (:func:`most_vulnerable`), and planted ones with a wrong
label (:func:`mislabel`), which a model can only learn by heart. An attack's scores on them go to
:func:`audit_canaries`. Neither choice looks at the target, so neither flatters the attack.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aeppt.attacks.per_example import mean_over_models, scaled_confidence
from aeppt.data.records import Records
from aeppt.evaluation.metrics import tpr_at_fpr
from aeppt.evaluation.results import CanaryAudit
from aeppt.shadow_predictions import ShadowPredictions

MOST_FPR = 0.001


def audit_canaries(
    scores: NDArray[np.float64], is_member: NDArray[np.bool_], canaries: NDArray[np.int64]
) -> CanaryAudit:
    """How well an attack finds members among the canaries, and among all records.

    Parameters
    ----------
    scores : array [n]
        A per-example attack's, higher for likelier members.
    is_member : array [n], bool
        The truth.
    canaries : array [c], integer
        Which of the records are canaries, without repetition.

    Raises
    ------
    ValueError
        The canaries are all members or all not, or one is given twice.
    """
    if len(np.unique(canaries)) != len(canaries):
        raise ValueError("a canary is given twice")
    truth = is_member[canaries]
    members = int(truth.sum())
    if members in (0, len(truth)):
        raise ValueError(
            f"{members} of the {len(truth)} canaries are members; the audit needs members and "
            "non-members among them: train on each with probability one half"
        )
    return CanaryAudit(
        canaries=tpr_at_fpr(scores[canaries], truth, MOST_FPR),
        population=tpr_at_fpr(scores, is_member, MOST_FPR),
        members=members,
        non_members=len(truth) - members,
    )


def most_vulnerable(
    shadows: ShadowPredictions, count: int, by: Literal["gap", "out-confidence"] = "gap"
) -> NDArray[np.int64]:
    """The records that shadow models give away most, the worst first.

    Parameters
    ----------
    shadows : ShadowPredictions
        At least one model with each record (for ``"gap"``), and one without it.
    count : int
        How many records; between 1 and n.
    by : "gap" or "out-confidence"
        The largest difference between the mean logit-scaled confidences of models with and without
        the record, or the lowest of models without it.

    Returns
    -------
    array [count], integer

    Raises
    ------
    ValueError
        ``count`` or ``by`` is none of these, or a record lacks the models it needs; named.
    """
    _check_count(count, len(shadows.labels))
    if by not in ("gap", "out-confidence"):
        raise ValueError(f'by must be "gap" or "out-confidence", got {by!r}')
    phi = scaled_confidence(shadows.probs, shadows.labels)
    vulnerability = -mean_over_models(phi, ~shadows.trained_on, "without")
    if by == "gap":
        vulnerability += mean_over_models(phi, shadows.trained_on, "on")
    return np.argsort(-vulnerability, kind="stable")[:count]


def mislabel(
    records: Records, count: int, random_state: int = 0
) -> tuple[Records, NDArray[np.int64]]:
    """Give some records a wrong label, each of the other classes being as likely.

    Parameters
    ----------
    records : Records
        Stay as they are.
    count : int
        How many labels change; between 1 and n.
    random_state : int

    Returns
    -------
    Records
        The same features with the changed labels.
    array [count], integer
        Which records changed, ascending.

    Raises
    ------
    ValueError
        ``count`` is not between 1 and n, or there is no other class.
    """
    _check_count(count, len(records))
    if records.n_classes < 2:
        raise ValueError(f"a wrong label needs 2 classes, the records have {records.n_classes}")
    rng = np.random.default_rng(random_state)
    rows = np.sort(rng.choice(len(records), count, replace=False))
    labels = records.labels.copy()
    labels[rows] = (labels[rows] + rng.integers(1, records.n_classes, count)) % records.n_classes
    return Records(records.features, labels, records.n_classes), rows


def _check_count(count: int, n: int) -> None:
    if not 1 <= count <= n:
        raise ValueError(f"count must be between 1 and the number of records, {n}, got {count}")
