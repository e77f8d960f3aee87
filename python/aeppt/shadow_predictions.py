"""Predictions of many shadow models on the very records that a per-example attack judges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aeppt.predictions import Predictions


@dataclass(frozen=True)
class ShadowPredictions:
    """What m shadow models say of n records, and which of the records each was trained on.

    Parameters
    ----------
    probs : array [m, n, k], float32 or float64
        Probability vectors, one model after the other.
    labels : array [n], integer
        True classes, 0 to k - 1.
    trained_on : array [m, n], bool or 0/1
        Whether model i was trained on record j.

    Raises
    ------
    ValueError
        The shapes do not fit, or what :class:`aeppt.Predictions` says of one model's predictions;
        the message names the model.
    TypeError
        ``probs`` is not float32 or float64.
    """

    probs: NDArray[np.floating]
    labels: NDArray[np.int64]
    trained_on: NDArray[np.bool_]

    def __post_init__(self) -> None:
        probs, trained_on = np.asarray(self.probs), np.asarray(self.trained_on)
        if probs.ndim != 3 or len(probs) == 0:
            raise ValueError(f"probs must be [m, n, k] with at least 1 model, got {probs.shape}")
        if trained_on.shape != probs.shape[:2]:
            raise ValueError(
                f"trained_on must be [m, n] = {list(probs.shape[:2])}, got {list(trained_on.shape)}"
            )
        model = 0
        try:
            for model in range(len(probs)):
                checked = Predictions(probs[model], self.labels, trained_on[model])
        except (ValueError, TypeError) as error:
            raise type(error)(f"shadow model {model}: {error}") from None
        object.__setattr__(self, "probs", probs)
        object.__setattr__(self, "labels", checked.labels)
        object.__setattr__(self, "trained_on", trained_on.astype(bool))

    def __len__(self) -> int:
        """The number of shadow models, m."""
        return len(self.probs)

    @property
    def n_classes(self) -> int:
        """The number of classes, k."""
        return int(self.probs.shape[2])

    def of_model(self, model: int) -> Predictions:
        """One shadow model's predictions, as if it were the target."""
        return Predictions(self.probs[model], self.labels, self.trained_on[model])

    def without_model(self, model: int) -> ShadowPredictions:
        """All shadow models but one."""
        kept = np.arange(len(self)) != model
        return ShadowPredictions(self.probs[kept], self.labels, self.trained_on[kept])

    def take(self, records: NDArray[np.int64]) -> ShadowPredictions:
        """The same models' predictions of some of the records."""
        return ShadowPredictions(
            self.probs[:, records], self.labels[records], self.trained_on[:, records]
        )
