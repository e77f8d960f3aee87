"""Which output defenses reach the label-only floor, and at what price: floor.py DATA [--path FILE].

DATA is digits, location or cifar10. Sets those that come closest, and PrivacyFunnel in two forms,
against every attack, several seeds. Writes docs/results/floor-DATA.json and its table in
docs/results.md. What is finished is kept in build/floor/DATA, so that a run that was cut short goes
on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from audits import TITLES
from defenses import setting
from readme_times import write_parts
from rich.console import Console

from aeppt.attacks import per_example_attacks
from aeppt.cli.display import ProgressDisplay
from aeppt.cli.specification import known_recipes, made
from aeppt.defenses.storage import DEFENSES
from aeppt.evaluation import Comparison, compare, run_experiment, training_by
from aeppt.evaluation.comparison import ADAPTIVE
from aeppt.files import write_atomically

ROOT = Path(__file__).parent.parent
SHADOW_MODELS = {"digits": 16, "location": 16, "cifar10": 12}
FORMS = (
    "LabelOnly",
    "MemGuard",
    "AEPPT",
    "AdaptiveAEPPT",
    "PrivacyFunnel",
    "PrivacyFunnel(advantage=0.015, serving_prior=0.5, keeps_calibration=False)",
)
PER_EXAMPLE = {attack.name for attack in per_example_attacks()}
#: Of the others, those that need no true label.
UNLABELLED = {
    "neural network",
    "top three (ML-Leaks 1)",
    "boosted trees without label",
    "entropy, one threshold",
    "maximum probability (ML-Leaks 3)",
}
LEGEND = """\
The output defenses that come closest to the floor, behind plain training, against every attack of
the library; `benchmarks/floor.py` makes it. Means over seeds, and [least–greatest]; all but *L1*,
*log-loss* and *ECE* in points of per cent.

- *over the floor*: balanced accuracy of the strongest adaptive attack on single predictions, less
  the label-only floor on the same records. The strongest of some twenty attacks is chosen on the
  very records that it is judged by, so it is above the floor by luck too: how much luck brings is
  seen at LabelOnly, which tells nothing but the label.
- *without label*: AUC of the strongest adaptive attack that does not know the true label.
- *LiRA*: AUC of the stronger of LiRA's two forms, and what it has more than against the labels
  alone. *per example*: the same of the strongest of all attacks per example. *TPR*: the greatest of
  any attack at 0.1 % FPR.
- *L1*: mean change of a row, members and non-members counting the same; *members*, *others*: of
  either side.
- *log-loss*, *ECE*: on fresh records, and what the defense changed."""

Row = dict[str, float]


def run(data: str, path: str | None, seeds: int, folder: Path, workers: int) -> Comparison:
    records, architecture, epochs, sizes = setting(data, path, SHADOW_MODELS[data])
    train = training_by(made("Plain", known_recipes()), architecture, epochs)
    with ProgressDisplay(Console(stderr=True)) as progress:
        return compare(
            {"Plain": partial(run_experiment, train, records, sizes)},
            {form: made(form, DEFENSES) for form in FORMS},
            range(seeds),
            folder,
            attacks="all",
            workers=workers,
            on_progress=progress.update,
            title=f"Who reaches the floor on {TITLES[data]}",
        )


def highest(outcomes: pd.DataFrame, metric: str) -> pd.Series:
    """The greatest ``metric`` of each contender and seed."""
    return outcomes.groupby(["defense", "seed"], sort=False)[metric].max()


def figures(comparison: Comparison) -> pd.DataFrame:
    """One row per contender and seed."""
    outcomes = comparison.outcomes[comparison.outcomes["setting"].isin(ADAPTIVE)]
    is_per_example = outcomes["attack"].isin(PER_EXAMPLE)
    cells = comparison.cells.set_index(["defense", "seed"])
    columns = {
        "over_floor": highest(outcomes[~is_per_example], "balanced_accuracy") - cells["floor"],
        "unlabelled_auc": highest(outcomes[outcomes["attack"].isin(UNLABELLED)], "auc"),
        "lira_auc": highest(outcomes[outcomes["attack"].str.startswith("LiRA")], "auc"),
        "per_example_auc": highest(outcomes[is_per_example], "auc"),
        "tpr": highest(outcomes, "tpr_at_0.1_percent_fpr"),
        "log_loss_change": cells["log_loss"] - cells["log_loss_before"],
        "calibration_error_change": cells["calibration_error"] - cells["calibration_error_before"],
        **{name: cells[name] for name in ("floor", "l1", "l1_members", "l1_non_members")},
        **{name: cells[name] for name in ("log_loss", "calibration_error")},
    }
    table = pd.DataFrame(columns)
    for name in ("lira_auc", "per_example_auc"):
        alone = table.loc["LabelOnly", name]
        table[f"{name}_over_labels"] = (
            table[name] - alone.loc[table.index.get_level_values("seed")].to_numpy()
        )
    if not np.array_equal(cells["accuracy"], cells["accuracy_before"]):
        raise AssertionError("a defense changed a label")
    return table


def summary(comparison: Comparison) -> dict[str, dict[str, Row]]:
    """Of each contender and figure the mean, the least and the greatest over seeds."""
    groups = figures(comparison).groupby("defense", sort=False)
    return {
        name: {
            figure: {"mean": values.mean(), "min": values.min(), "max": values.max()}
            for figure, values in group.items()
        }
        for name, group in groups
    }


def section(found: Mapping[str, dict]) -> str:
    facts = found["facts"]

    def ranged(value: Row, scale: float = 100, digits: int = 1, sign: str = "") -> str:
        mean, least, most = (f"{scale * value[x]:{sign}.{digits}f}" for x in ("mean", "min", "max"))
        return f"{mean} [{least}–{most}]"

    def small(value: Row, sign: str = "") -> str:
        return f"{value['mean']:{sign}.3f}"

    lines = [
        f"{facts['target records']}; shadow model: {facts['shadow records']}; "
        f"{facts['shadow models for per-example attacks']} shadow models of each record; seeds "
        f"{facts['seeds'].partition(';')[0]}. Floor: "
        f"{ranged(next(iter(found['contenders'].values()))['floor'])}.",
        "",
        "| defense | over the floor | without label | LiRA | per example | TPR | L1 | members "
        "| others | log-loss | ECE |",
        "| --- " * 11 + "|",
    ]
    for name, row in found["contenders"].items():
        cells = [
            name,
            ranged(row["over_floor"], sign="+"),
            ranged(row["unlabelled_auc"]),
            *(
                f"{100 * row[auc]['mean']:.1f} ({ranged(row[f'{auc}_over_labels'], sign='+')})"
                for auc in ("lira_auc", "per_example_auc")
            ),
            f"{100 * row['tpr']['mean']:.1f}",
            *(small(row[name]) for name in ("l1", "l1_members", "l1_non_members")),
            f"{small(row['log_loss'])} ({ranged(row['log_loss_change'], 1, 3, '+')})",
            f"{small(row['calibration_error'])} ({small(row['calibration_error_change'], '+')})",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_page(docs: Path) -> None:
    """Writes legend and tables into their places in results.md, at its end where they have none."""
    texts = {"floor": f"## Who reaches the floor, and at what price?\n\n{LEGEND}"}
    for data, title in TITLES.items():
        file = docs / "results" / f"floor-{data}.json"
        text = section(json.loads(file.read_text())) if file.exists() else "Not yet measured."
        texts[f"floor on {data}"] = f"### {title}\n\n{text}"
    write_parts(docs / "results.md", "floor.py", texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=TITLES)
    parser.add_argument("--path")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "floor")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    folder = arguments.folder / arguments.data
    comparison = run(arguments.data, arguments.path, arguments.seeds, folder, arguments.workers)
    content = {"facts": comparison.facts, "contenders": summary(comparison)}
    text = json.dumps(content, indent=1, allow_nan=False)
    file = arguments.docs / "results" / f"floor-{arguments.data}.json"
    write_atomically(file, lambda opened: opened.write(text.encode()))
    write_page(arguments.docs)


if __name__ == "__main__":
    main()
