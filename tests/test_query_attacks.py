"""Query attacks: noise is averaged away, borders and input-bound noise show, and so does time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b

import numpy as np
import pytest
from numpy.typing import NDArray

from aeppt import Predictions
from aeppt.attacks.base import Attack, QueriedModel, QueryAttack
from aeppt.attacks.metric import ConfidenceAttack, EntropyAttack
from aeppt.attacks.queries import (
    ROWS_PER_CALL,
    NeighbouringQueriesAttack,
    RepeatedQueriesAttack,
    ResponseTimeAttack,
    answers,
)

Array = NDArray[np.float64]
Predict = Callable[[Array], Array]


def rows(first: Array) -> Array:
    """Answers (p, 1 - p)."""
    return np.stack([first, 1 - first], axis=1)


def leaking(n: int, seed: int, member: float = 0.8, other: float = 0.6) -> QueriedModel:
    """All records are of class 0, which has a higher probability around members.

    The records are numbers, a unit or more apart; each stands for all that is nearer to it.
    """
    is_member = np.random.default_rng(seed).permutation(np.arange(2 * n) < n)
    features = np.arange(2.0 * n)[:, None]

    def predict(queries: Array) -> Array:
        nearest = np.rint(queries[:, 0]).astype(int).clip(0, 2 * n - 1)
        return rows(np.where(is_member[nearest], member, other))

    return QueriedModel(predict, features, np.zeros(2 * n, int), is_member)


def defended(model: QueriedModel, defense: Callable[[Array, Array], Array]) -> QueriedModel:
    """The same model behind a defense of queries [m, 1] and their answers' first column [m]."""
    undefended = model.predict
    return replace(model, predict=lambda x: rows(defense(x, undefended(x)[:, 0])))


def hashed(queries: Array) -> Array:
    """A number in [0, 1) that hangs on all bits of each query."""
    digests = b"".join(blake2b(query.tobytes(), digest_size=8).digest() for query in queries)
    return np.frombuffer(digests, np.uint64) / 2**64


def balanced_accuracy(attack: QueryAttack, shadow: QueriedModel, target: QueriedModel) -> float:
    (scores,) = attack(shadow, target)
    accused = scores > 0
    return float((accused[target.is_member].mean() + (~accused)[~target.is_member].mean()) / 2)


# --- answers ----------------------------------------------------------------------------------


def test_answers_come_in_order_from_calls_of_bounded_size() -> None:
    sizes = []

    def predict(queries: Array) -> Array:
        sizes.append(len(queries))
        assert queries.flags.c_contiguous
        return rows(queries[:, 0])

    asked = np.linspace(0, 1, 2 * ROWS_PER_CALL + 5)[:, None]
    assert np.array_equal(answers(predict, asked[::-1])[:, 0], asked[::-1, 0])
    assert sizes == [ROWS_PER_CALL, ROWS_PER_CALL, 5]


@pytest.mark.parametrize(
    ("predict", "error", "message"),
    [
        (lambda x: rows(x[1:, 0]), ValueError, "2 rows for 3 queries"),
        (lambda x: rows(x[:, 0]) * 2, ValueError, "row 0"),
        (lambda x: rows(x[:, 0]).astype(int), TypeError, "int64"),
    ],
)
def test_answers_that_are_none_are_refused(
    predict: Predict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        answers(predict, np.full((3, 1), 0.5))


# --- the same record again --------------------------------------------------------------------


def noisy(model: QueriedModel, seed: int) -> QueriedModel:
    """Fresh noise, with four times the standard deviation that members and others are apart."""
    rng = np.random.default_rng(seed)
    return defended(model, lambda _, p: (p + rng.normal(0, 0.08, len(p))).clip(0, 1))


def test_averaging_undoes_fresh_noise_the_more_the_more_often_it_asks() -> None:
    def accuracy(repeats: int) -> float:
        shadow, target = (noisy(leaking(300, seed, 0.62, 0.6), seed) for seed in (1, 2))
        return balanced_accuracy(RepeatedQueriesAttack(repeats=repeats), shadow, target)

    once, often, very_often = accuracy(1), accuracy(16), accuracy(256)
    # A threshold in the middle of two normal distributions is right with Φ(√r / 8).
    assert once == pytest.approx(0.5497, abs=0.05)
    assert often == pytest.approx(0.6915, abs=0.05)
    assert very_often == pytest.approx(0.9772, abs=0.05)


@pytest.mark.parametrize("attack", [ConfidenceAttack(), EntropyAttack()])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_averaging_gains_nothing_on_answers_that_stay(attack: Attack, dtype: type) -> None:
    answer = np.random.default_rng(0).dirichlet([1, 1, 1], 40).astype(dtype)
    model = QueriedModel(
        lambda x: answer[x[:, 0].astype(int)],
        np.arange(40.0)[:, None],
        np.arange(40) % 3,
        np.arange(40) % 2 == 0,
    )
    once = Predictions(answer.astype(np.float64), model.labels, model.is_member)
    (scores,) = RepeatedQueriesAttack(attack, repeats=7)(model, model)
    assert np.array_equal(scores, attack(once, once)[0])


def test_repeats_are_the_queries_per_record() -> None:
    asked = []
    model = defended(leaking(10, 0), lambda x, p: asked.append(len(x)) or p)  # type: ignore[func-returns-value]
    RepeatedQueriesAttack(repeats=5)(model)
    assert sum(asked) == 5 * len(model)


# --- neighbours -------------------------------------------------------------------------------


def swapped(model: QueriedModel) -> QueriedModel:
    """A hash of the exact input decides, in 45 % of cases, for the other side's answer."""
    return defended(model, lambda x, p: np.where((hashed(x) < 0.45) == (p == 0.6), 0.8, 0.6))


def test_neighbours_undo_noise_that_hangs_on_the_exact_input() -> None:
    shadow, target = (swapped(leaking(200, seed)) for seed in (1, 2))
    again = balanced_accuracy(RepeatedQueriesAttack(repeats=8), shadow, target)
    assert again == pytest.approx(0.55, abs=0.05), "asking the same again is of no use"
    attack = NeighbouringQueriesAttack(copies=400, scale=1e-4)
    assert balanced_accuracy(attack, shadow, target) > 0.95


def test_neighbours_show_answers_that_jump() -> None:
    # Around members the answer is one of two values with the mean that all others get.
    def jumping(x: Array, p: Array) -> Array:
        return np.where(p > 0.7, np.where(hashed(x) < 0.5, 0.6, 0.8), 0.7)

    shadow, target = (defended(leaking(200, seed), jumping) for seed in (1, 2))
    attack = NeighbouringQueriesAttack(copies=16, scale=1e-4)
    assert balanced_accuracy(attack, shadow, target) > 0.99


def test_neighbours_find_nothing_where_nothing_leaks() -> None:
    shadow, target = (swapped(leaking(300, seed, 0.6, 0.6)) for seed in (1, 2))
    shadow, target = (
        defended(model, lambda x, p: p + 0.1 * hashed(x)) for model in (shadow, target)
    )
    attack = NeighbouringQueriesAttack(copies=16, scale=1e-4)
    assert 0.45 <= balanced_accuracy(attack, shadow, target) <= 0.55


def test_neighbours_are_near_and_few() -> None:
    seen = []
    features = np.random.default_rng(0).standard_normal((200, 2)) * [1, 1000]

    def predict(queries: Array) -> Array:
        seen.append(queries)
        return rows(np.full(len(queries), 0.6))

    model = QueriedModel(predict, features, np.zeros(200, int), np.arange(200) < 100)
    NeighbouringQueriesAttack(copies=9, scale=0.01)(model)
    assert len(seen) == 10
    assert np.array_equal(seen[0], features)
    shifts = np.concatenate(seen[1:]) - np.tile(features, (9, 1))
    assert (shifts / features.std(axis=0)).std(axis=0) == pytest.approx([0.01, 0.01], rel=0.1)


def test_the_seed_decides_which_neighbours() -> None:
    shadow, target = (swapped(leaking(20, seed)) for seed in (1, 2))
    first, again, other = (
        NeighbouringQueriesAttack(8, 1e-4, seed)(shadow, target)[0] for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_records_that_are_all_the_same_have_no_neighbours() -> None:
    model = leaking(5, 0)
    model = replace(model, features=np.zeros_like(model.features))
    with pytest.raises(ValueError, match="all the same"):
        NeighbouringQueriesAttack()(model, model)


# --- time -------------------------------------------------------------------------------------


class PlantedClock:
    """A clock that only a query moves: by what it is told for each record, and by a drift."""

    def __init__(self, seconds: Callable[[float], float], drift: float = 0.0) -> None:
        self.seconds = seconds
        self.drift = drift
        self.now = 0.0
        self.log: list[str] = []
        self.order: list[float] = []

    def __call__(self) -> float:
        self.log.append("clock")
        return self.now

    def timed(self, model: QueriedModel) -> QueriedModel:
        def predict(queries: Array) -> Array:
            self.log.append("predict")
            assert len(queries) == 1
            self.order.append(float(queries[0, 0]))
            self.now += self.seconds(queries[0, 0]) + self.drift * len(self.order)
            return model.predict(queries)

        return replace(model, predict=predict)


def in_order(n: int) -> QueriedModel:
    """Members come first."""
    return replace(leaking(n, 0), is_member=np.arange(2 * n) < n)


@pytest.mark.parametrize("extra", [0.1, -0.1], ids=["members slower", "members faster"])
def test_the_time_of_members_is_found(extra: float) -> None:
    clock = PlantedClock(lambda record: 1 + extra * (record < 50), drift=1e-6)
    model = clock.timed(in_order(50))
    attack = ResponseTimeAttack(repeats=5, clock=clock)
    assert balanced_accuracy(attack, model, model) == 1
    assert np.abs(attack(model, model)[0]) == pytest.approx(np.full(100, 0.05), rel=0.05)


def test_a_rare_stall_does_not_hide_it() -> None:
    rng = np.random.default_rng(0)
    clock = PlantedClock(lambda record: 1 + 0.1 * (record < 50) + 100 * (rng.random() < 0.05))
    model = clock.timed(in_order(50))
    assert balanced_accuracy(ResponseTimeAttack(clock=clock), model, model) == 1


def test_an_even_clock_tells_nothing() -> None:
    clock = PlantedClock(lambda record: 1.0)
    model = clock.timed(in_order(20))
    (scores,) = ResponseTimeAttack(repeats=3, clock=clock)(model, model)
    assert len(set(scores.tolist())) == 1


@pytest.mark.parametrize("drift", [0.0, 1e-3], ids=["steady", "growing slower"])
def test_time_that_hangs_on_nothing_tells_nothing(drift: float) -> None:
    rng = np.random.default_rng(1)
    clock = PlantedClock(lambda record: 1 + rng.exponential(0.1), drift)
    shadow, target = clock.timed(in_order(400)), clock.timed(in_order(400))
    attack = ResponseTimeAttack(repeats=3, clock=clock)
    assert 0.45 <= balanced_accuracy(attack, shadow, target) <= 0.55


def test_only_predict_is_timed_in_rounds_of_all_records() -> None:
    clock = PlantedClock(lambda record: 1.0)
    model = clock.timed(in_order(10))
    ResponseTimeAttack(repeats=4, clock=clock, random_state=3)(model)
    assert clock.log == ["clock", "predict", "clock"] * 4 * len(model)
    rounds = np.reshape(clock.order, (4, len(model)))
    assert np.array_equal(np.sort(rounds, axis=1), np.tile(np.arange(20.0), (4, 1)))
    assert len({tuple(one) for one in rounds}) == 4, "every round has its own order"
    first = clock.order.copy()
    clock.order.clear()
    ResponseTimeAttack(repeats=4, clock=clock, random_state=3)(model)
    assert clock.order == first


def test_features_that_small_changes_would_be_lost_on_are_refused() -> None:
    with pytest.raises(TypeError, match="features must be floating-point numbers, got int64"):
        QueriedModel(rows, np.zeros((2, 3), np.int64), np.zeros(2, int), np.arange(2) < 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RepeatedQueriesAttack(repeats=0), "repeats must be at least 1, got 0"),
        (lambda: NeighbouringQueriesAttack(copies=0), "copies must be at least 1, got 0"),
        (lambda: NeighbouringQueriesAttack(scale=0.0), r"scale must be above 0.* got 0\.0"),
        (lambda: NeighbouringQueriesAttack(scale=float("nan")), "scale.* got nan"),
        (lambda: ResponseTimeAttack(repeats=-1), "repeats must be at least 1, got -1"),
    ],
)
def test_bad_parameters_are_refused(make: Callable[[], QueryAttack], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
