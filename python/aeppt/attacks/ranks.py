"""Attacks that no defense can stop which keeps the order of the classes, or the predicted label.

What such a defense leaves as it is, is all that they look at.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aeppt.attacks.learned import BoostedTreesAttack, one_hot
from aeppt.predictions import Predictions


class RankAttack(BoostedTreesAttack):
    """Boosted trees on the order of the classes, which every rank-preserving release shows.

    Ranks are those of a stable sort, the greatest probability first, ties by index.

    Parameters
    ----------
    random_state : int
    """

    name = "ranks only"

    def features(self, predictions: Predictions) -> NDArray[np.float64]:
        """Rank of every class and of the true one, one-hot label: [n, 2 k + 1]."""
        order = np.argsort(-predictions.probs, axis=1, kind="stable")
        ranks = np.argsort(order, axis=1)
        rows = np.arange(len(predictions))
        labels = one_hot(predictions.labels, predictions.n_classes)
        return np.column_stack([ranks, ranks[rows, predictions.labels], labels])


class PredictedLabelAttack(BoostedTreesAttack):
    """Boosted trees on predicted and true label, which every label-preserving release shows.

    It learns what :class:`CorrectnessAttack` takes for granted, and more: that one class is
    overfitted and another is not, or that some mistakes are made on members only.

    Parameters
    ----------
    random_state : int
    """

    name = "predicted label only"

    def features(self, predictions: Predictions) -> NDArray[np.float64]:
        """One-hot predicted label, one-hot true label, correctness: [n, 2 k + 1]."""
        k = predictions.n_classes
        predicted = one_hot(predictions.probs.argmax(axis=1), k)
        return np.column_stack([predicted, one_hot(predictions.labels, k), predictions.is_correct])
