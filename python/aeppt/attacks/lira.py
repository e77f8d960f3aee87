"""The likelihood ratio attack, LiRA (Carlini et al. 2022, S&P), online and offline."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from aeppt.attacks.base import PerExampleAttack
from aeppt.attacks.per_example import mean_over_models, scaled_confidence
from aeppt.predictions import Predictions
from aeppt.shadow_predictions import ShadowPredictions

#: From how many models a side on, a record has its own variance. Below, all records share one per
#: side: the paper finds a global variance better with fewer than 64 models, half of them a side.
MODELS_FOR_OWN_VARIANCE = 32
#: Models that agree fully would make a likelihood infinite. It is the square of 0.001 in φ.
LEAST_VARIANCE = 1e-6


class OnlineLiRA(PerExampleAttack):
    """Carlini et al. 2022, algorithm 1: φ under models with the record against φ without it.

    Either side is a Gaussian per record. The global variance is taken about each record's own mean,
    so how records differ in difficulty does not count. A side on which no record has two models
    takes the other side's variance. With two variances the ratio is not monotone in φ: far from
    both means the wider Gaussian is likelier, be it on the side of low φ.
    """

    name = "LiRA online"

    def run(self, shadows: ShadowPredictions, target: Predictions) -> NDArray[np.float64]:
        """The log-likelihood ratio [n] of "member" to "non-member", in nats."""
        known = scaled_confidence(shadows.probs, shadows.labels)
        phi = scaled_confidence(target.probs, target.labels)
        with_it = shadows.trained_on
        models = np.minimum(with_it.sum(axis=0), (~with_it).sum(axis=0))
        own = models >= MODELS_FOR_OWN_VARIANCE
        mean_in = mean_over_models(known, with_it, "on")
        mean_out = mean_over_models(known, ~with_it, "without")
        variance_in = _variance(known - mean_in, with_it, own)
        variance_out = _variance(known - mean_out, ~with_it, own)
        deviation_in = _deviation(np.where(np.isnan(variance_in), variance_out, variance_in))
        deviation_out = _deviation(np.where(np.isnan(variance_out), variance_in, variance_out))
        likelihood_in: NDArray[np.float64] = np.asarray(norm.logpdf(phi, mean_in, deviation_in))
        likelihood_out: NDArray[np.float64] = np.asarray(norm.logpdf(phi, mean_out, deviation_out))
        return likelihood_in - likelihood_out


class OfflineLiRA(PerExampleAttack):
    """Carlini et al. 2022, without in-models: the one-sided test against the out-models' Gaussian.

    The paper's score is the Gaussian's distribution function at φ. The standardised distance given
    here has the same order and does not saturate.
    """

    name = "LiRA offline"

    def run(self, shadows: ShadowPredictions, target: Predictions) -> NDArray[np.float64]:
        """How many standard deviations [n] φ is above the mean of the out-models."""
        known = scaled_confidence(shadows.probs, shadows.labels)
        phi = scaled_confidence(target.probs, target.labels)
        without_it = ~shadows.trained_on
        own = without_it.sum(axis=0) >= MODELS_FOR_OWN_VARIANCE
        mean = mean_over_models(known, without_it, "without")
        return (phi - mean) / _deviation(_variance(known - mean, without_it, own))


def _variance(
    residuals: NDArray[np.float64], chosen: NDArray[np.bool_], own: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Unbiased, per record [n] where it has its ``own``, else of all; NaN if no two models say."""
    squares = (residuals**2).sum(axis=0, where=chosen)
    freedom = chosen.sum(axis=0) - 1
    if not freedom.any():
        return np.full(len(squares), np.nan)
    variance: NDArray[np.float64] = np.where(
        own, squares / np.maximum(freedom, 1), squares.sum() / freedom.sum()
    )
    return variance


def _deviation(variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The root; a variance that is not known is the same for all, so one does for it."""
    known: NDArray[np.float64] = np.where(np.isnan(variance), 1.0, variance)
    deviation: NDArray[np.float64] = np.sqrt(known.clip(LEAST_VARIANCE))
    return deviation
