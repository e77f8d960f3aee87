"""Model stacking: each part of the model learns from records that no other part saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from aeppt.data.records import Records
from aeppt.models.shadows import model_seed
from aeppt.models.training import Architecture, OnEpoch, new_model, train
from aeppt.recipes.base import Recipe

PARTS = 3
PENALTY = 1.0  # of the regression's squared weights, halved, beside the sum of losses
MOST_STEPS = 1000  # of the regression's optimiser, which stops where the loss does


@dataclass(frozen=True)
class ModelStacking(Recipe):
    """Two networks and a logistic regression, each trained on its own third of the training set.

    From ML-Leaks (Salem et al. 2019, NDSS, arXiv 1806.01246). The regression reads the
    probabilities of the two networks, on records that neither saw. In the paper the first layer is
    a neural network and a random forest; here it is two networks of the architecture from different
    initial parameters, so that the released model is a network all through. The regression's
    penalty is this library's.

    Raises
    ------
    ValueError
        From :meth:`train`: there are fewer than three records.
    """

    def train(
        self,
        architecture: Architecture,
        records: Records,
        epochs: int,
        random_state: int,
        reference: Records | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> nn.Module:
        """See :meth:`Recipe.train`; ``on_epoch`` hears of the second network's epochs."""
        if len(records) < PARTS:
            raise ValueError(
                f"ModelStacking needs at least {PARTS} records, one for each part of the model, "
                f"got {len(records)}"
            )
        order = np.random.default_rng(random_state).permutation(len(records))
        *first, last = (records.take(rows) for rows in np.array_split(order, PARTS))
        networks = []
        for place, part in enumerate(first):
            seed = model_seed(random_state, place)
            heard = on_epoch if part is first[-1] else None
            networks.append(
                train(new_model(architecture, seed), part, epochs, seed, on_epoch=heard)
            )
        with torch.no_grad():
            probs = joint_probs(networks, torch.from_numpy(last.features))
        combiner = logistic_regression(probs, torch.from_numpy(last.labels), records.n_classes)
        return Stacked(networks, combiner).eval()


class Stacked(nn.Module):
    """Networks, and a layer that reads their probabilities: inputs [b, ...] to logits [b, k]."""

    def __init__(self, networks: Sequence[nn.Module], combiner: nn.Module) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.combiner = combiner

    def forward(self, inputs: Tensor) -> Tensor:
        """The combining layer's logits."""
        logits: Tensor = self.combiner(joint_probs(self.networks, inputs))
        return logits


def joint_probs(networks: Sequence[nn.Module] | nn.ModuleList, inputs: Tensor) -> Tensor:
    """The probabilities [b, k] of each network, side by side."""
    return torch.cat([network(inputs).softmax(dim=1) for network in networks], dim=1)


def logistic_regression(inputs: Tensor, labels: Tensor, n_classes: int) -> nn.Linear:
    """The layer with the least sum of cross-entropies and half its squared weights.

    That is convex, so where the search starts does not matter. The bias is not penalised.
    """
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs.shape[1], n_classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    layer.double()  # lest rounding end the search early
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=MOST_STEPS, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        misfit = cross_entropy(layer(inputs.double()), labels, reduction="sum")
        total = misfit + PENALTY / 2 * layer.weight.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    return layer.float()
