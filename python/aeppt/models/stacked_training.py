"""Training of many small classifiers at once: their parameters stacked, one step for all.

A small network leaves a processor idle between its many small operations. Stacked, one operation
serves the whole group. Nothing passes from one model to another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from aeppt.data.records import Records
from aeppt.models.training import BATCH, LEARNING_RATE

#: More models at once are hardly faster, and a process that is killed loses a whole group.
LARGEST_GROUP = 32

#: Stacked parameters and inputs [g, b, ...] to logits [g, k, b]. The classes stand before the
#: records because a soft-max over few classes is several times faster that way.
Forward = Callable[[dict[str, Tensor], Tensor], Tensor]


def train_together(
    models: Sequence[nn.Module],
    records: Records,
    rows: NDArray[np.int64],
    seeds: Sequence[int],
    epochs: int,
) -> Iterator[int]:
    """Train each model in place, as :func:`aeppt.models.train_classifier` trains one.

    Parameters
    ----------
    models : sequence of g modules
        Of one architecture, each with its own initial parameters.
    records : Records
    rows : array [g, s], int64
        The records that each model is trained on.
    seeds : sequence of g int
        Each model's order of batches.
    epochs : int

    Yields
    ------
    int
        The number of epochs done, after each. The models are trained when the iterator is used up.
    """
    inputs, targets = torch.from_numpy(records.features), torch.from_numpy(records.labels)
    own_rows = torch.from_numpy(rows)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    stacked = _stack(models)
    forward = _forward(models[0].train())
    optimizer = torch.optim.Adam(stacked.values(), lr=LEARNING_RATE, fused=True)
    for epoch in range(epochs):
        orders = [torch.randperm(rows.shape[1], generator=generator) for generator in generators]
        for batch in own_rows.gather(1, torch.stack(orders)).split(BATCH, dim=1):
            optimizer.zero_grad()
            logits = forward(stacked, inputs[batch])
            # Means over batches, summed over models: each gets the gradient that it has alone.
            (cross_entropy(logits, targets[batch], reduction="sum") / batch.shape[1]).backward()
            optimizer.step()
        yield epoch + 1
    with torch.no_grad():
        for name, values in stacked.items():
            for model, value in zip(models, values, strict=True):
                model.get_parameter(name).copy_(value)
    for model in models:
        model.eval()


def group_size(model: nn.Module, records: Records, memory_budget: int) -> int:
    """How many models like ``model`` may train at once in ``memory_budget`` bytes, at least one.

    A model takes its parameters five times (its own, stacked, gradient, Adam's two moments), and
    twice what its forward pass on one batch keeps for the backward pass.

    Raises
    ------
    ValueError
        ``model`` cannot be trained in a group: it has buffers, is random, has no parameters, or
        does not return logits [b, ``records.n_classes``].
    """
    buffers = [name for name, _ in model.named_buffers()]
    if buffers:
        raise ValueError(
            f"the network keeps {buffers[0]!r} beside its parameters, which models trained at once "
            "cannot; use layers without buffers, such as GroupNorm in place of BatchNorm"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("the network has no parameters to train")
    kept = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    inputs = torch.from_numpy(records.features[:BATCH])
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        try:
            logits = _forward(model.train())(_stack([model]), inputs[None])
        except RuntimeError as error:
            raise ValueError(
                f"the network cannot run on inputs {list(inputs.shape)} under torch.func.vmap, "
                "which allows no dropout, no other randomness and no branch that depends on the "
                f"data: {error}"
            ) from error
    expected = (1, records.n_classes, len(inputs))
    if logits.shape != expected:
        raise ValueError(
            f"the network must return logits [b, {records.n_classes}], one per class of the "
            f"records; for {len(inputs)} records it returned {list(logits.mT.shape[1:])}"
        )
    bytes_per_model = 5 * sum(p.nbytes for p in model.parameters()) + 2 * kept
    return min(LARGEST_GROUP, max(1, memory_budget // bytes_per_model))


def groups_of_equal_size(
    models: Sequence[int], n_records: NDArray[np.int64], largest: int
) -> Iterator[list[int]]:
    """Divide ``models`` into groups of at most ``largest`` that :func:`train_together` can train.

    Those have equally many records each; model i has ``n_records[i]``.
    """
    for _, equal in groupby(sorted(models, key=n_records.__getitem__), n_records.__getitem__):
        waiting = list(equal)
        for start in range(0, len(waiting), largest):
            yield waiting[start : start + largest]


def _stack(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    return {
        name: torch.stack([model.get_parameter(name).detach() for model in models]).requires_grad_(
            parameter.requires_grad
        )
        for name, parameter in models[0].named_parameters()
    }


def _forward(model: nn.Module) -> Forward:
    if _is_relu_network(model):
        return _relu_network_forward
    run = vmap(lambda parameters, inputs: functional_call(model, parameters, (inputs,)))
    return lambda stacked, inputs: run(stacked, inputs).mT


def _is_relu_network(model: nn.Module) -> bool:
    """Whether ``model`` is what :func:`aeppt.models.training.relu_network` makes."""
    if type(model) is not nn.Sequential or len(model) % 2 == 0:
        return False
    return all(
        type(layer) is nn.ReLU if place % 2 else type(layer) is nn.Linear and layer.bias is not None
        for place, layer in enumerate(model)
    )


def _relu_network_forward(stacked: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """As vmap, but almost twice as fast: bias and product in one call, classes before records."""
    weights, biases = list(stacked.values())[::2], list(stacked.values())[1::2]
    values = inputs.mT
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        values = torch.baddbmm(bias[..., None], weight, values.relu() if layer else values)
    return values
