"""Attacks that ask more than once: the same record again, its neighbours, or for the time it takes.

They aim at defenses that change a model's output. Fresh noise is averaged away by asking again;
noise drawn by the exact input, and answers that jump at a border, show between neighbours; a
defense that works harder on some records shows in the time of its answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from aeppt.attacks.base import Attack, QueriedModel, QueryAttack, best_threshold
from aeppt.attacks.metric import ConfidenceAttack
from aeppt.predictions import Predictions, checked_probs

#: The most queries sent in one call of ``predict``: bounds the memory that a call needs.
ROWS_PER_CALL = 1024


def answers(
    predict: Callable[[NDArray[np.floating]], NDArray[np.floating]], queries: NDArray[np.floating]
) -> NDArray[np.floating]:
    """The model's probability vectors [m, k] for ``queries`` [m, ...], asked in chunks.

    Raises
    ------
    ValueError
        An answer is not a probability vector, or there are more or fewer answers than queries.
    TypeError
        The answers are not float32 or float64.
    """
    chunks = []
    for first in range(0, len(queries), ROWS_PER_CALL):
        chunk = np.ascontiguousarray(queries[first : first + ROWS_PER_CALL])
        probs = checked_probs(predict(chunk))
        if len(probs) != len(chunk):
            raise ValueError(f"predict gave {len(probs)} rows for {len(chunk)} queries")
        chunks.append(probs)
    return np.concatenate(chunks)


class RepeatedQueriesAttack(QueryAttack):
    """Asks each record several times and attacks the mean of the answers.

    The mean of r answers has a variance r times smaller, so noise that is drawn anew for each
    answer fades, and the attack ends where it would be without the defense. Answers that are always
    the same have that answer as their mean, to the last digit: nothing is gained.

    Parameters
    ----------
    attack : Attack, optional
        What judges the mean; :class:`ConfidenceAttack` unless given.
    repeats : int
        How often each record is asked, r: the queries per record.
    """

    name = "repeated queries"

    def __init__(self, attack: Attack | None = None, repeats: int = 32) -> None:
        self.attack = ConfidenceAttack() if attack is None else attack
        self.repeats = _at_least_one(repeats, "repeats")

    def run(
        self, shadow: QueriedModel, targets: Sequence[QueriedModel]
    ) -> list[NDArray[np.float64]]:
        """The given attack's scores of the mean answers."""
        return self.attack(self._mean(shadow), *map(self._mean, targets))

    def _mean(self, model: QueriedModel) -> Predictions:
        mean = answers(model.predict, model.features).astype(np.float64)
        for count in range(2, self.repeats + 1):
            # Unlike a sum that is divided at the end, this is exact where all answers are equal.
            mean += (answers(model.predict, model.features) - mean) / count
        return Predictions(mean, model.labels, model.is_member)


class NeighbouringQueriesAttack(QueryAttack):
    """Asks each record and near copies of it, and learns from the answers' mean and spread.

    A classifier hardly tells a record from a copy nearby. Where the answers differ all the same,
    the defense made the difference: its noise hangs on the exact input, and the mean undoes it, or
    its answer jumps at a border that runs close by, and the spread shows it.

    A logistic regression, trained on the shadow model with both sides weighted alike, sees four
    numbers per record: mean and standard deviation of the true class's probability and of the
    greatest probability.

    Parameters
    ----------
    copies : int
        Near copies per record. A record costs one query more than that.
    scale : float
        How far the copies are: the standard deviation of their Gaussian noise, in units of each
        feature's standard deviation over the shadow's records.
    random_state : int
    """

    name = "neighbouring queries"

    def __init__(self, copies: int = 32, scale: float = 0.01, random_state: int = 0) -> None:
        if not 0 < scale < np.inf:
            raise ValueError(f"scale must be above 0 and finite, got {scale}")
        self.copies = _at_least_one(copies, "copies")
        self.scale = scale
        self.random_state = random_state

    def run(
        self, shadow: QueriedModel, targets: Sequence[QueriedModel]
    ) -> list[NDArray[np.float64]]:
        """The logistic regression's log-odds of "member"."""
        noise = self.scale * shadow.features.std(axis=0)
        if not noise.any():
            raise ValueError("the shadow's records are all the same: their spread sets the noise")
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
        model.fit(self._mean_and_spread(shadow, noise), shadow.is_member)
        return [
            model.decision_function(self._mean_and_spread(target, noise)).astype(np.float64)
            for target in targets
        ]

    def _mean_and_spread(
        self, model: QueriedModel, noise: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        rng = np.random.default_rng(self.random_state)
        rows = np.arange(len(model))
        features = model.features
        seen = np.empty((self.copies + 1, len(model), 2))
        for copy in range(self.copies + 1):
            shift = noise * rng.standard_normal(features.shape) if copy else 0
            probs = answers(model.predict, (features + shift).astype(features.dtype))
            seen[copy] = np.stack([probs[rows, model.labels], probs.max(axis=1)], axis=1)
        return np.concatenate([seen.mean(axis=0), seen.std(axis=0)], axis=1)


class ResponseTimeAttack(QueryAttack):
    """Measures how long the model takes to answer each record.

    Records are asked one at a time, in rounds of all of them, each in a new random order: a machine
    that grows slower or faster does so for all records alike. A record's time is the median of its
    rounds. Whether members are the slower or the faster ones is learned on the shadow model, which
    must be asked over the same channel and on the same machine as the target.

    Parameters
    ----------
    repeats : int
        Rounds: the queries per record.
    clock : callable
        Gives the present time in seconds and must never run backwards. It is read right before and
        right after ``predict``.
    random_state : int
        Of the order of the records.
    """

    name = "response time"

    def __init__(
        self,
        repeats: int = 15,
        clock: Callable[[], float] = time.perf_counter,
        random_state: int = 0,
    ) -> None:
        self.repeats = _at_least_one(repeats, "repeats")
        self.clock = clock
        self.random_state = random_state

    def run(
        self, shadow: QueriedModel, targets: Sequence[QueriedModel]
    ) -> list[NDArray[np.float64]]:
        """Seconds beyond the threshold, on the members' side."""
        times = self._times(shadow)
        sign = 1 if roc_auc_score(shadow.is_member, times) >= 0.5 else -1
        threshold = best_threshold(sign * times, shadow.is_member)
        return [sign * self._times(target) - threshold for target in targets]

    def _times(self, model: QueriedModel) -> NDArray[np.float64]:
        rng = np.random.default_rng(self.random_state)
        times = np.empty((self.repeats, len(model)))
        for round_ in times:
            for record in rng.permutation(len(model)):
                query = model.features[record : record + 1]
                start = self.clock()
                model.predict(query)
                round_[record] = self.clock() - start
        return np.median(times, axis=0)


def _at_least_one(value: int, name: str) -> int:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value
