"""Does the number of classes matter: number_of_classes.py.

Synthetic baskets, in which nothing else has to change with it.
"""

from __future__ import annotations

from answers import Row, answer
from setups import Setup, baskets, defense, experiment
from sweeps import FORMS, Sweep, attacks
from trials import Trial, tried

CLASSES = (2, 10, 20, 50, 100)
SWEEP = Sweep("classes", "classes")


def measure(setup: Setup, seed: int) -> list[Row]:
    rows = []
    for classes in CLASSES:
        made = experiment(baskets(classes), seed)
        trials = [
            Trial(
                {"form": form, "classes": classes},
                defense(form, made.known, seed),
                defense(form, made.shadow, seed + 1),
            )
            for form in FORMS
        ]
        rows += tried(made, trials, attacks(seed))
    return rows


if __name__ == "__main__":
    answer(__file__, measure, SWEEP.tabulate, SWEEP.draw, data=("baskets",))
