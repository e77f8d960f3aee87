"""AdaptiveAEPPT: what each round learns from, when the rounds end, and which one is kept.

What every defense promises is tested in test_defense_conformance.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aeppt import AdaptiveAEPPT, Predictions, Status, load_defense
from aeppt.defenses import adaptive_aeppt
from aeppt.defenses.adaptive_aeppt import Round

SMALL: dict[str, Any] = {"hidden": (8,), "max_steps": 20}

#: AUC and interval that a round is judged by.
Verdict = tuple[float, float, float]


def fitted_with(known: Predictions, **parameters: Any) -> AdaptiveAEPPT:
    return AdaptiveAEPPT(**{**SMALL, **parameters}).fit(known.probs, known.is_member)


def judge(monkeypatch: pytest.MonkeyPatch, *verdicts: Verdict) -> None:
    """Let the held-out learner say these, one after another."""
    said = iter(verdicts)
    monkeypatch.setattr(adaptive_aeppt, "told_apart", lambda *_: next(said))


def weights(defense: AdaptiveAEPPT) -> list[Any]:
    state = defense.module_.state_dict()
    return [state[f"weight_{i}"] for i in range(sum("weight" in name for name in state))]


# --- rounds -----------------------------------------------------------------------------------


def test_each_round_adds_one_substitute_of_each_kind(
    known: Predictions, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(monkeypatch, (0.9, 0.8, 1.0), (0.8, 0.7, 0.9), (0.7, 0.6, 0.8))
    defense = fitted_with(known, kinds=("sorted", "raw"), max_rounds=3)
    assert [judged.substitutes for judged in defense.rounds_] == [2, 4, 6]
    assert [judged[1:4] for judged in defense.rounds_] == [
        (0.9, 0.8, 1.0),
        (0.8, 0.7, 0.9),
        (0.7, 0.6, 0.8),
    ]
    # One hidden layer, three for the least of six, and the logit.
    assert [tuple(layer.shape) for layer in weights(defense)] == [
        (48, 10), (9, 48), (5, 9), (3, 5), (1, 3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("tolerance", "rounds"),
    [(0.0, 3), (0.05, 2), (0.12, 1)],
)
def test_rounds_end_where_the_interval_reaches_down_far_enough(
    tolerance: float, rounds: int, known: Predictions, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(monkeypatch, (0.7, 0.61, 0.8), (0.6, 0.54, 0.7), (0.55, 0.5, 0.6), (0.5, 0.4, 0.6))
    defense = fitted_with(known, tolerance=tolerance, max_rounds=4)
    assert len(defense.rounds_) == rounds


@pytest.mark.parametrize(
    ("aucs", "best"),
    [
        ((0.7, 0.6, 0.65), 2),
        ((0.6, 0.7, 0.65), 1),
        ((0.7, 0.65, 0.6), 3),
        ((0.7, 0.65, 0.65), 2),  # of equals the first
        ((0.49, 0.4, 0.45), 1),  # below chance is chance
    ],
)
def test_the_best_round_is_kept(
    aucs: tuple[float, ...], best: int, known: Predictions, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = [(auc, 0.51, 0.9) for auc in aucs]
    judge(monkeypatch, *verdicts)
    defense = fitted_with(known, kinds=("sorted",), max_rounds=3)
    judge(monkeypatch, *verdicts)
    stopped = fitted_with(known, kinds=("sorted",), max_rounds=best)
    assert len(defense.rounds_) == 3
    assert len(weights(defense)) == 2 + (best > 1) + (best > 2)
    assert np.array_equal(defense.protect(known.probs), stopped.protect(known.probs))


def test_later_rounds_learn_from_what_the_earlier_protect(
    known: Predictions, monkeypatch: pytest.MonkeyPatch
) -> None:
    lessons: list[NDArray[np.floating]] = []
    train = adaptive_aeppt.fit_substitute

    def spy(probs: NDArray[np.floating], *others: Any) -> Any:
        lessons.append(probs)
        return train(probs, *others)

    monkeypatch.setattr(adaptive_aeppt, "fit_substitute", spy)
    judge(monkeypatch, (0.6, 0.55, 0.65), (0.9, 0.8, 1.0))
    defense = fitted_with(known, kinds=("sorted",), max_rounds=2)  # keeps the first round
    rows = {tuple(row) for row in known.probs}
    first = {tuple(row) for row in lessons[0]}
    assert first < rows
    assert len(first) == 266  # two thirds of each 200
    assert np.array_equal(lessons[1], defense.protect(lessons[0]))


def test_the_learner_sees_only_what_no_substitute_saw(
    known: Predictions, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[NDArray[np.floating]] = []
    taught: list[NDArray[np.floating]] = []
    train = adaptive_aeppt.fit_substitute
    monkeypatch.setattr(
        adaptive_aeppt,
        "fit_substitute",
        lambda probs, *others: (taught.append(probs), train(probs, *others))[1],
    )

    def verdict(probs: NDArray[np.floating], is_member: NDArray[np.bool_], _: int) -> Verdict:
        judged.append(probs)
        assert is_member.sum() == len(is_member) / 2
        return 0.5, 0.4, 0.6

    monkeypatch.setattr(adaptive_aeppt, "told_apart", verdict)
    fitted_with(known, max_steps=0)  # rows stay as they are
    seen = {tuple(row) for row in taught[0]}
    unseen = {tuple(row) for row in judged[0]}
    assert not seen & unseen
    assert seen | unseen == {tuple(row) for row in known.probs}


# --- what it gains ----------------------------------------------------------------------------


def test_members_are_told_less_than_without(known: Predictions) -> None:
    undefended = adaptive_aeppt.told_apart(known.probs, known.is_member, 0)
    assert undefended[1] > 0.7
    defense = fitted_with(known)
    kept = min(defense.rounds_, key=lambda judged: max(0.5, judged.auc))
    assert kept.auc < undefended[1]
    assert all(0 < judged.l1 < 2 and judged.low <= judged.auc for judged in defense.rounds_)


def test_without_a_leak_one_round_suffices(make_predictions: Callable[..., Predictions]) -> None:
    assert len(fitted_with(make_predictions(leak=0.0)).rounds_) == 1


def test_rows_end_where_all_substitutes_agree_or_just_do_not(known: Predictions) -> None:
    _, info = fitted_with(known, max_rounds=1).protect(known.probs, return_info=True)
    done = info.status == Status.SUCCESS
    assert done.mean() > 0.3
    was_below = info.score_before <= 0
    assert was_below.any()
    assert not was_below.all()
    assert (info.score_after[done & was_below] >= 0).all()
    assert (info.score_after[done & ~was_below] <= 0).all()


# --- repeatability and files ------------------------------------------------------------------


def test_the_seed_decides(known: Predictions) -> None:
    one, same, other = (fitted_with(known, random_state=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.protect(known.probs), same.protect(known.probs))
    assert one.rounds_ == same.rounds_
    assert not np.array_equal(one.protect(known.probs), other.protect(known.probs))


def test_the_rounds_are_saved_too(known: Predictions, tmp_path: Path) -> None:
    defense = fitted_with(known)
    defense.save(tmp_path / "d.safetensors")
    back = load_defense(tmp_path / "d.safetensors")
    assert isinstance(back, AdaptiveAEPPT)
    assert back.rounds_ == defense.rounds_
    assert isinstance(back.rounds_[0], Round)


def test_rounds_are_told_while_they_are_made(
    known: Predictions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    judge(monkeypatch, (0.7, 0.6, 0.8), (0.52, 0.49, 0.55))
    with caplog.at_level(logging.INFO, "aeppt"):
        fitted_with(known, kinds=("sorted",))
    assert len(caplog.messages) == 2
    assert caplog.messages[1].startswith(
        "round 2 of at most 3: 2 substitutes, AUC of a held-out learner 0.520 [0.490–0.550], "
    )


def test_there_are_no_rounds_before_fit() -> None:
    assert not hasattr(AdaptiveAEPPT(), "rounds_")


# --- bad parameters ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("max_rounds", 0, ValueError),
        ("max_rounds", 1.5, TypeError),
        ("kinds", (), ValueError),
        ("kinds", ("sorted", "logit"), ValueError),
        ("kinds", "sorted", TypeError),
        ("kinds", None, TypeError),
        ("hidden", (0,), ValueError),
        ("hidden", 8, TypeError),
        ("border", 1.1, ValueError),
        ("border", None, TypeError),
        ("tolerance", 0.6, ValueError),
        ("step_size", -1.0, ValueError),
        ("precision", "float16", ValueError),
    ],
)
def test_a_bad_parameter_is_named(
    name: str, value: object, error: type[Exception], known: Predictions
) -> None:
    with pytest.raises(error, match=name):
        fitted_with(known, **{name: value})


def test_few_records_are_refused(make_predictions: Callable[..., Predictions]) -> None:
    fitted_with(make_predictions(5, 5), max_rounds=1)
    with pytest.raises(ValueError, match="at least 5 non-members, to hold 2 out; got 4"):
        fitted_with(make_predictions(40, 4))
