"""What a defense costs and what it leaves: trade_off.py digits|location [--path FILE].

Sweeps the most that AEPPT may change a row (``max_l1``), in its default form and in the paper's,
audits each, and draws docs/results/DATA-trade-off.svg.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from aeppt import AEPPT, audit
from aeppt.attacks import all_attacks
from aeppt.data import load_digits, load_location, split_records
from aeppt.evaluation import TradeOff
from aeppt.evaluation.demonstration import SETUPS, predictions_on
from aeppt.evaluation.plots import leakage_against_distortion, to_svg
from aeppt.files import write_atomically
from aeppt.models import train_classifier

FORMS = {
    "AEPPT": {},
    "AEPPT, the paper's form": {"direction": "member", "border": None},
}
BUDGETS = (0.05, 0.1, 0.2, 0.4, 0.8, 2.0)
DESTINATION = Path(__file__).parent.parent / "docs" / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=SETUPS)
    parser.add_argument("--path")
    arguments = parser.parse_args()
    records = load_digits() if arguments.data == "digits" else load_location(arguments.path)
    setup = SETUPS[arguments.data]
    split = split_records(records, setup.members, setup.shadow_members, random_state=0)
    seeds = np.random.SeedSequence(0).generate_state(2).tolist()
    target, shadow = (
        train_classifier(part, setup.hidden, setup.epochs, seed)
        for part, seed in zip((split.members, split.shadow_members), seeds, strict=True)
    )
    known = predictions_on(target, split.members, split.known_non_members)
    asked = predictions_on(target, split.members, split.fresh_non_members)
    lesson = predictions_on(shadow, split.shadow_members, split.shadow_non_members)
    points = []
    for name, parameters in FORMS.items():
        for budget in BUDGETS:
            defense = AEPPT(max_l1=budget, **parameters).fit(known.probs, known.is_member)
            report = audit(asked, lesson, defense, attacks=all_attacks())
            points.append(TradeOff.of(report, name, budget))
            print(f"{name}, max_l1={budget}: L1 {points[-1].l1:.3f}, {points[-1].leakage}")
    undefended = report.strongest("undefended").metrics["balanced_accuracy"]
    figure = to_svg(leakage_against_distortion(points, report.floor, undefended))
    write_atomically(
        DESTINATION / f"{arguments.data}-trade-off.svg", lambda file: file.write(figure.encode())
    )


if __name__ == "__main__":
    main()
