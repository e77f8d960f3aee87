"""Attacks by one number per prediction and a threshold per class (Song & Mittal 2021)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlog1py, xlogy
from sklearn.metrics import roc_curve

from aeppt.attacks.base import Attack
from aeppt.predictions import Predictions

#: Keeps logarithms finite; far below what float32 probabilities resolve.
TINY = 1e-30


class CorrectnessAttack(Attack):
    """Says "member" where the predicted label is right (Yeom et al. 2018; Song & Mittal 2021).

    The label-only floor: no defense that keeps the labels can change its answer.
    """

    name = "correctness (label only)"

    def run(self, shadow: Predictions, targets: Sequence[Predictions]) -> list[NDArray[np.float64]]:
        """One where the prediction is right, minus one elsewhere."""
        return [np.where(target.is_correct, 1.0, -1.0) for target in targets]


class ThresholdAttack(Attack):
    """Compares a statistic with a threshold per true class, set on the shadow predictions.

    The threshold of a class is the one with the best balanced accuracy on the shadow records of
    the class; a class without shadow members or non-members uses the threshold of all classes.
    """

    @abstractmethod
    def statistic(self, predictions: Predictions) -> NDArray[np.float64]:
        """The number [n] that is higher for members."""

    def run(self, shadow: Predictions, targets: Sequence[Predictions]) -> list[NDArray[np.float64]]:
        """The statistic's distance from the threshold of the record's true class."""
        statistic = self.statistic(shadow)
        thresholds = np.full(shadow.n_classes, _best_threshold(statistic, shadow.is_member))
        for label in range(shadow.n_classes):
            records = shadow.labels == label
            membership = shadow.is_member[records]
            if membership.any() and not membership.all():
                thresholds[label] = _best_threshold(statistic[records], membership)
        return [self.statistic(target) - thresholds[target.labels] for target in targets]


class ConfidenceAttack(ThresholdAttack):
    """Song & Mittal 2021, section 3.2.2: the probability of the true class."""

    name = "confidence"

    def statistic(self, predictions: Predictions) -> NDArray[np.float64]:
        """The true class's probability."""
        return _true_probability(predictions)


class EntropyAttack(ThresholdAttack):
    """Song & Mittal 2021, section 3.2.3: low entropy of the prediction means "member"."""

    name = "entropy"

    def statistic(self, predictions: Predictions) -> NDArray[np.float64]:
        """The negative entropy, in nats."""
        probs = predictions.probs.astype(np.float64)
        total: NDArray[np.float64] = xlogy(probs, probs).sum(axis=1)
        return total


class ModifiedEntropyAttack(ThresholdAttack):
    """Song & Mittal 2021, equation 8: an entropy that knows the true label y.

    Mentr(p, y) = -(1 - p_y) log p_y - Σ_{i ≠ y} p_i log(1 - p_i); low means "member".
    """

    name = "modified entropy"

    def statistic(self, predictions: Predictions) -> NDArray[np.float64]:
        """The negative modified entropy, in nats."""
        probs = predictions.probs.astype(np.float64)
        true = _true_probability(predictions)
        # p log(1 - p) is minus infinity at p = 1, a certain and wrong prediction.
        others = xlog1py(probs, -np.minimum(probs, 1 - 1e-15))
        others[np.arange(len(probs)), predictions.labels] = 0
        total: NDArray[np.float64] = (1 - true) * np.log(true.clip(TINY)) + others.sum(axis=1)
        return total


def _true_probability(predictions: Predictions) -> NDArray[np.float64]:
    rows = np.arange(len(predictions))
    return predictions.probs[rows, predictions.labels].astype(np.float64)


def _best_threshold(statistic: NDArray[np.float64], is_member: NDArray[np.bool_]) -> float:
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
