"""The robust attack, RMIA (Zarifzadeh, Liu & Shokri 2024, ICML), online and offline.

A record x dominates a population record z at γ if

    [Pr(x | θ) / Pr(x)] / [Pr(z | θ) / Pr(z)] >= γ,

where Pr(x | θ) is the target's probability of the true class of x and Pr(x) its mean over models
with and without x, in equal parts. The score of x is the share of the population it dominates.

The population should be records that the target was not trained on. None are given apart here, so
all records of the set serve. Some are members, which lowers the shares. It does not change their
order: with any population, a share only rises with the ratio of x itself. Two records share a score
where no record of the population separates them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from aeppt.attacks.base import PerExampleAttack
from aeppt.attacks.per_example import mean_over_models, scaled_confidence
from aeppt.predictions import Predictions
from aeppt.shadow_predictions import ShadowPredictions


class OnlineRMIA(PerExampleAttack):
    """Zarifzadeh et al. 2024, with models trained on the record and models trained without it.

    Parameters
    ----------
    gamma : float
        How many times likelier x must be than z; at least 1.

    Raises
    ------
    ValueError
        ``gamma`` is below 1.
    """

    name = "RMIA online"

    def __init__(self, gamma: float = 2.0) -> None:
        self.gamma = _checked_gamma(gamma)

    def run(self, shadows: ShadowPredictions, target: Predictions) -> NDArray[np.float64]:
        """The share of the records [n] that each one dominates."""
        known = expit(scaled_confidence(shadows.probs, shadows.labels))
        likelihood = expit(scaled_confidence(target.probs, target.labels))
        mean_in = mean_over_models(known, shadows.trained_on, "on")
        mean_out = mean_over_models(known, ~shadows.trained_on, "without")
        return dominated_share(likelihood / ((mean_in + mean_out) / 2), self.gamma)


class OfflineRMIA(PerExampleAttack):
    """Zarifzadeh et al. 2024, with models trained without the record only.

    The mean under models with the record is guessed from the mean without it: Pr_in = a Pr_out +
    (1 - a), so Pr(x) = [(1 + a) Pr_out(x) + (1 - a)] / 2.

    Parameters
    ----------
    gamma : float
        How many times likelier x must be than z; at least 1.
    a : float
        Between 0 (models know all they are trained on) and 1 (training changes nothing). The
        paper tunes it by attacking one shadow model by means of another.

    Raises
    ------
    ValueError
        ``gamma`` is below 1, or ``a`` is not between 0 and 1.
    """

    name = "RMIA offline"

    def __init__(self, gamma: float = 2.0, a: float = 0.3) -> None:
        if not 0 <= a <= 1:
            raise ValueError(f"a must be between 0 and 1, got {a}")
        self.gamma = _checked_gamma(gamma)
        self.a = a

    def run(self, shadows: ShadowPredictions, target: Predictions) -> NDArray[np.float64]:
        """The share of the records [n] that each one dominates."""
        known = expit(scaled_confidence(shadows.probs, shadows.labels))
        likelihood = expit(scaled_confidence(target.probs, target.labels))
        mean_out = mean_over_models(known, ~shadows.trained_on, "without")
        evidence = ((1 + self.a) * mean_out + (1 - self.a)) / 2
        return dominated_share(likelihood / evidence, self.gamma)


def dominated_share(ratios: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
    """Per record [n], the share of all records whose ratio is at most its own over ``gamma``."""
    dominated = np.searchsorted(np.sort(ratios), ratios / gamma, side="right")
    return dominated / len(ratios)


def _checked_gamma(gamma: float) -> float:
    if not gamma >= 1:
        raise ValueError(f"gamma must be at least 1, got {gamma}")
    return gamma
