"""What rounds of substitutes gain, by an attacker who knows part of the target's own members.

``python benchmarks/rounds.py EXPERIMENT.npz …``, saved by ``aeppt.evaluation.Experiment``: fits
every defense on the known predictions, and cross-fits boosted trees on the protected predictions to
be attacked: as they are, and rounded to three decimals, which takes away the tail. Means over the
experiments.
"""

from __future__ import annotations

import sys
from collections import defaultdict

import numpy as np

from aeppt.defenses import AEPPT, AdaptiveAEPPT, LabelOnly, MemGuard, OutputDefense, Undefended
from aeppt.defenses.adaptive_aeppt import told_apart
from aeppt.evaluation import Experiment

DEFENSES: dict[str, OutputDefense] = {
    "Undefended": Undefended(),
    "AEPPT": AEPPT(),
    "AdaptiveAEPPT, 1 round": AdaptiveAEPPT(max_rounds=1),
    "AdaptiveAEPPT, 2 rounds": AdaptiveAEPPT(max_rounds=2),
    "AdaptiveAEPPT": AdaptiveAEPPT(),
    "MemGuard": MemGuard(random_state=0),
    "LabelOnly": LabelOnly(),
}


def main() -> None:
    figures = defaultdict(list)
    for path in sys.argv[1:]:
        experiment = Experiment.load(path)
        known, target = experiment.known, experiment.target
        for name, defense in DEFENSES.items():
            defense.fit(known.probs, known.is_member)
            probs, info = defense.protect(target.probs, return_info=True)
            figures[name].append(
                [
                    told_apart(probs, target.is_member, 0)[0],
                    told_apart(np.round(probs, 3), target.is_member, 0)[0],
                    info.l1[target.is_member].mean(),
                    info.l1[~target.is_member].mean(),
                ]
            )
    print("| defense | AUC | rounded to 3 decimals | L1 of members | of non-members |")
    print("| --- | --- | --- | --- | --- |")
    for name, rows in figures.items():
        print(f"| {name} | " + " | ".join(f"{figure:.3f}" for figure in np.mean(rows, 0)) + " |")


if __name__ == "__main__":
    main()
