"""How good is the inference model, without AEPPT and with it: attack_quality.py [--data DATA].

The inference model is a neural network on the sorted probabilities that knows nothing of the
defense: it learned on undefended predictions of a shadow model.
"""

from __future__ import annotations

from answers import Row, answer, chosen, distinct, spread, table
from figures import Panel, Series, lanes, of_setting
from matplotlib.figure import Figure
from setups import DEFAULT, PAPERS_FORM, REFINED, Setup, defense, experiment
from trials import Trial, tried

from aeppt.attacks import NeuralNetworkAttack
from aeppt.evaluation.results import SETTINGS, Setting

#: With as many members as others, the paper's accuracy is the balanced one.
METRICS = {
    "balanced_accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "auc": "AUC",
}
COSTS = {"l1_members": "L1: members", "l1_non_members": "non-members"}


def measure(setup: Setup, seed: int) -> list[Row]:
    made = experiment(setup, seed)
    trials = [
        Trial({"form": form}, defense(form, made.known, seed))
        for form in (PAPERS_FORM, REFINED, DEFAULT)
    ]
    return tried(made, trials, [NeuralNetworkAttack(random_state=seed)])


def tabulate(rows: list[Row]) -> str:
    forms = distinct(rows, "form")
    undefended = chosen(rows, setting="undefended", form=forms[0])
    lines = [["none", *(spread(undefended, metric).percent for metric in METRICS), "0", "0"]]
    for form in forms:
        found = chosen(rows, setting="static", form=form)
        metrics = [spread(found, metric).percent for metric in METRICS]
        lines.append([form, *metrics, *(f"{spread(found, cost).mean:.3f}" for cost in COSTS)])
    return table(["defense", *METRICS.values(), *COSTS.values()], lines)


def draw(rows: list[Row], title: str) -> Figure:
    forms = distinct(rows, "form")

    def series(setting: Setting, metric: str) -> Series:
        found = chosen(rows, setting=setting)
        spreads = {form: spread(chosen(found, form=form), metric) for form in forms}
        return Series(setting, spreads, of_setting(setting))

    panels = [
        Panel(name, [series(setting, metric) for setting in SETTINGS[:2]])
        for metric, name in METRICS.items()
    ]
    return lanes(title, panels, forms)


if __name__ == "__main__":
    answer(__file__, measure, tabulate, draw)
