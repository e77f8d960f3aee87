"""Which step size, in which space: step_size.py [--data DATA].

The paper's form with steps on the probabilities and on their logarithms; as whole steps, and with
each move shortened afterwards to where it just crosses the border (the library's refinement).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from answers import Row, answer, chosen, distinct, spread, strongest, table
from figures import ACCURACIES, Axis, Panel, Series, curves, of_setting
from matplotlib.figure import Figure
from setups import PAPERS_FORM, Setup, defense, experiment
from sklearn.base import clone
from sweeps import NETWORK, attacks
from trials import Trial, tried

from aeppt import AEPPT, Predictions, Status
from aeppt.evaluation.plots import INK
from aeppt.evaluation.results import Setting

SHOWN: tuple[Setting, ...] = ("static", "adaptive")
SIZES = {"prob": (0.003, 0.01, 0.03, 0.1, 0.3), "logit": (0.03, 0.1, 0.3, 1.0, 3.0)}
UNITS = {"prob": "step size, in probability", "logit": "step size, in nats (log probability)"}
TITLES = {"prob": "steps on the probabilities", "logit": "steps on their logarithms"}
SHORTENED = {False: "whole steps", True: "refined"}
REFINE_STEPS = 10  # the library's default


def with_options(fitted: AEPPT, **options: Any) -> AEPPT:
    """The same substitute, searched with other options."""
    other: AEPPT = clone(fitted).set_params(**options)
    other.module_ = other.build_module(fitted.module_.state_dict())
    other.n_features_in_ = fitted.n_features_in_
    return other


def measure(setup: Setup, seed: int) -> list[Row]:
    made = experiment(setup, seed)
    fitted = defense(PAPERS_FORM, made.known, seed)
    copy = defense(PAPERS_FORM, made.shadow, seed + 1)
    trials = []
    for space, refined in product(SIZES, SHORTENED):
        for size in SIZES[space][1::2] if refined else SIZES[space]:
            options = {
                "space": space,
                "step_size": size,
                "refine_steps": REFINE_STEPS if refined else 0,
            }
            searched = with_options(fitted, **options)
            factors = {"space": space, "refined": refined, "step_size": size}
            factors |= work(searched, made.target)
            trials.append(Trial(factors, searched, with_options(copy, **options)))
    rows = tried(made, trials, attacks(seed))
    return [row for row in rows if row["setting"] in SHOWN]


def work(searched: AEPPT, target: Predictions) -> dict[str, float | None]:
    """Mean steps of the rows that were to be moved, and the share of them that mislead."""
    _, info = searched.protect(target.probs, return_info=True)
    moved = info.status != Status.UNCHANGED
    if not moved.any():
        return {"steps": None, "misled": None}
    misled = info.status[moved] == Status.SUCCESS
    return {"steps": float(info.steps[moved].mean()), "misled": float(misled.mean())}


def points(rows: Sequence[Row], space: str, refined: bool) -> dict[float, list[Row]]:
    """The rows of each step size."""
    found = chosen(rows, space=space, refined=refined)
    return {size: chosen(found, step_size=size) for size in distinct(found, "step_size")}


def tabulate(rows: Sequence[Row]) -> str:
    lines = [
        [
            "probabilities" if space == "prob" else "logarithms",
            f"{size:g}",
            SHORTENED[refined],
            spread(chosen(point, attack=NETWORK, setting="static"), "recall").percent,
            *(strongest(chosen(point, setting=setting)).percent for setting in SHOWN),
            strongest(chosen(point, setting="adaptive"), "auc").percent,
            f"{spread(point, 'l1').mean:.3f}",
            f"{spread(point, 'steps').mean:.1f}",
            f"{100 * spread(point, 'misled').mean:.0f} %",
        ]
        for space, refined in product(SIZES, SHORTENED)
        for size, point in points(rows, space, refined).items()
        if size == SIZES[space][1] or not refined  # refined moves hardly depend on the step size
    ]
    header = ["steps on", "step size", "moves", "recall of the network", "strongest attack: static"]
    return table(
        [*header, "adaptive", "AUC: adaptive", "mean L1", "steps", "moved rows that mislead"], lines
    )


def draw(rows: Sequence[Row], title: str) -> Figure:
    looks: dict[bool, dict[str, Any]] = {
        False: {},
        True: {"linestyle": ":", "markerfacecolor": "white"},
    }

    def panels(space: str) -> list[Panel]:
        found = {refined: points(rows, space, refined) for refined in SHORTENED}
        leakage = [
            Series(
                f"{setting}, {SHORTENED[refined]}",
                {x: strongest(chosen(point, setting=setting)) for x, point in line.items()},
                of_setting(setting, **looks[refined]),
            )
            for setting in SHOWN
            for refined, line in found.items()
        ]
        recall = [
            Series(
                f"static, {SHORTENED[refined]}",
                {
                    x: spread(chosen(point, attack=NETWORK, setting="static"), "recall")
                    for x, point in line.items()
                },
                of_setting("static", **looks[refined]),
            )
            for refined, line in found.items()
        ]
        costs = [
            [
                Series(
                    f"cost, {SHORTENED[refined]}",
                    {x: spread(point, cost) for x, point in line.items()},
                    {"color": INK, "marker": "o", **looks[refined]},
                )
                for refined, line in found.items()
            ]
            for cost in ("l1", "steps")
        ]
        floor = {x: spread(point, "label_only_floor") for x, point in found[False].items()}
        return [
            Panel(
                "balanced accuracy,\nstrongest attack", leakage, TITLES[space], ACCURACIES, floor
            ),
            Panel("recall,\nneural network", recall),
            Panel("mean L1", costs[0], limits=None),
            Panel("steps\nof moved rows", costs[1], limits=None),
        ]

    columns = [panels(space) for space in SIZES]
    grid = list(zip(*columns, strict=True))
    return curves(title, grid, [Axis(UNITS[space]) for space in SIZES])


if __name__ == "__main__":
    answer(__file__, measure, tabulate, draw)
