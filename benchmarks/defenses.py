"""Every defense on real data, side by side: defenses.py DATA [--path FILE] [--seeds N].

DATA is digits, location or cifar10. Compares every output defense behind plain training, and every
other way of training undefended and with AEPPT behind it (not on cifar10). Writes
docs/results/defenses-DATA.json and .svg and its table in docs/results.md. What is finished is kept
in build/defenses/DATA, so that a run that was cut short goes on.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

from audits import EPOCHS, TITLES, small_network
from readme_times import write_parts
from rich.console import Console

from aeppt.cli.display import ProgressDisplay
from aeppt.cli.specification import known_recipes, made
from aeppt.data import Records, load_cifar10, load_digits, load_location
from aeppt.defenses.storage import DEFENSES
from aeppt.evaluation import Comparison, Estimate, Sizes, compare, run_experiment, training_by
from aeppt.evaluation.comparison_page import frontiers, names
from aeppt.evaluation.demonstration import SETUPS
from aeppt.evaluation.experiment import REFERENCE_RECORDS
from aeppt.evaluation.plots import leakage_against_cost, to_svg
from aeppt.files import write_atomically
from aeppt.models.training import Architecture, relu_network

ROOT = Path(__file__).parent.parent
PLAIN, TOP = "Plain", "AEPPT"
CIFAR_MEMBERS = 2500
SHADOW_MODELS = 4

#: Halves of one method: the way of training, and its own output defense.
HALVES = {"HAMPTraining": "HAMPOutput"}
LEGEND = """\
Every output defense behind plain training, and every other way of training undefended and with
AEPPT behind it, least adaptive leakage first; with their default parameters where none are named.
`benchmarks/defenses.py` makes it.

- *adaptive*, *static*, *undefended*: balanced accuracy of the strongest attack, chosen anew for
  each seed; mean over seeds, and for *adaptive* [lowest–highest] and the attack that is strongest
  most often. The adaptive attacker may also attack as the static one does. *floor*: the label-only
  floor.
- *LiRA*, *TPR*, *canaries*: AUC (and what it has more than behind LabelOnly), TPR of any attack at
  0.1 % FPR, and the same of attacks per example on the most vulnerable tenth of the records; the
  adaptive attacker's highest.
- *accuracy* (and points gained on plain training undefended) and calibration error *ECE* on fresh
  records; *L1*: mean change of a row; *ms* added to a record that comes alone; *training*: time in
  that of plain training, roughly.
- ◆: no other is as good in adaptive leakage, L1 and accuracy, and better in one.

All but *ECE*, *L1*, *ms* and *training* in per cent. By its accountant, DPSGD's training is
(ε, δ)-private with ε = 16 and δ = 0.001 on Location, and ε = 59 and δ = 0.005 on digits."""

#: Forms in which a defense or a way of training is compared; one that is not here, by its defaults.
FORMS: dict[str, tuple[str, ...]] = {
    "AEPPT": ("AEPPT", "AEPPT(direction='member', border=None)"),
    "GaussianNoise": ("GaussianNoise(scale=2.0)",),
    "MemGuard": ("MemGuard", "MemGuard(budget=0.5)"),
}
#: The same for one data set, in their place.
OWN_FORMS: dict[str, dict[str, tuple[str, ...]]] = {
    "digits": {},
    "location": {"WeightDecay": ("WeightDecay(strength=0.02)",)},
    "cifar10": {},
}
#: Ways of training that lose much accuracy where they go on for as long as plain training does.
OWN_EPOCHS: dict[str, dict[str, int]] = {
    "digits": {},
    "location": {"HAMPTraining": 15, "LabelSmoothing": 15, "MixupMMD": 15, "RelaxLoss": 15},
    "cifar10": {},
}


def forms(data: str, registered: list[str]) -> list[str]:
    """The chosen forms of all that is registered."""
    chosen = FORMS | OWN_FORMS[data]
    return [form for name in registered for form in chosen.get(name, (name,))]


def setting(
    data: str, path: str | None, shadow_models: int
) -> tuple[Records, Architecture, int, Sizes]:
    """Records, network, epochs and sizes: those of audits.py and of the demonstration."""
    if data == "cifar10":
        sizes = Sizes(CIFAR_MEMBERS, CIFAR_MEMBERS, 0, shadow_models)
        return load_cifar10(path, 5 * CIFAR_MEMBERS, 0), small_network, EPOCHS, sizes
    records = load_digits() if data == "digits" else load_location(path)
    setup = SETUPS[data]
    widths = (records.features.shape[1], *setup.hidden, records.n_classes)
    sizes = Sizes(setup.members, setup.shadow_members, REFERENCE_RECORDS[data], shadow_models)
    return records, partial(relu_network, widths), setup.epochs, sizes


def run(
    data: str, path: str | None, seeds: int, shadow_models: int, folder: Path, workers: int
) -> Comparison:
    recipes = known_recipes()
    trainings = [PLAIN]
    if data != "cifar10":
        trainings += forms(data, [name for name in recipes if name != PLAIN])
    defenses = forms(data, list(DEFENSES))
    records, architecture, epochs, sizes = setting(data, path, shadow_models)
    own_epochs = OWN_EPOCHS[data]
    with ProgressDisplay(Console(stderr=True)) as progress:
        return compare(
            {
                text: partial(
                    run_experiment,
                    training_by(made(text, recipes), architecture, own_epochs.get(text, epochs)),
                    records,
                    sizes,
                )
                for text in trainings
            },
            {text: made(text, DEFENSES) for text in defenses},
            range(seeds),
            folder,
            contenders=[
                *((PLAIN, defense) for defense in defenses),
                *((training, d) for training in trainings[1:] for d in ("Undefended", TOP)),
                *((training, HALVES[training]) for training in trainings if training in HALVES),
            ],
            attacks="all",
            workers=workers,
            on_progress=progress.update,
            title=f"Defenses compared on {TITLES[data]}",
        )


def frontier(comparison: Comparison) -> str:
    """Leakage against distortion, as SVG."""
    table = comparison.table
    leakage = table[["adaptive", "adaptive_low", "adaptive_high"]].itertuples(index=False)
    return to_svg(
        leakage_against_cost(
            table["l1"].to_numpy(),
            [Estimate(*ends) for ends in leakage],
            list(table["training"]),
            list(comparison.cells["training"].unique()),
            table["floor"].to_numpy(),
            frontiers(comparison, "l1"),
            "mean L1 distance between a row before and after",
            names(table),
        )
    )


def section(data: str, found: dict) -> str:
    """The table of one data set."""
    facts = found["facts"]

    def per_cent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f}"

    lira_of_labels = {
        row["training"]: row["lira_auc"]
        for row in found["contenders"]
        if row["defense"] == "LabelOnly"
    }

    def lira(row: dict) -> str:
        alone = lira_of_labels.get(row["training"])
        gap = "" if alone is None else f" ({0 + 100 * (row['lira_auc'] - alone):+.1f})"
        return per_cent(row["lira_auc"]) + gap

    own = "; ".join(f"{name} {epochs}" for name, epochs in OWN_EPOCHS[data].items())
    shorter = f" Epochs: {own}; all others {SETUPS[data].epochs}." if own else ""
    lines = [
        f"{facts['target records']}; shadow model: {facts['shadow records']}; "
        f"{facts['shadow models for per-example attacks']} shadow models of each record; seeds "
        f"{facts['seeds'].partition(';')[0]}.{shorter}",
        "",
        "| training, defense | adaptive | strongest attack | static | undefended | floor | LiRA "
        "| TPR | canaries | accuracy | ECE | L1 | ms | training |",
        "| --- " * 14 + "|",
    ]
    for row in found["contenders"]:
        mark = "◆ " if row["is_undominated"] else ""
        least, most = per_cent(row["adaptive_min"]), per_cent(row["adaptive_max"])
        latency, ratio = row["seconds_per_record"], row["training_ratio"]
        cells = [
            f"{mark}{row['training']}, {row['defense']}",
            f"{per_cent(row['adaptive'])} [{least}–{most}]",
            row["adaptive_attack"],
            *(per_cent(row[name]) for name in ("static", "undefended", "floor")),
            lira(row),
            *(per_cent(row[name]) for name in ("tpr_at_0.1_percent_fpr", "canary_tpr")),
            f"{per_cent(row['accuracy'])} ({0 - 100 * row['accuracy_cost']:+.1f})",
            f"{row['calibration_error']:.3f}",
            f"{row['l1']:.3f}",
            f"{1000 * latency:.2g}",
            "–" if ratio is None else f"× {ratio:.2g}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"![Leakage against distortion](results/defenses-{data}.svg)"])


def write_page(docs: Path) -> None:
    """Writes legend and tables into their places in results.md, at its end where they have none."""
    texts = {"defenses": f"## Which defense, and what does it cost?\n\n{LEGEND}"}
    for data, title in TITLES.items():
        file = docs / "results" / f"defenses-{data}.json"
        text = section(data, json.loads(file.read_text())) if file.exists() else "Not yet measured."
        texts[f"defenses on {data}"] = f"### {title}\n\n{text}"
    write_parts(docs / "results.md", "defenses.py", texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=TITLES)
    parser.add_argument("--path")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shadow-models", type=int, default=SHADOW_MODELS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "defenses")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    data = arguments.data
    folder = arguments.folder / data
    comparison = run(
        data, arguments.path, arguments.seeds, arguments.shadow_models, folder, arguments.workers
    )
    results = arguments.docs / "results"
    results.mkdir(exist_ok=True)
    comparison.to_html(folder / "comparison.html")
    comparison.to_json(results / f"defenses-{data}.json")
    figure = frontier(comparison)
    write_atomically(results / f"defenses-{data}.svg", lambda file: file.write(figure.encode()))
    write_page(arguments.docs)


if __name__ == "__main__":
    main()
