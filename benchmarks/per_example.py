"""How much confidence can be shown to attackers per example: per_example.py DATA [--path FILE].

DATA is digits, location or cifar10. Leakage per example against distortion, several seeds: of
PrivacyFunnel, and of oracles that know what no defender knows when it serves. Writes
docs/results/per-example-DATA.json and .svg and its section in docs/results.md. What is finished is
kept in build/per_example/DATA, so that a run that was cut short goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from audits import TITLES
from defenses import setting
from floor import SHADOW_MODELS
from matplotlib.figure import Figure
from oracles import COARSE_CLUSTERS, Oracle, Released
from readme_times import write_parts

from aeppt.attacks import QuantileRegressionAttack, per_example_attacks
from aeppt.cli.specification import known_recipes, made
from aeppt.defenses.storage import DEFENSES
from aeppt.evaluation import Experiment, run_experiment, training_by
from aeppt.evaluation.harness import _attackers_copy, _protected_shadows
from aeppt.evaluation.metrics import attack_metrics
from aeppt.evaluation.plots import DEFENSE_COLOURS, DEFENSE_MARKERS, INK, styled, to_svg
from aeppt.evaluation.utility import measure_utility
from aeppt.files import write_atomically

ROOT = Path(__file__).parent.parent
GRIDS, ADVANTAGES = ((40, 3), (14, 3), (7, 2), (3, 1)), (0.005, 0.03, 0.1)
LEAST_L1 = "serving_prior=0.5, keeps_calibration=False"
ALONE = {
    "undefended": "Undefended",
    "labels alone": "LabelOnly",
    "ranking alone": f"PrivacyFunnel(confidence_levels=1, shapes=1, {LEAST_L1})",
}
QUANTILES, CLUSTERS = 20, 30
LEAST = "least L1"  # of one row for each record: no release, but a bound
ORACLE_ADVANTAGES, WEIGHTS = (0.005, 0.03, 0.04, 0.05), (1, 2, 4)
AUCS = {"lira_auc": "LiRA", "per_example_auc": "the strongest attack"}
ASKED = AUCS | {"lira_auc_adaptive": "LiRA, were attackers adaptive alone"}
#: What is asked for, in AUC over the labels alone and in mean L1.
MOST_LEAKAGE, MOST_L1 = 0.03, 0.15
LEGEND = f"""\
An attacker per example knows how hard each record is for models trained with it and without it.
`benchmarks/per_example.py` asks whether a release that keeps the ranking can leave such an attacker
an AUC of at most {100 * MOST_LEAKAGE:.0f} points more than the labels alone do, at a mean L1 of at
most {MOST_L1}. It measures PrivacyFunnel, by default and for least L1 with some codebooks (levels
× shapes) and advantages; and oracles. These show what better knowledge would bring, and are no
defenses: they know each record's difficulty from the attacker's own shadow models, which no
defender has when it serves.

- *oracle by quantiles*, *by clusters*: PrivacyFunnel's program for least L1, solved apart for
  records of like difficulty, by mean φ (LiRA's logit-scaled confidence) without the record
  ({QUANTILES} quantiles), or without and with it ({CLUSTERS} clusters).
- *oracle against the attack*: one map of least L1 + weight × total variation between what models
  with and without a record release, right or wrong and which codeword, over {COARSE_CLUSTERS}
  clusters.
- *oracle with a row for each record*: the record's median row, whatever the model; only the ranking
  is the model's own.
- *LiRA*: AUC of the stronger of LiRA's two forms; *strongest*: of any attack per example; *over*:
  what that is more than the same against the labels alone. *TPR*: the greatest at 0.1 % FPR.
  Attackers are adaptive, or static (but for quantile regression), whichever is stronger.
- *L1*: mean change of a row, members and non-members counting the same; *members*, *others*: of
  either side. *log-loss*, *ECE*: on fresh records.

Means over seeds, and [least–greatest]; AUC and TPR in points of per cent. *Yes* and *no* go by the
means, and speak of these releases and of the attacks of the library."""

Row = dict[str, float]
Spread = dict[str, Row]


def behind(form: str, experiment: Experiment, seed: int) -> Released:
    """A defense of the library, of which attackers fit a copy for each shadow model."""
    target, shadows = experiment.target, experiment.shadows
    fitted = _attackers_copy(made(form, DEFENSES), experiment.known, seed)
    protected = target.with_probs(fitted.protect(target.probs))
    return Released(protected, _protected_shadows(shadows, fitted, seed + 2))


def releases(experiment: Experiment, seed: int) -> dict[str, Callable[[], Released]]:
    """All that is measured, by name; up to a comma, names are of one family."""
    forms = ALONE | {"PrivacyFunnel": "PrivacyFunnel"}
    for levels, shapes in GRIDS:
        for advantage in ADVANTAGES:
            own = f"advantage={advantage}, confidence_levels={levels}, shapes={shapes}"
            name = f"PrivacyFunnel, {levels} × {shapes}, advantage {advantage}"
            forms[name] = f"PrivacyFunnel({own}, {LEAST_L1})"
    oracle = Oracle(experiment, seed)
    groupings = {"quantiles": oracle.quantiles(QUANTILES), "clusters": oracle.clusters(CLUSTERS)}
    return {
        **{name: partial(behind, form, experiment, seed) for name, form in forms.items()},
        **{
            f"oracle by {name}, advantage {limit}": partial(oracle.by_own_maps, groups, limit)
            for name, groups in groupings.items()
            for limit in ORACLE_ADVANTAGES
        },
        **{
            f"oracle against the attack, weight {weight}": partial(oracle.against_attack, weight)
            for weight in WEIGHTS
        },
        "oracle with a row for each record": oracle.with_own_row,
    }


def judged(experiment: Experiment, released: Released, seed: int) -> Row:
    """What attacks per example find, and what the release is worth."""
    is_member = experiment.target.is_member
    utility = measure_utility(experiment.target, released.target, {})
    attacks = per_example_attacks(seed)
    # The one that is trained takes longer than all others; static attackers do without it.
    untrained = [attack for attack in attacks if not isinstance(attack, QuantileRegressionAttack)]
    found = [
        (attack.name, attack_metrics(attack(shadows, released.target), is_member))
        for chosen, shadows in ((attacks, released.shadows), (untrained, experiment.shadows))
        for attack in chosen
    ]
    adaptive = found[: len(attacks)]
    return {
        **{
            f"{name}{suffix}": max(
                metrics["auc"].value for attack, metrics in tried if start in attack
            )
            for suffix, tried in (("", found), ("_adaptive", adaptive))
            for name, start in (("lira_auc", "LiRA"), ("per_example_auc", ""))
        },
        "tpr": max(metrics["tpr_at_0.1_percent_fpr"].value for _, metrics in found),
        "l1": (utility.l1_members + utility.l1_non_members) / 2,
        "l1_members": utility.l1_members,
        "l1_non_members": utility.l1_non_members,
        "log_loss": utility.non_members.after.negative_log_likelihood,
        "calibration_error": utility.non_members.after.calibration_error,
    }


def run(data: str, path: str | None, seed: int, folder: Path) -> dict[str, Row]:
    """All releases of one seed."""
    saved, kept = folder / f"{seed}.npz", folder / f"{seed}.json"
    if not saved.exists():
        records, architecture, epochs, sizes = setting(data, path, SHADOW_MODELS[data])
        train = training_by(made("Plain", known_recipes()), architecture, epochs)
        run_experiment(train, records, sizes, seed).save(saved)
    experiment = Experiment.load(saved)
    found = json.loads(kept.read_text()) if kept.exists() else {}
    everything = releases(experiment, seed)
    for name, release in everything.items():
        if name not in found:
            found[name] = judged(experiment, release(), seed)
            write(kept, json.dumps(found, indent=1, allow_nan=False))
            print(f"{data}, seed {seed}: {name}", flush=True)
    in_order = {name: found[name] for name in everything}
    return in_order | {LEAST: Oracle(experiment, seed).least_l1()}


def summary(runs: list[dict[str, Row]]) -> dict[str, Spread]:
    """Of each release and figure the mean, the least and the greatest over seeds."""
    for one in runs:
        for row in (row for name, row in one.items() if name != LEAST):
            row |= {f"{auc}_over": row[auc] - one["labels alone"][auc] for auc in ASKED}
    return {
        name: {
            figure: {"mean": float(np.mean(each)), "min": min(each), "max": max(each)}
            for figure in row
            for each in [[one[name][figure] for one in runs]]
        }
        for name, row in runs[0].items()
    }


def answer(found: dict[str, Spread], auc: str) -> str:
    """Whether any release does what is asked for, by one measure; else what comes nearest."""
    answers = []
    for who in ("PrivacyFunnel", "oracle"):
        asked = [
            (row[f"{auc}_over"]["mean"], row["l1"]["mean"])
            for name, row in found.items()
            if name.startswith(who)
        ]
        within_l1 = [over for over, l1 in asked if l1 <= MOST_L1]
        within_leakage = [l1 for over, l1 in asked if over <= MOST_LEAKAGE]
        can = any(over <= MOST_LEAKAGE and l1 <= MOST_L1 for over, l1 in asked)
        least = []
        if within_l1:
            least.append(f"within that L1 {100 * min(within_l1):+.1f} points or more")
        if within_leakage:
            least.append(f"within that leakage an L1 of {min(within_leakage):.3f} or more")
        answers.append(f"{who} **{'yes' if can else 'no'}** ({'; '.join(least) or 'neither'})")
    return f"- By {ASKED[auc]}: {', '.join(answers)}."


def ranged(value: Row, scale: float = 100, digits: int = 1, sign: str = "") -> str:
    mean, least, most = (f"{scale * value[x]:{sign}.{digits}f}" for x in ("mean", "min", "max"))
    return f"{mean} [{least}–{most}]"


def section(data: str, content: dict) -> str:
    found = dict(content["found"])
    least = {name: ranged(value, 1, 3) for name, value in found.pop(LEAST).items()}
    lines = [
        f"{content['shadow models']} shadow models of each record; {content['seeds']} seeds.",
        "",
        *(answer(found, auc) for auc in ASKED),
        "",
        "A row for each record that is the same whatever the model changes at least "
        f"{least['row']} in L1, and a confidence that is the same at least {least['confidence']}. "
        "That is enough to tell nothing beyond the ranking, though it may be more than is needed.",
        "",
        "| release | LiRA | over | strongest | over | TPR | L1 | members | others | log-loss "
        "| ECE |",
        "| --- " * 11 + "|",
    ]
    for name, row in found.items():
        cells = [
            name,
            *(
                ranged(row[auc + x], sign=sign)
                for auc in AUCS
                for x, sign in (("", ""), ("_over", "+"))
            ),
            ranged(row["tpr"]),
            ranged(row["l1"], 1, 3),
            *(
                f"{row[x]['mean']:.3f}"
                for x in ("l1_members", "l1_non_members", "log_loss", "calibration_error")
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"![AUC per example against mean L1](results/per-example-{data}.svg)"]
    return "\n".join(lines)


@styled
def frontier(found: dict[str, Spread]) -> Figure:
    """AUC over the labels alone against mean L1, and which corner is asked for."""
    names = [name for name in found if name.startswith(("PrivacyFunnel", "oracle"))]
    families = dict.fromkeys(name.partition(",")[0] for name in names)
    figure = Figure(figsize=(7.6, 4.2))
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (auc, attack) in zip(panels, AUCS.items(), strict=True):
        for family, colour, marker in zip(families, DEFENSE_COLOURS, DEFENSE_MARKERS, strict=False):
            rows = [found[name] for name in names if name.partition(",")[0] == family]
            rows.sort(key=lambda row: row["l1"]["mean"])
            l1 = np.array([row["l1"]["mean"] for row in rows])
            over = [[row[f"{auc}_over"][x] for row in rows] for x in ("mean", "min", "max")]
            mean, least, most = 100 * np.array(over)
            axes.plot(l1, mean, marker, color=colour, markersize=4, label=family)
            axes.vlines(l1, least, most, color=colour, linewidth=0.8, alpha=0.4)
            on_it = np.minimum.accumulate(mean) == mean
            axes.plot(l1[on_it], mean[on_it], color=colour, linewidth=1)
        for name in ALONE:
            x, y = found[name]["l1"]["mean"], 100 * found[name][f"{auc}_over"]["mean"]
            axes.plot(x, y, color=INK, marker="*", markersize=8)
            place = {"ha": "center"} if x else {"ha": "left"}
            axes.annotate(name, (x, y), (0, 7), textcoords="offset points", **place)
        axes.fill_between([0, MOST_L1], 0, 100 * MOST_LEAKAGE, color=INK, alpha=0.15, linewidth=0)
        axes.annotate("asked for", (0.01, 0.2))
        axes.set(xlabel="mean L1 distance between a row before and after", title=attack)
    panels[0].set_ylabel("AUC over the labels alone, points")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


def write_page(docs: Path) -> None:
    """Writes legend and tables into their places in results.md, at its end where they have none."""
    texts = {"per-example": f"## How much confidence can be shown per example?\n\n{LEGEND}"}
    for data, title in TITLES.items():
        file = docs / "results" / f"per-example-{data}.json"
        if file.exists():
            text = section(data, json.loads(file.read_text()))
            texts[f"per-example on {data}"] = f"### {title}\n\n{text}"
    write_parts(docs / "results.md", "per_example.py", texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=TITLES)
    parser.add_argument("--path")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "per_example")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    data, folder = arguments.data, arguments.folder / arguments.data
    folder.mkdir(parents=True, exist_ok=True)
    runs = [run(data, arguments.path, seed, folder) for seed in range(arguments.seeds)]
    content = {"shadow models": SHADOW_MODELS[data], "seeds": len(runs), "found": summary(runs)}
    results = arguments.docs / "results"
    write(results / f"per-example-{data}.json", json.dumps(content, indent=1, allow_nan=False))
    write(results / f"per-example-{data}.svg", to_svg(frontier(content["found"])))
    write_page(arguments.docs)


if __name__ == "__main__":
    main()
