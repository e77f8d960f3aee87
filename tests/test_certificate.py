"""The certificate: its arithmetic, that its bound holds, and whom it grants and refuses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from aeppt import Predictions
from aeppt.defenses import LabelOnly, OutputDefense, Undefended
from aeppt.defenses.rows import RowModule
from aeppt.evaluation import Certificate, certify
from aeppt.evaluation.certificate import bounded_advantage
from aeppt.evaluation.results import Estimate

Make = Callable[..., Predictions]

#: Counts of members, of non-members, and whether the label is right, per outcome.
Outcomes = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]


@st.composite
def sampled(draw: st.DrawFn) -> Outcomes:
    """Up to seven outcomes, at least one record on either side."""
    size = draw(st.integers(1, 7))
    counts = st.lists(st.integers(0, 6), min_size=size, max_size=size).filter(any)
    right = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    return np.array(draw(counts)), np.array(draw(counts)), np.array(right)


class Coarse(RowModule):
    """Keeps the label; says 0.9 where the model is surer than 0.6, else 0.6."""

    def change(self, probs: Tensor) -> Tensor:
        """See :meth:`RowModule.change`."""
        n, k = probs.shape
        top = torch.where(probs.max(1, keepdim=True).values > 0.6, 0.9, 0.6).to(probs.dtype)
        others = ((1 - top) / (k - 1)).expand(n, k)
        return others.scatter(1, probs.argmax(1, keepdim=True), top)


class CoarseConfidence(OutputDefense):
    """Leaky, though it has two answers alone: members are the surer ones."""

    def build_module(self, tensors: dict[str, Tensor]) -> Coarse:
        """See :meth:`OutputDefense.build_module`."""
        return Coarse()


def behind(defense: OutputDefense, predictions: Predictions) -> Predictions:
    fitted = defense.fit(predictions.probs, predictions.is_member)
    return predictions.with_probs(fitted.protect(predictions.probs))


# --- the arithmetic ---------------------------------------------------------------------------


def test_known_values() -> None:
    """Members: 60 + 20 right, 20 wrong. Others: 20 + 30 right, 50 wrong. Both sides 100."""
    members, others = np.array([60, 20, 20]), np.array([20, 30, 50])
    right = np.array([True, True, False])
    floor, measured, bound = bounded_advantage(members, others, right, 0.95)
    assert floor == pytest.approx((0.8 + 0.5) / 2)
    assert measured == pytest.approx((0.3 - 0.2) / 2)  # from the second outcome alone
    both = math.sqrt(math.log(20) / 2 * (1 / 100 + 1 / 100))
    assert bound == pytest.approx((0.1 + both) / 2)
    # Of the wrong ones, all but 20 of 100 members are others' already: no reason to leave them out.
    assert 0.2 + math.sqrt(math.log(20) / 2 * (0.8 / 100 + 0.5 / 100)) > both


def test_a_group_without_members_needs_no_confidence() -> None:
    members, others = np.array([700, 300, 0, 0]), np.array([350, 250, 150, 250])
    right = np.array([True, True, False, False])
    floor, measured, bound = bounded_advantage(members, others, right, 0.9)
    assert (floor, measured) == (pytest.approx(0.7), 0)
    assert bound == pytest.approx(math.sqrt(math.log(10) / 2 * (1 / 1000 + 0.6 / 1000)) / 2)


def test_a_small_cap_replaces_the_records_of_its_group() -> None:
    members, others = np.array([995, 5]), np.array([500, 500])
    _, measured, bound = bounded_advantage(members, others, np.array([True, False]), 0.95)
    left = math.sqrt(math.log(20) / 2 * (0.995 / 1000 + 0.5 / 1000))
    assert measured == 0
    assert bound == pytest.approx((0.005 + left) / 2)
    assert bound < math.sqrt(math.log(20) / 2 * (2 / 1000)) / 2


def test_where_members_err_more_the_floor_is_turned_round() -> None:
    members, others = np.array([20, 30, 50]), np.array([60, 20, 20])
    right = np.array([True, True, False])
    mirrored = bounded_advantage(members, others, right, 0.95)
    assert mirrored == pytest.approx(bounded_advantage(others, members, right, 0.95))
    assert mirrored[0] == pytest.approx(0.65)


@given(sampled())
@settings(max_examples=200, deadline=None)
def test_the_measured_advantage_is_that_of_the_best_rule(sample: Outcomes) -> None:
    members, others, right = sample
    difference = members / members.sum() - others / others.sum()
    floor, measured, bound = bounded_advantage(*sample, 0.95)
    rules = np.array(list(itertools.product([0, 1], repeat=len(right))))
    best = 0.5 + (rules @ difference).max() / 2
    assert floor == pytest.approx(0.5 + abs(difference[right].sum()) / 2)
    assert measured == pytest.approx(best - floor)
    assert measured - 1e-12 <= bound <= 1 - floor + 1e-12


@given(sampled(), st.data())
@settings(max_examples=100, deadline=None)
def test_one_record_moves_the_measured_advantage_by_its_share_at_most(
    sample: Outcomes, data: st.DataObject
) -> None:
    """The differences that the inequality is about: within one side and correctness."""
    *counts, right = sample
    side = data.draw(st.sampled_from([0, 1]))
    origin = data.draw(st.sampled_from(np.flatnonzero(counts[side]).tolist()))
    end = data.draw(st.sampled_from(np.flatnonzero(right == right[origin]).tolist()))
    before = bounded_advantage(counts[0], counts[1], right, 0.95)
    counts[side] = counts[side].copy()
    counts[side][origin] -= 1
    counts[side][end] += 1
    after = bounded_advantage(counts[0], counts[1], right, 0.95)
    assert after[0] == pytest.approx(before[0])
    assert abs(after[1] - before[1]) <= 1 / (2 * counts[side].sum()) + 1e-12


# --- that the bound holds ---------------------------------------------------------------------

#: Distributions of members and of others over outcomes, and which of these are right.
WORLDS = {
    "alike": ([0.2, 0.2, 0.2, 0.2, 0.1, 0.1], [0.2, 0.2, 0.2, 0.2, 0.1, 0.1], 4),
    "far apart": ([0.6, 0.4], [0.4, 0.6], 2),
    "overfitted": ([0.5, 0.48, 0.01, 0.01], [0.2, 0.42, 0.3, 0.08], 2),
    "members err more": ([0.2, 0.3, 0.1, 0.4], [0.5, 0.3, 0.15, 0.05], 2),
    "many outcomes": (np.full(60, 1 / 60), np.repeat([1.2, 0.8], 30) / 60, 40),
}


def drawn(
    rng: np.random.Generator, distribution: NDArray, right: int, n: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """A sample's counts, and the distribution with the sample's share of right labels."""
    counts = rng.multinomial(n, distribution)
    hits, conditional = counts[:right].sum() / n, np.asarray(distribution, float).copy()
    for group, share in ((slice(right), hits), (slice(right, None), 1 - hits)):
        conditional[group] *= share / max(conditional[group].sum(), 1e-300)
    return counts, conditional


def true_advantage(members: NDArray, others: NDArray, right: NDArray[np.bool_]) -> float:
    difference = members - others
    return float(np.abs(difference).sum() / 2 - abs(difference[right].sum())) / 2


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("sizes", [(300, 300), (150, 900)])
def test_the_bound_holds_as_often_as_it_says(world: str, sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    *sides, right = WORLDS[world]
    is_right = np.arange(len(sides[0])) < right
    held = {0.5: 0, 0.95: 0}
    for _ in range(1000):
        (members, p1), (others, p0) = (
            drawn(rng, side, right, n) for side, n in zip(sides, sizes, strict=True)
        )
        truth = true_advantage(p1, p0, is_right)
        for confidence in held:
            bound = bounded_advantage(members, others, is_right, confidence)[2]
            held[confidence] += bound >= truth - 1e-12
    assert held[0.95] >= 950
    assert held[0.5] >= 500


def test_the_bound_holds_for_members_drawn_from_one_training_set() -> None:
    """Without replacement: 300 of 400 members are held out, and the truth is that of all 400."""
    rng = np.random.default_rng(1)
    right = np.array([True, True, False])
    population = np.repeat([0, 1, 2], [230, 130, 40])
    others_truth = np.array([0.35, 0.45, 0.2])
    held = 0
    for _ in range(1000):
        members = np.bincount(rng.choice(population, 300, replace=False), minlength=3)
        rate = members[:2].sum() / 300
        p1 = np.array([230 / 360 * rate, 130 / 360 * rate, 1 - rate])
        others, p0 = drawn(rng, others_truth, 2, 300)
        truth = true_advantage(p1, p0, right)
        held += bounded_advantage(members, others, right, 0.95)[2] >= truth - 1e-12
    assert held >= 950


def test_the_bound_is_not_much_greater_than_it_must_be() -> None:
    """Where the sum has no bias, the slack is at most 1.6 times the least that would do."""
    rng = np.random.default_rng(2)
    right = np.array([True, True])
    samples = [[rng.multinomial(2000, p) for p in ([0.6, 0.4], [0.4, 0.6])] for _ in range(2000)]
    found = [bounded_advantage(m, o, right, 0.95) for m, o in samples]
    shortfall = np.array([0.1 - measured for _, measured, _ in found])
    assert np.mean(shortfall > 0) > 0.4  # the measured advantage itself is no bound
    slack = found[0][2] - found[0][1]
    needed = np.quantile(shortfall, 0.95)
    assert needed < slack < 1.6 * needed


# --- whom it grants and refuses ---------------------------------------------------------------


def test_the_fields_are_those_of_the_records(make_predictions: Make) -> None:
    released = behind(CoarseConfidence(), make_predictions(400, 300, k=3))
    certificate = certify(released, confidence=0.9, limit=0.1)
    correct, is_member = released.is_correct, released.is_member
    assert (certificate.members, certificate.non_members) == (400, 300)
    assert (certificate.confidence, certificate.limit) == (0.9, 0.1)
    assert certificate.outcomes == 4
    rates = correct[is_member].mean(), correct[~is_member].mean()
    assert certificate.floor == pytest.approx((1 + rates[0] - rates[1]) / 2)
    counts = [
        np.array([np.sum(side & (correct == c) & (sure == s)) for c in (1, 0) for s in (1, 0)])
        for side in (is_member, ~is_member)
        for sure in [released.probs.max(1) > 0.8]
    ]
    _, measured, bound = bounded_advantage(*counts, np.array([True, True, False, False]), 0.9)
    assert certificate.measured_advantage == pytest.approx(measured)
    assert certificate.advantage_bound == pytest.approx(bound)


def test_a_leaky_defense_with_few_answers_is_refused(make_predictions: Make) -> None:
    certificate = certify(behind(CoarseConfidence(), make_predictions(1000, 1000)))
    assert certificate.outcomes <= 4
    assert certificate.measured_advantage > 0.05
    assert not certificate.granted
    assert certificate.ranking_aware.low > 0


def test_a_harmless_defense_is_granted_with_enough_records(make_predictions: Make) -> None:
    many = certify(behind(LabelOnly(), make_predictions(1000, 1000)))
    assert many.outcomes == 2
    assert many.measured_advantage == 0
    assert many.granted
    few = certify(behind(LabelOnly(), make_predictions(100, 100)))
    assert few.measured_advantage == 0
    assert not few.granted


def test_a_defense_with_as_many_answers_as_records_learns_nothing(make_predictions: Make) -> None:
    certificate = certify(behind(Undefended(), make_predictions(1000, 1000)))
    assert certificate.outcomes == 2000
    assert certificate.advantage_bound == pytest.approx(1 - certificate.floor)
    assert not certificate.granted


def test_the_limit_is_kept_when_it_is_met_exactly(make_predictions: Make) -> None:
    released = behind(LabelOnly(), make_predictions(500, 500))
    bound = certify(released).advantage_bound
    assert certify(released, limit=bound).granted
    assert not certify(released, limit=np.nextafter(bound, 0)).granted


def test_order_of_records_and_of_classes_does_not_matter(make_predictions: Make) -> None:
    released = behind(CoarseConfidence(), make_predictions(200, 150, k=4))
    rng = np.random.default_rng(3)
    rows, classes = rng.permutation(350), rng.permutation(4)
    other = Predictions(
        released.probs[rows][:, classes],
        np.argsort(classes)[released.labels[rows]],
        released.is_member[rows],
    )
    certificates = [replace(certify(p), ranking_aware=Estimate(0, 0, 0)) for p in (released, other)]
    assert certificates[0] == certificates[1]


def test_what_the_ranking_gives_away_is_measured_apart() -> None:
    """All rows sorted are the same; the second class of a member is the one after its label."""
    rng = np.random.default_rng(4)
    n, k = 2000, 6
    is_member = np.arange(n) < n // 2
    labels = rng.integers(0, k, n)
    second = (labels + np.where(is_member, 1, rng.integers(1, k, n))) % k
    probs = np.full((n, k), 0.05)
    probs[np.arange(n), labels] = 0.6
    probs[np.arange(n), second] = 0.2
    certificate = certify(Predictions(probs, labels, is_member))
    assert certificate.outcomes == 1
    assert certificate.granted
    assert certificate.ranking_aware.low > 0.3
    assert certificate.ranking_aware.value > certificate.advantage_bound


def test_the_ranking_aware_attacker_is_judged_on_records_it_did_not_learn() -> None:
    """Rows that are all different and say nothing: a learner judged on its lessons would gain."""
    rng = np.random.default_rng(5)
    released = Predictions(
        rng.dirichlet(np.ones(5), 600), rng.integers(0, 5, 600), np.arange(600) % 2
    )
    ranking_aware = certify(released).ranking_aware
    assert ranking_aware.low < 0.02
    assert ranking_aware.value < 0.06


def test_the_same_seed_gives_the_same_certificate(make_predictions: Make) -> None:
    released = behind(Undefended(), make_predictions(100, 100, leak=2.0))
    assert certify(released) == certify(released)
    others = [certify(released, random_state=seed) for seed in (1, 2, 3)]
    assert len({c.ranking_aware for c in others}) > 1
    assert len({c.advantage_bound for c in others}) == 1


def test_a_single_member_leaves_the_ranking_undefined(make_predictions: Make) -> None:
    certificate = certify(behind(LabelOnly(), make_predictions(1, 30)))
    assert math.isnan(certificate.ranking_aware.value)
    assert not certificate.granted
    assert "undefined" in certificate.measurements


@pytest.mark.parametrize(
    ("membership", "settings", "message"),
    [
        ([1, 1, 1, 1], {}, "held-out members and non-members, got 4 and 0"),
        ([0, 0, 0, 0], {}, "held-out members and non-members, got 0 and 4"),
        ([1, 1, 0, 0], {"confidence": 0.0}, "confidence must be between 0 and 1, got 0"),
        ([1, 1, 0, 0], {"confidence": 1.0}, "confidence must be between 0 and 1, got 1"),
        ([1, 1, 0, 0], {"confidence": math.nan}, "confidence must be .* got nan"),
        ([1, 1, 0, 0], {"limit": 0.0}, "limit must be above 0 and at most 0.5, got 0"),
        ([1, 1, 0, 0], {"limit": 5}, "limit must be .* got 5"),
    ],
)
def test_bad_input_is_named(
    membership: ArrayLike, settings: dict[str, float], message: str
) -> None:
    released = Predictions(np.full((4, 2), 0.5), np.zeros(4, int), np.asarray(membership))
    with pytest.raises(ValueError, match=message):
        certify(released, **settings)


# --- how it is told ---------------------------------------------------------------------------

GRANTED = Certificate(
    0.04321, 0.0123, 0.6875, 0.95, 0.05, 1000, 900, 8, Estimate(-0.003, -0.011, 0.005)
)


def test_the_sentences_hold_the_figures() -> None:
    said = GRANTED.statement
    assert said.startswith(
        "Certified at 95 %: on records like the 1000 members and 900 non-members"
    )
    assert "gains more than 4.33 points over the label-only floor of 68.8 %." in said
    refused = replace(GRANTED, advantage_bound=0.0501).statement
    assert refused.startswith("Certificate refused: ")
    assert "up to 5.01 points" in refused
    assert "(95 % confidence); the limit is 5." in refused
    assert "8 different outcomes" in GRANTED.measurements
    assert "failed" not in GRANTED.measurements
    worse = replace(GRANTED, ranking_aware=Estimate(-0.05, -0.09, -0.01))
    assert "(95 % interval −9.0 to −1.0), less than the label alone tells" in worse.measurements
    assert "gains 1.23 points" in GRANTED.measurements
    assert "−0.3 points (95 % interval −1.1 to +0.5)" in GRANTED.measurements


def test_the_dictionary_holds_the_verdict() -> None:
    assert GRANTED.to_dict() == {"granted": True, **asdict(GRANTED)}
    assert replace(GRANTED, advantage_bound=0.06).to_dict()["granted"] is False
