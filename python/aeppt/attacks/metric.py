"""Attacks by one number per prediction: a threshold, or how often members have such a number."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from aeppt.attacks.base import Attack, best_threshold
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
    """Compares a statistic with a threshold that is set on the shadow predictions.

    A threshold is the one with the best balanced accuracy on the shadow records. Each true class
    has its own, as in Song & Mittal 2021 (USENIX Security), section 3.2; a class without shadow
    members or non-members uses the threshold of all classes.

    Parameters
    ----------
    per_class : bool
        False compares all records with one threshold, as the attacks were before that paper.
    """

    def __init__(self, per_class: bool = True) -> None:
        self.per_class = per_class
        if not per_class:
            self.name = f"{self.name}, one threshold"

    @abstractmethod
    def statistic(self, predictions: Predictions) -> NDArray[np.float64]:
        """The number [n] that is higher for members."""

    def run(self, shadow: Predictions, targets: Sequence[Predictions]) -> list[NDArray[np.float64]]:
        """How far the statistic is above the record's threshold."""
        statistic = self.statistic(shadow)
        thresholds = np.full(shadow.n_classes, best_threshold(statistic, shadow.is_member))
        for label in _two_sided_classes(shadow) if self.per_class else []:
            records = shadow.labels == label
            thresholds[label] = best_threshold(statistic[records], shadow.is_member[records])
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
        others = probs * np.log((1 - probs).clip(TINY))
        others[np.arange(len(probs)), predictions.labels] = 0
        total: NDArray[np.float64] = (1 - true) * np.log(true.clip(TINY)) + others.sum(axis=1)
        return total


class LossAttack(Attack):
    """Yeom et al. 2018 (IEEE CSF): a loss up to the average training loss is a member's.

    The loss is the cross-entropy, and the average that of the shadow's members.
    """

    name = "loss"

    def run(self, shadow: Predictions, targets: Sequence[Predictions]) -> list[NDArray[np.float64]]:
        """How far the loss is below the average, in nats."""
        average = _loss(shadow)[shadow.is_member].mean()
        # The average counts as a member's: a saturated model gives all its members a loss of zero.
        above = np.nextafter(average, np.inf)
        return [above - _loss(target) for target in targets]


class MaximumProbabilityAttack(Attack):
    """ML-Leaks, adversary 3 (Salem et al. 2019, NDSS, section V): trains nothing.

    The greatest probability is compared with one that only few non-members reach. The paper asks
    the target for predictions of random points and takes them for non-members'; without queries,
    the shadow's non-members stand in for them.

    Parameters
    ----------
    reached_by : float in (0, 1]
        The share of non-members at or above the threshold; a tenth, as in the paper.

    Raises
    ------
    ValueError
        ``reached_by`` is not in (0, 1].
    """

    name = "maximum probability (ML-Leaks 3)"

    def __init__(self, reached_by: float = 0.1) -> None:
        if not 0 < reached_by <= 1:
            raise ValueError(f"reached_by must be in (0, 1], got {reached_by}")
        self.reached_by = reached_by

    def run(self, shadow: Predictions, targets: Sequence[Predictions]) -> list[NDArray[np.float64]]:
        """How far the greatest probability is above the threshold."""
        of_others = shadow.probs[~shadow.is_member].max(axis=1).astype(np.float64)
        threshold = np.quantile(of_others, 1 - self.reached_by, method="lower")
        # The threshold counts as a member's: no probability is above one, where many often are.
        below = np.nextafter(threshold, -np.inf)
        return [target.probs.max(axis=1).astype(np.float64) - below for target in targets]


class PrivacyRiskAttack(Attack):
    """Song & Mittal 2021 (USENIX Security), section 4: the privacy risk score.

    That is the posterior probability of "member" given the modified entropy and the true class,
    where both sides are equally likely before. The likelihoods are histograms of the shadow's
    members and non-members of the class. The bins of a class hold equally many shadow records, so
    none is empty; a class without shadow members or non-members uses the histograms of all.

    Parameters
    ----------
    bins : int
        How many bins each histogram has, at most.

    Raises
    ------
    ValueError
        ``bins`` is less than 2.
    """

    name = "privacy risk score"

    def __init__(self, bins: int = 5) -> None:
        if bins < 2:
            raise ValueError(f"bins must be at least 2, got {bins}")
        self.bins = bins

    def run(self, shadow: Predictions, targets: Sequence[Predictions]) -> list[NDArray[np.float64]]:
        """The posterior less one half."""
        statistic = ModifiedEntropyAttack().statistic
        learned = statistic(shadow)
        asked = [statistic(target) for target in targets]
        scores = [self._posterior(learned, shadow.is_member, values) - 0.5 for values in asked]
        for label in _two_sided_classes(shadow):
            records = shadow.labels == label
            for target, values, score in zip(targets, asked, scores, strict=True):
                of_class = target.labels == label
                posterior = self._posterior(
                    learned[records], shadow.is_member[records], values[of_class]
                )
                score[of_class] = posterior - 0.5
        return scores

    def _posterior(
        self,
        learned: NDArray[np.float64],
        is_member: NDArray[np.bool_],
        asked: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        levels = np.arange(1, self.bins) / self.bins
        edges = np.unique(np.quantile(learned, levels, method="higher"))
        edges = edges[edges > learned.min()]  # many equal values leave fewer bins

        def bin_of(values: NDArray[np.float64]) -> NDArray[np.int64]:
            return np.searchsorted(edges, values, side="right")

        members = np.bincount(bin_of(learned[is_member]), minlength=len(edges) + 1)
        others = np.bincount(bin_of(learned[~is_member]), minlength=len(edges) + 1)
        likely = members / members.sum()
        posterior: NDArray[np.float64] = likely / (likely + others / others.sum())
        return posterior[bin_of(asked)]


def _true_probability(predictions: Predictions) -> NDArray[np.float64]:
    rows = np.arange(len(predictions))
    return predictions.probs[rows, predictions.labels].astype(np.float64)


def _loss(predictions: Predictions) -> NDArray[np.float64]:
    loss: NDArray[np.float64] = -np.log(_true_probability(predictions).clip(TINY))
    return loss


def _two_sided_classes(shadow: Predictions) -> list[int]:
    """The true classes that have both shadow members and non-members."""
    members, others = shadow.labels[shadow.is_member], shadow.labels[~shadow.is_member]
    return [int(label) for label in np.intersect1d(members, others)]
