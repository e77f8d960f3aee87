"""Training of the small classifiers that demonstrations and benchmarks defend and attack."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from aeppt.data.records import Records

BATCH = 64
LEARNING_RATE = 1e-3

#: Makes a new, untrained classifier: inputs [b, ...] to logits [b, k]. Its randomness is torch's.
Architecture = Callable[[], nn.Module]
#: From a model in train mode, inputs [b, ...] and labels [b] to the loss of the batch.
BatchLoss = Callable[[nn.Module, Tensor, Tensor], Tensor]
#: Called with the number of epochs done.
OnEpoch = Callable[[int], None]
#: From a model in eval mode, after an epoch, to whether training ends there.
StopsAt = Callable[[nn.Module], bool]


def mean_cross_entropy(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """The usual loss of a classifier."""
    return cross_entropy(model(inputs), labels)


def train_classifier(
    records: Records,
    hidden: tuple[int, ...],
    epochs: int,
    random_state: int,
    on_epoch: OnEpoch | None = None,
) -> nn.Module:
    """Train a ReLU network with Adam on cross-entropy; without regularisation, so it overfits.

    Parameters
    ----------
    records : Records
    hidden : tuple of int
        Widths of the hidden layers.
    epochs : int
    random_state : int
    on_epoch : callable or None
        Called with the number of epochs done, for progress.
    """
    widths = (records.features.shape[1], *hidden, records.n_classes)
    model = new_model(lambda: relu_network(widths), random_state)
    return train(model, records, epochs, random_state, on_epoch=on_epoch)


def new_model(architecture: Architecture, random_state: int) -> nn.Module:
    """An untrained classifier whose initial parameters the seed decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        return architecture()


def train(
    model: nn.Module,
    records: Records,
    epochs: int,
    random_state: int,
    batch_loss: BatchLoss = mean_cross_entropy,
    weight_decay: float = 0.0,
    on_epoch: OnEpoch | None = None,
    stops_at: StopsAt | None = None,
) -> nn.Module:
    """Train ``model`` in place with Adam, and put it in eval mode.

    Parameters
    ----------
    model : nn.Module
        Inputs [b, ...] to logits [b, k].
    records : Records
    epochs : int
        Passes over the records, in another order each.
    random_state : int
        Seed of the orders, and of what the model or the loss draws from torch's randomness.
    batch_loss : callable
        From the model in train mode, inputs [b, ...] and labels [b] to the loss of the batch.
    weight_decay : float
        Of Adam: the factor of the parameters that their gradient is raised by (an L2 penalty).
    on_epoch : callable or None
        Called with the number of epochs done, after each.
    stops_at : callable or None
        From the model in eval mode to whether training ends; called after each epoch.
    """
    inputs, labels = torch.from_numpy(records.features), torch.from_numpy(records.labels)
    generator = torch.Generator().manual_seed(random_state)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=weight_decay)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        for epoch in range(epochs):
            model.train()
            for batch in torch.randperm(len(inputs), generator=generator).split(BATCH):
                optimizer.zero_grad()
                batch_loss(model, inputs[batch], labels[batch]).backward()
                optimizer.step()
            if on_epoch is not None:
                on_epoch(epoch + 1)
            if stops_at is not None and stops_at(model.eval()):
                break
    return model.eval()


def relu_network(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers from each of ``widths`` to the next, a ReLU between every two."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def predict_probs(model: nn.Module, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The model's probabilities [n, k] for ``features`` [n, d]."""
    with torch.no_grad():
        probs: NDArray[np.float32] = model(torch.from_numpy(features)).softmax(dim=1).numpy()
    return probs
