"""Questions that vary one factor: what the strongest of a few attacks still finds, in both forms.

The attacks are of different kinds: a neural network on the sorted probabilities, as the paper's
inference model; the confidence in the true label, with one threshold; and boosted trees on all that
a prediction and its label hold, which are mostly the strongest once they know the defense.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from answers import Row, chosen, distinct, spread, strongest, table
from figures import ACCURACIES, Axis, Panel, Series, curves, of_setting
from matplotlib.figure import Figure
from setups import DEFAULT, PAPERS_FORM

from aeppt.attacks import Attack, BoostedTreesAttack, ConfidenceAttack, NeuralNetworkAttack
from aeppt.evaluation.results import SETTINGS

FORMS = (PAPERS_FORM, DEFAULT)
NETWORK = NeuralNetworkAttack.name


def attacks(seed: int) -> list[Attack]:
    return [
        NeuralNetworkAttack(random_state=seed),
        ConfidenceAttack(per_class=False),
        BoostedTreesAttack(seed),
    ]


@dataclass(frozen=True)
class Sweep:
    """A factor that is varied.

    Parameters
    ----------
    factor : str
        Its name in the rows.
    name : str
        What readers are told.
    label : callable
        From a value to what tables and axes show.
    logarithmic : bool
        The scale of the figure's axis.
    """

    factor: str
    name: str
    label: Callable[[Any], str] = "{:,}".format
    logarithmic: bool = True

    def tabulate(self, rows: Sequence[Row]) -> str:
        """A line for each value: the network's recall, and what the strongest attack finds."""
        header = [self.name, "recall: undefended", *FORMS, "strongest attack: undefended"]
        header += [f"{form}, {setting}" for form in FORMS for setting in SETTINGS[1:]]
        lines = []
        for value in distinct(rows, self.factor):
            point = chosen(rows, **{self.factor: value})
            of_form = {form: chosen(point, form=form) for form in FORMS}
            network = {form: chosen(of_form[form], attack=NETWORK) for form in FORMS}
            undefended = network[DEFAULT], of_form[DEFAULT]  # the same for either form
            lines.append(
                [
                    self.label(value),
                    spread(chosen(undefended[0], setting="undefended"), "recall").percent,
                    *(
                        spread(chosen(network[form], setting="static"), "recall").percent
                        for form in FORMS
                    ),
                    strongest(chosen(undefended[1], setting="undefended")).percent,
                    *(
                        strongest(chosen(of_form[form], setting=setting)).percent
                        for form in FORMS
                        for setting in SETTINGS[1:]
                    ),
                    spread(point, "label_only_floor").percent,
                ]
            )
        return table([*header, "label-only floor"], lines)

    def draw(self, rows: Sequence[Row], title: str) -> Figure:
        """A column for each form: what the strongest attack finds, and the network's recall."""
        leakage, recall = [], []
        for form in FORMS:
            points = self._points(rows, form)
            best = [
                Series(
                    setting,
                    {x: strongest(chosen(point, setting=setting)) for x, point in points.items()},
                    of_setting(setting),
                )
                for setting in SETTINGS
            ]
            found = [
                Series(
                    setting,
                    {
                        x: spread(chosen(point, attack=NETWORK, setting=setting), "recall")
                        for x, point in points.items()
                    },
                    of_setting(setting),
                )
                for setting in SETTINGS[:2]
            ]
            floor = {x: spread(point, "label_only_floor") for x, point in points.items()}
            leakage.append(
                Panel("balanced accuracy,\nstrongest attack", best, form, ACCURACIES, floor)
            )
            recall.append(Panel("recall,\nneural network", found))
        axis = Axis(self.name, self.label, self.logarithmic)
        return curves(title, [leakage, recall], [axis, axis])

    def _points(self, rows: Sequence[Row], form: str) -> dict[Any, list[Row]]:
        """The rows of each value of the factor."""
        found = chosen(rows, form=form)
        values = distinct(found, self.factor)
        return {value: chosen(found, **{self.factor: value}) for value in values}
