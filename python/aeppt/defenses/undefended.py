"""No defense, in the form of one: what every other is compared with."""

from __future__ import annotations

from numpy.typing import ArrayLike
from torch import Tensor, nn
from typing_extensions import Self

from aeppt.defenses.base import OutputDefense, checked_fit
from aeppt.predictions import check_rows


class Undefended(OutputDefense):
    """Returns every prediction as it is."""

    def fit(self, probs: ArrayLike, is_member: ArrayLike) -> Self:
        """Learn the number of classes; see :meth:`OutputDefense.fit`."""
        rows, _ = checked_fit(probs, is_member)
        self.module_ = self.build_module({})
        self.n_features_in_ = rows.shape[1]
        return self

    def build_module(self, tensors: dict[str, Tensor]) -> nn.Module:
        """A module that changes nothing (see :meth:`OutputDefense.build_module`)."""
        return Identity()


class Identity(nn.Module):
    """Rows as they came, where they are distributions."""

    def forward(self, probs: Tensor) -> Tensor:
        """The same rows."""
        check_rows(probs)
        return probs
