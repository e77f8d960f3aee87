"""One experiment in membership inference: who has which records, and what their models say.

A comparison of defenses runs many: each seed deals the records and trains all models anew. An
experiment may also be made of predictions that exist already.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from aeppt.data.records import Records, join_records, split_records
from aeppt.files import write_arrays
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

#: The predictions of an experiment, and their types.
PARTS: dict[str, type[Predictions] | type[ShadowPredictions]] = {
    "known": Predictions,
    "target": Predictions,
    "shadow": Predictions,
    "shadows": ShadowPredictions,
}

#: How many reference records there are beside the set-ups of the demonstration.
REFERENCE_RECORDS = {"digits": 100, "location": 500}


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
        Many shadow models' on the records of ``target``, in the same order.
    training_seconds : float
        What it took to train the target; NaN where that is not known.
    """

    known: Predictions
    target: Predictions
    shadow: Predictions
    shadows: ShadowPredictions | None = None
    training_seconds: float = math.nan

    def save(self, path: str | Path) -> None:
        """Write everything to an ``.npz`` file, atomically; :meth:`load` reads it back."""
        roles = [role for role in PARTS if getattr(self, role) is not None]
        arrays = {
            f"{role}_{name}": array
            for role in roles
            for name, array in vars(getattr(self, role)).items()
        }
        arrays["training_seconds"] = np.float64(self.training_seconds)
        write_arrays(path, arrays)

    @classmethod
    def load(cls, path: str | Path) -> Experiment:
        """Read what :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ValueError
            The file is damaged, or not a saved experiment.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no experiment at {path}")
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            parts: dict[str, Any] = {
                role: kind(*(arrays[f"{role}_{field.name}"] for field in fields(kind)))
                for role, kind in PARTS.items()
                if f"{role}_probs" in arrays
            }
            return cls(**parts, training_seconds=float(arrays["training_seconds"]))
        except (
            BadZipFile,
            EOFError,
            KeyError,
            OSError,
            TypeError,
            ValueError,
            zlib.error,
        ) as error:
            raise ValueError(f"{path} is damaged or not a saved experiment ({error})") from error


@dataclass(frozen=True)
class Sizes:
    """How many records each party has (:func:`aeppt.data.split_records`), and how many models.

    Raises
    ------
    ValueError
        A number is too small, or ``shadow_models`` neither 0 nor an even number of at least 4.
    """

    members: int
    shadow_members: int
    reference: int = 0
    shadow_models: int = 0

    def __post_init__(self) -> None:
        for name, least in (("members", 1), ("shadow_members", 1), ("reference", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        models = self.shadow_models
        if models != 0 and (models < 4 or models % 2):
            raise ValueError(f"shadow_models must be 0 or an even number from 4 on, got {models}")


def run_experiment(train: Train, records: Records, sizes: Sizes, random_state: int) -> Experiment:
    """Deal the records, train the target, the shadow model and the many shadow models.

    The attacker trains in the target's way. Each of the many shadow models has its own half of the
    target's members and fresh non-members together, and the attacker's reference records.

    Raises
    ------
    ValueError
        There are too few records for ``sizes``.
    """
    split = split_records(
        records, sizes.members, sizes.shadow_members, random_state, sizes.reference
    )
    target_seed, shadow_seed = np.random.SeedSequence(random_state).generate_state(2).tolist()
    # The shadow model first: what is slow only once in a process is not the target's to pay.
    shadow = train(split.shadow_members, split.shadow_reference, shadow_seed)
    begin = time.perf_counter()
    target = train(split.members, split.reference, target_seed)
    seconds = time.perf_counter() - begin
    pool = join_records(split.members, split.fresh_non_members)
    return Experiment(
        known=_said(target, split.members, split.known_non_members),
        target=_said(target, split.members, split.fresh_non_members),
        shadow=_said(shadow, split.shadow_members, split.shadow_non_members),
        shadows=_shadows(train, pool, split.shadow_reference, sizes.shadow_models, shadow_seed + 1),
        training_seconds=seconds,
    )


def given_experiment(
    target: Predictions,
    shadow: Predictions,
    known: Predictions | None = None,
    shadows: ShadowPredictions | None = None,
) -> Experiment:
    """An experiment of predictions that exist already.

    A defense must be attacked on non-members that it was not fitted on. Where ``known`` is None,
    every other non-member of ``target`` goes to the defender and is not attacked.

    Parameters
    ----------
    target : Predictions
        The protected model's.
    shadow : Predictions
        The attacker's shadow model's.
    known : Predictions or None
        The protected model's, to fit defenses on.
    shadows : ShadowPredictions or None
        Many shadow models' on the records of ``target``, in the same order.

    Raises
    ------
    ValueError
        ``target`` has fewer than two non-members, ``shadows`` are about other records, or ``known``
        holds more than half of the non-members of ``target``.
    """
    if shadows is not None and not np.array_equal(shadows.labels, target.labels):
        raise ValueError("shadows must be about the target's records in their order: labels differ")
    others = np.flatnonzero(~target.is_member)
    if len(others) < 2:
        raise ValueError(f"target needs 2 non-members or more, it has {len(others)}")
    if known is not None:
        asked = _rows_of_non_members(target)
        shared = len(asked & _rows_of_non_members(known))
        if shared > len(asked) / 2:
            raise ValueError(
                f"known holds {shared} of target's {len(asked)} predictions on non-members; fit "
                "defenses on others, or leave known out to have those of target shared out"
            )
        return Experiment(known, target, shadow, shadows)
    is_kept, is_asked = np.ones((2, len(target)), bool)
    is_kept[others[::2]] = is_asked[others[1::2]] = False
    if shadows is not None:
        shadows = shadows.take(np.flatnonzero(is_asked))
    return Experiment(target.take(is_kept), target.take(is_asked), shadow, shadows)


def training_by(recipe: Recipe, architecture: Architecture, epochs: int) -> Train:
    """The recipe as a :data:`Train`."""

    def train(records: Records, reference: Records, random_state: int) -> Predict:
        model = recipe.train(architecture, records, epochs, random_state, reference)
        return lambda features: predict_probs(model, features)

    return train


def _rows_of_non_members(predictions: Predictions) -> set[bytes]:
    rows = np.column_stack([predictions.probs.astype(np.float64), predictions.labels])
    return {row.tobytes() for row in rows[~predictions.is_member]}


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
