"""Defenses that perturb all predictions alike: Gaussian noise, and the reverse sigmoid."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aeppt.defenses.base import OutputDefense
from aeppt.defenses.keyed_random import keyed_normals, new_key
from aeppt.defenses.rows import TIE_GAP, RowModule, checked_real, logits
from aeppt_ext import reference

SPACES = ("logit", "prob")


class GaussianNoise(OutputDefense):
    """Independent Gaussian noise on every entry: the baseline of noise that knows no attacker.

    The noise is a keyed hash of the row (``aeppt.defenses.keyed_random``): asking again gives the
    same answer. Where it would change the label, the nearest row that keeps the label is returned,
    which leads by 1e-6.

    Parameters
    ----------
    scale : float
        Standard deviation, in nats for ``space="logit"``, in probability for ``space="prob"``;
        at most 1e6.
    space : {"logit", "prob"}
        Noise is added to the logits, or to the probabilities, which are then projected on the
        simplex.
    random_state : int or None
        Seed of the key. Keep it secret: whoever knows it knows the noise. None draws a fresh secret
        key.
    """

    def __init__(
        self,
        scale: float = 1.0,
        space: Literal["logit", "prob"] = "logit",
        random_state: int | None = None,
    ) -> None:
        self.scale = scale
        self.space = space
        self.random_state = random_state

    def build_module(self, tensors: dict[str, Tensor]) -> NoisyRows:
        """The rule with its key (see :meth:`OutputDefense.build_module`)."""
        if self.space not in SPACES:
            raise ValueError(f"space must be one of {SPACES}, got {self.space!r}")
        return NoisyRows(checked_real("scale", self.scale, 0.0, 1e6), self.space, tensors["key"])

    def _learn(
        self, rows: NDArray[np.floating], membership: NDArray[np.bool_]
    ) -> dict[str, Tensor]:
        return {"key": new_key(self.random_state)}


class NoisyRows(RowModule):
    """Rows plus keyed Gaussian noise of deviation ``scale`` in ``space``."""

    key: Tensor

    def __init__(self, scale: float, space: str, key: Tensor) -> None:
        super().__init__()
        self.scale = scale
        self.space = space
        self.register_buffer("key", key)

    def change(self, probs: Tensor) -> Tensor:
        """See :meth:`RowModule.change`."""
        noise = self.scale * keyed_normals(self.key, probs, probs.shape[1])
        if self.space == "logit":
            return torch.softmax(logits(probs) + noise, dim=1)
        return reference.retract(probs + noise, probs.argmax(1), TIE_GAP)


class ReverseSigmoid(OutputDefense):
    """Deceptive perturbation by a reversed sigmoid (Lee et al. 2018, arXiv 1806.00054).

    Made against model stealing: q ∝ p - β (σ(γ σ⁻¹(p)) - 1/2), where σ is the logistic function.
    Great entries fall and small ones rise, so that several p give the same q. What falls below zero
    is set to zero. A great β takes the label's lead; the nearest row that keeps the label by 1e-6
    is returned then, by the rule of this library.

    Parameters
    ----------
    beta : float
        β, the perturbation's size, 0 to 1e6.
    gamma : float
        γ, how steeply it grows with the logit of an entry, 1e-6 to 1e6.
    """

    def __init__(self, beta: float = 0.7, gamma: float = 0.2) -> None:
        self.beta = beta
        self.gamma = gamma

    def build_module(self, tensors: dict[str, Tensor]) -> ReversedSigmoid:
        """The rule (see :meth:`OutputDefense.build_module`)."""
        beta = checked_real("beta", self.beta, 0.0, 1e6)
        return ReversedSigmoid(beta, checked_real("gamma", self.gamma, 1e-6, 1e6))


class ReversedSigmoid(RowModule):
    """Rows minus β (σ(γ σ⁻¹(p)) - 1/2)."""

    def __init__(self, beta: float, gamma: float) -> None:
        super().__init__()
        self.beta = beta
        self.gamma = gamma

    def change(self, probs: Tensor) -> Tensor:
        """See :meth:`RowModule.change`."""
        sigmoid = 1 / (1 + (-self.gamma * probs.clamp_max(1.0).logit()).exp())
        return (probs - self.beta * (sigmoid - 0.5)).clamp_min(0.0)
