"""``aeppt demo | fit | key | protect | audit | compare | serve | info``.

Errors are one line that says what, where and how to mend, with exit code 2; ``--debug`` shows the
traceback instead. A command imports what only it needs.
"""

from __future__ import annotations

import enum
import logging
import platform
import secrets
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler

from aeppt.cli.compare import compare
from aeppt.cli.display import ProgressDisplay, audit_table, protection_summary
from aeppt.cli.options import (
    AddressOption,
    Attacks,
    AttacksOption,
    Engine,
    EngineOption,
    check_address,
)
from aeppt.cli.serve import serve
from aeppt.files import check_folders, write_atomically

app = typer.Typer(
    name="aeppt",
    help="Defend a classifier against membership inference by changing only its output.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(stderr=False)


class DataSet(str, enum.Enum):
    """The data sets of the demonstration."""

    digits = "digits"
    location = "location"


DefenseOption = Annotated[
    str, typer.Option(help='Which defense, such as "AEPPT" or "MemGuard(budget=0.5)".')
]
RECOMMENDED = "PrivacyFunnel"
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]
OutputHtml = Annotated[Path, typer.Option(help="Where the report page goes.")]
OutputJson = Annotated[Path, typer.Option(help="Where the report's figures go.")]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
) -> None:
    # main() reads --debug itself: it must know before a command fails.
    del debug
    # What the library tells of long work, above the progress bar.
    logger = logging.getLogger("aeppt")
    logger.setLevel(logging.INFO)
    logger.handlers = [
        RichHandler(console=console, show_time=False, show_level=False, show_path=False)
    ]


@app.command()
def demo(
    data: Annotated[DataSet, typer.Option(help="digits ships with scikit-learn.")] = DataSet.digits,
    path: Annotated[
        str | None, typer.Option(help="The data set's file or URL; needed for --data location.")
    ] = None,
    defense: DefenseOption = RECOMMENDED,
    attacks: AttacksOption = Attacks.default,
    shadow_models: Annotated[
        int, typer.Option(help="More shadow models, 4 or more, for per-example attacks.", min=0)
    ] = 0,
    seed: Seed = 0,
    html: OutputHtml = Path("report.html"),
    json: OutputJson = Path("report.json"),
) -> None:
    """Train, defend, attack and report, on real data, in a minute."""
    from aeppt.cli.specification import made
    from aeppt.data import load_digits, load_location
    from aeppt.defenses import DEFENSES
    from aeppt.evaluation.demonstration import demonstrate

    check_folders(html, json)
    chosen = made(defense, DEFENSES)
    if data is DataSet.location:
        if path is None:
            raise ValueError("--data location needs --path, the file location30.npz or its URL")
        records = load_location(path)
    else:
        records = load_digits()
    with ProgressDisplay(console) as progress:
        report, fitted = demonstrate(
            data.value, records, seed, progress.update, attacks.value, shadow_models, chosen
        )
    _finish(report, fitted, html, json)


@app.command()
def fit(
    predictions: Annotated[Path, typer.Argument(help="Predictions with is_member.")],
    out: Annotated[Path, typer.Option(help="Where the fitted defense goes.")] = Path(
        "defense.safetensors"
    ),
    defense: DefenseOption = RECOMMENDED,
    seed: Annotated[
        int | None, typer.Option(help="Of the defense; without it, secret keys are fresh.")
    ] = None,
) -> None:
    """Fit a defense on a file of predictions on members and non-members, and save it."""
    from aeppt.cli.specification import made
    from aeppt.data.tables import read_predictions
    from aeppt.defenses import DEFENSES
    from aeppt.defenses.base import seeded

    check_folders(out)
    chosen = made(defense, DEFENSES)
    known = read_predictions(predictions)
    if seed is not None:
        chosen = seeded(chosen, seed)
    with ProgressDisplay(console) as progress:
        progress.update(f"fitting on {len(known):,} predictions", 0, 0)
        chosen.fit_predictions(known)
    chosen.save(out)
    console.print(f"fitted on {len(known):,} predictions of {known.n_classes} classes: {out}")


@app.command()
def key(
    file: Annotated[Path, typer.Argument(help="Where the key goes; it must not exist.")],
) -> None:
    """Make a fresh secret key, in a file that only its owner can read."""
    from aeppt.defenses.keyed_random import KEY_BYTES

    if file.exists():
        raise FileExistsError(
            f"{file} exists; a new key would change every answer, so give another name"
        )
    content = secrets.token_hex(KEY_BYTES) + "\n"
    write_atomically(file, lambda opened: opened.write(content.encode()), mode=0o600)
    console.print(f"a fresh key: {file}", soft_wrap=True)


@app.command()
def protect(
    source: Annotated[
        Path, typer.Argument(help="Predictions to protect: a file, or a folder of Parquet files.")
    ],
    destination: Annotated[Path, typer.Argument(help="Where the protected ones go; likewise.")],
    defense: Annotated[Path, typer.Option(help="A saved defense.")],
    key_file: Annotated[
        Path | None,
        typer.Option(
            help="A secret key, made by aeppt key, in place of the defense's own; or in the "
            "environment, as AEPPT_KEY."
        ),
    ] = None,
    engine: EngineOption = Engine.local,
    address: AddressOption = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Of --engine ray, files at once; one per processor if not given.", min=1),
    ] = None,
) -> None:
    """Protect a file of predictions, or a folder of files, in chunks: they may exceed memory.

    Of a folder, a second run does what is left.
    """
    from aeppt.defenses import find_key
    from aeppt.serving.batch import protect_files

    check_address(engine, address)
    if workers is not None and engine is not Engine.ray:
        raise ValueError("--workers needs --engine ray")
    with ProgressDisplay(console) as progress:
        done = protect_files(
            source,
            destination,
            defense,
            find_key(key_file),
            engine.value,
            address,
            workers,
            progress.update,
        )
    console.print(protection_summary(done, destination))


@app.command()
def audit(
    target: Annotated[Path, typer.Option(help="Undefended predictions of the target model.")],
    shadow: Annotated[Path, typer.Option(help="Undefended predictions of a shadow model.")],
    defense: Annotated[Path, typer.Option(help="The target's saved defense.")],
    shadow_defense: Annotated[
        Path | None, typer.Option(help="The attacker's copy; fitted on --shadow if not given.")
    ] = None,
    shadows: Annotated[
        Path | None,
        typer.Option(help="Many shadow models on the target's records, for per-example attacks."),
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(help="The target's predictions that fitted no defense, for a certificate."),
    ] = None,
    attacks: AttacksOption = Attacks.default,
    seed: Seed = 0,
    html: OutputHtml = Path("report.html"),
    json: OutputJson = Path("report.json"),
) -> None:
    """Attack predictions without and with a defense, and report what still leaks."""
    from aeppt import audit as run_audit
    from aeppt import load_defense
    from aeppt.data.tables import read_predictions, read_shadow_predictions

    check_folders(html, json)
    fitted = load_defense(defense)
    with ProgressDisplay(console) as progress:
        report = run_audit(
            read_predictions(target),
            read_predictions(shadow),
            fitted,
            None if shadow_defense is None else load_defense(shadow_defense),
            attacks=attacks.value,
            shadows=None if shadows is None else read_shadow_predictions(shadows),
            held_out=None if held_out is None else read_predictions(held_out),
            random_state=seed,
            on_progress=progress.update,
        )
    _finish(report, fitted, html, json)


app.command()(compare)
app.command()(serve)


@app.command()
def info() -> None:
    """Say which engine runs, and why."""
    import torch

    import aeppt
    from aeppt_ext import ops

    facts = {"aeppt": aeppt.__version__}
    if ops.compiled is None:
        facts["engine"] = f"plain PyTorch; the compiled extension did not load: {ops.load_error}"
    else:
        sets = ops.compiled.instruction_sets()
        here = ", ".join(name for name, supported in sorted(sets.items()) if supported)
        facts["engine"] = f"compiled, {ops.compiled.instruction_set()} (this processor has {here})"
        facts["compiler"] = ops.compiled.compiler
        facts["CUDA"] = (
            f"built for {ops.compiled.cuda_architectures} (not yet measured on a GPU)"
            if ops.compiled.cuda_architectures
            else "not built"
        )
    facts |= {
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "Python": f"{platform.python_version()} on {platform.platform()}",
    }
    for name, fact in facts.items():
        console.print(f"[bold]{name:>9}[/]  {fact}", highlight=False, soft_wrap=True)


def _finish(report: Any, defense: Any, html: Path, json: Path) -> None:
    from aeppt.evaluation import with_latency

    report = with_latency(report, defense)
    report.to_html(html)
    report.to_json(json)
    console.print(audit_table(report, console.width))
    console.print(f"report: {html}   figures: {json}", soft_wrap=True)


def main() -> None:
    """Run the command line; the process ends with its exit code."""
    debug = "--debug" in sys.argv
    warnings.simplefilter("default")
    try:
        app(args=[argument for argument in sys.argv[1:] if argument != "--debug"])
    except (ImportError, OSError, TypeError, ValueError) as error:
        if debug:
            raise
        message = " ".join(str(error).split())
        Console(stderr=True).print(f"aeppt: {message}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
