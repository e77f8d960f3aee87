"""What can be certified of a defense: certificates.py DATA [--path FILE] [--seeds N].

DATA is digits, location or cifar10. Fits each defense on half of the members and the known
non-members, and certifies it on the other half and the fresh non-members. Writes
docs/results/certificates-DATA.json and its table in docs/certificate.md.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from audits import TITLES
from defenses import setting
from floor import FORMS
from readme_times import write_parts

from aeppt.cli.specification import known_recipes, made
from aeppt.defenses import OutputDefense
from aeppt.defenses.base import seeded
from aeppt.defenses.storage import DEFENSES
from aeppt.evaluation import Certificate, Experiment, certify, run_experiment, training_by
from aeppt.files import write_atomically

ROOT = Path(__file__).parent.parent


def certified(defense: OutputDefense, experiment: Experiment, seed: int) -> Certificate:
    """On members that did not fit it, and fresh non-members."""
    members = int(experiment.known.is_member.sum())
    kept = np.arange(members) < members // 2  # records are shuffled, members come first
    known, target = experiment.known, experiment.target
    others = np.ones(len(known) - members, bool)
    fitted = seeded(defense, seed).fit_predictions(known.take(np.concatenate([kept, others])))
    held_out = target.take(np.concatenate([~kept, np.ones(len(target) - members, bool)]))
    return certify(held_out.with_probs(fitted.protect(held_out.probs)), random_state=seed)


def run(data: str, path: str | None, seeds: int) -> dict[str, list[Certificate]]:
    records, architecture, epochs, sizes = setting(data, path, 0)
    train = training_by(made("Plain", known_recipes()), architecture, epochs)
    found: dict[str, list[Certificate]] = {form: [] for form in FORMS}
    for seed in range(seeds):
        experiment = run_experiment(train, records, replace(sizes, shadow_models=0), seed)
        for form in FORMS:
            found[form].append(certified(made(form, DEFENSES), experiment, seed))
            print(data, seed, form, found[form][-1].statement)
    return found


def section(found: dict[str, list[dict]]) -> str:
    first = next(iter(found.values()))[0]

    def ranged(values: list[float]) -> str:
        points = [100 * value for value in values]
        return f"{np.mean(points):.1f} [{min(points):.1f}–{max(points):.1f}]"

    lines = [
        f"{first['members']} members and {first['non_members']} non-members held out, "
        f"{len(next(iter(found.values())))} seeds.",
        "",
        "| defense | at most | measured | outcomes | granted | with the ranking, measured |",
        "| --- " * 6 + "|",
    ]
    for form, own in found.items():
        granted = sum(one["advantage_bound"] <= one["limit"] for one in own)
        outcomes = [one["outcomes"] for one in own]
        cells = [
            form,
            ranged([one["advantage_bound"] for one in own]),
            ranged([one["measured_advantage"] for one in own]),
            f"{min(outcomes)}–{max(outcomes)}",
            f"{granted} of {len(own)}",
            ranged([one["ranking_aware"]["value"] for one in own]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=TITLES)
    parser.add_argument("--path")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    data, docs = arguments.data, ROOT / "docs"
    certificates = run(data, arguments.path, arguments.seeds)
    found = {form: [one.to_dict() for one in own] for form, own in certificates.items()}
    text = json.dumps(found, indent=1, allow_nan=False)
    file = docs / "results" / f"certificates-{data}.json"
    write_atomically(file, lambda opened: opened.write(text.encode()))
    table = {data: f"### {TITLES[data]}\n\n{section(found)}"}
    write_parts(docs / "certificate.md", "certificates.py", table)


if __name__ == "__main__":
    main()
