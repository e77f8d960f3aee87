"""One experiment in membership inference: who has which records, and what their models say.

A comparison of defenses runs many: each seed deals the records and trains all models anew.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aeppt.data.records import Records, join_records, split_records
from aeppt.models import predict_probs
from aeppt.models.shadows import model_seed, random_halves
from aeppt.models.training import Architecture
from aeppt.predictions import Predictions
from aeppt.recipes import Recipe
from aeppt.shadow_predictions import ShadowPredictions

#: Features [n, ...] to probabilities [n, k].
Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]
#: Trains a classifier on records, with reference records and a seed at hand.
Train = Callable[[Records, Records, int], Predict]


@dataclass(frozen=True)
class Experiment:
    """What an audit of any output defense needs to know of one trained model and its attacker.

    Parameters
    ----------
    known : Predictions
        The target's, on its members and on non-members that the defender has: to fit a defense.
    target : Predictions
        The target's, on its members and on fresh non-members: to attack.
    shadow : Predictions
        The shadow model's, on its members and non-members.
    shadows : ShadowPredictions or None
        Many shadow models' on the records of ``target``.
    training_seconds : float
        What it took to train the target; NaN where that is not known.
    """

    known: Predictions
    target: Predictions
    shadow: Predictions
    shadows: ShadowPredictions | None = None
    training_seconds: float = math.nan


@dataclass(frozen=True)
class Sizes:
    """How many records each party has; see :func:`aeppt.data.split_records`."""

    members: int
    shadow_members: int
    reference: int = 0
    shadow_models: int = 0


def run_experiment(train: Train, records: Records, sizes: Sizes, random_state: int) -> Experiment:
    """Deal the records, train the target, the shadow model and the many shadow models.

    The attacker trains in the target's way. Each of the many shadow models has its own half of the
    target's members and fresh non-members together, and the attacker's reference records.
    """
    split = split_records(
        records, sizes.members, sizes.shadow_members, random_state, sizes.reference
    )
    target_seed, shadow_seed = np.random.SeedSequence(random_state).generate_state(2).tolist()
    begin = time.perf_counter()
    target = train(split.members, split.reference, target_seed)
    seconds = time.perf_counter() - begin
    shadow = train(split.shadow_members, split.shadow_reference, shadow_seed)
    pool = join_records(split.members, split.fresh_non_members)
    return Experiment(
        known=_said(target, split.members, split.known_non_members),
        target=_said(target, split.members, split.fresh_non_members),
        shadow=_said(shadow, split.shadow_members, split.shadow_non_members),
        shadows=_shadows(train, pool, split.shadow_reference, sizes.shadow_models, shadow_seed + 1),
        training_seconds=seconds,
    )


def training_by(recipe: Recipe, architecture: Architecture, epochs: int) -> Train:
    """The recipe as a :data:`Train`."""

    def train(records: Records, reference: Records, random_state: int) -> Predict:
        model = recipe.train(architecture, records, epochs, random_state, reference)
        return lambda features: predict_probs(model, features)

    return train


def _said(predict: Predict, members: Records, others: Records) -> Predictions:
    both = join_records(members, others)
    is_member = np.arange(len(both)) < len(members)
    return Predictions(predict(both.features), both.labels, is_member)


def _shadows(
    train: Train, pool: Records, reference: Records, models: int, random_state: int
) -> ShadowPredictions | None:
    if models == 0:
        return None
    trained_on = random_halves(len(pool), models, random_state)
    probs = np.empty((models, len(pool), pool.n_classes), np.float32)
    for model, half in enumerate(trained_on):
        own = pool.take(np.flatnonzero(half))
        probs[model] = train(own, reference, model_seed(random_state, model))(pool.features)
    return ShadowPredictions(probs, pool.labels, trained_on)
