"""PrivacyFunnel: what it keeps of a row, what it hides, and whom it lets pay.

What every defense promises is in test_defense_conformance.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aeppt import Predictions, PrivacyFunnel, load_defense
from aeppt.defenses.privacy_funnel import RankRelease
from aeppt_ext import ReleaseTables

K = 6


def overfitted(n: int, seed: int, members: float = 0.5) -> Predictions:
    """A model that is right and sure on its members, and less of both on others."""
    rng = np.random.default_rng(seed)
    is_member = rng.random(n) < members
    labels = rng.integers(0, K, n)
    logits = rng.normal(0, 1, (n, K))
    logits[np.arange(n), labels] += np.where(
        is_member, rng.choice([0.0, 5.5], n, p=[0.05, 0.95]), rng.choice([0.0, 3.0, 5.0], n)
    )
    logits *= 2  # and too sure of itself
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Predictions(probs, labels, is_member)


@lru_cache
def known() -> Predictions:
    return overfitted(2400, 0)


@lru_cache
def fitted(**parameters: Any) -> PrivacyFunnel:
    return PrivacyFunnel(random_state=0, **parameters).fit_predictions(known())


def tables(defense: PrivacyFunnel) -> ReleaseTables:
    buffers: dict[str, Any] = dict(defense.module_.named_buffers())
    return ReleaseTables(*(buffers[name] for name in ReleaseTables._fields))


def codewords(defense: PrivacyFunnel, probs: NDArray[np.float64]) -> NDArray[np.int32]:
    assert isinstance(defense.module_, RankRelease)
    released: NDArray[np.int32] = defense.module_.release(torch.from_numpy(probs)).codeword.numpy()
    return released


def expected_shares(defense: PrivacyFunnel, rows: Predictions, chosen: NDArray[np.bool_]) -> Any:
    """How often each codeword [A] is released for the chosen rows, in expectation over keys."""
    from aeppt_ext.release import cells

    own = tables(defense)
    edges = own.confidence_edges, own.shape_edges
    cell = cells(torch.from_numpy(rows.probs[chosen]), *edges).numpy()
    maps = np.diff(own.cumulative.numpy(), axis=2, prepend=0)
    of_class = own.map_of_class.numpy()[rows.probs[chosen].argmax(axis=1)]
    return maps[of_class, cell].mean(axis=0)


def total_variation(defense: PrivacyFunnel, rows: Predictions) -> float:
    sides = (expected_shares(defense, rows, side) for side in (rows.is_member, ~rows.is_member))
    return float(np.abs(next(sides) - next(sides)).sum() / 2)


# --- what it keeps ------------------------------------------------------------------------------


def test_the_ranking_of_all_classes_stays() -> None:
    rows = overfitted(500, 1).probs
    for dtype in (np.float32, np.float64):
        given_rows = rows.astype(dtype)
        protected = fitted().protect(given_rows)
        order = np.argsort(-given_rows, axis=1, kind="stable")
        assert np.array_equal(np.argsort(-protected, axis=1, kind="stable"), order)
        assert (np.diff(np.take_along_axis(protected, order, axis=1), axis=1) < 0).all()


def test_a_released_row_is_a_codeword_in_the_order_of_the_row() -> None:
    rows = overfitted(300, 1).probs
    protected, info = fitted().protect(rows, return_info=True)
    released = tables(fitted()).codebook.numpy()[codewords(fitted(), rows)]
    assert np.array_equal(-np.sort(-protected, axis=1), released)
    assert info.l1 == pytest.approx(np.abs(protected - rows).sum(axis=1), abs=1e-12)
    assert np.isnan(info.score_before).all()
    assert (info.status == 1).all()


def test_asking_again_tells_nothing_and_another_key_draws_anew() -> None:
    rows = overfitted(400, 1).probs
    first, again = (fitted().protect(rows) for _ in range(2))
    assert np.array_equal(first, again)
    other = PrivacyFunnel(random_state=1).fit_predictions(known())
    assert np.array_equal(tables(other).codebook, tables(fitted()).codebook)
    differ = codewords(other, rows) != codewords(fitted(), rows)
    assert 0.02 < differ.mean() < 0.99


def test_it_comes_back_from_a_file(tmp_path: Path) -> None:
    rows = overfitted(200, 1).probs
    fitted().save(tmp_path / "d.safetensors")
    assert np.array_equal(
        load_defense(tmp_path / "d.safetensors").protect(rows), fitted().protect(rows)
    )


@pytest.mark.parametrize("assign", [False, True])
def test_a_module_takes_the_key_of_the_state_that_it_loads(assign: bool) -> None:
    rows = overfitted(400, 1).probs
    one, other = fitted(), PrivacyFunnel(random_state=1).fit_predictions(known())
    other.module_.load_state_dict(one.module_.state_dict(), assign=assign)
    assert np.array_equal(other.protect(rows), one.protect(rows))


# --- what it hides ------------------------------------------------------------------------------


@pytest.mark.parametrize("advantage", [0.0, 0.005, 0.05])
def test_codewords_tell_no_more_than_the_advantage(advantage: float) -> None:
    defense = fitted(advantage=advantage)
    assert total_variation(defense, known()) <= 2 * advantage + 1e-6
    fresh = overfitted(20000, 7)
    assert total_variation(defense, fresh) <= 2 * advantage + 0.1, "what few records leave open"
    before = np.sort(known().probs, axis=1)[:, -1]
    threshold = np.median(before)
    sides = [(before[side] > threshold).mean() for side in (known().is_member, ~known().is_member)]
    assert abs(sides[0] - sides[1]) > 0.3, "undefended, confidence alone tells them apart"


def test_whoever_knows_the_true_label_gains_no_more_than_the_advantage_over_the_floor() -> None:
    rows, defense = known(), fitted()
    apart = []
    for is_right in (rows.is_correct, ~rows.is_correct):
        shares = [
            expected_shares(defense, rows, is_right & side) * is_right[side].mean()
            for side in (rows.is_member, ~rows.is_member)
        ]
        apart.append(shares[0] - shares[1])
    floor = abs(apart[0].sum())
    assert floor > 0.1
    assert np.abs(apart).sum() / 2 <= floor + 2 * 0.005 + 1e-6


def test_without_labels_the_same_is_hidden_from_those_who_have_none() -> None:
    defense = PrivacyFunnel(random_state=0).fit(known().probs, known().is_member)
    assert total_variation(defense, known()) <= 0.01 + 1e-6


def test_draws_follow_the_map() -> None:
    rows, defense = overfitted(20000, 3), fitted()
    everybody = np.ones(len(rows), bool)
    expected = expected_shares(defense, rows, everybody)
    drawn = np.bincount(codewords(defense, rows.probs), minlength=len(expected)) / len(rows)
    assert np.abs(drawn - expected).sum() / 2 < 0.02


# --- who pays -----------------------------------------------------------------------------------


def mean_l1(defense: PrivacyFunnel, rows: Predictions) -> tuple[float, float]:
    l1 = np.abs(defense.protect(rows.probs) - rows.probs).sum(axis=1)
    return float(l1[rows.is_member].mean()), float(l1[~rows.is_member].mean())


def test_the_serving_prior_says_who_pays() -> None:
    free = {"keeps_calibration": False}
    members, others = mean_l1(fitted(serving_prior=0.0, **free), known())
    rare_members, rare_others = mean_l1(fitted(serving_prior=1.0, **free), known())
    assert others < rare_others - 0.05
    assert rare_members < members - 0.05


def test_a_wider_advantage_costs_less() -> None:
    costs = [sum(mean_l1(fitted(advantage=a, serving_prior=0.5), known())) for a in (0, 0.05, 0.5)]
    assert costs[0] > costs[1] > costs[2]


def log_loss(probs: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    return float(-np.log(probs[np.arange(len(labels)), labels]).mean())


def test_calibration_is_kept_for_non_members_where_it_is_asked_for() -> None:
    rows = overfitted(8000, 5, members=0.0)
    before = log_loss(rows.probs, rows.labels)
    after = log_loss(fitted().protect(rows.probs), rows.labels)
    careless = fitted(keeps_calibration=False, serving_prior=1.0).protect(rows.probs)
    assert after <= before + 0.02
    assert log_loss(careless, rows.labels) > before + 0.1


@pytest.mark.parametrize("distortion", ["l1", "kl", "log_loss"])
def test_each_distortion_is_least_where_it_is_the_goal(distortion: str) -> None:
    rows = known()
    others = rows.probs[~rows.is_member]

    def measured(defense: PrivacyFunnel) -> dict[str, float]:
        protected = defense.protect(others)
        ratio = np.log(others) - np.log(protected)
        return {
            "l1": float(np.abs(protected - others).sum(axis=1).mean()),
            "kl": float((others * ratio).sum(axis=1).mean()),
            "log_loss": log_loss(protected, rows.labels[~rows.is_member]),
        }

    found = {
        goal: measured(fitted(distortion=goal, serving_prior=0.0, keeps_calibration=False))
        for goal in ("l1", "kl", "log_loss")
    }
    own = found[distortion][distortion]
    assert all(own <= other[distortion] + 0.01 for other in found.values())


# --- cells and maps -----------------------------------------------------------------------------


def test_few_records_make_a_small_codebook() -> None:
    few = overfitted(60, 2)
    assert len(tables(PrivacyFunnel().fit_predictions(few)).codebook) <= 6
    assert len(tables(fitted()).codebook) == 14 * 3
    assert len(tables(fitted(confidence_levels=5, shapes=2)).codebook) == 10


def test_two_records_are_enough_to_fit_and_tell_nothing_but_the_ranking() -> None:
    defense = PrivacyFunnel(advantage=0.0).fit([[0.9, 0.1, 0.0], [0.5, 0.3, 0.2]], [1, 0])
    first, other = np.sort(defense.protect(np.array([[0.9, 0.1, 0.0], [0.3, 0.2, 0.5]])), axis=1)
    assert np.array_equal(first, other)


def test_a_class_with_many_rows_has_its_own_map() -> None:
    rows = overfitted(6000, 4)
    narrow = {"confidence_levels": 4, "shapes": 1, "random_state": 0}
    own = tables(PrivacyFunnel(**narrow).fit_predictions(rows))
    assert sorted(own.map_of_class.tolist()) == list(range(K))
    # Class 0 has few rows in what follows, but not so few that it has to share with all.
    rare = (rows.probs.argmax(axis=1) == 0) & (np.arange(len(rows)) % 40 > 0)
    kept = ~rare
    part = Predictions(rows.probs[kept], rows.labels[kept], rows.is_member[kept])
    assert tables(PrivacyFunnel(**narrow).fit_predictions(part)).map_of_class.tolist() == [0] * K
    assert tables(fitted()).map_of_class.tolist() == [0] * K, "too few rows for 42 cells"


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(4, 60), k=st.integers(2, 12))
def test_any_predictions_can_be_fitted(seed: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(k, 0.1), n).round(3)
    probs[probs.sum(axis=1) == 0, 0] = 1
    probs /= probs.sum(axis=1, keepdims=True)
    rows = Predictions(probs, rng.integers(0, k, n), np.arange(n) % 2 == 0)
    protected = PrivacyFunnel(random_state=0).fit_predictions(rows).protect(probs)
    order = np.argsort(-probs, axis=1, kind="stable")
    assert np.array_equal(np.argsort(-protected, axis=1, kind="stable"), order)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"advantage": -0.1}, "advantage must be finite and in"),
        ({"advantage": 0.6}, "advantage must be finite and in"),
        ({"serving_prior": 1.5}, "serving_prior must be finite and in"),
        ({"confidence_levels": 0}, "confidence_levels must be in"),
        ({"shapes": 0}, "shapes must be in"),
        ({"distortion": "l3"}, "distortion must be one of"),
    ],
)
def test_a_wrong_parameter_is_named(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrivacyFunnel(**parameters).fit_predictions(known())


def test_labels_are_checked(make_predictions: Callable[..., Predictions]) -> None:
    rows = make_predictions(20, 20)
    with pytest.raises(ValueError, match="labels row 3 is 9"):
        PrivacyFunnel().fit(rows.probs, rows.is_member, np.where(np.arange(40) == 3, 9, 0))
    with pytest.raises(ValueError, match=r"labels must be \[40\]"):
        PrivacyFunnel().fit(rows.probs, rows.is_member, rows.labels[:-1])
