"""How does AEPPT compare with its peers, and does it help them: peers.py [--data DATA].

Dropout, an L2 penalty, model stacking and the min-max game train another model; MemGuard changes
the output, as AEPPT does. Each stands alone, and with AEPPT (the default form) behind it. The
attacker always knows the peer: the shadow model is trained, and MemGuard fitted, in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

from answers import Row, answer, chosen, distinct, spread, strongest, table
from figures import ACCURACIES, Panel, Series, lanes, of_setting
from matplotlib.figure import Figure
from setups import DEFAULT, PLAIN, Setup, defense, experiment
from sweeps import attacks
from trials import Trial, behind, mean_l1, tried

from aeppt.attacks import CorrectnessAttack
from aeppt.defenses.memguard import MemGuard
from aeppt.evaluation.experiment import Experiment
from aeppt.evaluation.plots import INK
from aeppt.evaluation.results import SETTINGS
from aeppt.recipes.adversarial_regularization import AdversarialRegularization
from aeppt.recipes.dropout import Dropout
from aeppt.recipes.stacking import ModelStacking
from aeppt.recipes.weight_decay import WeightDecay

NONE, MEMGUARD = "no peer", "MemGuard"
RECIPES = {
    NONE: PLAIN,
    "dropout": Dropout(rate=0.5),
    "L2 penalty": WeightDecay(strength=1e-3),
    "model stacking": ModelStacking(),
    "min-max game": AdversarialRegularization(weight=0.5),
}
NAMES = {
    "undefended": "without AEPPT",
    "static": "with AEPPT, static",
    "adaptive": "with AEPPT, adaptive",
}


def behind_memguard(made: Experiment, seed: int) -> Experiment:
    """The defender and the attacker each fit MemGuard on the model that is theirs to know."""
    defenders, attackers = (
        MemGuard(budget=1.0, random_state=seed + place).fit(known.probs, known.is_member)
        for place, known in enumerate((made.known, made.shadow))
    )
    return Experiment(
        known=behind(defenders, made.known),
        target=behind(defenders, made.target),
        shadow=behind(attackers, made.shadow),
    )


def measure(setup: Setup, seed: int) -> list[Row]:
    made = {name: experiment(setup, seed, recipe) for name, recipe in RECIPES.items()}
    own = {name: peer.target for name, peer in made.items()}  # what the models themselves say
    made[MEMGUARD], own[MEMGUARD] = behind_memguard(made[NONE], seed), own[NONE]
    rows = []
    for name, peer in made.items():
        fitted = defense(DEFAULT, peer.known, seed)
        factors = {
            "peer": name,
            "accuracy": float(own[name].is_correct[~own[name].is_member].mean()),
            "l1_of_peer": mean_l1(own[name], peer.target),
            "l1_of_both": mean_l1(own[name], behind(fitted, peer.target)),
        }
        trial = Trial(factors, fitted, defense(DEFAULT, peer.shadow, seed + 1))
        rows += tried(peer, [trial], [*attacks(seed), CorrectnessAttack()])
    return rows


def tabulate(rows: Sequence[Row]) -> str:
    lines = []
    for name in distinct(rows, "peer"):
        found = chosen(rows, peer=name)
        lines.append(
            [
                name,
                spread(found, "accuracy").percent,
                *(strongest(chosen(found, setting=setting)).percent for setting in SETTINGS),
                spread(found, "label_only_floor").percent,
                *(
                    strongest(chosen(found, setting=setting), "auc").percent
                    for setting in ("undefended", "adaptive")
                ),
                *(f"{spread(found, cost).mean:.3f}" for cost in ("l1_of_peer", "l1_of_both")),
            ]
        )
    first, *others = NAMES.values()
    header = ["peer", "accuracy on fresh records", f"strongest attack: {first}", *others]
    header += ["label-only floor", f"AUC: {first}", others[-1]]
    return table([*header, "mean L1: without AEPPT", "with AEPPT"], lines)


def draw(rows: Sequence[Row], title: str) -> Figure:
    peers = {name: chosen(rows, peer=name) for name in distinct(rows, "peer")}
    leakage = [
        Series(
            NAMES[setting],
            {name: strongest(chosen(found, setting=setting)) for name, found in peers.items()},
            of_setting(setting),
        )
        for setting in SETTINGS
    ]
    accuracy = {name: spread(found, "accuracy") for name, found in peers.items()}
    floor = {name: spread(found, "label_only_floor") for name, found in peers.items()}
    panels = [
        Panel("balanced accuracy, strongest attack", leakage, "what leaks", ACCURACIES, floor),
        Panel(
            "accuracy on fresh records",
            [Series("", accuracy, {"color": INK, "marker": "o"})],
            "what the model is worth",
        ),
    ]
    return lanes(title, panels, list(peers))


if __name__ == "__main__":
    answer(__file__, measure, tabulate, draw)
