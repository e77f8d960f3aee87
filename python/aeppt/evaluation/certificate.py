"""A certificate: the most that one released row can add to the label-only floor, whoever attacks.

An audit says what the attacks that were tried have found; a certificate bounds the attacks that
nobody thought of. It speaks of what a row shows once its ranking is taken away: the sorted row, and
whether the predicted label is right. ``docs/certificate.md`` has the proof and what it leaves out.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold

from aeppt.attacks.learned import BoostedTreesAttack
from aeppt.evaluation.metrics import advantage
from aeppt.evaluation.results import UNDEFINED, Certificate, Estimate
from aeppt.predictions import Predictions

FOLDS = 5


def certify(
    protected: Predictions,
    confidence: float = 0.95,
    limit: float = 0.05,
    random_state: int = 0,
) -> Certificate:
    """Bound what any attacker gains from one released row without its ranking, over the floor.

    The defense must be chosen and fitted before it meets these records, and without them. Rows are
    told apart to the last bit: a defense with few answers must repeat them exactly.

    Parameters
    ----------
    protected : Predictions
        Released rows of members and non-members that took no part in fitting the defense.
    confidence : float
        Between 0 and 1: the chance, at least, that the bound holds.
    limit : float
        The advantage, in balanced accuracy, up to which the certificate is granted; above 0 and at
        most 0.5.
    random_state : int
        Of the attacker who sees the ranking too; the bound does not depend on it.

    Returns
    -------
    Certificate

    Raises
    ------
    ValueError
        Only members or only non-members are given, or ``confidence`` or ``limit`` is out of range.
    """
    is_member = protected.is_member
    members, non_members = int(is_member.sum()), int((~is_member).sum())
    if not (members and non_members):
        raise ValueError(
            f"a certificate needs held-out members and non-members, got {members} and {non_members}"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    if not 0 < limit <= 0.5:
        raise ValueError(f"limit must be above 0 and at most 0.5, got {limit}")
    rows = np.column_stack([np.sort(protected.probs, axis=1), protected.is_correct])
    distinct, outcome = np.unique(rows, axis=0, return_inverse=True)
    of_members, of_others = (
        np.bincount(outcome.ravel()[side], minlength=len(distinct))
        for side in (is_member, ~is_member)
    )
    is_right = distinct[:, -1] == 1
    floor, measured, bound = bounded_advantage(of_members, of_others, is_right, confidence)
    return Certificate(
        advantage_bound=bound,
        measured_advantage=measured,
        floor=floor,
        confidence=confidence,
        limit=limit,
        members=members,
        non_members=non_members,
        outcomes=len(distinct),
        ranking_aware=_ranking_aware(protected, random_state),
    )


def bounded_advantage(
    members: NDArray[np.int64],
    non_members: NDArray[np.int64],
    is_right: NDArray[np.bool_],
    confidence: float,
) -> tuple[float, float, float]:
    """The floor, the best attack's advantage on a sample, and its bound beyond the sample.

    The bound is McDiarmid's (1989, in Surveys in Combinatorics), given which records are predicted
    rightly; see ``docs/certificate.md``.

    Parameters
    ----------
    members, non_members : array [outcomes], integer
        How often each outcome occurred on either side, at least once in sum.
    is_right : array [outcomes], bool
        Whether the predicted label is right in that outcome.
    confidence : float
        Between 0 and 1.

    Returns
    -------
    floor, measured, bound : float
        In balanced accuracy; the advantages are at least 0 and at most one less the floor.
    """
    n1, n0 = members.sum(), non_members.sum()
    # The label-only attacker says "member" where the label is right, or wrong if members err more.
    is_accused = is_right == (members[is_right].sum() / n1 >= non_members[is_right].sum() / n0)
    errors = np.where(is_accused, non_members / n0, members / n1)
    hits = np.where(is_accused, members / n1, non_members / n0)
    gains = np.maximum(errors - hits, 0)  # by overruling the label-only answer at this outcome
    squares = members / n1**2 + non_members / n0**2
    # What the label-only attacker gets wrong of the accused, and of the others, caps the gain
    # there. Where that is little, the cap is better than the inequality. The choice looks at how
    # many labels are right and at nothing else, so it costs no confidence.
    everywhere = np.ones_like(is_accused)
    bounded = np.stack([everywhere, is_accused, ~is_accused, ~everywhere])
    slack = ~bounded @ errors + np.sqrt(-math.log1p(-confidence) / 2 * (bounded @ squares))
    least = slack.argmin()
    most = min(bounded[least] @ gains + slack[least], errors.sum())
    return float(1 - errors.sum() / 2), float(gains.sum() / 2), float(most / 2)


class _RankingAwareAttack(BoostedTreesAttack):
    """Boosted trees on all that a released row shows to who knows the true label.

    Small ones that learn slowly: there are only the held-out records, and greater ones learn their
    chance patterns until they say less than the label alone.
    """

    name = "boosted trees with the ranking"

    def features(self, predictions: Predictions) -> NDArray[np.float64]:
        """Row, sorted row, correctness, the label's probability and rank: [n, 2 k + 3]."""
        probs = predictions.probs
        own = probs[np.arange(len(probs)), predictions.labels]
        rank = (probs > own[:, None]).sum(axis=1)
        return np.column_stack([probs, np.sort(probs, axis=1), predictions.is_correct, own, rank])

    def classifier(self) -> HistGradientBoostingClassifier:
        """The trees, which weigh members and non-members equally."""
        return HistGradientBoostingClassifier(
            max_leaf_nodes=4,
            learning_rate=0.05,
            class_weight="balanced",
            random_state=self.random_state,
        )


def _ranking_aware(protected: Predictions, random_state: int) -> Estimate:
    """Advantage of the learner on folds that it was not trained on; undefined for single records.

    The interval takes the scores as given, like that of every attack.
    """
    is_member, right = protected.is_member, protected.is_correct
    folds = min(FOLDS, int(is_member.sum()), int((~is_member).sum()))
    if folds < 2:
        return UNDEFINED
    attack = _RankingAwareAttack(random_state)
    scores = np.empty(len(protected))
    deal = StratifiedKFold(folds, shuffle=True, random_state=random_state)
    for train, test in deal.split(protected.probs, is_member):
        (scores[test],) = attack(protected.take(train), protected.take(test))
    accused = right == (right[is_member].mean() >= right[~is_member].mean())
    return advantage(scores, np.where(accused, 1.0, -1.0), is_member)
