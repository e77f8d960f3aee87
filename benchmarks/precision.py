"""How many decisions change with the precision of gradient steps: python precision.py [DEVICE].

Counts, among rows of members and non-members and a substitute trained to tell them, those whose
status differs from the float64 reference's, and those whose probabilities end elsewhere. Without a
GPU, ``AEPPT_ISA=emulated`` runs the CUDA kernel's source; other CPU variants ignore the precision.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "search"))
from search_helpers import trained_problem

from aeppt_ext import SearchOptions, perturb_search, reference
from aeppt_ext.options import PRECISIONS

ELSEWHERE = 1e-3  # a change of one probability
MOVES = (("sorted", "linf"), ("raw", "l2"))
CASES = (
    (10, (64,), 4000),
    (10, (256, 128, 64), 1500),
    (100, (256, 128, 64), 600),
    (1000, (64,), 60),
)

device = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cpu")
print("| features, norm | k, hidden | rows | precision | other status | elsewhere |")
print("| --- | --- | --- | --- | --- | --- |")
for (features, norm), (k, hidden, n) in product(MOVES, CASES):
    probs, substitute = trained_problem(features, k, n, hidden)
    options = SearchOptions(features=features, norm=norm)
    expected = reference.perturb_search(probs, substitute.weights, substitute.biases, options)
    there = substitute.to(torch.float32).to(device)
    for precision in PRECISIONS:
        found = perturb_search(
            probs.float().to(device),
            there.weights,
            there.biases,
            replace(options, precision=precision),
        )
        status = (found.status.cpu() != expected.status).sum().item()
        change = (found.probs.cpu().double() - expected.probs).abs().amax(1)
        elsewhere = (change > ELSEWHERE).sum().item()
        widths = "-".join(map(str, hidden))
        counts = f"{n} | {precision} | {status} | {elsewhere}"
        print(f"| {features}, {norm} | {k}, {widths} | {counts} |", flush=True)
