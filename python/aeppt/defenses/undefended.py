"""No defense, in the form of one: what every other is compared with."""

from __future__ import annotations

from torch import Tensor, nn

from aeppt.defenses.base import OutputDefense
from aeppt.predictions import check_rows


class Undefended(OutputDefense):
    """Returns every prediction as it is."""

    def build_module(self, tensors: dict[str, Tensor]) -> nn.Module:
        """A module that changes nothing (see :meth:`OutputDefense.build_module`)."""
        return Identity()


class Identity(nn.Module):
    """Rows as they came, where they are distributions."""

    def forward(self, probs: Tensor) -> Tensor:
        """A copy of the rows; ValueError where one is no distribution."""
        check_rows(probs)
        return probs.clone()
