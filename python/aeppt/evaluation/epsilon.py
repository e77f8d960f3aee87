"""Lower bounds on the ε of differential privacy, from what an attack achieved.

An attack that succeeds too often refutes that the model is (ε, δ)-differentially private in the
membership of one record. Each bound is the greatest ε refuted at a stated confidence; zero means
that nothing was refuted, never that the model is private.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import beta, binom, binomtest

from aeppt.predictions import checked_membership

#: A share of members that a fair coin shows less often than this is not a fair coin's.
LEAST_CHANCE = 1e-6


def epsilon_lower_bound(
    scores: NDArray[np.float64],
    is_member: NDArray[np.bool_],
    *,
    delta: float = 0.0,
    confidence: float = 0.95,
    random_state: int = 0,
) -> float:
    """Lower bound on ε from an attack's rates (Jagielski et al. 2020; Nasr et al. 2021).

    Half of the records, drawn at random within members and non-members, chooses the threshold with
    the highest bound; the other half judges it.

    *That the bound holds.* The trials are independent and drawn alike, and membership does not
    depend on which record it is. Given the first half, the threshold is a constant, and on the
    second half the hits among members and the false alarms among non-members are binomial. With
    risk r = 1 - ``confidence``, each one-sided Clopper-Pearson bound, TPR >= t and FPR <= f, fails
    with probability at most r/2, hence one of them with at most r. Where both hold, (ε, δ)-
    differential privacy, applied to "says member" and to "says non-member", gives

        t <= TPR <= e^ε FPR + δ <= e^ε f + δ,
        1 - f <= 1 - FPR <= e^ε (1 - TPR) + δ <= e^ε (1 - t) + δ,

    so ε is at least log((t - δ) / f) and log((1 - f - δ) / (1 - t)). Both follow from the same two
    events, and the greater is returned. This holds for every first half, so also overall. ∎

    Scores of many records under *one* model are independent only as far as the records do not
    influence each other's; for one model use :func:`one_run_epsilon`.

    Parameters
    ----------
    scores : array [n]
        Higher for likelier members.
    is_member : array [n], bool
        The truth; at least two on each side.
    delta : float
        δ, at least 0 and below 1.
    confidence : float
        Between 0 and 1.
    random_state : int
        Divides the records.

    Returns
    -------
    float
        At least 0. Finite even for a perfect attack, by how few records there are.

    Raises
    ------
    ValueError
        A parameter is out of range, a score is not finite, or a side has fewer than two records.
    """
    is_member = _checked(scores, is_member, delta, confidence)
    sides = [scores[is_member], scores[~is_member]]
    if min(map(len, sides)) < 2:
        raise ValueError(
            f"the bound needs 2 members and 2 non-members, got {len(sides[0])} and {len(sides[1])}"
        )
    rng = np.random.default_rng(random_state)
    members, others = (np.array_split(rng.permutation(side), 2) for side in sides)
    thresholds = np.unique(np.concatenate([members[0], others[0]]))
    risk = 1 - confidence
    chosen = np.argmax(_bounds(members[0], others[0], thresholds, delta, risk))
    return float(_bounds(members[1], others[1], thresholds[[chosen]], delta, risk)[0])


def one_run_epsilon(
    scores: NDArray[np.float64],
    is_member: NDArray[np.bool_],
    guessed_members: int,
    guessed_others: int,
    *,
    delta: float = 0.0,
    confidence: float = 0.95,
    random_state: int = 0,
) -> float:
    """Lower bound on ε from one model (Steinke, Nasr & Jagielski 2023, NeurIPS, theorem 5.2).

    A fair coin decided of each of m records, independently, whether the model was trained on it.
    The auditor guesses that the records with the highest scores are members and those with the
    lowest are not, and abstains on the rest. If v of r guesses are right, then for every ε at which
    the model is (ε, δ)-differentially private the chance of so many is at most

        p(ε) = P[B >= v] + 2 m δ max_{1 <= i <= v} P[v > B >= v - i] / i,

    with B binomial, r trials of chance e^ε / (1 + e^ε). Records may influence each other's scores.

    *That the bound holds.* What is returned is an ε with p(ε) <= 1 - ``confidence`` (or 0). Suppose
    the model is (ε', δ)-differentially private. A return above ε' means p(ε) <= 1 - ``confidence``
    for some ε >= ε', at which the model is private as well. Let u be the smallest v for which there
    is such an ε; then at least u guesses were right, which has probability at most p(ε) at the ε of
    u, so at most 1 - ``confidence``. That p is monotone is not needed. ∎

    Parameters
    ----------
    scores : array [m]
        Higher for likelier members. Equal scores are ordered at random.
    is_member : array [m], bool
        How the coins fell.
    guessed_members, guessed_others : int
        How many guesses of either kind, fixed before the truth is looked at; r is their sum.
    delta : float
        δ, at least 0 and below 1.
    confidence : float
        Between 0 and 1.
    random_state : int
        Orders equal scores.

    Returns
    -------
    float
        At least 0.

    Raises
    ------
    ValueError
        A parameter is out of range, a score is not finite, there are more guesses than records or
        none, or the members are too many or too few for a fair coin.
    """
    is_member = _checked(scores, is_member, delta, confidence)
    m, guesses = len(scores), guessed_members + guessed_others
    if min(guessed_members, guessed_others) < 0 or not 1 <= guesses <= m:
        raise ValueError(
            f"guessed_members and guessed_others must be at least 0 and 1 to {m} in sum, got "
            f"{guessed_members} and {guessed_others}"
        )
    if binomtest(int(is_member.sum()), m).pvalue < LEAST_CHANCE:
        raise ValueError(
            f"{is_member.sum()} of {m} records are members, which no fair coin does; the audit "
            "holds only where each record was trained on with probability one half"
        )
    # Records often come members first: ties in their order would be right guesses for nothing.
    shuffled = np.random.default_rng(random_state).permutation(m)
    truth = is_member[shuffled[np.argsort(scores[shuffled], kind="stable")]]
    right = int((~truth[:guessed_others]).sum() + truth[m - guessed_members :].sum())
    risk = 1 - confidence
    # At δ = 0, p(ε) <= risk is the Clopper-Pearson bound on the chance of a right guess.
    refuted = max(0.0, float(logit(_at_least(np.array([right]), guesses, risk)[0])))
    if delta == 0:
        return refuted
    if _chance(0.0, right, guesses, m, delta) > risk:
        return 0.0
    low, high = 0.0, refuted
    for _ in range(50):
        middle = (low + high) / 2
        if _chance(middle, right, guesses, m, delta) <= risk:
            low = middle
        else:
            high = middle
    return low


def _bounds(
    members: NDArray[np.float64],
    others: NDArray[np.float64],
    thresholds: NDArray[np.float64],
    delta: float,
    risk: float,
) -> NDArray[np.float64]:
    """The bound on ε of "score >= threshold" per threshold, each at a confidence of 1 - risk."""
    hits = len(members) - np.searchsorted(np.sort(members), thresholds)
    alarms = len(others) - np.searchsorted(np.sort(others), thresholds)
    tpr = _at_least(hits, len(members), risk / 2)
    fpr = 1 - _at_least(len(others) - alarms, len(others), risk / 2)
    ratio = np.maximum((tpr - delta) / fpr, (1 - fpr - delta) / (1 - tpr))
    bounds: NDArray[np.float64] = np.log(np.maximum(ratio, 1.0))
    return bounds


def _at_least(hits: NDArray[np.int64], total: int, risk: float) -> NDArray[np.float64]:
    """The one-sided Clopper-Pearson lower bound on a share."""
    low = beta.ppf(risk, np.maximum(hits, 1), total - hits + 1)
    return np.where(hits == 0, 0.0, low)


def _chance(epsilon: float, right: int, guesses: int, m: int, delta: float) -> float:
    """p(ε) of theorem 5.2."""
    q = expit(epsilon)
    at_least: float = binom.sf(right - 1, guesses, q)
    below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, q))
    steepest = float((below / np.arange(1, right + 1)).max(initial=0.0))
    return at_least + 2 * m * delta * steepest


def _checked(
    scores: NDArray[np.float64], is_member: NDArray[np.bool_], delta: float, confidence: float
) -> NDArray[np.bool_]:
    """The truth, once all else is checked too."""
    if scores.ndim != 1 or len(scores) == 0:
        raise ValueError(f"scores must be [n] with at least 1 record, got {scores.shape}")
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        raise ValueError(f"scores row {wrong[0]} is {scores[wrong[0]]}, must be finite")
    if not 0 <= delta < 1:
        raise ValueError(f"delta must be at least 0 and below 1, got {delta}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    return checked_membership(is_member, len(scores))
