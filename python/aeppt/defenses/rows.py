"""The modules of defenses that change each row by a rule, without a search.

A module computes in float64, so that its answer does not depend on the dtype given. It refuses rows
that are not distributions, and where it promises the label it keeps it to the last bit.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from numbers import Integral, Real
from typing import ClassVar

import torch
from torch import Tensor, nn

from aeppt.predictions import check_rows
from aeppt_ext import reference

#: Where rounding or noise took the label's lead, it leads by this much again (``docs/design.md``).
TIE_GAP = 1e-6
#: A probability of zero is one that float32 could not hold; its logit is taken from this.
SMALLEST = torch.finfo(torch.float32).tiny
#: Entries of a row whose sum torch shares out to threads where the row is alone.
LONG_ROW = 2**15


class RowModule(nn.Module, ABC):
    """Probabilities [n, k] in, changed ones out: :meth:`change`, and what all have in common.

    Buffers are the fitted state. ``keeps_label`` is that of the defense.
    """

    keeps_label: ClassVar[bool] = True

    @abstractmethod
    def change(self, probs: Tensor) -> Tensor:
        """New rows [n, k], non-negative and finite with positive sums, for ``probs`` in float64.

        A row's answer must depend on that row alone, to the last bit. ``torch.sigmoid`` and
        ``torch.pow`` break that on a CPU: they round an entry by where it lies in memory.
        """

    def forward(self, probs: Tensor) -> Tensor:
        """Protected rows [n, k], of the dtype given; ValueError where a row is no distribution."""
        if probs.shape[1] >= LONG_ROW and len(probs) == 1:
            both: Tensor = self(probs.expand(2, -1))
            return both[:1]
        check_rows(probs)
        # Contiguous, since sums over rows of another layout add in another order.
        changed = self.change(probs.double().contiguous())
        changed = (changed / changed.sum(1, keepdim=True)).to(probs.dtype)
        if not self.keeps_label:
            return changed
        label = probs.argmax(1)
        lost = (changed.argmax(1) != label).nonzero()[:, 0]
        back = reference.retract(changed[lost], label[lost], TIE_GAP)
        return changed.index_copy(0, lost, back)


def logits(probs: Tensor) -> Tensor:
    """Finite logits [n, k] whose soft-max is ``probs``: the logarithms, zeros as ``SMALLEST``."""
    return probs.clamp_min(SMALLEST).log()


def one_hot_label(probs: Tensor) -> Tensor:
    """Rows [n, k] that are one at the label, the first arg-max, and zero elsewhere."""
    return torch.zeros_like(probs).scatter(1, probs.argmax(1, keepdim=True), 1.0)


def checked_real(name: str, value: object, low: float, high: float = math.inf) -> float:
    """A parameter that must be a finite number in [low, high]; the error names it."""
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    if not low <= number <= high or math.isinf(number):  # NaN included
        raise ValueError(f"{name} must be finite and in [{low}, {high}], got {value!r}")
    return number


def checked_integer(name: str, value: object, low: int, high: float = math.inf) -> int:
    """A parameter that must be an integer in [low, high]; the error names it."""
    if not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    number = int(value)
    if not low <= number <= high:
        raise ValueError(f"{name} must be in [{low}, {high}], got {value!r}")
    return number
