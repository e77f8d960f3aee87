"""``aeppt compare``: contenders from the command line, and their comparison as a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from aeppt.cli.display import ProgressDisplay
from aeppt.cli.options import (
    AddressOption,
    Attacks,
    AttacksOption,
    Engine,
    EngineOption,
    check_address,
)
from aeppt.cli.specification import function, known_recipes, made
from aeppt.files import check_folders

if TYPE_CHECKING:
    from aeppt.data import Records
    from aeppt.evaluation.comparison import Comparison
    from aeppt.evaluation.experiment import Experiment, Sizes, Train
    from aeppt.evaluation.kept_work import Execute

OWN, TRAINED = "Own predictions", "Or own training"
NAME_WIDTH, COLUMN_WIDTH = 30, 15  # characters of the console's table
HIDDEN, EPOCHS = "256", 100  # where the data have no set-up of their own


def compare(
    target: Annotated[
        Path | None, typer.Option(help="The model's predictions.", rich_help_panel=OWN)
    ] = None,
    shadow: Annotated[
        Path | None, typer.Option(help="A shadow model's predictions.", rich_help_panel=OWN)
    ] = None,
    known: Annotated[
        Path | None,
        typer.Option(
            help="The model's predictions to fit defenses on, with other non-members than "
            "--target. If not given, every other non-member of --target is for that.",
            rich_help_panel=OWN,
        ),
    ] = None,
    shadows: Annotated[
        Path | None,
        typer.Option(
            help="Many shadow models on the records of --target, for per-example attacks.",
            rich_help_panel=OWN,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="digits, location, or a .parquet or .csv table.", rich_help_panel=TRAINED
        ),
    ] = None,
    path: Annotated[
        str | None,
        typer.Option(help="File or URL of --data location.", rich_help_panel=TRAINED),
    ] = None,
    label: Annotated[
        str, typer.Option(help="The table's column of classes.", rich_help_panel=TRAINED)
    ] = "label",
    training: Annotated[
        list[str] | None,
        typer.Option(
            help="A recipe by its name, such as Plain or 'Dropout(rate=0.5)'; may be repeated. "
            "Costs are counted from the first.",
            rich_help_panel=TRAINED,
        ),
    ] = None,
    train: Annotated[
        list[str] | None,
        typer.Option(
            help="An own way of training, module:function, called as function(records, reference, "
            "seed) and returning a function from features to probabilities; may be repeated.",
            rich_help_panel=TRAINED,
        ),
    ] = None,
    members: Annotated[
        int | None, typer.Option(help="Records of the target model.", rich_help_panel=TRAINED)
    ] = None,
    shadow_members: Annotated[
        int | None, typer.Option(help="Records of the shadow model.", rich_help_panel=TRAINED)
    ] = None,
    reference: Annotated[
        int | None,
        typer.Option(help="Records that recipes may need besides.", rich_help_panel=TRAINED),
    ] = None,
    shadow_models: Annotated[
        int,
        typer.Option(
            help="More shadow models, 4 or more, for per-example attacks; or 0.",
            rich_help_panel=TRAINED,
        ),
    ] = 8,
    hidden: Annotated[
        str | None,
        typer.Option(help="Widths of hidden layers, such as 256,128.", rich_help_panel=TRAINED),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training set.", rich_help_panel=TRAINED)
    ] = None,
    defense: Annotated[
        list[str] | None,
        typer.Option(
            help="An output defense by its name, such as AEPPT or 'MemGuard(budget=0.5)'; may be "
            "repeated. Undefended and AEPPT if not given."
        ),
    ] = None,
    attacks: AttacksOption = Attacks.default,
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0 on.", min=1)] = 3,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes at once; if not given, one, or one per processor of a Ray cluster.",
            min=1,
        ),
    ] = None,
    engine: EngineOption = Engine.local,
    address: AddressOption = None,
    folder: Annotated[
        Path, typer.Option(help="Keeps all that is finished; a second run goes on from there.")
    ] = Path("comparison"),
    html: Annotated[
        Path | None, typer.Option(help="The page; in --folder if not given.", show_default=False)
    ] = None,
    json: Annotated[
        Path | None, typer.Option(help="The figures; in --folder if not given.", show_default=False)
    ] = None,
) -> None:
    """Tell which of several defenses and ways of training leaks least, and what each costs.

    On own predictions (--target, --shadow), or training anew for each seed (--data).
    """
    from aeppt.defenses.storage import DEFENSES
    from aeppt.evaluation.comparison import compare as run_comparison

    check_address(engine, address)
    asked = {name: made(name, DEFENSES) for name in defense or ("Undefended", "AEPPT")}
    check_folders(*(path for path in (html, json) if path is not None))
    experiments: dict[str, Any]
    if data is not None:
        if target or shadow or known or shadows:
            raise ValueError("give files of predictions or --data, not both")
        records = _records(data, path, label)
        widths, passes, sizes = _setup(
            *(data, records, hidden, epochs, members, shadow_members, reference, shadow_models)
        )
        experiments = _experiments(records, training or [], train or [], widths, passes, sizes)
        what = data
    elif target is not None and shadow is not None:
        if training or train:
            raise ValueError("--training and --train need --data in place of --target")
        what = target.stem
        experiments = {what: _given(target, shadow, known, shadows)}
    else:
        raise ValueError("give --target and --shadow, or --data in their place")

    console = Console()
    try:
        with _execution(engine, address, workers) as execute, ProgressDisplay(console) as progress:
            comparison = run_comparison(
                experiments,
                asked,
                range(seeds),
                folder,
                attacks=attacks.value,
                execute=execute,
                on_progress=progress.update,
                title=f"Defenses compared on {what}",
            )
    except KeyboardInterrupt:
        console.print(f"stopped; the same command goes on from what is in {folder}")
        raise
    html, json = html or folder / "comparison.html", json or folder / "comparison.json"
    comparison.to_html(html)
    comparison.to_json(json)
    console.print(comparison_table(comparison, console.width))
    console.print(f"page: {html}   figures: {json}", soft_wrap=True)


@contextmanager
def _execution(engine: Engine, address: str | None, workers: int | None) -> Iterator[Execute]:
    from aeppt.evaluation.kept_work import processes
    from aeppt.serving.cluster import ray_cluster, ray_tasks

    if engine is Engine.local:
        yield processes(workers or 1)
    else:
        with ray_cluster(address, workers):
            yield ray_tasks(workers)


def comparison_table(comparison: Comparison, width: int) -> Table:
    """A line per contender, least adaptive leakage first, with as many columns as fit in width."""
    from aeppt.evaluation.comparison_page import names

    table = Table(
        title=comparison.title,
        caption=(
            "adaptive, static: balanced accuracy of the strongest attack, with its 95 % interval.\n"
            f"accuracy: on fresh records, and points gained on {comparison.baseline}, undefended.\n"
            "* not outdone in adaptive leakage, mean L1 and accuracy together."
        ),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    shown = list(COLUMNS)[: max(3, (width - NAME_WIDTH) // COLUMN_WIDTH)]
    table.add_column("per cent, means over seeds", min_width=NAME_WIDTH - 4, overflow="fold")
    for column in shown:
        table.add_column(column, justify="right")
    rows = comparison.table.to_dict("records")
    for name, row in zip(names(comparison.table), rows, strict=True):
        mark = " *" if row["is_undominated"] else ""
        table.add_row(f"{name}{mark}", *(COLUMNS[column](row) for column in shown))
    return table


def _leakage(row: dict[Any, Any], name: str) -> str:
    low, high = (100 * row[f"{name}_{end}"] for end in ("low", "high"))
    return "–" if math.isnan(row[name]) else f"{100 * row[name]:.1f} [{low:.0f}–{high:.0f}]"


#: The columns of the console's table, the most important first.
COLUMNS: dict[str, Callable[[dict[Any, Any]], str]] = {
    "adaptive": lambda row: _leakage(row, "adaptive"),
    "floor": lambda row: f"{100 * row['floor']:.1f}",
    "mean L1": lambda row: f"{row['l1']:.3f}",
    "accuracy": lambda row: f"{100 * row['accuracy']:.1f} ({0 - 100 * row['accuracy_cost']:+.1f})",
    "static": lambda row: _leakage(row, "static"),
    "calibration": lambda row: f"{row['calibration_error']:.3f}",
    "ms": lambda row: f"{1000 * row['seconds_per_record']:.2g}",
}


def _given(target: Path, shadow: Path, known: Path | None, shadows: Path | None) -> Experiment:
    from aeppt.data.tables import read_predictions, read_shadow_predictions
    from aeppt.evaluation.experiment import given_experiment

    return given_experiment(
        read_predictions(target),
        read_predictions(shadow),
        None if known is None else read_predictions(known),
        None if shadows is None else read_shadow_predictions(shadows),
    )


def _records(data: str, path: str | None, label: str) -> Records:
    from aeppt.data import load_digits, load_location, load_table

    if data == "digits":
        return load_digits()
    if data != "location":
        return load_table(data, label)
    if path is None:
        raise ValueError("--data location needs --path, the file location30.npz or its URL")
    return load_location(path)


def _setup(
    data: str,
    records: Records,
    hidden: str | None,
    epochs: int | None,
    members: int | None,
    shadow_members: int | None,
    reference: int | None,
    shadow_models: int,
) -> tuple[tuple[int, ...], int, Sizes]:
    """Hidden widths, epochs and sizes: those given, else the demonstration's, else all records."""
    from aeppt.evaluation.demonstration import SETUPS, Setup
    from aeppt.evaluation.experiment import REFERENCE_RECORDS, Sizes

    own = members or len(records) // 6
    setup = SETUPS.get(data, Setup(own, own, _widths(HIDDEN), EPOCHS))
    sizes = Sizes(
        setup.members if members is None else members,
        setup.shadow_members if shadow_members is None else shadow_members,
        REFERENCE_RECORDS.get(data, own // 2) if reference is None else reference,
        shadow_models,
    )
    widths = setup.hidden if hidden is None else _widths(hidden)
    return widths, setup.epochs if epochs is None else epochs, sizes


def _widths(text: str) -> tuple[int, ...]:
    try:
        widths = tuple(int(width) for width in text.split(","))
    except ValueError:
        widths = (0,)
    if min(widths) < 1:
        raise ValueError(f"--hidden must be positive integers, such as 256,128; got {text!r}")
    return widths


def _experiments(
    records: Records,
    recipes: list[str],
    functions: list[str],
    hidden: tuple[int, ...],
    epochs: int,
    sizes: Sizes,
) -> dict[str, partial[Experiment]]:
    """Ways of training by what the command line calls them; Plain where none is named."""
    from aeppt.evaluation.experiment import run_experiment, training_by
    from aeppt.models.training import relu_network

    if epochs < 1:
        raise ValueError(f"--epochs must be at least 1, got {epochs}")
    widths = (records.features.shape[1], *hidden, records.n_classes)
    ways: dict[str, Train] = {
        text: training_by(made(text, known_recipes()), partial(relu_network, widths), epochs)
        for text in recipes or ([] if functions else ["Plain"])
    }
    ways |= {text: function(text) for text in functions}
    return {text: partial(run_experiment, train, records, sizes) for text, train in ways.items()}
