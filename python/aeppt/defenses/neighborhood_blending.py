"""Neighborhood Blending: a prediction becomes the average of training records' predictions."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aeppt.defenses.base import OutputDefense
from aeppt.defenses.keyed_random import keyed_uniforms, new_key
from aeppt.defenses.rows import RowModule, checked_integer, checked_real

#: Rows that are compared with all members at once; bounds the memory.
ROWS_AT_ONCE = 256


class NeighborhoodBlending(OutputDefense):
    """Neighborhood Blending (Zafar et al. 2026, arXiv 2602.12943), reconstructed.

    A row p moves towards the mean m of the predictions of some training records that have p's
    label: q = p + a (m - p). The records are picked by the exponential mechanism with utility
    -distance(p, record), as the greatest of utilities plus Gumbel noise. The noise is a keyed hash
    of the row (``aeppt.defenses.keyed_random``): asking again gives the same answer.

    Of the paper only the summary could be read: that predictions of similar training records with
    the same predicted label are averaged, that they are picked by Gumbel top-k, that the label
    always stays and that the distortion adapts to the row. Four things are therefore choices of
    this library. Records are neighbors by their prediction vectors, not by their input features,
    which a defense of the output does not see; the distance is half the sum of absolute
    differences, between 0 and 1. Each pick spends ε of its own. The strength a adapts where no
    known member has the label: all members are candidates then, and a is as great as the label
    allows. No differential privacy is claimed.

    The saved file holds the known members' predictions.

    Parameters
    ----------
    n_neighbors : int
        How many records are averaged, or all that have the label where there are fewer.
    epsilon : float
        ε of each pick: 0 picks at random, 1e6, the greatest, always the nearest.
    strength : float in [0, 1]
        a, at most: 1 returns the neighbors' mean.
    random_state : int or None
        Seed of the key. Keep it secret: whoever knows it knows the picks. None draws a fresh secret
        key.
    """

    def __init__(
        self,
        n_neighbors: int = 10,
        epsilon: float = 1.0,
        strength: float = 1.0,
        random_state: int | None = None,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.epsilon = epsilon
        self.strength = strength
        self.random_state = random_state

    def build_module(self, tensors: dict[str, Tensor]) -> BlendedRows:
        """The rule with its members and key (see :meth:`OutputDefense.build_module`)."""
        return BlendedRows(
            tensors["members"],
            tensors["key"],
            checked_integer("n_neighbors", self.n_neighbors, 1),
            checked_real("epsilon", self.epsilon, 0.0, 1e6),
            checked_real("strength", self.strength, 0.0, 1.0),
        )

    def _learn(
        self, rows: NDArray[np.floating], membership: NDArray[np.bool_]
    ) -> dict[str, Tensor]:
        return {"members": torch.from_numpy(rows[membership]), "key": new_key(self.random_state)}


class BlendedRows(RowModule):
    """Rows blended with the mean of picked rows of ``members`` [m, k]."""

    members: Tensor
    key: Tensor

    def __init__(
        self, members: Tensor, key: Tensor, n_neighbors: int, epsilon: float, strength: float
    ) -> None:
        super().__init__()
        self.register_buffer("members", members)
        self.register_buffer("key", key)
        self.n_neighbors = n_neighbors
        self.epsilon = epsilon
        self.strength = strength

    def change(self, probs: Tensor) -> Tensor:
        """See :meth:`RowModule.change`."""
        return torch.cat([self._blend(rows) for rows in probs.split(ROWS_AT_ONCE)])

    def _blend(self, probs: Tensor) -> Tensor:
        mean = self._neighbors_mean(probs)
        label = probs.argmax(1, keepdim=True)
        lead = probs.gather(1, label) - probs
        behind = mean - mean.gather(1, label)
        # At a = lead / (lead + behind) the label and the other class are level.
        most = torch.where(behind > 0, lead / (lead + behind), 1.0).amin(1, keepdim=True)
        return probs + most.clamp_max(self.strength) * (mean - probs)

    def _neighbors_mean(self, probs: Tensor) -> Tensor:
        members = self.members.double()
        same_label = probs.argmax(1, keepdim=True) == members.argmax(1)
        candidates = same_label | ~same_label.any(1, keepdim=True)
        distance = torch.cdist(probs, members, p=1) / 2
        gumbel = -(-keyed_uniforms(self.key, probs, len(members)).log()).log()
        score = torch.where(candidates, gumbel - self.epsilon / 2 * distance, -torch.inf)
        picked = score.topk(min(self.n_neighbors, len(members)), dim=1)
        counted = picked.values.isfinite().double()
        total = torch.zeros_like(probs)
        # One by one: a sum over an inner dimension adds in an order that may hang on the batch.
        for record, counts in zip(picked.indices.T, counted.T, strict=True):
            total = total + counts.unsqueeze(1) * members[record]
        return total / counted.sum(1, keepdim=True)
