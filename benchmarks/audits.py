"""The whole audit of AEPPT on real data, several seeds: audits.py DATA [--path FILE].

DATA is digits, location or cifar10. Trains target and shadow models, runs every attack in every
setting, and writes docs/results/DATA-SEED.json and its part of docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from readme_times import write_parts
from rich.console import Console
from torch import nn

from aeppt import AEPPT, ShadowPredictions, audit
from aeppt.cli.display import ProgressDisplay
from aeppt.data import Records, load_cifar10, load_digits, load_location
from aeppt.evaluation import AuditReport
from aeppt.evaluation.demonstration import demonstrate
from aeppt.evaluation.harness import Progress
from aeppt.evaluation.results import SETTINGS
from aeppt.models import train_shadows

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "results.md"
TITLES = {
    "digits": "digits (scikit-learn), network of 512 units, 200 members",
    "location": "Location, network of 256 units, 1,000 members",
    "cifar10": "CIFAR-10 (JPEG), small convolutional network, 2,500 members",
}
POOL, EPOCHS = 5000, 25  # of CIFAR-10


def small_network() -> nn.Module:
    """Two convolutions and two dense layers."""
    layers: list[nn.Module] = []
    for channels, out in ((3, 16), (16, 32)):
        layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 64), nn.ReLU(), nn.Linear(64, 10))


def audit_cifar10(path: str, seed: int, shadow_models: int, tell: Progress) -> AuditReport:
    """Target, shadow model and the shadow models of each record are networks of one kind."""
    both = load_cifar10(path, 2 * POOL, seed)
    pool, other_pool = both.take(np.arange(POOL)), both.take(np.arange(POOL, 2 * POOL))

    def train(records: Records, models: int, seed: int) -> ShadowPredictions:
        return train_shadows(records, models, small_network, EPOCHS, seed, on_progress=tell)

    said = train(pool, 2, 3 * seed).of_model(0)
    shadow = train(other_pool, 2, 3 * seed + 1).of_model(0)
    shadows = train(pool, shadow_models, 3 * seed + 2)
    # Half of the non-members are the defender's to fit on; the others are asked about.
    others = np.flatnonzero(~said.is_member)
    asked = np.sort(np.concatenate([np.flatnonzero(said.is_member), others[::2]]))
    known = np.sort(np.concatenate([np.flatnonzero(said.is_member), others[1::2]]))

    fitted = said.take(known)
    defense = AEPPT(random_state=seed).fit(fitted.probs, fitted.is_member)
    return audit(
        said.take(asked),
        shadow,
        defense,
        attacks="all",
        random_state=seed,
        title="AEPPT on CIFAR-10",
        on_progress=tell,
        shadows=shadows.take(asked),
    )


def run(data: str, path: str | None, seed: int, shadow_models: int, tell: Progress) -> AuditReport:
    if data == "cifar10":
        return audit_cifar10(path, seed, shadow_models, tell)
    records = load_digits() if data == "digits" else load_location(path)
    return demonstrate(data, records, seed, tell, "all", shadow_models)[0]


def entries(runs: list[dict], attack: str, setting: str) -> list[dict]:
    """One attack in one setting, of every run."""
    wanted = (attack, setting)
    return [e for run in runs for e in run["attacks"] if (e["attack"], e["setting"]) == wanted]


def section(runs: list[dict]) -> str:
    """A table of one data set: balanced accuracy and AUC, the mean over seeds and their range."""

    def values(attack: str, setting: str, metric: str) -> list[float]:
        return [100 * entry[metric]["value"] for entry in entries(runs, attack, setting)]

    def figure(attack: str, setting: str, metric: str) -> str:
        found = values(attack, setting, metric)
        return f"{mean(found):.1f} [{min(found):.1f}–{max(found):.1f}]"

    names = list(dict.fromkeys(entry["attack"] for entry in runs[0]["attacks"]))
    strongest = sorted(
        names, key=lambda name: mean(values(name, "adaptive", "balanced_accuracy")), reverse=True
    )
    floor = mean(run["label_only_floor"]["value"] for run in runs)
    utility = [run["utility"] for run in runs]
    members, others = (
        mean(entry[f"l1_{side}"] for entry in utility) for side in ("members", "non_members")
    )
    facts = runs[0]["facts"]
    seconds = ", ".join(run["facts"]["seconds"] for run in runs)
    lines = [
        f"{facts['target records']}; shadow model: {facts['shadow records']}; "
        f"{facts['shadow models for per-example attacks']} shadow models of each record. "
        f"{len(runs)} seeds, which took {seconds} s on {facts['threads']} threads. "
        f"Label-only floor {100 * floor:.1f}. Mean L1 {members:.3f} for members, "
        f"{others:.3f} for non-members.",
        "",
        "| attack | undefended | static | adaptive | AUC: undefended | static | adaptive |",
        "| --- " * 7 + "|",
    ]
    for name in strongest:
        cells = [
            figure(name, setting, metric)
            for metric in ("balanced_accuracy", "auc")
            for setting in SETTINGS
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if any(entry.get("canaries") for entry in runs[0]["attacks"]):
        lines += ["", canaries(runs)]
    return "\n".join(lines)


def canaries(runs: list[dict]) -> str:
    """What LiRA finds among the most vulnerable records, beside all."""

    def found(setting: str, among: str) -> str:
        lira = entries(runs, "LiRA online", setting)
        return f"{100 * mean(entry['canaries'][among]['value'] for entry in lira):.0f}"

    most, every = (
        ", ".join(f"{found(setting, among)} % {setting}" for setting in SETTINGS)
        for among in ("canaries", "population")
    )
    return (
        "Of the members among the most vulnerable tenth of the records, online LiRA finds at a "
        f"false-positive rate of 0.1 %: {most}; of all members: {every}."
    )


def write_page() -> None:
    """Writes every data set's table into its place in docs/results.md."""
    tables = {}
    for data, title in TITLES.items():
        runs = [json.loads(found.read_text()) for found in sorted(RESULTS.glob(f"{data}-*.json"))]
        text = section(runs) if runs else "Not yet measured."
        tables[data] = f"### {title}\n\n{text}"
    write_parts(PAGE, "audits.py", tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=TITLES)
    parser.add_argument("--path")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shadow-models", type=int, default=8)
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    for seed in range(arguments.seeds):
        begin = time.perf_counter()
        with ProgressDisplay(console) as progress:
            report = run(
                arguments.data, arguments.path, seed, arguments.shadow_models, progress.update
            )
        seconds = time.perf_counter() - begin
        console.print(f"{arguments.data}, seed {seed}: {seconds:.0f} s")
        report = replace(
            report,
            facts={
                **report.facts,
                "seconds": f"{seconds:.0f}",
                "threads": str(torch.get_num_threads()),
            },
        )
        report.to_json(RESULTS / f"{arguments.data}-{seed}.json")
    write_page()


if __name__ == "__main__":
    main()
