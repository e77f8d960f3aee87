"""MemGuard's released loop against the fused search: memguard_loop.py [--location FILE].

A rendition in PyTorch of phase one of MemGuard (Jia et al. 2019, CCS), as its authors' code runs
it: one record at a time, from its logits, at most 300 normalised gradient steps of length 0.1
on |attack logit| + 10 · relu(greatest other logit − label's) + c₃ · ‖change‖₁, until the attack
model's answer crosses one half and the label is kept; then again from the start with c₃ ten times
greater, from 0.1 to 100,000, until that fails. The attack model is the defense's own substitute, on
the same rows for both, one record and one thread each.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from methods import demonstration_predictions
from torch import Tensor

from aeppt import AEPPT
from aeppt.data import load_digits, load_location
from aeppt_ext import Status, reference

STEPS, STEP_SIZE = 300, 0.1
LABEL_PENALTY = 10.0
DISTANCE_PENALTIES = [0.1 * 10**level for level in range(7)]
UNDECIDED = 1e-5  # an attack model this close to one half is left alone


def memguard(probs: Tensor, weights: list[Tensor], biases: list[Tensor]) -> tuple[Tensor, bool]:
    """One record ``probs`` [k], defended; and whether it reached the attack model's border."""
    start = probs.clamp_min(1e-12).log().unsqueeze(0)
    label = int(start.argmax())
    others = torch.arange(len(probs)) != label

    def attack_logit(logits: Tensor) -> Tensor:
        return reference.score(logits.softmax(1), weights, biases, "sorted")[0]

    initial = float(attack_logit(start).sigmoid()) - 0.5
    if abs(initial) <= UNDECIDED:
        return probs, True
    best, succeeded = probs, False
    for penalty in DISTANCE_PENALTIES:
        logits, reached = start.clone(), False
        for _ in range(STEPS - 1):
            logits.requires_grad_(True)
            loss = (
                attack_logit(logits).abs()
                + LABEL_PENALTY * (logits[0, others].max() - logits[0, label]).relu()
                + penalty * (logits.softmax(1)[0] - probs).abs().sum()
            )
            (gradient,) = torch.autograd.grad(loss, logits)
            with torch.no_grad():
                logits = logits - STEP_SIZE * gradient / gradient.norm()
                crossed = (float(attack_logit(logits).sigmoid()) - 0.5) * initial <= 0
                reached = crossed and int(logits.argmax()) == label
            if reached:
                break
        if not reached:
            break
        best, succeeded = logits.softmax(1)[0], True
    return best, succeeded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--location")
    parser.add_argument("--rows", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = {"digits": load_digits()}
    if arguments.location:
        data["location"] = load_location(arguments.location)
    print("| data | method | per record | success | mean L1 |")
    print("| --- | --- | --- | --- | --- |")
    for name, records in data.items():
        known, rows = demonstration_predictions(name, records)
        defense = AEPPT().fit(known.probs, known.is_member)
        chosen = torch.from_numpy(rows[np.linspace(0, len(rows) - 1, arguments.rows, dtype=int)])
        layers = dict(defense.module_.named_buffers())
        weights = [tensor for key, tensor in layers.items() if key.startswith("weight")]
        biases = [tensor for key, tensor in layers.items() if key.startswith("bias")]

        times, changes, successes = [], [], 0
        for row in chosen:
            begin = time.perf_counter()
            defended, succeeded = memguard(row, weights, biases)
            times.append(time.perf_counter() - begin)
            changes.append(float((defended - row).abs().sum()))
            successes += succeeded
        loop = float(np.median(times))
        print(
            f"| {name} | MemGuard's loop | {1e3 * loop:.1f} ms "
            f"({1e3 * min(times):.1f} to {1e3 * max(times):.1f}) "
            f"| {successes / len(chosen):.1%} | {np.mean(changes):.4f} |"
        )

        times, changes, successes = [], [], 0
        for row in chosen.unsqueeze(1):
            repeats = []
            for _ in range(5):
                begin = time.perf_counter()
                found = defense.module_.search(row)
                repeats.append(time.perf_counter() - begin)
            times.append(float(np.median(repeats)))
            changes.append(float(found.l1))
            successes += int(found.status) == int(Status.SUCCESS)
        fused = float(np.median(times))
        begin = time.perf_counter()
        defense.module_.search(chosen.repeat(20, 1))
        together = (time.perf_counter() - begin) / (20 * len(chosen))
        print(
            f"| {name} | fused search | {1e3 * fused:.3f} ms, {loop / fused:,.0f}×; in a batch "
            f"{1e3 * together:.4f} ms, {loop / together:,.0f}× "
            f"| {successes / len(chosen):.1%} | {np.mean(changes):.4f} |"
        )


if __name__ == "__main__":
    main()
