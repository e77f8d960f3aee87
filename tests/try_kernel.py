"""A small call on every path of a kernel, short enough for sanitizers: try_kernel.py cpu|cuda."""

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


def layers(width: int, *outputs: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Random weights and biases of a substitute."""
    weights, biases = [], []
    for out in outputs:
        weights.append(torch.randn(out, width, device=DEVICE) * (2 / width) ** 0.5)
        biases.append(torch.zeros(out, device=DEVICE))
        width = out
    return weights, biases


torch.manual_seed(0)
searches = 0
for k, features, norm in product(CLASSES, FEATURES, NORMS):
    probs = (3 * torch.randn(CLASSES[k], k, device=DEVICE)).softmax(1)
    weights, biases = layers(feature_width(features, k), 37, 20, 1)
    for precision in PRECISIONS:
        options = SearchOptions(
            features=features,
            norm=norm,
            precision=precision,
            max_steps=3,
            refine_steps=2,
            max_l1=0.1,
        )
        result = perturb_search(probs, weights, biases, options)
        assert torch.equal(result.probs.argmax(1), probs.argmax(1))
        searches += 1
    doubles = ([w.double() for w in weights], [b.double() for b in biases])
    perturb_search(probs.double(), *doubles, SearchOptions(features=features, max_steps=3))
    searches += 1
releases = 0
for k, dtype in product((*CLASSES, 20_000), (torch.float32, torch.float64)):
    rows = (3 * torch.randn(CLASSES.get(k, 2), k, device=DEVICE)).softmax(1, dtype=dtype)
    edges = torch.tensor([0.5], dtype=torch.float64, device=DEVICE)
    tables = ReleaseTables(
        edges,
        edges.expand(2, 1),
        torch.arange(k, dtype=torch.int32, device=DEVICE) % 3,
        torch.arange(1, 5, device=DEVICE).double().div(4).expand(3, 4, 4),
        rows[:1].sort(descending=True).values.expand(4, k),
    )
    released = rank_release(rows, tables, torch.arange(16, dtype=torch.uint8))
    assert torch.equal(released.probs.argmax(1), rows.argmax(1))
    releases += 1
print(f"{searches} searches, {releases} releases")
