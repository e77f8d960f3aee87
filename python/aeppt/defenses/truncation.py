"""Defenses that return less of a prediction: its greatest entries, fewer digits, or the label only.

Three of the mitigations that Shokri et al. 2017 (IEEE S&P, arXiv 1610.05820) try against their
attack. A row must stay a distribution here, so what is left of it is made to sum to one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aeppt.defenses.base import OutputDefense
from aeppt.defenses.rows import RowModule, checked_integer, one_hot_label

#: A float64 holds no more.
MOST_DECIMALS = 15


class TopK(OutputDefense):
    """Keep the greatest entries of a row, and set the others to zero (Shokri et al. 2017).

    Of equal entries, those of lower index are kept first.

    Parameters
    ----------
    k : int
        How many entries are kept; rows of no more classes stay as they are.
    """

    def __init__(self, k: int = 3) -> None:
        self.k = k

    def build_module(self, tensors: dict[str, Tensor]) -> GreatestEntries:
        """The rule (see :meth:`OutputDefense.build_module`)."""
        return GreatestEntries(checked_integer("k", self.k, 1))


class GreatestEntries(RowModule):
    """The ``count`` greatest entries of each row, zero elsewhere."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def change(self, probs: Tensor) -> Tensor:
        """See :meth:`RowModule.change`."""
        order = probs.argsort(dim=1, descending=True, stable=True)
        return probs.scatter(1, order[:, self.count :], 0.0)


class Rounding(OutputDefense):
    """Round every entry to a few decimals, half to even (Shokri et al. 2017).

    Afterwards the row is divided by its sum, so the returned entries have more digits again, but
    they tell no more than the rounded ones. A row of which rounding leaves nothing becomes one-hot
    at its label. Where the label rounds to a tie, it leads by 1e-6.

    Parameters
    ----------
    decimals : int
        Decimals that are kept, 0 to 15.
    """

    def __init__(self, decimals: int = 1) -> None:
        self.decimals = decimals

    def build_module(self, tensors: dict[str, Tensor]) -> RoundedEntries:
        """The rule (see :meth:`OutputDefense.build_module`)."""
        return RoundedEntries(checked_integer("decimals", self.decimals, 0, MOST_DECIMALS))


class RoundedEntries(RowModule):
    """Entries rounded to ``decimals``, or the label where all are zero then."""

    def __init__(self, decimals: int) -> None:
        super().__init__()
        self.decimals = decimals

    def change(self, probs: Tensor) -> Tensor:
        """See :meth:`RowModule.change`."""
        rounded = probs.round(decimals=self.decimals)
        return torch.where(rounded.any(1, keepdim=True), rounded, one_hot_label(probs))


class LabelOnly(OutputDefense):
    """Return the predicted label alone, as a one-hot row (Shokri et al. 2017).

    The most that a defense which keeps labels can hide. What leaks through the label still leaks.
    """

    def build_module(self, tensors: dict[str, Tensor]) -> OneHot:
        """The rule (see :meth:`OutputDefense.build_module`)."""
        return OneHot()


class OneHot(RowModule):
    """Rows that are one at their label."""

    def change(self, probs: Tensor) -> Tensor:
        """See :meth:`RowModule.change`."""
        return one_hot_label(probs)
