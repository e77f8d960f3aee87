"""MemGuard: the formula of phase two, the budget in expectation, and what phase one finds.

What every defense promises is tested in test_defense_conformance.py.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aeppt import Predictions, Status, load_defense
from aeppt.attacks import NeuralNetworkAttack
from aeppt.defenses.memguard import MemGuard, noise_probability
from aeppt_ext import perturb_search
from aeppt_ext.release import message

SMALL: dict[str, Any] = {"hidden": (16,), "random_state": 0}


@pytest.fixture(scope="module")
def phase_one(known: Predictions) -> MemGuard:
    """Every noise that helps is added."""
    return MemGuard(None, **SMALL).fit(known.probs, known.is_member)


def fitted_with(known: Predictions, **parameters: Any) -> MemGuard:
    return MemGuard(**{**SMALL, **parameters}).fit(known.probs, known.is_member)


# --- phase two --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "l1", "budget", "expected"),
    [
        (2.0, -0.01, 0.8, 0.2, 0.25),  # a quarter of the times, 0.8 each
        (-2.0, 0.01, 0.8, 0.2, 0.25),
        (2.0, 0.0, 0.1, 0.2, 1.0),  # the whole noise is within the budget
        (2.0, 0.0, 0.2, 0.2, 1.0),
        (2.0, 1.0, 0.4, 0.1, 0.25),  # not at one half, but nearer
        (2.0, -2.0, 0.1, 0.2, 0.0),  # as far on the other side
        (-0.5, 0.6, 0.1, 0.2, 0.0),  # further
        (0.0, 0.0, 0.0, 0.2, 0.0),  # on the border already
        (2.0, 0.0, 0.8, 0.0, 0.0),
        (2.0, 0.0, 1.9, None, 1.0),
        (2.0, 2.5, 1.9, None, 0.0),
        (2.0, 1.9, 0.0, 0.0, 1.0),  # what changes nothing measurable costs nothing
    ],
)
def test_the_probability_of_noise_by_hand(
    before: float, after: float, l1: float, budget: float | None, expected: float
) -> None:
    rows = (torch.tensor([value], dtype=torch.float64) for value in (before, after, l1))
    chance = noise_probability(*rows, budget)
    assert chance.dtype == torch.float64
    assert chance.tolist() == pytest.approx([expected])


@settings(deadline=None)
@given(
    before=st.floats(0.01, 20),
    left=st.floats(0, 0.99),  # phase one ends at or before one half
    l1=st.floats(1e-3, 2),
    budget=st.floats(0, 2),
)
@example(before=1.0, left=0.0, l1=1.9375, budget=2.2250738585e-313)
def test_no_other_probability_within_the_budget_is_nearer_to_one_half(
    before: float, left: float, l1: float, budget: float
) -> None:
    rows = (torch.tensor([value], dtype=torch.float64) for value in (before, left * before, l1))
    chance = float(noise_probability(*rows, budget))
    answers = torch.tensor([before, left * before], dtype=torch.float64).sigmoid().numpy()

    def distance(q: Any) -> Any:
        return np.abs((1 - q) * answers[0] + q * answers[1] - 0.5)

    allowed = np.linspace(0, 1, 101)
    allowed = allowed[allowed * l1 <= budget]
    assert chance * l1 <= budget * (1 + 1e-12)
    assert distance(chance) <= distance(allowed).min() + 1e-12


@pytest.mark.parametrize("budget", [0.02, 0.1, 0.3])
def test_the_mean_change_is_the_expected_one_and_within_the_budget(
    budget: float, make_predictions: Callable[..., Predictions], known: Predictions
) -> None:
    many = make_predictions(4000, 4000, seed=3).probs
    _, whole = fitted_with(known, budget=None).protect(many, return_info=True)
    _, info = fitted_with(known, budget=budget).protect(many, return_info=True)
    expected = np.minimum(whole.l1, budget)
    assert (whole.l1 > budget).mean() > 0.1, "the budget must bind"
    # Each row's change is its whole noise or none, where its number u is below its chance; so the
    # mean's variance is known: of two rows that share u, E[1(u < a) 1(u < b)] is min(a, b).
    chance = expected / whole.l1
    places = message(fitted_with(known).module_.key[:16], torch.from_numpy(many))
    of_row = places.unique(dim=0, return_inverse=True)[1].numpy()
    variance = 0.0
    for place in range(of_row.max() + 1):
        own, l1 = chance[of_row == place], whole.l1[of_row == place]
        variance += l1 @ (np.minimum(own[:, None], own) - own[:, None] * own) @ l1
    assert abs(info.l1.mean() - expected.mean()) < 4 * np.sqrt(variance) / len(many)
    assert expected.mean() < budget
    added = info.status == Status.SUCCESS
    assert np.array_equal(info.l1[added], whole.l1[added])
    assert added[whole.l1 <= budget].all()
    assert 0 < added[whole.l1 > budget].mean() < 1


def test_a_greater_budget_adds_noise_to_more_rows_and_keeps_what_was(known: Predictions) -> None:
    added = [
        fitted_with(known, budget=budget).protect(known.probs, return_info=True)[1].l1 > 0
        for budget in (0.0, 0.05, 0.2, 0.5)
    ]
    for fewer, more in pairwise(added):
        assert (more | ~fewer).all()
        assert more.sum() > fewer.sum()


def test_a_budget_of_zero_changes_nothing(known: Predictions) -> None:
    protected, info = fitted_with(known, budget=0).protect(known.probs, return_info=True)
    assert np.array_equal(protected, known.probs)
    assert not np.shares_memory(protected, known.probs)
    assert (info.status == Status.UNCHANGED).all()
    assert (info.l1 == 0).all()
    assert np.array_equal(info.score_after, info.score_before)


def test_without_a_budget_or_with_a_great_one_phase_one_is_all(
    phase_one: MemGuard, known: Predictions
) -> None:
    protected, info = phase_one.protect(known.probs, return_info=True)
    great = fitted_with(known, budget=2.0)
    assert np.array_equal(great.protect(known.probs), protected)
    layers = dict(phase_one.module_.named_buffers())
    found = perturb_search(
        torch.from_numpy(known.probs),
        [layers[f"weight_{layer}"].double() for layer in range(2)],
        [layers[f"bias_{layer}"].double() for layer in range(2)],
        phase_one._options(),
    )
    assert np.array_equal(found.probs.numpy(), protected)
    assert (info.status == Status.SUCCESS).all()


# --- phase one --------------------------------------------------------------------------------


def test_the_substitute_is_left_undecided(phase_one: MemGuard, known: Predictions) -> None:
    protected, info = phase_one.protect(known.probs, return_info=True)
    before, after = (
        np.abs(torch.from_numpy(scores).sigmoid().numpy() - 0.5)
        for scores in (info.score_before, info.score_after)
    )
    assert before.max() > 0.15
    assert after.max() < 0.001
    assert (info.score_before * info.score_after <= 0).all(), "each row ends across one half"
    assert np.allclose(info.l1, np.abs(protected - known.probs).sum(1), atol=1e-9)


def test_the_border_is_the_trained_substitutes_own(known: Predictions) -> None:
    _, info = fitted_with(known).protect(known.probs, return_info=True)
    right = (info.score_before > 0) == known.is_member
    assert right[known.is_member].mean() > 0.7
    assert right[~known.is_member].mean() > 0.7


def test_a_row_that_steps_do_not_bring_to_one_half_keeps_the_best_point(known: Predictions) -> None:
    protected, info = fitted_with(known, budget=None, max_steps=1).protect(
        known.probs, return_info=True
    )
    short = info.status == Status.EXHAUSTED
    assert short.mean() > 0.5
    assert (np.abs(info.score_after[short]) < np.abs(info.score_before[short])).all()
    assert (protected[short] != known.probs[short]).any(axis=1).all()


def test_the_attack_drops_with_the_budget(make_predictions: Callable[..., Predictions]) -> None:
    known, target, shadow = (make_predictions(400, 400, seed=seed) for seed in range(3))
    attack = NeuralNetworkAttack()

    def accuracy(budget: float | None) -> float:
        defense = fitted_with(known, budget=budget)
        (scores,) = attack(shadow, target.with_probs(defense.protect(target.probs)))
        return float(((scores > 0) == target.is_member).mean())

    undefended, half, whole = accuracy(0.0), accuracy(0.15), accuracy(None)
    assert undefended > 0.75
    assert undefended - 0.05 > half > whole + 0.05
    assert 0.35 < whole < 0.6


# --- rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [2, 5, 40])
def test_labels_stay_and_rows_are_distributions(
    dtype: type, k: int, make_predictions: Callable[..., Predictions]
) -> None:
    known, asked = (make_predictions(k=k, seed=seed, dtype=dtype) for seed in range(2))
    protected, info = fitted_with(known, budget=0.2).protect(asked.probs, return_info=True)
    assert protected.dtype == dtype
    assert np.array_equal(protected.argmax(1), asked.probs.argmax(1))
    assert (protected >= 0).all()
    assert np.abs(protected.sum(1, dtype=np.float64) - 1).max() <= 1e-6
    assert 0 < (info.l1 > 0).mean() < 1


def test_a_row_gets_the_same_answer_alone_in_any_batch_and_again(known: Predictions) -> None:
    defense = fitted_with(known, budget=0.1)
    protected = defense.protect(known.probs)
    order = np.random.default_rng(0).permutation(len(known))
    assert np.array_equal(defense.protect(known.probs[order]), protected[order])
    alone = np.concatenate([defense.protect(row[None]) for row in known.probs[:40]])
    assert np.array_equal(alone, protected[:40])
    assert np.array_equal(defense.protect(known.probs), protected)


def test_a_row_without_noise_comes_back_to_the_last_bit(known: Predictions) -> None:
    protected, info = fitted_with(known, budget=0.05).protect(known.probs, return_info=True)
    unchanged = info.status == Status.UNCHANGED
    assert 0.2 < unchanged.mean() < 1
    assert np.array_equal(protected[unchanged], known.probs[unchanged])
    assert (info.l1[unchanged] == 0).all()
    assert np.array_equal(info.score_after[unchanged], info.score_before[unchanged])
    assert (info.steps[unchanged] > 0).all(), "its noise was searched for all the same"


def test_a_bad_row_is_named(phase_one: MemGuard, known: Predictions) -> None:
    rows = known.probs.copy()
    rows[7, 1] = np.nan
    with pytest.raises(ValueError, match=r"probs row 7 .*column 1.*mend or remove the row$"):
        phase_one.protect(rows)


# --- the seed and the key ---------------------------------------------------------------------


def test_a_seed_gives_the_same_defense_again_and_another_seed_another(known: Predictions) -> None:
    first, again, other = (
        fitted_with(known, budget=0.1, random_state=seed).module_.state_dict() for seed in (4, 4, 5)
    )
    assert first.keys() == {"weight_0", "bias_0", "weight_1", "bias_1", "key"}
    for name, tensor in first.items():
        assert torch.equal(again[name], tensor), name
    assert not torch.equal(other["key"], first["key"])
    assert not torch.equal(other["weight_0"], first["weight_0"])


def test_without_a_seed_the_key_is_fresh_and_the_substitute_the_same(known: Predictions) -> None:
    first, other = (fitted_with(known, budget=0.1, random_state=None) for _ in range(2))
    assert not torch.equal(first.module_.key, other.module_.key)
    assert torch.equal(first.module_.weight_0, other.module_.weight_0)
    chosen, otherwise = (
        defense.protect(known.probs, return_info=True)[1].l1 > 0 for defense in (first, other)
    )
    assert (chosen != otherwise).any()


def test_the_same_substitute_has_the_same_noise_under_any_key(known: Predictions) -> None:
    one, other = (fitted_with(known, budget=0.1, random_state=None) for _ in range(2))
    (left, left_info), (right, right_info) = (
        defense.protect(known.probs, return_info=True) for defense in (one, other)
    )
    both = (left_info.l1 > 0) & (right_info.l1 > 0)
    assert both.any()
    assert np.array_equal(left[both], right[both])


# --- files and parameters ---------------------------------------------------------------------


@pytest.mark.parametrize("budget", [None, 0.1])
def test_a_saved_defense_comes_back_with_its_key_and_budget(
    budget: float | None, known: Predictions, tmp_path: Path
) -> None:
    defense = fitted_with(known, budget=budget, random_state=None)
    defense.save(tmp_path / "memguard.safetensors")
    back = load_defense(tmp_path / "memguard.safetensors")
    assert isinstance(back, MemGuard)
    assert back.get_params() == defense.get_params()
    assert np.array_equal(back.protect(known.probs), defense.protect(known.probs))


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("budget", -0.1, ValueError),
        ("budget", np.nan, ValueError),
        ("budget", np.inf, ValueError),
        ("budget", "1", TypeError),
        ("step_size", -0.1, ValueError),
        ("step_size", np.nan, ValueError),
        ("max_steps", -1, ValueError),
        ("max_steps", 2.5, ValueError),
        ("hidden", (0,), ValueError),
        ("hidden", (2.5,), ValueError),
        ("hidden", 8, TypeError),
        ("random_state", -1, ValueError),
        ("random_state", 1.5, (TypeError, ValueError)),
    ],
)
def test_a_bad_parameter_is_named_when_fit_runs(
    name: str, value: Any, error: Any, known: Predictions
) -> None:
    made = MemGuard(**{**SMALL, name: value})
    with pytest.raises(error, match=name):
        made.fit(known.probs, known.is_member)
    assert not hasattr(made, "module_")
