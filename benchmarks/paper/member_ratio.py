"""Does it matter how many members the substitute learns on: member_ratio.py [--data DATA].

The substitute's training set is drawn from the defender's predictions in the ratio asked, always of
the same size. An attacker who knows the defense fits the copy in the same ratio.
"""

from __future__ import annotations

import numpy as np
from answers import Row, answer
from setups import Setup, defense, experiment
from sweeps import FORMS, Sweep, attacks
from trials import Trial, tried

from aeppt import Predictions

#: The shares of members, and their ratio to non-members.
RATIOS = {0.1: "1:9", 0.25: "1:3", 0.5: "1:1", 0.75: "3:1", 0.9: "9:1"}
SWEEP = Sweep("member_share", "members : non-members", RATIOS.__getitem__, logarithmic=False)


def drawn(known: Predictions, share: float, seed: int) -> Predictions:
    """As many rows as suffice for every share of :data:`RATIOS`, ``share`` of them members'."""
    rng = np.random.default_rng(seed)
    members, others = np.flatnonzero(known.is_member), np.flatnonzero(~known.is_member)
    total = int(min(len(members) / max(RATIOS), len(others) / (1 - min(RATIOS))))
    count = round(share * total)
    rows = np.concatenate(
        [rng.permutation(members)[:count], rng.permutation(others)[: total - count]]
    )
    return known.take(rows)


def measure(setup: Setup, seed: int) -> list[Row]:
    made = experiment(setup, seed)
    trials = [
        Trial(
            {"form": form, "member_share": share},
            defense(form, drawn(made.known, share, seed), seed),
            defense(form, drawn(made.shadow, share, seed + 1), seed + 1),
        )
        for form in FORMS
        for share in RATIOS
    ]
    return tried(made, trials, attacks(seed))


if __name__ == "__main__":
    answer(__file__, measure, SWEEP.tabulate, SWEEP.draw)
