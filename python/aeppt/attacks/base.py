"""What every membership inference attack is, by what the attacker has.

:class:`Attack`: predictions of one shadow model. :class:`PerExampleAttack`: predictions of many
shadow models on the very records under attack. :class:`QueryAttack`: the model itself, to query.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from aeppt.predictions import Predictions, checked_membership
from aeppt.shadow_predictions import ShadowPredictions


class Attack(ABC):
    """An attacker who learns on a shadow model and judges the records of a target model.

    Subclasses implement :meth:`run`; callers use the attack as a function, which checks the result.
    """

    name: str

    @abstractmethod
    def run(self, shadow: Predictions, targets: Sequence[Predictions]) -> list[NDArray[np.float64]]:
        """Scores of each of ``targets``, after learning once on ``shadow``."""

    @final
    def __call__(self, shadow: Predictions, *targets: Predictions) -> list[NDArray[np.float64]]:
        """Attack ``targets`` with what ``shadow`` teaches.

        Parameters
        ----------
        shadow : Predictions
            Of the attacker's own model, whose members the attacker knows.
        *targets : Predictions
            Of the model under attack. Their ``is_member`` is never looked at.

        Returns
        -------
        list of array [n], float64
            Per target, a score per record: higher is likelier a member, above zero means "member".

        Raises
        ------
        ValueError
            The numbers of classes differ, or the shadow records are all members or all not.
        RuntimeError
            The attack broke its promise: a wrong shape, or a score that is not finite.
        """
        for target in targets:
            if target.n_classes != shadow.n_classes:
                raise ValueError(
                    f"the shadow predictions have {shadow.n_classes} classes, the target's "
                    f"{target.n_classes}"
                )
        if shadow.is_member.all() or not shadow.is_member.any():
            raise ValueError("the shadow predictions need members and non-members")
        # An attack sees no membership of a target: what it does not have it cannot leak.
        blind = [Predictions(t.probs, t.labels, np.zeros(len(t), bool)) for t in targets]
        results = self.run(shadow, blind)
        return _checked(self.name, results, targets)


class PerExampleAttack(ABC):
    """An attacker who judges each record by what shadow models with and without it say of it.

    Subclasses implement :meth:`run`; callers use the attack as a function, which sets the threshold
    and checks the result.
    """

    name: str
    #: How many shadow models, counted from the first, stand for the target to set the threshold.
    rehearsals: ClassVar[int] = 4

    @abstractmethod
    def run(self, shadows: ShadowPredictions, target: Predictions) -> NDArray[np.float64]:
        """Scores [n] of the target's records, higher for likelier members, on any scale."""

    @final
    def __call__(self, shadows: ShadowPredictions, target: Predictions) -> NDArray[np.float64]:
        """Attack ``target`` with what the shadow models say of the same records.

        Parameters
        ----------
        shadows : ShadowPredictions
            Of at least two shadow models, on the target's records in the same order.
        target : Predictions
            Of the model under attack. Its ``is_member`` is never looked at.

        Returns
        -------
        array [n], float64
            Higher is likelier a member, above zero means "member": the threshold is the one with
            the best balanced accuracy where shadow models, attacked by means of the others, stand
            for the target.

        Raises
        ------
        ValueError
            The records or classes of both sides differ, there are fewer than two shadow models, or
            none of the first few has both members and non-members.
        RuntimeError
            The attack broke its promise: a wrong shape, or a score that is not finite.
        """
        if shadows.probs.shape[1:] != target.probs.shape:
            raise ValueError(
                f"the shadow models predict {shadows.probs.shape[1:]} (records, classes), the "
                f"target {target.probs.shape}"
            )
        if not np.array_equal(shadows.labels, target.labels):
            raise ValueError("the shadow models' records have other labels than the target's")
        if len(shadows) < 2:
            raise ValueError(f"a per-example attack needs 2 shadow models, got {len(shadows)}")
        thresholds = []
        for model in range(min(self.rehearsals, len(shadows))):
            truth = shadows.trained_on[model]
            if truth.any() and not truth.all():
                scores = self._checked(shadows.without_model(model), shadows.of_model(model))
                thresholds.append(best_threshold(scores, truth))
        if not thresholds:
            raise ValueError("no shadow model was trained on some of the records and not on others")
        return self._checked(shadows, target) - float(np.median(thresholds))

    def _checked(self, shadows: ShadowPredictions, target: Predictions) -> NDArray[np.float64]:
        blind = Predictions(target.probs, target.labels, np.zeros(len(target), bool))
        (scores,) = _checked(self.name, [self.run(shadows, blind)], [target])
        return scores


@dataclass(frozen=True)
class QueriedModel:
    """A model that an attacker may query, and the records that it is asked about.

    Parameters
    ----------
    predict : callable
        Features [m, ...] to probability vectors [m, k]: what a client of the model receives.
    features : array [n, ...]
        The records; a query is a record or something near it.
    labels : array [n], integer
        Their true classes.
    is_member : array [n], bool or 0/1
        Whether the model was trained on the record.

    Raises
    ------
    ValueError
        There are no records, the lengths differ, or ``is_member`` holds something else than 0 and
        1; the message names the row.
    """

    predict: Callable[[NDArray[np.floating]], NDArray[np.floating]]
    features: NDArray[np.floating]
    labels: NDArray[np.int64]
    is_member: NDArray[np.bool_]

    def __post_init__(self) -> None:
        n, shape = len(self.features), np.shape(self.labels)
        if n == 0 or shape != (n,):
            raise ValueError(f"labels must be [n] for n features, at least 1, got {shape} for {n}")
        if np.asarray(self.features).dtype.kind != "f":
            raise TypeError(
                f"features must be floating-point numbers, got {np.asarray(self.features).dtype}: "
                "attacks change them by small amounts"
            )
        object.__setattr__(self, "is_member", checked_membership(self.is_member, n))

    def __len__(self) -> int:
        return len(self.labels)


class QueryAttack(ABC):
    """An attacker who sends queries of his own to the model: repeated, changed, or many.

    Subclasses implement :meth:`run`; callers use the attack as a function, which checks the result.
    """

    name: str

    @abstractmethod
    def run(self, shadow: QueriedModel, targets: Sequence[QueriedModel]) -> list[NDArray]:
        """Scores of the records of each of ``targets``, after learning once on ``shadow``."""

    @final
    def __call__(self, shadow: QueriedModel, *targets: QueriedModel) -> list[NDArray[np.float64]]:
        """Attack ``targets`` with what ``shadow`` teaches; see :meth:`Attack.__call__`."""
        if shadow.is_member.all() or not shadow.is_member.any():
            raise ValueError("the shadow model's records need members and non-members")
        blind = [replace(target, is_member=np.zeros(len(target), bool)) for target in targets]
        results = self.run(shadow, blind)
        return _checked(self.name, results, targets)


def _checked(
    attack: str, results: list[NDArray], targets: Sequence[Sized]
) -> list[NDArray[np.float64]]:
    """What an attack gave for each target, if it kept its promise."""
    if len(results) != len(targets):
        raise RuntimeError(f"the attack {attack!r} did not score every target")
    for target, scores in zip(targets, results, strict=True):
        if scores.shape != (len(target),) or not np.isfinite(scores).all():
            raise RuntimeError(f"the attack {attack!r} gave scores that are not valid")
    return [scores.astype(np.float64) for scores in results]


def best_threshold(statistic: NDArray[np.float64], is_member: NDArray[np.bool_]) -> float:
    """The value v for which "statistic > v" has the best balanced accuracy."""
    fpr, tpr, thresholds = roc_curve(is_member, statistic, drop_intermediate=False)
    best = int(np.argmax(tpr - fpr))
    at = thresholds[best]  # "statistic >= at"; the first one is infinity, "nobody is a member"
    if np.isinf(at):
        return float(statistic.max())
    below = statistic[statistic < at]
    if len(below) == 0:
        return float(np.nextafter(at, -np.inf))
    middle = (at + below.max()) / 2
    return float(middle if middle < at else below.max())  # neighbours have nothing between them
