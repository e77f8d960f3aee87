"""What each defense by rule does to a row: values by hand, and the properties that its paper names.

What all defenses promise is tested in ``test_defense_conformance.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import stats

from aeppt import Predictions
from aeppt.defenses import (
    DynaNoise,
    GaussianNoise,
    HAMPOutput,
    LabelOnly,
    NeighborhoodBlending,
    OutputDefense,
    ReverseSigmoid,
    Rounding,
    Temperature,
    TopK,
)
from aeppt.defenses.dynanoise import risk
from aeppt.defenses.keyed_random import keyed_normals, new_key

#: Rows of 5 classes without ties, from nearly uniform to nearly one-hot.
ROWS = arrays(np.float64, (4, 5), elements=st.floats(0, 12), unique=True).map(
    lambda logits: np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
)


def fitted(
    defense: OutputDefense, *rows: list[float], others: list[list[float]] | None = None
) -> Any:
    """``defense`` fitted on members ``rows``, and ``others`` or the uniform row as non-members."""
    k = len(rows[0])
    others = [[1 / k] * k] if others is None else others
    probs = np.array([*rows, *others])
    return defense.fit(probs, np.arange(len(probs)) < len(rows))


def answer(defense: OutputDefense, row: list[float]) -> list[float]:
    """What ``defense``, fitted on any row of as many classes, makes of ``row``."""
    k = len(row)
    protected = fitted(defense, [1.0] + [0.0] * (k - 1)).protect(np.array([row]))
    return protected[0].tolist()  # type: ignore[no-any-return]


def test_a_long_row_alone_is_what_it_is_beside_others() -> None:
    rows = np.random.default_rng(0).exponential(size=(6, 40_000))
    rows /= rows.sum(axis=1, keepdims=True)
    for defense in (Temperature(2.0), ReverseSigmoid()):
        made = defense.fit(rows, np.arange(6) < 3)
        together = made.protect(rows)
        for i in range(6):
            assert np.array_equal(made.protect(rows[i : i + 1])[0], together[i])


# --- truncation -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "row", "expected"),
    [
        (2, [0.1, 0.6, 0.2, 0.1], [0, 0.75, 0.25, 0]),
        (3, [0.1, 0.6, 0.2, 0.1], [1 / 9, 6 / 9, 2 / 9, 0]),  # of equal ones, the first
        (1, [0.4, 0.4, 0.2], [1, 0, 0]),
        (4, [0.1, 0.6, 0.2, 0.1], [0.1, 0.6, 0.2, 0.1]),
        (9, [0.25, 0.75], [0.25, 0.75]),
        (2, [0.0, 0.0, 1.0], [0, 0, 1]),
    ],
)
def test_the_greatest_entries_stay(k: int, row: list[float], expected: list[float]) -> None:
    assert answer(TopK(k), row) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("decimals", "row", "expected"),
    [
        (1, [0.12, 0.58, 0.3], [0.1, 0.6, 0.3]),
        (1, [0.04, 0.94, 0.02], [0, 1, 0]),  # 0, 0.9, 0 over 0.9
        (1, [0.26, 0.36, 0.38], [0.3 / 1.1, 0.4 / 1.1, 0.4 / 1.1]),
        (2, [0.121, 0.583, 0.296], [0.12, 0.58, 0.3]),
        (0, [0.3, 0.6, 0.1], [0, 1, 0]),
        (0, [0.3, 0.4, 0.3], [0, 1, 0]),  # nothing is left but the label
        (0, [0.5, 0.5], [1, 0]),  # half to even: both go
        (15, [0.12, 0.58, 0.3], [0.12, 0.58, 0.3]),
    ],
)
def test_entries_are_rounded_and_sum_to_one(
    decimals: int, row: list[float], expected: list[float]
) -> None:
    # The label leads by 1e-6 where it rounds to a tie.
    assert answer(Rounding(decimals), row) == pytest.approx(expected, abs=1e-6)


def test_a_label_that_rounds_to_a_tie_still_leads() -> None:
    returned = answer(Rounding(1), [0.36, 0.38, 0.26])
    assert returned[1] - returned[0] == pytest.approx(1e-6)


def test_rounded_rows_that_agree_cannot_be_told_apart() -> None:
    assert answer(Rounding(1), [0.12, 0.58, 0.3]) == answer(Rounding(1), [0.11, 0.56, 0.33])


def test_a_thousand_small_entries_round_to_the_label() -> None:
    row = np.full(1000, 0.0009)
    row[7] += 1 - row.sum()
    assert answer(Rounding(0), row.tolist()) == np.eye(1000)[7].tolist()


def test_only_the_label_stays() -> None:
    assert answer(LabelOnly(), [0.2, 0.4, 0.4]) == [0, 1, 0]
    assert answer(LabelOnly(), [0.25, 0.25, 0.25, 0.25]) == [1, 0, 0, 0]


# --- temperature ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("temperature", "row", "expected"),
    [
        (2.0, [0.64, 0.36], [8 / 14, 6 / 14]),  # square roots
        (0.5, [0.6, 0.3, 0.1], [36 / 46, 9 / 46, 1 / 46]),  # squares
        (1e12, [0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]),
        (1e-6, [0.5, 0.3, 0.2], [1, 0, 0]),
        (7.0, [1.0, 0.0], [1 / (1 + 2 ** (-126 / 7)), 1 / (1 + 2 ** (126 / 7))]),
    ],
)
def test_the_temperature_by_hand(
    temperature: float, row: list[float], expected: list[float]
) -> None:
    assert answer(Temperature(temperature), row) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(rows=ROWS)
def test_temperature_one_changes_nothing(rows: NDArray[np.float64]) -> None:
    protected = fitted(Temperature(1.0), [1.0, 0, 0, 0, 0]).protect(rows)
    assert np.allclose(protected, rows, rtol=1e-12, atol=0)


@given(rows=ROWS)
def test_a_greater_temperature_means_more_entropy_and_the_same_ranks(
    rows: NDArray[np.float64],
) -> None:
    entropy = stats.entropy(rows, axis=1)
    for temperature in (1.5, 3.0, 10.0):
        protected = fitted(Temperature(temperature), [1.0, 0, 0, 0, 0]).protect(rows)
        assert (stats.entropy(protected, axis=1) >= entropy - 1e-9).all()
        assert np.array_equal(protected.argmax(axis=1), rows.argmax(axis=1))
        entropy = stats.entropy(protected, axis=1)


# --- Gaussian noise ---------------------------------------------------------------------------


def near_rows(row: list[float], n: int = 4000, spread: float = 1.0) -> NDArray[np.float64]:
    """Rows around ``row``; with a spread of several nats, most have noise of their own."""
    jitter = np.random.default_rng(0).normal(0, spread, (n, len(row)))
    weights = np.array(row) * np.exp(jitter)
    rows: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return rows


def over_keys(defense: OutputDefense, row: list[float], keys: int = 1000) -> NDArray[np.float64]:
    """What ``defense`` makes of one row under many keys: [keys, k]."""
    one = fitted(defense, [1.0] + [0.0] * (len(row) - 1))
    return under_keys(one, np.tile(row, (keys, 1)))


def under_keys(defense: Any, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the fitted ``defense`` makes of each row under a key of that row's own: [n, k]."""
    module, answers = defense.module_, []
    for seed, row in enumerate(torch.from_numpy(rows)):
        module.key = new_key(seed)
        answers.append(module(row.unsqueeze(0)))
    return torch.cat(answers).numpy()


def test_noise_on_logits_has_the_stated_deviation_and_no_correlation() -> None:
    rows = near_rows([1, 1e-11, 1e-11, 1e-11], n=6000, spread=4.0)  # far from a change of label
    protected = fitted(GaussianNoise(0.5, random_state=0), [1.0, 0, 0, 0]).protect(rows)
    change = np.log(protected) - np.log(rows)
    change -= change[:, :1]  # a soft-max forgets what is added to all logits
    noise = change[:, 1:]
    noise = noise[
        np.unique(noise.round(6), axis=0, return_index=True)[1]
    ]  # neighbours share theirs
    n = len(noise)
    assert n > 3000
    # Differences of two independent numbers: variance 2 * 0.5², correlation 1/2.
    error = np.sqrt(2 / n)  # standard error of a variance, relative to it
    assert np.allclose(noise.var(axis=0), 0.5, rtol=4 * error)
    assert np.allclose(noise.mean(axis=0), 0, atol=4 * np.sqrt(0.5 / n))
    correlation = np.corrcoef(noise, rowvar=False)
    assert np.allclose(correlation[np.triu_indices(3, 1)], 0.5, atol=0.06)
    assert stats.kstest(noise[:, 0] / np.sqrt(0.5), "norm").pvalue > 0.01


def test_noise_on_probabilities_has_the_stated_deviation() -> None:
    row = [0.4, 0.2, 0.2, 0.2]  # far from the sides of the simplex, and from a change of label
    change = over_keys(GaussianNoise(0.01, "prob"), row) - row
    # The projection takes the mean of four numbers away, a quarter of the variance.
    assert np.allclose(change.var(axis=0), 0.75 * 0.01**2, rtol=4 * np.sqrt(2 / 1000))
    assert stats.kstest(change[:, 0] / np.sqrt(0.75) / 0.01, "norm").pvalue > 0.01


@pytest.mark.parametrize("space", ["logit", "prob"])
def test_noise_of_no_scale_changes_nothing(space: Any) -> None:
    rows = near_rows([0.5, 0.3, 0.2], n=20)
    protected = fitted(GaussianNoise(0.0, space), [1.0, 0, 0]).protect(rows)
    assert np.allclose(protected, rows, rtol=1e-12)


@pytest.mark.parametrize("space", ["logit", "prob"])
def test_a_label_that_noise_takes_leads_again_by_little(space: Any) -> None:
    rows = near_rows([0.3, 0.3, 0.4], n=200)
    protected = fitted(GaussianNoise(5.0, space, random_state=0), [1.0, 0, 0]).protect(rows)
    label = rows.argmax(axis=1)[:, None]
    lead = np.take_along_axis(protected, label, 1)[:, 0]
    np.put_along_axis(protected, label, 0, 1)
    lead -= protected.max(axis=1)
    assert (lead > 0).all()
    # Two of three labels are lost to such noise, and what leads again does so by the tie gap.
    assert 0.4 < np.isclose(lead, 1e-6, atol=1e-9).mean() < 0.9


# --- reverse sigmoid --------------------------------------------------------------------------


def test_the_reverse_sigmoid_by_hand() -> None:
    # σ(γ σ⁻¹(p)) is p at γ = 1: p - β (p - 1/2), all over their sum.
    row = [0.7, 0.2, 0.1]
    weights = [p - 0.4 * (p - 0.5) for p in row]
    expected = [weight / sum(weights) for weight in weights]
    assert answer(ReverseSigmoid(0.4, 1.0), row) == pytest.approx(expected, rel=1e-12)
    # At γ = 2 it is p² / (p² + (1 - p)²).
    weights = [p - 0.4 * (p**2 / (p**2 + (1 - p) ** 2) - 0.5) for p in row]
    expected = [weight / sum(weights) for weight in weights]
    assert answer(ReverseSigmoid(0.4, 2.0), row) == pytest.approx(expected, rel=1e-12)


def test_the_reverse_sigmoid_at_the_corners_of_the_simplex() -> None:
    # One falls by β/2, zeros rise by it: 0.75, 0.25, 0.25 over 1.25.
    assert answer(ReverseSigmoid(0.5, 0.2), [1.0, 0.0, 0.0]) == pytest.approx([0.6, 0.2, 0.2])
    assert answer(ReverseSigmoid(0.5, 0.2), [0.5, 0.5]) == [0.5, 0.5]
    assert answer(ReverseSigmoid(0.0, 0.2), [0.7, 0.2, 0.1]) == pytest.approx([0.7, 0.2, 0.1])


def test_a_lead_that_the_reverse_sigmoid_takes_is_given_back() -> None:
    top = np.linspace(0.5, 1, 21)
    rows = np.stack([top, 1 - top], axis=1)  # of two classes the sum stays one
    protected = fitted(ReverseSigmoid(1.2, 0.5), [1.0, 0.0]).protect(rows)
    raw = top - 1.2 * (top**0.5 / (top**0.5 + (1 - top) ** 0.5) - 0.5)
    assert 0 < (raw < 0.5).sum() < 21
    assert np.allclose(protected[:, 0], np.maximum(raw, 0.5), atol=1e-6)


def test_what_falls_below_zero_is_zero() -> None:
    # 0.6 - 10 (σ - 1/2) is far below zero: the label is left with nothing, and is given its lead.
    returned = answer(ReverseSigmoid(10.0, 50.0), [0.6, 0.35, 0.05])
    assert min(returned) >= 0
    assert returned[0] - max(returned[1:]) == pytest.approx(1e-6, abs=1e-9)


# --- HAMP -------------------------------------------------------------------------------------


def test_hamp_puts_the_values_of_a_random_prediction_into_the_rows_own_order() -> None:
    defense = HAMPOutput(random_state=0)
    defense.fit(
        np.array([[0.9, 0.1, 0.0], [0.2, 0.2, 0.6]]), [1, 0], random_probs=[[0.35, 0.25, 0.4]]
    )
    rows = np.array([[0.1, 0.2, 0.7], [0.5, 0.4, 0.1]])
    assert np.allclose(defense.protect(rows), [[0.25, 0.35, 0.4], [0.4, 0.35, 0.25]], atol=1e-15)


@given(rows=ROWS)
def test_hamp_keeps_all_ranks(rows: NDArray[np.float64]) -> None:
    pool = np.random.default_rng(0).dirichlet(np.full(5, 20), 30)
    defense = HAMPOutput(random_state=0)
    protected = defense.fit(rows, [1, 1, 0, 0], random_probs=pool).protect(rows)
    ranks, ranks_before = ((-of).argsort(axis=1, kind="stable") for of in (protected, rows))
    assert np.array_equal(ranks, ranks_before)
    for row in np.sort(protected, axis=1):
        assert np.isclose(row, np.sort(pool, axis=1), atol=1e-12).all(axis=1).any()


def test_hamp_draws_evenly_from_the_whole_pool() -> None:
    pool = np.array([[0.25 + i / 100, 0.75 - i / 100, 0.0, 0.0] for i in range(10)])
    defense = HAMPOutput(random_state=0).fit(np.eye(4), [1, 0, 1, 0], random_probs=pool)
    protected = defense.protect(near_rows([0.25] * 4, n=2000, spread=3.0))
    _, counts = np.unique(protected.max(axis=1).round(6), return_counts=True)
    assert len(counts) == 10
    assert stats.chisquare(counts).pvalue > 0.01


def test_hamp_takes_the_non_members_where_there_are_no_random_predictions() -> None:
    defense = fitted(
        HAMPOutput(random_state=0), [0.99, 0.01, 0.0], others=[[0.2, 0.5, 0.3], [0.3, 0.2, 0.5]]
    )
    assert np.allclose(defense.protect(np.array([[0.1, 0.0, 0.9]])), [[0.3, 0.2, 0.5]], atol=1e-15)


def test_a_tie_in_the_pool_does_not_move_the_label() -> None:
    defense = HAMPOutput(random_state=0).fit(np.eye(3), [1, 1, 0], random_probs=[[1 / 3] * 3])
    rows = np.array([[0.2, 0.3, 0.5], [0.1, 0.8, 0.1], [0.4, 0.3, 0.3]])
    protected = defense.protect(rows)
    assert protected.argmax(axis=1).tolist() == [2, 1, 0]
    assert np.allclose(protected, 1 / 3, atol=1e-6)


@pytest.mark.parametrize(
    ("pool", "reason"),
    [
        ([[0.5, 0.5]], r"random_probs must be \[m, 3\] with m at least 1, got \[1, 2\]"),
        (np.empty((0, 3)), r"random_probs must be \[m, 3\] with m at least 1, got \[0, 3\]"),
        ([[0.5, 0.5, 0.5]], "random_probs: probs row 0 .*sums to 1.5"),
        ([0.5, 0.5, 0.0], r"random_probs: .*\(3,\)"),
    ],
)
def test_a_bad_pool_is_named(pool: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        HAMPOutput().fit(np.eye(3), [1, 1, 0], random_probs=pool)
    with pytest.raises(TypeError, match=r"random_probs: .*int64"):
        HAMPOutput().fit(np.eye(3), [1, 1, 0], random_probs=np.eye(3, dtype=np.int64))


def test_the_pool_is_a_copy_and_may_be_a_tensor() -> None:
    pool = torch.tensor([[0.5, 0.3, 0.2]])
    defense = HAMPOutput(random_state=0).fit(np.eye(3), [1, 1, 0], random_probs=pool)
    pool.fill_(1 / 3)
    assert np.allclose(defense.protect(np.eye(3)[:1]), [[0.5, 0.3, 0.2]], atol=1e-7)


# --- DynaNoise --------------------------------------------------------------------------------


def test_the_risk_runs_from_the_uniform_row_to_the_corner() -> None:
    rows = torch.tensor([[0.25] * 4, [0.5, 0.5, 0, 0], [1.0, 0, 0, 0]], dtype=torch.float64)
    assert torch.allclose(risk(rows), torch.tensor([0, 0.5, 1], dtype=torch.float64))
    assert (risk(1.0005 * rows) >= 0).all()


def test_dynanoise_by_hand() -> None:
    row = np.array([[0.5, 0.5, 0.0, 0.0]]) * 0.98 + 0.005
    defense = fitted(DynaNoise(0.3, 2.0, 10.0, random_state=0), [1.0, 0, 0, 0])
    normals = keyed_normals(defense.module_.key, torch.from_numpy(row), 4).numpy()
    variance = 0.3 * (1 + 2.0 * (1 - stats.entropy(row[0]) / np.log(4)))
    logits = (np.log(row) + np.sqrt(variance) * normals) / 10
    expected = np.exp(logits) / np.exp(logits).sum()
    assert np.allclose(defense.protect(row), expected, rtol=1e-12)


def test_the_noise_of_dynanoise_grows_with_confidence() -> None:
    variances = []
    for confident in (0.0, 4.0, 12.0):
        row = np.exp([confident, 0, 0, 0]) / np.exp([confident, 0, 0, 0]).sum()
        noisy = over_keys(DynaNoise(0.3, 2.0, 1.0), row.tolist())
        change = np.log(noisy) - np.log(row)
        observed = (change[:, 1] - change[:, 2]).var() / 2
        stated = 0.3 * (1 + 2 * risk(torch.from_numpy(row[None])).item())
        assert observed == pytest.approx(stated, rel=4 * np.sqrt(2 / 1000))
        variances.append(stated)
    assert variances[0] == pytest.approx(0.3)
    assert variances[0] < variances[1] < variances[2]
    assert variances[2] == pytest.approx(0.9, rel=0.1)


def test_dynanoise_may_change_the_label_of_an_unsure_row_and_keeps_a_sure_one() -> None:
    defense = fitted(DynaNoise(random_state=0), [1.0, 0, 0])
    assert not DynaNoise.keeps_label
    unsure = near_rows([0.35, 0.33, 0.32], n=500, spread=0.05)
    sure = near_rows([0.9998, 0.0001, 0.0001], n=500, spread=0.05)
    kept = [
        (defense.protect(rows).argmax(axis=1) == rows.argmax(axis=1)).mean()
        for rows in (unsure, sure)
    ]
    assert kept[0] < 0.7
    assert kept[1] == 1


def test_the_temperature_of_dynanoise_softens() -> None:
    rows = near_rows([0.9, 0.05, 0.05], n=100)
    soft, hard = (
        fitted(DynaNoise(temperature=t, random_state=0), [1.0, 0, 0]).protect(rows)
        for t in (10.0, 1.0)
    )
    assert np.allclose(soft, hard**0.1 / (hard**0.1).sum(axis=1, keepdims=True))


# --- Neighborhood Blending --------------------------------------------------------------------


def test_the_mean_of_all_members_of_the_label() -> None:
    defense = NeighborhoodBlending(n_neighbors=5, random_state=0)
    members = [[0.8, 0.1, 0.1], [0.6, 0.4, 0.0], [0.1, 0.9, 0.0]]
    fitted(defense, *members)
    rows = np.array([[0.5, 0.2, 0.3], [0.9, 0.0, 0.1], [0.3, 0.4, 0.3]])
    expected = [[0.7, 0.25, 0.05], [0.7, 0.25, 0.05], [0.1, 0.9, 0.0]]
    assert np.allclose(defense.protect(rows), expected, atol=1e-12)
    half = fitted(NeighborhoodBlending(5, strength=0.5, random_state=0), *members)
    assert np.allclose(half.protect(rows), (rows + np.array(expected)) / 2, atol=1e-12)


def test_a_strength_of_zero_changes_nothing(known: Predictions) -> None:
    defense = NeighborhoodBlending(strength=0.0).fit(known.probs, known.is_member)
    assert np.allclose(defense.protect(known.probs), known.probs, rtol=1e-12)


def test_a_great_epsilon_picks_the_nearest_member_of_the_label(known: Predictions) -> None:
    defense = NeighborhoodBlending(1, epsilon=1e6, random_state=0)
    defense.fit(known.probs, known.is_member)
    rows, members = known.probs[~known.is_member], known.probs[known.is_member]
    distance = np.abs(rows[:, None] - members).sum(axis=2)
    distance[rows.argmax(axis=1)[:, None] != members.argmax(axis=1)] = np.inf
    assert np.allclose(defense.protect(rows), members[distance.argmin(axis=1)], atol=1e-12)


def test_picks_follow_the_exponential_mechanism() -> None:
    members = np.array([[0.6, 0.4, 0, 0, 0, 0], [0.3, 0.0, 0.1, 0.2, 0.2, 0.2]])
    rows = near_rows([0.4, 0.2, 0.1, 0.1, 0.1, 0.1], n=1500, spread=0.5)
    rows = rows[rows.argmax(axis=1) == 0]
    # Each under a key of its own, as rows near each other share their draw.
    picked = under_keys(fitted(NeighborhoodBlending(1, epsilon=10.0), *members.tolist()), rows)
    first = np.isclose(picked, members[0], atol=1e-9).all(axis=1)
    distance = np.abs(rows[:, None] - members).sum(axis=2) / 2
    chance = 1 / (1 + np.exp(10 / 2 * (distance[:, 0] - distance[:, 1])))
    error = np.sqrt((chance * (1 - chance)).sum()) / len(rows)
    assert 0.2 < chance.mean() < 0.8
    assert chance.std() > 0.1
    assert first.mean() == pytest.approx(chance.mean(), abs=4 * error)
    assert np.corrcoef(first, chance)[0, 1] > 0.2


def test_a_label_no_member_has_limits_the_strength() -> None:
    defense = fitted(NeighborhoodBlending(2, random_state=0), [0.8, 0.2, 0.0], [0.6, 0.0, 0.4])
    row = np.array([[0.1, 0.7, 0.2]])
    # Towards (0.7, 0.1, 0.2), the labels are level halfway.
    assert np.allclose(defense.protect(row), [[0.4, 0.4, 0.2]], atol=1e-6)
    assert defense.protect(row).argmax() == 1
    quarter = fitted(
        NeighborhoodBlending(2, strength=0.25, random_state=0), [0.8, 0.2, 0.0], [0.6, 0.0, 0.4]
    )
    assert np.allclose(quarter.protect(row), [[0.25, 0.55, 0.2]], atol=1e-12)


@settings(max_examples=25)
@given(rows=ROWS)
def test_blending_takes_labels_from_members_only_and_hides_confidence(
    rows: NDArray[np.float64], blending: NeighborhoodBlending, known: Predictions
) -> None:
    members = known.probs[known.is_member]
    protected = blending.protect(rows)
    for row, label in zip(protected, rows.argmax(axis=1), strict=True):
        same = members[members.argmax(axis=1) == label]
        assert (row >= same.min(axis=0) - 1e-9).all()
        assert (row <= same.max(axis=0) + 1e-9).all()


@pytest.fixture(scope="module")
def blending(known: Predictions) -> NeighborhoodBlending:
    return NeighborhoodBlending(random_state=0).fit(known.probs, known.is_member)


# --- what fit refuses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        (TopK, "k", (0, -1)),
        (Rounding, "decimals", (-1, 16)),
        (Temperature, "temperature", (0, -1.0, np.nan, np.inf)),
        (GaussianNoise, "scale", (-0.1, np.nan, np.inf, 1e7)),
        (GaussianNoise, "space", ("log", None, 3)),
        (ReverseSigmoid, "beta", (-1, np.nan, np.inf)),
        (ReverseSigmoid, "gamma", (0, -0.2, np.nan, np.inf)),
        (DynaNoise, "base_variance", (-0.1, np.nan)),
        (DynaNoise, "lambda_scale", (-1, np.inf)),
        (DynaNoise, "temperature", (0, np.nan)),
        (NeighborhoodBlending, "n_neighbors", (0, -3)),
        (NeighborhoodBlending, "epsilon", (-1, np.nan, np.inf)),
        (NeighborhoodBlending, "strength", (-0.1, 1.1, np.nan)),
    ],
)
def test_a_parameter_out_of_range_is_named_when_fit_runs(
    kind: type[OutputDefense], name: str, values: tuple[Any, ...], known: Predictions
) -> None:
    for value in values:
        made = kind(**{name: value})
        with pytest.raises(ValueError, match=f"{name} must .* got {value!r}"):
            made.fit(known.probs, known.is_member)
        assert not hasattr(made, "module_")


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (TopK, "k", 1.5),
        (Rounding, "decimals", "1"),
        (Temperature, "temperature", "hot"),
        (GaussianNoise, "scale", None),
        (ReverseSigmoid, "beta", [1.0]),
        (DynaNoise, "base_variance", 1j),
        (NeighborhoodBlending, "n_neighbors", 3.0),
        (HAMPOutput, "random_state", 0.5),
    ],
)
def test_a_parameter_of_a_wrong_type_is_named(
    kind: type[OutputDefense], name: str, value: Any, known: Predictions
) -> None:
    with pytest.raises(TypeError, match=f"{name} must be an? .*got"):
        kind(**{name: value}).fit(known.probs, known.is_member)


# --- rows a little off one --------------------------------------------------------------------


@pytest.mark.parametrize(
    "defense",
    [
        TopK(2),
        Rounding(2),
        LabelOnly(),
        Temperature(2.0),
        GaussianNoise(random_state=0),
        GaussianNoise(0.1, "prob", random_state=0),
        ReverseSigmoid(),
        DynaNoise(random_state=0),
        HAMPOutput(random_state=0),
        NeighborhoodBlending(strength=0.5, random_state=0),
    ],
    ids=lambda defense: type(defense).__name__,
)
def test_a_row_whose_sum_is_a_little_off_comes_back_exact(
    defense: OutputDefense, make_predictions: Callable[..., Predictions]
) -> None:
    known = make_predictions(30, 30)
    defense.fit(known.probs, known.is_member)
    rows = np.concatenate([known.probs, np.eye(5), np.full((1, 5), 0.2)])
    for factor in (0.9995, 1.0005):
        protected = defense.protect(factor * rows)
        assert np.isfinite(protected).all()
        assert (protected >= 0).all()
        assert np.abs(protected.sum(axis=1) - 1).max() < 1e-9
