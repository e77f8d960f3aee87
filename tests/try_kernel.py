"""A small call on every path of a kernel, short enough for sanitizers: try_kernel.py cpu|cuda.

On a GPU nothing runs but the kernels and copies, so that what a sanitizer finds is theirs.
"""

import sys
from itertools import product

import torch

from aeppt_ext import ReleaseTables, SearchOptions, perturb_search, rank_release
from aeppt_ext.options import FEATURES, NORMS, PRECISIONS
from aeppt_ext.reference import feature_width

CLASSES = {
    8: 40,
    40: 40,
    300: 4,
    6000: 2,
}  # on a GPU teams of 8, 32 and 256 lanes; too long for shared memory
DEVICE = sys.argv[1]


Layers = tuple[list[torch.Tensor], list[torch.Tensor]]


def layers(width: int, *outputs: int) -> Layers:
    """Random weights and biases of a substitute."""
    weights, biases = [], []
    for out in outputs:
        weights.append(torch.randn(out, width) * (2 / width) ** 0.5)
        biases.append(torch.zeros(out))
        width = out
    return weights, biases


def search(probs: torch.Tensor, substitute: Layers, options: SearchOptions) -> None:
    """Search there, and look here whether the labels stayed."""
    weights, biases = ([array.to(DEVICE, probs.dtype) for array in part] for part in substitute)
    result = perturb_search(probs.to(DEVICE), weights, biases, options)
    assert torch.equal(result.probs.cpu().argmax(1), probs.argmax(1))


torch.manual_seed(0)
searches = 0
for k, features, norm in product(CLASSES, FEATURES, NORMS):
    probs = (3 * torch.randn(CLASSES[k], k)).softmax(1)
    substitute = layers(feature_width(features, k), 37, 20, 1)
    for precision in PRECISIONS:
        options = SearchOptions(
            features=features,
            norm=norm,
            precision=precision,
            max_steps=3,
            refine_steps=2,
            max_l1=0.1,
            on_invalid="passthrough",
        )
        search(probs, substitute, options)
        searches += 1
    options = SearchOptions(features=features, max_steps=3, on_invalid="passthrough")
    search(probs.double(), substitute, options)
    searches += 1
releases = 0
for k, dtype in product((*CLASSES, 20_000), (torch.float32, torch.float64)):
    rows = (3 * torch.randn(CLASSES.get(k, 2), k)).softmax(1, dtype=dtype)
    edges = torch.tensor([0.5], dtype=torch.float64)
    tables = (
        edges,
        edges.expand(2, 1),
        torch.arange(k, dtype=torch.int32) % 3,
        torch.arange(1, 5).double().div(4).expand(3, 4, 4),
        rows[:1].sort(descending=True).values.expand(4, k),
    )
    there = ReleaseTables(*(table.contiguous().to(DEVICE) for table in tables))
    key = torch.arange(16, dtype=torch.uint8)
    released = rank_release(rows.to(DEVICE), there, key, "passthrough")
    assert torch.equal(released.probs.cpu().argmax(1), rows.argmax(1))
    releases += 1
print(f"{searches} searches, {releases} releases")
