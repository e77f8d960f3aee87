"""How much does the amount of the adversary's data matter: adversary_data.py [--data DATA].

The attacker has so many members and as many others, trains the shadow model on the former, and
learns on what it predicts for both.
"""

from __future__ import annotations

from answers import Row, answer
from setups import Setup, defense, experiment, with_shadow_of
from sweeps import FORMS, Sweep, attacks
from trials import Trial, tried

AMOUNTS = (50, 100, 200, 500, 1000)
SWEEP = Sweep("shadow_members", "members that the adversary has")


def measure(setup: Setup, seed: int) -> list[Row]:
    known = experiment(setup, seed).known
    fitted = {form: defense(form, known, seed) for form in FORMS}
    rows = []
    for amount in AMOUNTS:
        made = with_shadow_of(setup, seed, amount)
        trials = [
            Trial(
                {"form": form, "shadow_members": amount},
                fitted[form],
                defense(form, made.shadow, seed + 1),
            )
            for form in FORMS
        ]
        rows += tried(made, trials, attacks(seed))
    return rows


if __name__ == "__main__":
    answer(__file__, measure, SWEEP.tabulate, SWEEP.draw)
