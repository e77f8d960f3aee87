"""Bounds on ε: never above the truth more often than stated, near it with many records."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import beta, binom, binomtest

from aeppt.evaluation.epsilon import epsilon_lower_bound, one_run_epsilon

Bound = Callable[..., float]


def quarter_guesses(scores: NDArray[np.float64], is_member: NDArray, **options: float) -> float:
    """The audit of one run, with a guess on half of the records."""
    quarter = len(scores) // 4
    return one_run_epsilon(scores, is_member, quarter, quarter, **options)  # type: ignore[arg-type]


BOUNDS = pytest.mark.parametrize("bound", [epsilon_lower_bound, quarter_guesses])


def randomized_response(
    epsilon: float, n: int, seed: int, delta: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Each record tells its membership, truly with probability e^ε / (1 + e^ε): exactly ε-private.

    With ``delta``, a record gives itself away beyond doubt with that probability.
    """
    rng = np.random.default_rng(seed)
    is_member = rng.random(n) < 0.5
    says = is_member ^ (rng.random(n) < 1 / (1 + math.exp(epsilon)))
    scores = np.where(says, 1.0, -1.0)
    exposed = rng.random(n) < delta
    scores[exposed] = np.where(is_member[exposed], 2.0, -2.0)
    return scores, is_member


@BOUNDS
@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.0), (1.0, 0.0), (3.0, 0.0), (1.0, 0.01)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_bound_holds_as_often_as_stated(
    bound: Bound, epsilon: float, delta: float, confidence: float
) -> None:
    repetitions = 300
    above = sum(
        bound(*randomized_response(epsilon, 400, seed, delta), delta=delta, confidence=confidence)
        > epsilon + 1e-9
        for seed in range(repetitions)
    )
    # The share of bounds above ε is compatible with the risk.
    assert binomtest(above, repetitions, 1 - confidence, alternative="greater").pvalue > 0.01


@BOUNDS
@pytest.mark.parametrize("epsilon", [0.5, 2.0, 4.0])
def test_the_bound_is_near_the_truth_with_many_records(bound: Bound, epsilon: float) -> None:
    found = bound(*randomized_response(epsilon, 200_000, seed=1))
    assert 0.9 * epsilon < found <= epsilon


@BOUNDS
def test_an_attack_that_learns_nothing_refutes_nothing(bound: Bound) -> None:
    rng = np.random.default_rng(0)
    refuted = [bound(rng.normal(size=1000), rng.random(1000) < 0.5) > 0 for _ in range(500)]
    assert binomtest(sum(refuted), 500, 0.05, alternative="greater").pvalue > 0.01
    assert bound(np.zeros(1000), np.arange(1000) < 500) == 0, "ties, members first"
    assert bound(np.zeros(1000), np.arange(1000) >= 500) == 0, "ties, members last"


def test_a_perfect_attack_by_hand() -> None:
    # Of 200 members and 200 others, 100 each judge: no error, at a risk of 2.5 % a side.
    is_member = np.arange(400) < 200
    edge = 0.025 ** (1 / 100)
    expected = math.log(edge / (1 - edge))
    assert epsilon_lower_bound(is_member.astype(float), is_member) == pytest.approx(expected)
    # All 400 guessed, all right.
    edge = 0.05 ** (1 / 400)
    found = one_run_epsilon(is_member.astype(float), is_member, 200, 200)
    assert found == pytest.approx(math.log(edge / (1 - edge)))


def test_only_the_order_of_scores_counts() -> None:
    scores, is_member = randomized_response(1.5, 2000, seed=3)
    stretched = np.exp(3 * scores) - 100  # same order
    assert epsilon_lower_bound(scores, is_member) == epsilon_lower_bound(stretched, is_member)
    assert quarter_guesses(scores, is_member) == quarter_guesses(stretched, is_member)


def test_a_leak_of_non_members_counts_too() -> None:
    # Nobody is known to be a member, but 30 % of the others are known not to be: FPR 0.7 at TPR 1.
    rng = np.random.default_rng(0)
    is_member = rng.random(20_000) < 0.5
    scores = np.where(~is_member & (rng.random(20_000) < 0.3), -1.0, 0.0)
    assert epsilon_lower_bound(scores, is_member) > 5


@BOUNDS
def test_delta_confidence_and_seed(bound: Bound) -> None:
    scores, is_member = randomized_response(2.0, 4000, seed=5)
    bounds = [bound(scores, is_member, delta=delta) for delta in (0.0, 1e-9, 1e-4, 0.2)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] == pytest.approx(bounds[1], abs=1e-3)
    assert bounds[3] < bounds[2] < bounds[0]
    assert bound(scores, is_member, confidence=0.5) > bounds[0]
    assert bound(scores, is_member, random_state=0) == bounds[0]


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(1, 60), st.sampled_from([0.0, 1e-6, 1e-3]))
def test_one_run_is_theorem_5_2(data: st.DataObject, guesses: int, delta: float) -> None:
    m, risk = 100, 0.05
    right = data.draw(st.integers(0, guesses))
    guessed_members = data.draw(st.integers(0, guesses))
    # Records 0 to guesses - 1 are guessed; the right ones are members where "member" is guessed.
    scores = np.zeros(m)
    scores[:guessed_members] = 1.0
    scores[guessed_members:guesses] = -1.0
    is_member = np.arange(m) % 2 == 0
    is_member[:guesses] = (np.arange(guesses) < right) == (scores[:guesses] > 0)
    if binomtest(int(is_member.sum()), m).pvalue < 1e-5:
        return
    found = one_run_epsilon(
        scores, is_member, guessed_members, guesses - guessed_members, delta=delta
    )

    def chance(epsilon: float) -> float:
        """The theorem's sum, written as it stands."""
        counts = np.arange(guesses + 1)
        mass = binom.pmf(counts, guesses, 1 / (1 + math.exp(-epsilon)))
        steepest = max(
            (mass[(counts < right) & (counts >= right - i)].sum() / i for i in range(1, m + 1)),
        )
        return float(mass[counts >= right].sum() + 2 * m * delta * steepest)

    if found == 0:
        assert chance(0.0) > risk or right == 0 or chance(0.0) == pytest.approx(risk)
    else:
        assert chance(found) == pytest.approx(risk, rel=1e-6)
        assert chance(found + 1e-4) > risk
    if delta == 0 and right > 0:
        share = beta.ppf(risk, right, guesses - right + 1)
        assert found == pytest.approx(max(0.0, math.log(share / (1 - share))))


def test_bad_input_is_named() -> None:
    scores, is_member = randomized_response(1.0, 100, seed=0)
    for bound in (epsilon_lower_bound, quarter_guesses):
        with pytest.raises(ValueError, match="delta must be at least 0 and below 1, got 1"):
            bound(scores, is_member, delta=1.0)
        with pytest.raises(ValueError, match="confidence must be between 0 and 1, got 95"):
            bound(scores, is_member, confidence=95)
        with pytest.raises(ValueError, match="scores row 3 is nan"):
            bound(np.where(np.arange(100) == 3, np.nan, scores), is_member)
        with pytest.raises(ValueError, match=r"is_member must be \[100\].*\(99,\)"):
            bound(scores, is_member[1:])
        with pytest.raises(ValueError, match=r"scores must be \[n\].*\(100, 1\)"):
            bound(scores[:, None], is_member)
    with pytest.raises(ValueError, match="2 members and 2 non-members, got 1 and 99"):
        epsilon_lower_bound(scores, np.arange(100) == 7)
    with pytest.raises(ValueError, match="1 to 100 in sum, got 60 and 41"):
        one_run_epsilon(scores, is_member, 60, 41)
    with pytest.raises(ValueError, match="1 to 100 in sum, got 0 and 0"):
        one_run_epsilon(scores, is_member, 0, 0)


def test_guessing_the_majority_is_no_leak() -> None:
    is_member = np.arange(100) < 90
    with pytest.raises(ValueError, match=r"90 of 100 records are members.*one half"):
        one_run_epsilon(np.zeros(100), is_member, 50, 0)
