"""What per-example attacks measure of a record, and the two that compare losses.

Every statistic is a function of one number per model and record, the logit-scaled confidence φ:
the true class's probability is 1 / (1 + exp(-φ)), and the cross-entropy loss log(1 + exp(-φ)).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aeppt.attacks.base import PerExampleAttack
from aeppt.attacks.metric import TINY
from aeppt.predictions import Predictions
from aeppt.shadow_predictions import ShadowPredictions

#: The greatest |φ|, where one of the two probabilities it compares is zero.
GREATEST_PHI = float(-np.log(TINY))


class AttackR(PerExampleAttack):
    """Attack-R of Ye et al. 2022 (CCS): the record's loss among its losses under out-models.

    At level α the attack says "member" where the loss is below the α-quantile of the losses that
    models trained without the record have on it. The score is minus the least such α, so its ROC
    curve is the one over all levels. Quantiles are interpolated linearly, up to the ends of what a
    loss can be, zero and :data:`GREATEST_PHI`.
    """

    name = "attack R"

    def run(self, shadows: ShadowPredictions, target: Predictions) -> NDArray[np.float64]:
        """Minus the share of out-models [n] whose loss is at most the target's, interpolated."""
        check_models(~shadows.trained_on, "without")
        losses = cross_entropy(scaled_confidence(shadows.probs, shadows.labels))
        loss = cross_entropy(scaled_confidence(target.probs, target.labels))
        levels = np.empty(len(target))
        for record, left_out in enumerate(~shadows.trained_on.T):
            known = np.sort(losses[left_out, record])
            levels[record] = np.interp(
                loss[record],
                np.concatenate([[0.0], known, [GREATEST_PHI]]),
                np.linspace(0, 1, len(known) + 2),
            )
        return -levels


class DifficultyCalibration(PerExampleAttack):
    """Watson et al. 2022 (ICLR): the loss less the record's mean loss under out-models."""

    name = "difficulty calibration"

    def run(self, shadows: ShadowPredictions, target: Predictions) -> NDArray[np.float64]:
        """By how much [n] the target's loss is below the mean, in nats."""
        losses = cross_entropy(scaled_confidence(shadows.probs, shadows.labels))
        loss = cross_entropy(scaled_confidence(target.probs, target.labels))
        difficulty = mean_over_models(losses, ~shadows.trained_on, "without")
        return difficulty - loss


def scaled_confidence(
    probs: NDArray[np.floating], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """φ = log p_y - log Σ_{y' ≠ y} p_{y'} (Carlini et al. 2022, S&P).

    The others are summed themselves, in float64. One minus p_y would be zero as soon as p_y rounds
    to one, though the others still tell how sure the model is. Where p_y or the sum of the others
    is below 1e-30, it is taken as that, so φ lies within ±69.1.

    Parameters
    ----------
    probs : array [..., n, k], float32 or float64
        Probability vectors.
    labels : array [n], integer
        True classes y.

    Returns
    -------
    array [..., n], float64
    """
    is_true = np.arange(probs.shape[-1]) == labels[:, None]
    true = probs[..., np.arange(len(labels)), labels].astype(np.float64)
    others = probs.sum(axis=-1, where=~is_true, dtype=np.float64)
    phi: NDArray[np.float64] = np.log(true.clip(TINY)) - np.log(others.clip(TINY))
    return phi.clip(-GREATEST_PHI, GREATEST_PHI)


def cross_entropy(phi: NDArray[np.float64]) -> NDArray[np.float64]:
    """-log p_y in nats, from φ: it keeps its digits where p_y rounds to one."""
    loss: NDArray[np.float64] = np.logaddexp(0.0, -phi)
    return loss


def check_models(chosen: NDArray[np.bool_], side: str) -> None:
    """Refuse a record that has no model among ``chosen`` [m, n].

    Raises
    ------
    ValueError
        A record has none; the message names the first.
    """
    missing = np.flatnonzero(~chosen.any(axis=0))
    if len(missing):
        raise ValueError(
            f"no shadow model was trained {side} record {missing[0]} ({len(missing)} such records, "
            f"{len(chosen)} models); train each record into exactly half of at least 4 models: one "
            "at a time stands for the target, and the others must do without it"
        )


def mean_over_models(
    values: NDArray[np.float64], chosen: NDArray[np.bool_], side: str
) -> NDArray[np.float64]:
    """The mean of ``values`` [m, n] over each record's ``chosen`` [m, n] models.

    Raises
    ------
    ValueError
        As :func:`check_models`.
    """
    check_models(chosen, side)
    mean: NDArray[np.float64] = values.mean(axis=0, where=chosen)
    return mean
