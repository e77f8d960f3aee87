"""The figures of the paper's questions, in the look of :mod:`aeppt.evaluation.plots`.

A figure over seeds is drawn at its mean, with a bar from the lowest seed to the highest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from answers import Spread
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from aeppt.evaluation.plots import COLOURS, INK, LINES, MARKERS, percent, plain, styled
from aeppt.evaluation.results import Setting

FLOOR: dict[str, Any] = {"color": INK, "linewidth": 1.0, "linestyle": ":", "zorder": 5}
#: The whole of what a share can be, and the part where balanced accuracies lie.
SHARES, ACCURACIES = (-0.03, 1.03), (0.38, 1.02)
LANE_INCHES, LANE_STEP = 0.34, 0.18  # of a lane, and between the series within it


@dataclass(frozen=True)
class Series:
    """Spreads at places: numbers, or the names of lanes. Without a name it is in no legend."""

    name: str
    spreads: Mapping[Any, Spread]
    look: Mapping[str, Any]


@dataclass(frozen=True)
class Axis:
    """A factor that is varied, and how its values are shown."""

    name: str
    label: Callable[[Any], str] = "{:g}".format
    logarithmic: bool = True


@dataclass(frozen=True)
class Panel:
    """One pair of axes: what is measured, and of what."""

    measured: str
    series: Sequence[Series]
    title: str = ""
    limits: tuple[float, float] | None = SHARES  # of a share; None is for what is none
    floor: Mapping[Any, Spread] = field(default_factory=dict)


def of_setting(setting: Setting, **more: Any) -> dict[str, Any]:
    """The setting's look."""
    look = {"color": COLOURS[setting], "marker": MARKERS[setting], "linestyle": LINES[setting]}
    return {**look, **more}


@styled
def curves(title: str, grid: Sequence[Sequence[Panel]], axes_below: Sequence[Axis]) -> Figure:
    """How what was measured changes with a factor.

    Parameters
    ----------
    title : str
    grid : sequence of sequence of Panel
        Rows of panels; those of a row have one y axis, those of a column one x axis.
    axes_below : sequence of Axis
        The x axis of each column.
    """
    rows, columns = len(grid), len(axes_below)
    figure = Figure(figsize=(0.6 + 2.9 * columns, 0.9 + 1.7 * rows))
    places = figure.subplots(rows, columns, sharex="col", sharey="row", squeeze=False)
    for line, panels in zip(places, grid, strict=True):
        for axes, panel in zip(line, panels, strict=True):
            for series in panel.series:
                spreads = list(series.spreads.values())
                means = [spread.mean for spread in spreads]
                x, bars = list(series.spreads), _bars(spreads)
                axes.errorbar(x, means, yerr=bars, label=series.name, **_drawn(series))
            if panel.floor:
                floors = [spread.mean for spread in panel.floor.values()]
                axes.plot(list(panel.floor), floors, label="label-only floor", **FLOOR)
            axes.set_title(panel.title, fontsize=8.5)
            axes.yaxis.set_major_formatter(FuncFormatter(percent if panel.limits else plain))
            if panel.limits:
                axes.set_ylim(panel.limits)
        line[0].set_ylabel(panels[0].measured)
    for axes, panel, below in zip(places[-1], grid[-1], axes_below, strict=True):
        x = list(panel.series[0].spreads)
        axes.set_xscale("log" if below.logarithmic else "linear")
        axes.set_xticks(x, [below.label(value) for value in x])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(below.name)
    _finish(figure, title)
    return figure


@styled
def lanes(title: str, panels: Sequence[Panel], names: Sequence[str]) -> Figure:
    """Panels side by side in which every name has a lane of dots."""
    figure = Figure(figsize=(7.2, 1.1 + LANE_INCHES * len(names)))
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(row, panels, strict=True):
        for number, series in enumerate(panel.series):
            shown = [name for name in names if name in series.spreads]
            spreads = [series.spreads[name] for name in shown]
            shift = LANE_STEP * (number - (len(panel.series) - 1) / 2)
            lane = [names.index(name) + shift for name in shown]
            means = [spread.mean for spread in spreads]
            look = _drawn(series) | {"linestyle": ""}
            axes.errorbar(means, lane, xerr=_bars(spreads), label=series.name, **look)
        if panel.floor:
            middles = np.array([names.index(name) for name in panel.floor])
            floors = [spread.mean for spread in panel.floor.values()]
            axes.vlines(floors, middles - 0.5, middles + 0.5, label="label-only floor", **FLOOR)
        axes.set_title(panel.title, fontsize=8.5)
        axes.set_xlabel(panel.measured)
        axes.xaxis.set_major_formatter(FuncFormatter(percent if panel.limits else plain))
        if panel.limits:
            axes.set_xlim(panel.limits)
    row[0].set_yticks(range(len(names)), names)
    row[0].set_ylim(len(names) - 0.5, -0.5)
    _finish(figure, title)
    return figure


def _bars(spreads: Sequence[Spread]) -> Any:
    """From the lowest seed to the mean, and from there to the highest, [2, n]."""
    ends = np.array([(spread.low, spread.high) for spread in spreads]).reshape(-1, 2)
    return np.abs(ends.T - [spread.mean for spread in spreads])


def _drawn(series: Series) -> dict[str, Any]:
    return {"markersize": 4, "linewidth": 1.4, **series.look}


def _finish(figure: Figure, title: str) -> None:
    """The title, and one legend for all panels."""
    figure.suptitle(title, fontsize=9)
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        for artist, name in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, artist)
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=min(4, len(entries))
    )
