"""Several substitutes as one network, so that one search misleads all of them at once.

Where every one of several ReLU networks has to agree, the least of their logits decides, and that
is the logit of one ReLU network again. So an ensemble needs no search of another kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aeppt_ext.reference import feature_width


class Substitute(NamedTuple):
    """One attack model of the defender: what it sees of a row, and its dense layers.

    ``weights`` [out, in] and ``biases`` [out] have ReLU between them; the last has one output.
    """

    features: str
    weights: list[Tensor]
    biases: list[Tensor]


def depth(layers: int, members: int) -> int:
    """How many layers :func:`merged` makes of ``members`` substitutes of ``layers`` each."""
    return layers + (members - 1).bit_length()


def merged(members: Sequence[Substitute], k: int) -> Substitute:
    """The network on ``sorted_raw`` features of k classes whose logit is the members' least.

    Its logit is positive where every member says "member". The hidden layers stand side by side. A
    member that has fewer of them than the deepest carries its logit s on as relu(s) − relu(−s) = s,
    and the least is a tree of min(a, b) = a − relu(a − b), one further hidden layer for each
    halving of the number of members. So m members of hidden layers (64, 32) become 64m, 32m, about
    3m/2, 3m/4 … units. A GPU takes up to 56 layers and 2^24 hidden units, and keeps a row's
    activations in shared memory: 96m numbers should stay within a few thousand.

    Parameters
    ----------
    members : sequence of Substitute
        At least one; of any features and depths, all of one dtype.
    k : int
        The number of classes.

    Returns
    -------
    Substitute
        Equal to the least of the members' logits to rounding, as is its gradient wherever one
        member's logit is less than all others.

    Raises
    ------
    ValueError
        There is no member, or a member does not take rows of k classes.
    """
    if not members:
        raise ValueError("an ensemble needs at least one substitute")
    for place, (features, weights, _) in enumerate(members):
        if weights[0].shape[1] != feature_width(features, k):
            raise ValueError(
                f"substitute {place} on {features} features takes {weights[0].shape[1]} inputs, "
                f"not the {feature_width(features, k)} of {k} classes"
            )
    layers = max(len(member.weights) for member in members)
    networks = [_deepened(member, layers) for member in members]
    # All members read the same inputs; from there on each reads its own units.
    weights = [torch.cat([_spread(member, k) for member in networks])]
    weights += [
        torch.block_diag(*(member.weights[layer] for member in networks))
        for layer in range(1, layers)
    ]
    biases = [torch.cat([member.biases[layer] for member in networks]) for layer in range(layers)]
    while len(biases[-1]) > 1:  # outputs: of each pair the lesser goes on
        compare, choose = _pairwise(len(biases[-1]), weights[-1].dtype)
        weights[-1:] = [compare @ weights[-1], choose]
        biases[-1:] = [compare @ biases[-1], choose.new_zeros(len(choose))]
    return Substitute("sorted_raw", weights, biases)


def _spread(member: Substitute, k: int) -> Tensor:
    """A member's first layer on ``sorted_raw`` inputs, [out, 2k]."""
    first = member.weights[0]
    wide = first.new_zeros(len(first), 2 * k)
    start = k if member.features == "raw" else 0
    wide[:, start : start + first.shape[1]] = first
    return wide


def _deepened(member: Substitute, layers: int) -> Substitute:
    """The same logit in so many layers: it is carried on as relu(s) − relu(−s)."""
    features, weights, biases = member
    if len(weights) == layers:
        return member
    both = weights[0].new_tensor([[1.0], [-1.0]])
    carried = layers - len(weights) - 1
    return Substitute(
        features,
        [*weights[:-1], both @ weights[-1], *[both.new_ones(2).diag()] * carried, both.T],
        [*biases[:-1], both @ biases[-1], *[both.new_zeros(2)] * carried, both.new_zeros(1)],
    )


def _pairwise(count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Layers that leave of each two of ``count`` outputs the lesser, a − relu(a − b)."""
    compare = torch.tensor([[1, -1], [1, 0], [-1, 0]], dtype=dtype)
    carry = torch.tensor([[1], [-1]], dtype=dtype)
    pairs, single = divmod(count, 2)
    choose = torch.tensor([[-1, 1, -1]], dtype=dtype)
    return (
        torch.block_diag(*[compare] * pairs, *[carry] * single),
        torch.block_diag(*[choose] * pairs, *[carry.T] * single),
    )
