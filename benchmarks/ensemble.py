"""What one search against a merged ensemble costs, beside one search against each of its members.

``python benchmarks/ensemble.py`` prints the table of docs/design.md: medians of 7 runs of 50
gradient steps of every row, which an unreachable border never ends early.
"""

from __future__ import annotations

import statistics
import time
from itertools import pairwise

import torch

from aeppt.defenses.ensemble import Substitute, merged
from aeppt_ext import SearchOptions, perturb_search
from aeppt_ext.reference import feature_width

CLASSES, ROWS, HIDDEN = (10, 100), (1, 256), (64, 32)
KINDS = ("sorted", "raw", "top3")
ROUNDS = (1, 2, 3)
RUNS = 7


def random_member(kind: str, k: int) -> Substitute:
    widths = [feature_width(kind, k), *HIDDEN, 1]
    layers = [torch.nn.Linear(*pair) for pair in pairwise(widths)]
    return Substitute(
        kind, [layer.weight.detach() for layer in layers], [layer.bias.detach() for layer in layers]
    )


def milliseconds(probs: torch.Tensor, network: Substitute) -> float:
    options = SearchOptions(features=network.features, max_steps=50, margin=1e6, refine_steps=0)
    times = []
    for _ in range(1 + RUNS):
        start = time.perf_counter()
        perturb_search(probs, network.weights, network.biases, options)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def main() -> None:
    torch.manual_seed(0)
    print("| k | substitutes | rows | one by one | merged | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for k in CLASSES:
        for rounds in ROUNDS:
            members = [random_member(kind, k) for kind in KINDS * rounds]
            network = merged(members, k)
            for n in ROWS:
                probs = (3 * torch.randn(n, k)).softmax(1)
                single = sum(milliseconds(probs, member) for member in members)
                together = milliseconds(probs, network)
                print(
                    f"| {k} | {len(members)} | {n} | {single:.3g} ms | {together:.3g} ms "
                    f"| {together / single:.1f} |"
                )


if __name__ == "__main__":
    main()
