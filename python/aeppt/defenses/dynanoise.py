"""DynaNoise: noise on the logits that grows with a prediction's confidence."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aeppt.defenses.base import OutputDefense
from aeppt.defenses.keyed_random import keyed_normals, new_key
from aeppt.defenses.rows import RowModule, checked_real, logits


class DynaNoise(OutputDefense):
    """DynaNoise (Forough & Haddadi 2025, PoPETs 2026, arXiv 2505.13362).

    The risk of a row of k classes is R = 1 - H(p) / log k, H its Shannon entropy in nats. Its
    logits get Gaussian noise of variance σ₀² (1 + λ R), and a soft-max at temperature T smooths
    them. The formulas are those of the released code (repository
    Javad-Forough/DynaNoise-PoPETs2026-Artifact), with one draw per row; the defaults are its
    settings for CIFAR-10.

    **The label may change**: the paper trades accuracy for privacy, and nothing here brings the
    label back. One thing differs: the noise is a keyed hash of the row
    (``aeppt.defenses.keyed_random``), where the paper draws anew, so that asking again gives the
    same answer.

    Parameters
    ----------
    base_variance : float
        σ₀², in square nats: the variance where nothing is known of the label; 0 to 1e6.
    lambda_scale : float
        λ, how much the variance grows with the risk, 0 to 1e6.
    temperature : float
        T, at least 1e-6.
    random_state : int or None
        Seed of the key. Keep it secret: whoever knows it knows the noise. None draws a fresh secret
        key.
    """

    keeps_label = False

    def __init__(
        self,
        base_variance: float = 0.3,
        lambda_scale: float = 2.0,
        temperature: float = 10.0,
        random_state: int | None = None,
    ) -> None:
        self.base_variance = base_variance
        self.lambda_scale = lambda_scale
        self.temperature = temperature
        self.random_state = random_state

    def build_module(self, tensors: dict[str, Tensor]) -> RiskScaledNoise:
        """The rule with its key (see :meth:`OutputDefense.build_module`)."""
        return RiskScaledNoise(
            checked_real("base_variance", self.base_variance, 0.0, 1e6),
            checked_real("lambda_scale", self.lambda_scale, 0.0, 1e6),
            checked_real("temperature", self.temperature, 1e-6),
            tensors["key"],
        )

    def _learn(
        self, rows: NDArray[np.floating], membership: NDArray[np.bool_]
    ) -> dict[str, Tensor]:
        return {"key": new_key(self.random_state)}


class RiskScaledNoise(RowModule):
    """Noise of variance σ₀² (1 + λ R) on the logits, and a soft-max at temperature T."""

    keeps_label = False
    key: Tensor

    def __init__(
        self, base_variance: float, lambda_scale: float, temperature: float, key: Tensor
    ) -> None:
        super().__init__()
        self.base_variance = base_variance
        self.lambda_scale = lambda_scale
        self.temperature = temperature
        self.register_buffer("key", key)

    def change(self, probs: Tensor) -> Tensor:
        """See :meth:`RowModule.change`."""
        variance = self.base_variance * (1 + self.lambda_scale * risk(probs))
        noise = variance.sqrt().unsqueeze(1) * keyed_normals(self.key, probs, probs.shape[1])
        return torch.softmax((logits(probs) + noise) / self.temperature, dim=1)


def risk(probs: Tensor) -> Tensor:
    """R = 1 - H(p) / log k per row [n]: 0 for the uniform row, 1 for a one-hot row."""
    entropy: Tensor = torch.special.entr(probs).sum(1)
    return (1 - entropy / math.log(probs.shape[1])).clamp_min(0.0)
