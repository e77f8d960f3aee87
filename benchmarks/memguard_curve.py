"""MemGuard's published curve on Location, run again: memguard_curve.py --location FILE.

The experiment of the authors' released code (repository jinyuan-jia/MemGuard; Jia et al. 2019, ACM
CCS), whose README gives the accuracy of the neural network attack for six budgets. From that code
come the sizes of the split, the networks and their training: plain SGD in batches of 64, of which
an incomplete one is dropped (Python 2 divides so), Glorot's uniform initial weights, no
regularisation, a rate that is divided by ten towards the end. The attacker trains a shadow model in
the target's way, and a network on its sorted probabilities. He does not know the defense. As there,
a record counts by the probability with which phase II adds its noise: the accuracy is the expected
one. Beside it stands the accuracy on what :class:`aeppt.defenses.memguard.MemGuard` returns.

What differs: the defense is this library's, with its own substitute, and seeds deal the records, in
other orders than the released experiment's. Writes docs/results/memguard-location.json and .svg,
and fails where a point of the mean curve is further from the README's than 0.03.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from aeppt import Predictions
from aeppt.data import Records, load_location, split_records
from aeppt.defenses.memguard import MemGuard, noise_probability
from aeppt.evaluation.demonstration import predictions_on
from aeppt.evaluation.plots import DEFENSE_COLOURS, INK, to_svg
from aeppt.files import write_atomically
from aeppt.models import predict_probs
from aeppt.models.training import new_model, relu_network

#: Budget on the expected L1 change to accuracy of the attack.
README_CURVE = {1.0: 0.50, 0.7: 0.52, 0.5: 0.55, 0.3: 0.62, 0.1: 0.69, 0.0: 0.73}
TOLERANCE = 0.03
SEEDS = (0, 1, 2)
MEMBERS, SHADOW_MEMBERS = 1000, 500

CLASSIFIER = {"hidden": (1024, 512, 256, 128), "epochs": 200, "slower_after": 150}
ATTACK = {"hidden": (512, 256, 128), "epochs": 400, "slower_after": 300}
BATCH, RATE = 64, 0.01

TIMED_ROWS, TIMED_RUNS, THREADS = 1000, 21, 2
DESTINATION = Path(__file__).parent.parent / "docs" / "results"


def train_by_sgd(
    inputs: Tensor,
    targets: Tensor,
    outputs: int,
    loss: Callable[[Tensor, Tensor], Tensor],
    seed: int,
    *,
    hidden: tuple[int, ...],
    epochs: int,
    slower_after: int,
) -> nn.Module:
    """A network from ``inputs`` [n, d], trained as the released code trains all of its networks."""
    widths = (inputs.shape[1], *hidden, outputs)
    model = new_model(lambda: glorot(relu_network(widths)), seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [slower_after], gamma=0.1)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(inputs), generator=generator)
        for batch in order[: len(order) // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            loss(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
        schedule.step()
    return model.eval()


def glorot(model: nn.Sequential) -> nn.Sequential:
    """Keras' initial parameters of dense layers."""
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def train_target(records: Records, seed: int) -> nn.Module:
    """The released code's target model, and the attacker's shadow model."""
    inputs, labels = torch.from_numpy(records.features), torch.from_numpy(records.labels)
    return train_by_sgd(inputs, labels, records.n_classes, cross_entropy, seed, **CLASSIFIER)


def train_attack(lesson: Predictions, seed: int) -> Callable[[NDArray], NDArray[np.bool_]]:
    """The released code's attack: from probabilities [n, k] to "member" or not [n]."""

    def ascending(probs: NDArray) -> Tensor:
        return torch.from_numpy(np.sort(probs, axis=1))

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(logits[:, 0], targets)

    membership = torch.from_numpy(lesson.is_member.astype(np.float32))
    model = train_by_sgd(ascending(lesson.probs), membership, 1, loss, seed, **ATTACK)

    def says_member(probs: NDArray) -> NDArray[np.bool_]:
        with torch.no_grad():
            return (model(ascending(probs))[:, 0] > 0).numpy()

    return says_member


def run(records: Records, seed: int) -> tuple[dict, MemGuard, NDArray]:
    """One seed's figures; the defense and the rows that it protected, for the clock."""
    split = split_records(records, MEMBERS, SHADOW_MEMBERS, seed)
    target_seed, shadow_seed, attack_seed = (
        int(state) for state in np.random.SeedSequence(seed).generate_state(3)
    )
    target = train_target(split.members, target_seed)
    shadow = train_target(split.shadow_members, shadow_seed)
    known = predictions_on(target, split.members, split.known_non_members)
    asked = predictions_on(target, split.members, split.fresh_non_members)
    says_member = train_attack(
        predictions_on(shadow, split.shadow_members, split.shadow_non_members), attack_seed
    )

    def defense(budget: float | None) -> MemGuard:
        return MemGuard(budget, random_state=seed).fit(known.probs, known.is_member)

    def is_right(probs: NDArray) -> NDArray[np.bool_]:
        return says_member(probs) == asked.is_member

    phase_one = defense(None)
    noisy, info = phase_one.protect(asked.probs, return_info=True)
    before, after, l1 = map(torch.from_numpy, (info.score_before, info.score_after, info.l1))
    right, right_noisy = is_right(asked.probs), is_right(noisy)
    curve = {}
    for budget in README_CURVE:
        chance = noise_probability(before, after, l1, budget).numpy()
        drawn, drawn_info = defense(budget).protect(asked.probs, return_info=True)
        curve[f"{budget:g}"] = {
            "accuracy": float(np.mean(chance * right_noisy + (1 - chance) * right)),
            "accuracy_drawn": float(is_right(drawn).mean()),
            "mean_l1": float(np.mean(chance * info.l1)),
            "mean_l1_drawn": float(drawn_info.l1.mean()),
        }

    def accuracy(model: nn.Module, part: Records) -> float:
        return float((predict_probs(model, part.features).argmax(1) == part.labels).mean())

    figures = {
        "seed": seed,
        "target_accuracy": {
            "members": accuracy(target, split.members),
            "non_members": accuracy(target, split.fresh_non_members),
        },
        "shadow_accuracy": {
            "members": accuracy(shadow, split.shadow_members),
            "non_members": accuracy(shadow, split.shadow_non_members),
        },
        "substitute_accuracy": float(((info.score_before > 0) == asked.is_member).mean()),
        "phase_one": info.status_counts(),
        "curve": curve,
    }
    return figures, phase_one, asked.probs


def seconds_to_protect(defense: MemGuard, rows: NDArray) -> dict:
    """The time of protecting ``rows`` at once, on THREADS threads."""
    torch.set_num_threads(THREADS)
    defense.protect(rows)
    times = []
    for _ in range(TIMED_RUNS):
        begin = time.perf_counter()
        defense.protect(rows)
        times.append(time.perf_counter() - begin)
    torch.set_num_threads(1)
    return {
        "rows": len(rows),
        "threads": THREADS,
        "runs": TIMED_RUNS,
        "median": statistics.median(times),
        "least": min(times),
        "most": max(times),
    }


def draw(runs: list[dict], mean: dict[str, float]) -> Figure:
    """The README's curve, ours, and each seed's."""
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = figure.subplots()
    ours, theirs = DEFENSE_COLOURS[:2]
    for one in runs:
        points = one["curve"]
        accuracies = [point["accuracy"] for point in points.values()]
        axes.plot([float(b) for b in points], accuracies, color=ours, alpha=0.35, linewidth=0.8)
    axes.plot(
        [float(budget) for budget in mean],
        list(mean.values()),
        color=ours,
        marker="o",
        label=f"here, mean of {len(runs)} seeds (thin: each)",
    )
    axes.plot(
        list(README_CURVE),
        list(README_CURVE.values()),
        color=theirs,
        marker="s",
        linestyle="--",
        label="README of the released code",
    )
    axes.axhline(0.5, color=INK, linewidth=0.9, linestyle=":", label="guessing")
    axes.set(xlabel="budget on the expected L1 change", ylabel="accuracy of the static attack")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    axes.legend(frameon=False)
    return figure


def table(runs: list[dict], mean: dict[str, float]) -> str:
    lines = [
        "| budget | README | here | " + " | ".join(f"seed {one['seed']}" for one in runs) + " |",
        "| --- " * (3 + len(runs)) + "|",
    ]
    for budget, published in README_CURVE.items():
        points = [one["curve"][f"{budget:g}"] for one in runs]
        cells = [
            f"{point['accuracy']:.3f} (drawn {point['accuracy_drawn']:.3f}, "
            f"L1 {point['mean_l1_drawn']:.3f})"
            for point in points
        ]
        lines.append(
            f"| {budget:g} | {published:.2f} | {mean[f'{budget:g}']:.3f} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--location", required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    records = load_location(arguments.location)
    runs = []
    for seed in SEEDS:
        begin = time.perf_counter()
        figures, defense, rows = run(records, seed)
        runs.append(figures)
        print(f"seed {seed}: {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    chosen = np.linspace(0, len(rows) - 1, TIMED_ROWS, dtype=int)  # members and non-members
    clock = seconds_to_protect(defense, rows[chosen])

    mean = {
        f"{budget:g}": statistics.mean(one["curve"][f"{budget:g}"]["accuracy"] for one in runs)
        for budget in README_CURVE
    }
    off = max(abs(mean[f"{budget:g}"] - published) for budget, published in README_CURVE.items())
    results = {
        "published": {f"{budget:g}": accuracy for budget, accuracy in README_CURVE.items()},
        "mean": mean,
        "greatest_difference": off,
        "seconds_to_protect": clock,
        "torch": torch.__version__,
        "seeds": runs,
    }
    text, picture = json.dumps(results, indent=2), to_svg(draw(runs, mean))
    for suffix, content in (("json", text), ("svg", picture)):
        write_atomically(
            DESTINATION / f"memguard-location.{suffix}",
            lambda file, content=content: file.write(content.encode()),
        )
    print(table(runs, mean))
    print(
        f"{clock['rows']} rows on {clock['threads']} threads: {1e3 * clock['median']:.1f} ms "
        f"({1e3 * clock['least']:.1f} to {1e3 * clock['most']:.1f} in {clock['runs']} runs)"
    )
    if off > TOLERANCE:
        raise SystemExit(f"a point is {off:.3f} from the README's, more than {TOLERANCE}")


if __name__ == "__main__":
    main()
