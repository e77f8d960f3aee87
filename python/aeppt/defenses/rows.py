"""The modules of defenses that change each row by a rule, without a search.

A module computes in float64, so that its answer does not depend on the dtype given. It refuses rows
that are not distributions, and where it promises the label it keeps it to the last bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from aeppt.predictions import check_rows
from aeppt_ext import reference

#: Where rounding or noise took the label's lead, it leads by this much again (``docs/design.md``).
TIE_GAP = 1e-6


class RowModule(nn.Module, ABC):
    """Probabilities [n, k] in, changed ones out: :meth:`change`, and what all have in common.

    Buffers are the fitted state. ``keeps_label`` is that of the defense.
    """

    keeps_label: ClassVar[bool] = True

    @abstractmethod
    def change(self, probs: Tensor) -> Tensor:
        """New rows [n, k], non-negative and finite with positive sums, for ``probs`` in float64.

        A row's answer must depend on that row alone.
        """

    def forward(self, probs: Tensor) -> Tensor:
        """Protected rows [n, k], of the dtype given; ValueError where a row is no distribution."""
        check_rows(probs)
        changed = self.change(probs.double())
        changed = (changed / changed.sum(1, keepdim=True)).to(probs.dtype)
        if not self.keeps_label:
            return changed
        label = probs.argmax(1)
        lost = (changed.argmax(1) != label).nonzero()[:, 0]
        back = reference.retract(changed[lost], label[lost], TIE_GAP)
        return changed.index_copy(0, lost, back)
