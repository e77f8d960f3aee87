"""Softening a prediction by the temperature of its soft-max."""

from __future__ import annotations

import torch
from torch import Tensor

from aeppt.defenses.base import OutputDefense
from aeppt.defenses.rows import RowModule, checked_real, logits


class Temperature(OutputDefense):
    """The soft-max at another temperature: q ∝ p^(1/T) (Shokri et al. 2017, arXiv 1610.05820).

    Ranks stay, and the entropy rises with T. An entry of zero counts as the smallest positive
    float32, since a soft-max never gives zero itself.

    Parameters
    ----------
    temperature : float
        T, at least 1e-6. Above one softens, one changes nothing, below one sharpens.
    """

    def __init__(self, temperature: float = 5.0) -> None:
        self.temperature = temperature

    def build_module(self, tensors: dict[str, Tensor]) -> TemperedSoftmax:
        """The rule (see :meth:`OutputDefense.build_module`)."""
        return TemperedSoftmax(checked_real("temperature", self.temperature, 1e-6))


class TemperedSoftmax(RowModule):
    """The soft-max of the logits over ``temperature``."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def change(self, probs: Tensor) -> Tensor:
        """See :meth:`RowModule.change`."""
        return torch.softmax(logits(probs) / self.temperature, dim=1)
