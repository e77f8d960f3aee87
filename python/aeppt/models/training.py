"""Training of the small classifiers that demonstrations and benchmarks defend and attack."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from aeppt.data.records import Records

BATCH = 64
LEARNING_RATE = 1e-3


def train_classifier(
    records: Records,
    hidden: tuple[int, ...],
    epochs: int,
    random_state: int,
    on_epoch: Callable[[int], None] | None = None,
) -> nn.Sequential:
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
    inputs, targets = torch.from_numpy(records.features), torch.from_numpy(records.labels)
    generator = torch.Generator().manual_seed(random_state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        model = relu_network((inputs.shape[1], *hidden, records.n_classes))
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    loss = nn.CrossEntropyLoss()
    for epoch in range(epochs):
        for batch in torch.randperm(len(inputs), generator=generator).split(BATCH):
            optimizer.zero_grad()
            loss(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
        if on_epoch is not None:
            on_epoch(epoch + 1)
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
