"""How a question's measurements become its answer: rows, a table, a figure, its part of the page.

A question's script measures one seed of one data set as rows; here all seeds' rows are written as
docs/paper/QUESTION-DATA.json, drawn as the .svg beside it, and summed up in docs/paper.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from setups import DATA, Setup

sys.path.insert(0, str(Path(__file__).parents[1]))
from readme_times import between_marks

from aeppt.evaluation.plots import to_svg
from aeppt.files import write_atomically
from aeppt.version import __version__

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "paper"
PAGE = ROOT / "docs" / "paper.md"

#: What was measured of one attack in one setting: factors, metrics, costs.
Row = dict[str, Any]


class Spread(NamedTuple):
    """A figure over the seeds for which it is defined."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread:
        """NaN where no seed defines it."""
        defined = [value for value in values if value is not None and not math.isnan(value)]
        if not defined:
            return cls(math.nan, math.nan, math.nan)
        return cls(math.fsum(defined) / len(defined), min(defined), max(defined))

    @property
    def percent(self) -> str:
        """As tables show shares: without the range where all seeds are alike."""
        if math.isnan(self.mean):
            return "undefined"
        mean, low, high = (f"{100 * value:.1f}" for value in self)
        return mean if low == high else f"{mean} [{low}–{high}]"


def chosen(rows: Iterable[Row], **factors: Any) -> list[Row]:
    """The rows with these factors."""
    return [row for row in rows if all(row[name] == value for name, value in factors.items())]


def distinct(rows: Iterable[Row], factor: str) -> list[Any]:
    """The values of a factor, in the order in which they come."""
    return list(dict.fromkeys(row[factor] for row in rows))


def spread(rows: Iterable[Row], metric: str) -> Spread:
    """A metric or a cost over the seeds of rows that differ in nothing else."""
    return Spread.of(_value(row[metric]) for row in rows)


def strongest(rows: Sequence[Row], metric: str = "balanced_accuracy") -> Spread:
    """The best that any attack of the rows reaches, over seeds."""
    seeds = [chosen(rows, seed=seed) for seed in distinct(rows, "seed")]
    return Spread.of(spread(of_seed, metric).high for of_seed in seeds)


def _value(measured: Any) -> float | None:
    value: float | None = measured["value"] if isinstance(measured, dict) else measured
    return value


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    rule = ["---"] * len(header)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))


def answer(
    script: str,
    measure: Callable[[Setup, int], list[Row]],
    tabulate: Callable[[list[Row]], str],
    draw: Callable[[list[Row], str], Figure],
    data: Sequence[str] = tuple(DATA),
) -> None:
    """Ask one question of one data set, as the command line says.

    Parameters
    ----------
    script : str
        The question's file; its name is the question's.
    measure : callable
        From a set-up and a seed to rows; the seed is added to them here.
    tabulate, draw : callable
        From all rows to a Markdown table and, with the data set's title, to a figure.
    data : sequence of str
        The data sets for which the question makes sense; the first is the default.
    """
    question = Path(script).stem
    parser = argparse.ArgumentParser(prog=f"{question}.py")
    parser.add_argument("--data", choices=data, default=data[0])
    parser.add_argument("--path", help="the data set's file or folder; baskets need none")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    setup = DATA[arguments.data](arguments.path)
    rows: list[Row] = []
    for seed in range(arguments.seeds):
        begin = time.perf_counter()
        rows += [{"seed": seed, **row} for row in measure(setup, seed)]
        print(f"{question}, {setup.title}, seed {seed}: {time.perf_counter() - begin:.0f} s")
    RESULTS.mkdir(exist_ok=True)
    _write(_result(question, arguments.data), as_json(question, setup.title, rows))
    figure = to_svg(draw(rows, setup.title))
    _write(_result(question, arguments.data).with_suffix(".svg"), figure)
    _write(PAGE, with_answers(PAGE.read_text(), question, tabulate))


def as_json(question: str, data: str, rows: Sequence[Row]) -> str:
    """One row per line."""
    head = json.dumps({"question": question, "data": data, "aeppt": __version__})
    lines = ",\n".join(json.dumps(row, allow_nan=False) for row in rows)
    return f'{head[:-1]}, "rows": [\n{lines}\n]}}\n'


def with_answers(page: str, question: str, tabulate: Callable[[list[Row]], str]) -> str:
    """The page with the question's table and figure for every data set that was measured."""
    parts = []
    for path in (_result(question, data) for data in DATA):
        if path.is_file():
            result = json.loads(path.read_text())
            seeds = len(distinct(result["rows"], "seed"))
            picture = path.with_suffix(".svg").relative_to(PAGE.parent)
            title = result["data"][:1].upper() + result["data"][1:]
            parts += [
                f"**{title}; {seeds} seed{'s' if seeds > 1 else ''}.**",
                tabulate(result["rows"]),
                f"![{question.replace('_', ' ')}: {result['data']}]({picture})",
            ]
    text = "\n\n".join(parts) or "Not yet measured."
    begin = f"<!-- {question}: benchmarks/paper/{question}.py -->"
    return between_marks(page, begin, f"<!-- end of {question} -->", text)


def _result(question: str, data: str) -> Path:
    return RESULTS / f"{question}-{data}.json"


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))
