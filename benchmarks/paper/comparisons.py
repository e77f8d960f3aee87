"""Questions that compare attacks: what each finds in some settings, in both forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from answers import Row, chosen, distinct, spread, table
from figures import ACCURACIES, Panel, Series, lanes, of_setting
from matplotlib.figure import Figure
from setups import DEFAULT, PAPERS_FORM, Setup, defense, experiment
from trials import Trial, tried

from aeppt.attacks import Attack
from aeppt.evaluation.results import Setting

FORMS = (PAPERS_FORM, DEFAULT)


@dataclass(frozen=True)
class Comparison:
    """Attacks, and what is asked of them.

    Parameters
    ----------
    attacks : callable
        From a seed to the attacks.
    settings : sequence of Setting
        Those that are shown: first "undefended".
    metric, metric_name : str
        Shown in the table after the balanced accuracy.
    """

    attacks: Callable[[int], list[Attack]]
    settings: Sequence[Setting]
    metric: str
    metric_name: str

    def measure(self, setup: Setup, seed: int) -> list[Row]:
        """Each form against all attacks."""
        made = experiment(setup, seed)
        adaptive = "adaptive" in self.settings
        trials = [
            Trial(
                {"form": form},
                defense(form, made.known, seed),
                defense(form, made.shadow, seed + 1) if adaptive else None,
            )
            for form in FORMS
        ]
        return tried(made, trials, self.attacks(seed))

    def tabulate(self, rows: Sequence[Row]) -> str:
        """A line for each attack; the second metric without a defense and in the last setting."""
        defended = [(form, setting) for form in FORMS for setting in self.settings[1:]]
        undefended = (DEFAULT, "undefended")  # the same for either form
        last = [column for column in defended if column[1] == self.settings[-1]]
        columns = [("balanced accuracy", "balanced_accuracy", c) for c in (undefended, *defended)]
        columns += [(self.metric_name, self.metric, c) for c in (undefended, *last)]
        header, lines = ["inference model"], []
        for name, _, column in columns:
            form, setting = column
            shown = f"{form}, {setting}" if len(self.settings) > 2 else form
            header.append(f"{name}: undefended" if column == undefended else shown)
        for attack in distinct(rows, "attack"):
            found = chosen(rows, attack=attack)
            cells = [
                spread(chosen(found, form=form, setting=setting), metric).percent
                for _, metric, (form, setting) in columns
            ]
            lines.append([attack, *cells])
        return table(header, lines)

    def draw(self, rows: Sequence[Row], title: str) -> Figure:
        """A lane for each attack, a panel for each form."""
        names = distinct(rows, "attack")

        def series(form: str, setting: Setting) -> Series:
            found = chosen(rows, form=form, setting=setting)
            spreads = {n: spread(chosen(found, attack=n), "balanced_accuracy") for n in names}
            return Series(setting, spreads, of_setting(setting))

        floor = spread(rows, "label_only_floor")
        panels = [
            Panel(
                "balanced accuracy",
                [series(form, setting) for setting in self.settings],
                form,
                ACCURACIES,
                dict.fromkeys(names, floor),
            )
            for form in FORMS
        ]
        return lanes(title, panels, names)
