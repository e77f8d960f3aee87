"""The figures of audits and comparisons: attacks, ROC curves, scores, distortion, trade-offs.

Every function takes arrays or audit results and returns a Figure of its own; nothing goes through
pyplot, and the user's matplotlib settings do not reach in. A setting has the same colour, line and
marker everywhere; the palette survives colour blindness and grey print. What is drawn in ``INK``
may be recoloured to fit the page around it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from aeppt.evaluation.metrics import CALIBRATION_BINS
from aeppt.evaluation.results import SETTINGS, AttackOutcome, Estimate, Setting, TradeOff

INK = "#20242b"
PROTECTED = "#8e5bb5"
COLOURS: dict[Setting, str] = {"undefended": "#737b87", "static": "#1f83c9", "adaptive": "#d55e00"}
LINES: dict[Setting, str] = {"undefended": "-", "static": "--", "adaptive": "-"}
WIDTHS: dict[Setting, float] = {"undefended": 1.4, "static": 1.5, "adaptive": 2.0}
#: Of defenses that are compared (Okabe & Ito 2008), in the order in which they come.
DEFENSE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
DEFENSE_MARKERS = ("o", "s", "D", "^", "v", "P", "X")
MARKERS: dict[Setting, str] = {"undefended": "o", "static": "s", "adaptive": "D"}

CURVE_POINTS = 300
MOST_BINS = 40
LABEL_GAP = 0.055  # between names in a margin, as a share of the axis
NUMBER_BOX = np.array([8.5, 7.0])  # that a number beside a point takes, in typographic points
MARKER_SIZE = 5.5  # of points that have a number, in typographic points
FRONTIER_LINES = ("-", "--", ":")
LEGEND_COLUMNS, LEGEND_ROW = 2, 0.16  # the latter in inches
LEAST_L1 = 1e-6  # smaller changes are rounding, and drawn there

_GUESSING: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": ":"}

#: Decorates what draws a figure: the style of all of them.
styled = matplotlib.style.context(
    [
        "default",
        {
            "figure.constrained_layout.use": True,
            "font.size": 8.0,
            "legend.fontsize": 8.0,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "axes.grid": True,
            "grid.color": INK,
            "grid.alpha": 0.12,
            "grid.linewidth": 0.6,
            "text.color": INK,
            "text.parse_math": False,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "svg.fonttype": "none",
            "svg.hashsalt": "aeppt",
        },
    ]
)


@styled
def balanced_accuracies(outcomes: Sequence[AttackOutcome], floor: Estimate) -> Figure:
    """Balanced accuracy of every attack in every setting, with intervals, beside the floor.

    Parameters
    ----------
    outcomes : sequence of AttackOutcome
        Those whose balanced accuracy is missing or undefined are left out.
    floor : Estimate
        Balanced accuracy of the label-only attack.
    """
    attacks = list(dict.fromkeys(outcome.attack for outcome in outcomes))
    figure = Figure(figsize=(4.2, 0.95 + 0.58 * len(attacks)))
    axes = figure.subplots()
    for lane, setting in enumerate(SETTINGS):
        shown = [
            (attacks.index(outcome.attack) + 0.17 * lane, outcome.metrics["balanced_accuracy"])
            for outcome in outcomes
            if outcome.setting == setting and "balanced_accuracy" in outcome.metrics
        ]
        if not shown:
            continue
        values = np.array([estimate.value for _, estimate in shown])
        ends = np.array([[estimate.low, estimate.high] for _, estimate in shown])  # [attacks, 2]
        axes.errorbar(
            values,
            [y for y, _ in shown],
            xerr=np.abs(ends.T - values),
            color=COLOURS[setting],
            marker=MARKERS[setting],
            markersize=4,
            linestyle="",
            linewidth=1.5,
            label=setting,
        )
    if np.isfinite(floor.value):
        axes.axvline(floor.value, color=INK, linewidth=1.2, zorder=1, label="label-only floor")
        axes.axvspan(floor.low, floor.high, color=INK, alpha=0.12, linewidth=0, zorder=0)
    axes.axvline(0.5, zorder=1, label="guessing", **_GUESSING)
    for y, attack in enumerate(attacks):
        axes.text(
            0.0, y - 0.13, attack, transform=axes.get_yaxis_transform(), va="bottom", clip_on=True
        )
    axes.set_ylim(len(attacks) - 0.5, -0.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter(FuncFormatter(percent))
    axes.set_xlabel("balanced accuracy")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@styled
def roc_curves(is_member: NDArray[np.bool_], outcomes: Iterable[AttackOutcome]) -> Figure:
    """ROC curves of one attack, one per setting, on logarithmic axes.

    Parameters
    ----------
    is_member : array [n], bool
        Must hold both members and non-members.
    outcomes : sequence of AttackOutcome
        Their scores are [n], finite.
    """
    start = 1 / np.count_nonzero(~is_member)  # the smallest rate that can be seen
    rates = np.geomspace(start, 1, CURVE_POINTS)
    figure = Figure(figsize=(3.4, 3.0))
    axes = figure.subplots()
    axes.plot(rates, rates, **_GUESSING)
    for outcome in outcomes:
        false, true, _ = roc_curve(is_member, outcome.scores)
        axes.plot(
            rates,
            np.interp(rates, false, true),
            color=COLOURS[outcome.setting],
            linestyle=LINES[outcome.setting],
            linewidth=WIDTHS[outcome.setting],
            label=outcome.setting,
        )
    lowest = min(start, 0.1)
    axes.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(lowest, 1.05))
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(percent))
        axis.set_minor_locator(NullLocator())
    figure.legend(loc="outside upper center", ncols=3)
    return figure


@styled
def score_histogram(is_member: NDArray[np.bool_], scores: NDArray, setting: Setting) -> Figure:
    """How an attack's scores lie for members and for non-members, each as a share of its side.

    Parameters
    ----------
    is_member : array [n], bool
    scores : array [n]
        Above zero the attack says "member". The outermost 0.5 % on either side are drawn at the
        edge.
    setting : Setting
        Gives the colour.
    """
    low, high = np.quantile(scores, [0.005, 0.995])
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        low, high = -1.0, 1.0
    figure = Figure(figsize=(3.4, 2.6))
    axes = figure.subplots()
    axes.axvline(0, **_GUESSING)
    edges = np.linspace(low, high, _bins(len(scores)) + 1)
    _draw_sides(axes, np.clip(scores, low, high), is_member, edges, COLOURS[setting])
    axes.set_xlabel("attack score (above 0: “member”)")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@styled
def distortion_histogram(is_member: NDArray[np.bool_], l1: NDArray) -> Figure:
    """How far the defense moved the rows, on a logarithmic axis; rows left alone are counted apart.

    Parameters
    ----------
    is_member : array [n], bool
    l1 : array [n]
        Sum of absolute changes per row, 0 to 2.
    """
    figure = Figure(figsize=(4.2, 3.7))
    axes = figure.subplots()
    moved = np.where(l1 > 0, np.clip(l1, LEAST_L1, 2.0), 0.0)  # [n]
    if moved.any():
        first, last = np.floor(np.log10([moved[moved > 0].min(), moved.max()]))
        edges = np.geomspace(10.0**first, min(10.0 ** (last + 1), 2.0), _bins(len(l1)) + 1)
        unchanged = [
            np.mean(l1[side] == 0) if side.any() else 0 for side in (is_member, ~is_member)
        ]
        notes = [f" ({percent(share)} unchanged)" for share in unchanged]
        _draw_sides(axes, moved, is_member, edges, PROTECTED, notes)
        axes.set(xscale="log", xlim=(edges[0], edges[-1]))
        axes.xaxis.set_major_formatter(FuncFormatter(plain))
        figure.legend(loc="outside upper center", ncols=1)
    else:
        axes.text(0.5, 0.5, "no row was changed", transform=axes.transAxes, ha="center")
        axes.set(xticks=[], yticks=[])
    axes.set_xlabel("L1 distance between the row before and after")
    return figure


@styled
def reliability_diagram(before: NDArray, after: NDArray, labels: NDArray[np.int64]) -> Figure:
    """Accuracy against confidence before and after the defense; below, where the rows lie.

    Parameters
    ----------
    before, after : array [n, k]
        Probability vectors; the largest entry is the confidence.
    labels : array [n], integer
        True classes.
    """
    figure = Figure(figsize=(4.2, 3.7))
    curve, shares = figure.subplots(2, height_ratios=(3, 1), sharex=True)
    curve.plot([0, 1], [0, 1], label="perfect calibration", **_GUESSING)
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    for probs, name, colour, marker, line in (
        (before, "before", COLOURS["undefended"], "o", "-"),
        (after, "after", PROTECTED, "s", "--"),
    ):
        confidence = probs.max(1)
        bins = np.clip(np.digitize(confidence, edges) - 1, 0, CALIBRATION_BINS - 1)  # [n]
        rows = np.bincount(bins, minlength=CALIBRATION_BINS)  # [bins]
        used = rows > 0
        mean_confidence = np.bincount(bins, confidence, CALIBRATION_BINS)[used] / rows[used]
        accuracy = np.bincount(bins, probs.argmax(1) == labels, CALIBRATION_BINS)[used] / rows[used]
        curve.plot(
            mean_confidence,
            accuracy,
            color=colour,
            marker=marker,
            markersize=4,
            linestyle=line,
            linewidth=1.5,
            label=name,
        )
        shares.stairs(rows / len(probs), edges, color=colour, linestyle=line, linewidth=1.5)
    curve.set(xlim=(0, 1), ylim=(0, 1.03), ylabel="accuracy")
    figure.legend(loc="outside upper center", ncols=3)
    shares.set(xlabel="confidence (largest probability)", ylabel="share of rows")
    for axis in (curve.yaxis, shares.xaxis, shares.yaxis):
        axis.set_major_formatter(FuncFormatter(percent))
    return figure


@styled
def leakage_against_distortion(
    points: Sequence[TradeOff], floor: Estimate, undefended: Estimate
) -> Figure:
    """What is left to the strongest adaptive attacker against what a defense changes.

    Parameters
    ----------
    points : sequence of TradeOff
        A line per defense in the order of its knob, whose range is written beside its name.
    floor : Estimate
        Balanced accuracy of the label-only attack.
    undefended : Estimate
        Balanced accuracy of the strongest attack without a defense; at no distortion.
    """
    figure = Figure(figsize=(6.4, 4.0))
    axes = figure.subplots()
    axes.axhline(floor.value, color=INK, linewidth=1.2, linestyle="--", zorder=1)
    note: dict[str, Any] = {"textcoords": "offset points"}
    axes.annotate("label-only floor", (0.0, floor.value), (0, -4), va="top", **note)
    _draw_point(axes, 0.0, undefended, color=INK, marker="*", markersize=9)
    axes.annotate("undefended", (0.0, undefended.value), (8, 0), va="center", **note)
    ends = []
    for number, defense in enumerate(dict.fromkeys(point.defense for point in points)):
        line = sorted((p for p in points if p.defense == defense), key=lambda point: point.knob)
        colour = DEFENSE_COLOURS[number % len(DEFENSE_COLOURS)]
        axes.plot([p.l1 for p in line], [p.leakage.value for p in line], color=colour, zorder=2)
        marker = DEFENSE_MARKERS[number % len(DEFENSE_MARKERS)]
        for point in line:
            _draw_point(axes, point.l1, point.leakage, color=colour, marker=marker, markersize=5)
        last = max(line, key=lambda point: point.l1)
        knobs = " to ".join(f"{p.knob:g}" for p in dict.fromkeys((line[0], line[-1])))
        ends.append((last.l1, last.leakage.value, f"{defense}, {knobs}", colour))
    axes.margins(y=0.08)
    axes.yaxis.set_major_formatter(FuncFormatter(percent))
    axes.set_xlabel("mean L1 distance between a row before and after")
    axes.set_ylabel("balanced accuracy, strongest adaptive attack")
    _label_at_the_right(axes, ends)
    return figure


@styled
def leakage_against_cost(
    costs: NDArray[np.float64],
    leakage: Sequence[Estimate],
    groups: Sequence[str],
    kinds: Sequence[str],
    floors: NDArray[np.float64],
    frontiers: Mapping[str, NDArray[np.bool_]],
    cost_name: str,
    names: Sequence[str] = (),
) -> Figure:
    """What is left to the strongest adaptive attacker against its cost, a point per contender.

    Points are numbered from 1, in the order given. Costs are drawn as square roots with their sign,
    since most contenders cost little.

    Parameters
    ----------
    costs : array [n]
    leakage : sequence of n Estimate
        Balanced accuracies.
    groups : sequence of n str
        Points of one group look alike.
    kinds : sequence of str
        All groups, in the order in which colours are given and named.
    floors : array [n]
        Balanced accuracy of the label-only attack on each; drawn as one line, or as a band.
    frontiers : mapping from str to array [n], bool
        Lines to draw, and the points that they go through: no other is lower at a lower cost.
    cost_name : str
        What the horizontal axis is called.
    names : sequence of n str, or empty
        What the numbers stand for; written at the right.
    """
    legend_rows = math.ceil((len(frontiers) + len(kinds)) / LEGEND_COLUMNS)
    height = 3.3 + LEGEND_ROW * legend_rows
    figure = Figure(figsize=(7.6, max(height, 0.18 * len(names))) if names else (4.6, height))
    axes = figure.subplots()
    axes.set_xscale("function", functions=(_signed_root, _signed_square))
    looks: dict[str, dict[str, Any]] = {
        kind: {
            "color": DEFENSE_COLOURS[number % len(DEFENSE_COLOURS)],
            "marker": DEFENSE_MARKERS[number % len(DEFENSE_MARKERS)],
            "markersize": MARKER_SIZE,
        }
        for number, kind in enumerate(kinds)
    }
    for cost, estimate, group in zip(costs, leakage, groups, strict=True):
        look = looks[group]
        _draw_point(axes, cost, estimate, ecolor=to_rgba(look["color"], 0.4), **look)
    lowest, highest = floors.min(), floors.max()
    axes.axhspan(lowest, highest, color=INK, alpha=0.12, linewidth=0, zorder=0)
    for floor in {lowest, highest}:
        axes.axhline(floor, color=INK, linewidth=0.9, zorder=0)
    axes.margins(0.07)
    axes.yaxis.set_major_formatter(FuncFormatter(percent))
    axes.set(xlabel=cost_name, ylabel="balanced accuracy, strongest adaptive attack")
    axes.annotate(
        "label-only floor" if lowest == highest else "label-only floors",
        (1, lowest),
        (0, -2),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        ha="right",
        va="top",
    )
    values = np.array([estimate.value for estimate in leakage])  # [n]
    lines = [
        _draw_frontier(axes, costs[frontier], values[frontier], label=name, linestyle=line)
        for (name, frontier), line in zip(frontiers.items(), FRONTIER_LINES, strict=False)
        if frontier.any()
    ]
    shown = [Line2D([], [], linestyle="", label=kind, **look) for kind, look in looks.items()]
    figure.legend(
        handles=[*lines, *(shown if len(kinds) > 1 else [])],
        loc="outside upper left",
        ncols=LEGEND_COLUMNS,
    )
    for row, name in enumerate(names):
        is_on_one = any(frontier[row] for frontier in frontiers.values())
        axes.text(
            1.04,
            1 - row / len(names),
            f"{row + 1}  {name}",
            transform=axes.transAxes,
            va="top",
            weight="bold" if is_on_one else "normal",
            fontsize=7.5,
        )
    _number_points(figure, axes, np.column_stack([costs, values]))
    return figure


@styled
def to_svg(figure: Figure) -> str:
    """The figure as SVG text without a date; the same figure gives the same text."""
    file = StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return file.getvalue()


def _draw_sides(
    axes: Axes,
    values: NDArray,
    is_member: NDArray[np.bool_],
    edges: NDArray,
    colour: str,
    notes: Sequence[str] = ("", ""),
) -> None:
    """Members as a filled histogram, non-members as a line, each as a share of its own rows."""
    sides: tuple[tuple[NDArray[np.bool_], str, dict[str, Any]], ...] = (
        (is_member, "members" + notes[0], {"color": colour, "alpha": 0.55, "fill": True}),
        (~is_member, "non-members" + notes[1], {"color": INK, "linewidth": 1.2}),
    )
    for side, name, look in sides:
        counts, _ = np.histogram(values[side], edges)
        axes.stairs(counts / max(np.count_nonzero(side), 1), edges, label=name, **look)
    axes.set_ylabel("share of rows")
    axes.yaxis.set_major_formatter(FuncFormatter(percent))


def _draw_point(axes: Axes, x: float, estimate: Estimate, **look: Any) -> None:
    ends = np.abs(np.array([[estimate.low], [estimate.high]]) - estimate.value)  # [2, 1]
    axes.errorbar([x], [estimate.value], yerr=ends, linestyle="", linewidth=1.0, zorder=3, **look)


def _label_at_the_right(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Name the lines that end at (x, y) in the right margin, one below the other."""
    low, high = axes.get_ylim()
    gap, y = LABEL_GAP * (high - low), math.inf
    for x, end, name, colour in sorted(ends, key=lambda one: -one[1]):
        y = min(end, y - gap)
        axes.annotate(
            name,
            (x, end),
            xytext=(1.03, y),
            textcoords=axes.get_yaxis_transform(),
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "linestyle": ":"},
        )


def _draw_frontier(
    axes: Axes, costs: NDArray[np.float64], values: NDArray[np.float64], **look: Any
) -> Line2D:
    """Steps through all points, of which none is lower at a lower cost, to the axes' ends."""
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # steps to the ends must not move these
    order = np.argsort(costs, kind="stable")
    costs, values = costs[order], values[order]
    (line,) = axes.step(
        [costs[0], *costs, axes.get_xlim()[1]],
        [axes.get_ylim()[1], *values, values[-1]],
        where="post",
        color=INK,
        linewidth=1.1,
        zorder=1,
        **look,
    )
    return line


def _number_points(figure: Figure, axes: Axes, points: NDArray[np.float64]) -> None:
    """Write 1 to n beside ``points`` [n, 2]; nothing that moves them may follow."""
    figure.draw_without_rendering()  # settles where they lie
    places = 72 / figure.dpi * axes.transData.transform(points)
    for number, (point, offset) in enumerate(zip(points, _beside(places), strict=True), 1):
        axes.annotate(
            str(number),
            tuple(point),
            tuple(offset),
            textcoords="offset points",
            ha="center",
            va="center_baseline",
            fontsize=7,
        )


def _beside(points: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """For each of ``points`` [n, 2] an offset at which a number meets no point or other number.

    Where there is none, the one nearest to the point is taken that meets the fewest.
    """
    # Diagonals first: bars go up and down, and frontiers leave a point upwards and to the right.
    directions = np.array([(1, 1), (-1, -1), (-1, 1), (1, -1), (1, 0), (-1, 0), (0, 1), (0, -1)])
    offsets = np.concatenate([ring * directions * NUMBER_BOX for ring in (0.9, 1.7, 2.5)])
    numbers = np.empty((0, 2))
    for point in points:
        centres = point + offsets
        gaps_to_points = np.abs(centres[:, None] - points) - (NUMBER_BOX + MARKER_SIZE) / 2
        gaps_to_numbers = np.abs(centres[:, None] - numbers) - NUMBER_BOX
        met = (gaps_to_points < 0).all(2).sum(1) + (gaps_to_numbers < 0).all(2).sum(1)
        best = met.argmin()
        numbers = np.concatenate([numbers, centres[best : best + 1]])
        yield offsets[best]


def _signed_root(values: NDArray) -> NDArray:
    return np.asarray(np.sign(values) * np.sqrt(np.abs(values)))


def _signed_square(values: NDArray) -> NDArray:
    return np.asarray(np.sign(values) * np.square(values))


def _bins(n: int) -> int:
    return min(MOST_BINS, max(5, math.isqrt(n)))


def percent(value: float, _position: int | None = None) -> str:
    """A share as a tick's label, such as "52.5 %"."""
    return f"{100 * value:.3g}\u202f%"


def plain(value: float, _position: int | None = None) -> str:
    """A number as a tick's label."""
    return f"{value:g}"
