"""Does an attacker who knows the defense get further: adaptive.py [--data DATA].

The adaptive attacker fits an own copy of AEPPT on the shadow model's predictions, and trains on
what the copy returns.
"""

from __future__ import annotations

from answers import answer
from comparisons import Comparison

from aeppt.attacks import (
    Attack,
    BoostedTreesAttack,
    BorderAttack,
    ConfidenceAttack,
    EntropyAttack,
    ModifiedEntropyAttack,
    NeuralNetworkAttack,
    RandomForestAttack,
    VectorAndLabelNetworkAttack,
)


def attackers(seed: int) -> list[Attack]:
    return [
        NeuralNetworkAttack(random_state=seed),
        VectorAndLabelNetworkAttack(random_state=seed),
        BorderAttack(random_state=seed),
        BoostedTreesAttack(seed),
        RandomForestAttack(seed),
        ConfidenceAttack(per_class=False),
        ModifiedEntropyAttack(per_class=False),
        EntropyAttack(per_class=False),
    ]


COMPARISON = Comparison(attackers, ("undefended", "static", "adaptive"), "auc", "AUC")

if __name__ == "__main__":
    answer(__file__, COMPARISON.measure, COMPARISON.tabulate, COMPARISON.draw)
