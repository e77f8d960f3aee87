"""AEPPT against MemGuard at equal mean L1: equal_distortion.py location|cifar10 --path FILE.

For each seed the records are dealt and all models trained anew. MemGuard gets a few budgets, the
last of which is no limit. AEPPT gets the ``max_l1`` with which its mean L1 change over the audited
rows is MemGuard's. That is its own knob, and its answer stays free of chance: every row moves, as
far as it may. The other way to the same mean, the whole perturbation for a share of the rows, is
MemGuard's phase two, and would compare two borders and no longer two methods. Where MemGuard moves
more in the mean than AEPPT at full strength ever does, its budget is lowered until it does not.

Each is audited with every attack on predictions and with those of many shadow models; attackers
who know the defense fit copies of it with the very same budget. Intervals of one audit are over its
records; those of means and differences are t intervals over seeds, paired where they compare.

A seed that is finished is kept in build/equal-distortion-DATA-SEED.json and not run again: remove
it there after a change. Writes docs/results/equal-distortion-DATA.json and .svg, and its table in
docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from audits import EPOCHS, TITLES, small_network
from numpy.typing import NDArray
from readme_times import between_marks
from rich.console import Console
from scipy.stats import t
from sklearn.base import clone

from aeppt import AEPPT, audit
from aeppt.cli.display import ProgressDisplay
from aeppt.data import Records, load_cifar10, load_location
from aeppt.defenses import OutputDefense
from aeppt.defenses.memguard import MemGuard
from aeppt.evaluation import AuditReport, Estimate, TradeOff
from aeppt.evaluation.demonstration import SETUPS
from aeppt.evaluation.experiment import Experiment, Sizes, Train, run_experiment, training_by
from aeppt.evaluation.harness import Progress
from aeppt.evaluation.plots import leakage_against_distortion, to_svg
from aeppt.files import write_atomically
from aeppt.models.training import relu_network
from aeppt.recipes import Plain

ROOT = Path(__file__).parent.parent
GREATEST_L1 = 2.0  # between any two distributions: no limit
BUDGETS = (0.1, 0.3, 1.0, GREATEST_L1)
TOLERANCE = 0.01  # of the mean L1, relative
HALVINGS = 20

#: What is reported of an audit: the attack (None: the strongest), the setting and the metric.
MEASURES = {
    "strongest static": (None, "static", "balanced_accuracy"),
    "strongest adaptive": (None, "adaptive", "balanced_accuracy"),
    "neural network static": ("neural network", "static", "balanced_accuracy"),
    "neural network adaptive": ("neural network", "adaptive", "balanced_accuracy"),
    "LiRA online AUC static": ("LiRA online", "static", "auc"),
    "LiRA online AUC adaptive": ("LiRA online", "adaptive", "auc"),
}


@dataclass(frozen=True)
class Data:
    """What the experiment is run on, and how."""

    load: Callable[[str, int], Records]  # from a path and a seed
    train: Train
    sizes: Sizes


def location() -> Data:
    """The demonstration's set-up."""
    setup = SETUPS["location"]
    train = training_by(Plain(), lambda: relu_network((446, *setup.hidden, 30)), setup.epochs)
    sizes = Sizes(setup.members, setup.shadow_members, shadow_models=8)
    return Data(lambda path, seed: load_location(path), train, sizes)


def cifar10() -> Data:
    """The network and the number of members of audits.py."""
    sizes = Sizes(members=2500, shadow_members=2500, shadow_models=4)
    needed = 3 * sizes.members + 2 * sizes.shadow_members
    return Data(
        lambda path, seed: load_cifar10(path, needed, seed),
        training_by(Plain(), small_network, EPOCHS),
        sizes,
    )


DATA = {"location": location, "cifar10": cifar10}


# --- equal distortion -------------------------------------------------------------------------


def adjusted(defense: OutputDefense, **parameters: float) -> OutputDefense:
    """The fitted ``defense`` with other parameters of its search."""
    other: OutputDefense = clone(defense).set_params(**parameters)
    other.module_ = other.build_module(defense.module_.state_dict())
    other.n_features_in_ = defense.n_features_in_
    return other


def mean_l1(defense: OutputDefense, probs: NDArray) -> float:
    return float(np.mean(defense.protect(probs, return_info=True)[1].l1))


def strongest_within(
    defense: OutputDefense, knob: str, probs: NDArray, most: float
) -> OutputDefense:
    """``defense`` with the greatest ``knob`` that keeps the mean L1 change within ``most``."""
    low, high = 0.0, GREATEST_L1
    for _ in range(HALVINGS):
        value = (low + high) / 2
        if mean_l1(adjusted(defense, **{knob: value}), probs) <= most:
            low = value
        else:
            high = value
    return adjusted(defense, **{knob: low})


def equal_pair(
    aeppt: OutputDefense, memguard: OutputDefense, budget: float, probs: NDArray
) -> tuple[OutputDefense, OutputDefense]:
    """AEPPT and MemGuard, fitted, at the same mean L1: that of ``budget`` or AEPPT's greatest.

    A budget is lowered first and AEPPT adjusted then, since MemGuard's mean moves in jumps: a row
    gets its whole noise or none.
    """
    full = mean_l1(aeppt, probs)
    memguard = adjusted(memguard, budget=budget)
    if mean_l1(memguard, probs) > full:
        memguard = strongest_within(memguard, "budget", probs, full)
    aim = mean_l1(memguard, probs)
    aeppt = strongest_within(aeppt, "max_l1", probs, aim)
    if not math.isclose(mean_l1(aeppt, probs), aim, rel_tol=TOLERANCE):
        raise RuntimeError(f"no max_l1 moves the rows by {aim:g} in the mean")
    return aeppt, memguard


# --- one seed ---------------------------------------------------------------------------------


def run_seed(data: Data, path: str, seed: int, tell: Progress) -> dict[str, Any]:
    """The figures of one seed, for each budget."""
    tell("training target and shadow models", 0, 0)
    experiment = run_experiment(data.train, data.load(path, seed), data.sizes, seed)
    known, rows = experiment.known, experiment.target.probs
    aeppt = AEPPT(max_l1=GREATEST_L1, random_state=seed).fit(known.probs, known.is_member)
    memguard = MemGuard(random_state=seed).fit(known.probs, known.is_member)

    comparisons = []
    found: dict[float, dict[str, Any]] = {}  # budgets beyond AEPPT's strength are lowered to one
    for budget in BUDGETS:
        strong, noisy = equal_pair(aeppt, memguard, budget, rows)
        used = noisy.get_params()["budget"]
        if used not in found:
            found[used] = {
                "AEPPT": judge(experiment, strong, "max_l1", seed, tell, f"AEPPT, budget {budget}"),
                "MemGuard": judge(experiment, noisy, "budget", seed, tell, f"MemGuard, {budget}"),
            }
        comparisons.append({"budget": budget, "lowered": used != budget, **found[used]})
    return {"seed": seed, "comparisons": comparisons}


def judge(
    experiment: Experiment,
    defense: OutputDefense,
    knob: str,
    seed: int,
    tell: Progress,
    title: str,
) -> dict[str, Any]:
    """One audit's figures."""
    report = audit(
        experiment.target,
        experiment.shadow,
        defense,
        attacks="all",
        random_state=seed,
        title=title,
        on_progress=lambda what, done, total: tell(f"{title}: {what}", done, total),
        shadows=experiment.shadows,
    )
    undefended = report.strongest("undefended")
    assert undefended is not None
    return {
        knob: defense.get_params()[knob],
        "mean_l1": report.utility.all.distortion.l1,
        "mean_l1_members": report.utility.l1_members,
        "mean_l1_non_members": report.utility.l1_non_members,
        "label-only floor": asdict(report.floor),
        "strongest undefended": asdict(undefended.metrics["balanced_accuracy"]),
        **{name: measured(report, *measure) for name, measure in MEASURES.items()},
    }


def measured(report: AuditReport, attack: str | None, setting: Any, metric: str) -> dict[str, Any]:
    """An attack's figure with its interval over the records; of the strongest attack for None."""
    outcome = (
        report.strongest(setting, metric)
        if attack is None
        else next(o for o in report.outcomes if (o.attack, o.setting) == (attack, setting))
    )
    assert outcome is not None
    return {"attack": outcome.attack, **asdict(outcome.metrics[metric])}


# --- all seeds --------------------------------------------------------------------------------


def over_seeds(values: Iterable[float]) -> Estimate:
    """Mean with its 95 % t interval; the interval of one value is unknown."""
    each = list(values)
    if len(each) < 2:
        return Estimate(each[0], math.nan, math.nan)
    mean, error = statistics.mean(each), statistics.stdev(each) / math.sqrt(len(each))
    half = float(t.ppf(0.975, len(each) - 1)) * error
    return Estimate(mean, mean - half, mean + half)


def summarise(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per budget: each defense's means over seeds, and AEPPT minus MemGuard, paired by seed."""
    summary = []
    for place, budget in enumerate(BUDGETS):
        pairs = [run["comparisons"][place] for run in runs]

        def of(defense: str, name: str, pairs: list[dict[str, Any]] = pairs) -> list[float]:
            values = [pair[defense][name] for pair in pairs]
            return [value["value"] if isinstance(value, dict) else value for value in values]

        summary.append(
            {
                "budget": budget,
                "seeds_with_lowered_budget": sum(pair["lowered"] for pair in pairs),
                **{
                    defense: {
                        name: over_seeds(of(defense, name))
                        for name in (
                            knob,
                            "mean_l1",
                            "label-only floor",
                            "strongest undefended",
                            *MEASURES,
                        )
                    }
                    for defense, knob in (("AEPPT", "max_l1"), ("MemGuard", "budget"))
                },
                "AEPPT minus MemGuard": {
                    name: over_seeds(np.subtract(of("AEPPT", name), of("MemGuard", name)).tolist())
                    for name in MEASURES
                },
            }
        )
    return summary


def table(summary: list[dict[str, Any]], seeds: int) -> str:
    """Means over seeds in per cent, and paired differences in points, with t intervals."""

    def figure(estimate: Estimate, sign: str = "") -> str:
        text = f"{100 * estimate.value:{sign}.1f}"
        if math.isnan(estimate.low):
            return text
        return f"{text} [{100 * estimate.low:{sign}.1f} to {100 * estimate.high:{sign}.1f}]"

    lines = [
        "| MemGuard's budget | mean L1 | max_l1 | attack | MemGuard | AEPPT | difference |",
        "| --- " * 7 + "|",
    ]
    for entry in summary:
        ours, theirs = entry["AEPPT"], entry["MemGuard"]
        lowered = entry["seeds_with_lowered_budget"]
        budget = "none" if entry["budget"] == GREATEST_L1 else f"{entry['budget']:g}"
        if lowered:
            budget += f" (lowered in {lowered} of {seeds} seeds, mean {theirs['budget'].value:.3f})"
        lines += [
            f"| {budget} | {theirs['mean_l1'].value:.3f} | {ours['max_l1'].value:.3f} | {name} "
            f"| {figure(theirs[name])} | {figure(ours[name])} "
            f"| {figure(entry['AEPPT minus MemGuard'][name], '+')} |"
            for name in MEASURES
        ]
    return "\n".join(lines)


def draw(summary: list[dict[str, Any]]) -> str:
    """The strongest adaptive attack against the mean L1, as SVG."""
    points = [
        TradeOff(
            defense,
            float(f"{entry[defense][knob].value:.2g}"),
            entry[defense]["mean_l1"].value,
            entry[defense]["strongest adaptive"],
        )
        for defense, knob in (("AEPPT", "max_l1"), ("MemGuard", "budget"))
        for entry in summary
    ]
    undefended, floor = (
        summary[0]["AEPPT"][name] for name in ("strongest undefended", "label-only floor")
    )
    return to_svg(leakage_against_distortion(points, floor, undefended))


def as_json(value: Any) -> Any:
    """Estimates as objects, undefined values as null."""
    if isinstance(value, Estimate):
        value = asdict(value)
    if isinstance(value, dict):
        return {name: as_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=DATA)
    parser.add_argument("--path", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    data, console = DATA[arguments.data](), Console(stderr=True)
    name = f"equal-distortion-{arguments.data}"
    build, results = ROOT / "build", ROOT / "docs" / "results"
    for folder in (build, results):
        folder.mkdir(parents=True, exist_ok=True)

    runs = []
    for seed in range(arguments.seeds):
        kept = build / f"{name}-{seed}.json"
        if not kept.exists():
            begin = time.perf_counter()
            with ProgressDisplay(console) as progress:
                figures = run_seed(data, arguments.path, seed, progress.update)
            seconds = time.perf_counter() - begin
            figures |= {"seconds": round(seconds), "threads": torch.get_num_threads()}
            write(kept, json.dumps(as_json(figures), indent=2))
            console.print(f"{arguments.data}, seed {seed}: {seconds:.0f} s")
        runs.append(json.loads(kept.read_text()))

    summary = summarise(runs)
    facts = {"title": TITLES[arguments.data], "shadow_models": data.sizes.shadow_models}
    results_of_all = {**facts, "summary": summary, "runs": runs}
    write(results / f"{name}.json", json.dumps(as_json(results_of_all), indent=2, allow_nan=False))
    write(results / f"{name}.svg", draw(summary))
    page = results.with_suffix(".md")
    begin, end = (f"<!-- {name}: benchmarks/equal_distortion.py -->", f"<!-- end of {name} -->")
    text = (
        f"### {TITLES[arguments.data]}\n\n{data.sizes.shadow_models} shadow models of each record; "
        f"{len(runs)} seeds.\n\n{table(summary, len(runs))}\n\n"
        f"![Leakage at equal distortion](results/{name}.svg)"
    )
    write(page, between_marks(page.read_text(), begin, end, text))


if __name__ == "__main__":
    main()
