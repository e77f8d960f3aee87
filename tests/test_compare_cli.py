"""``aeppt compare``: what it takes by name, what it writes, and errors of one line."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aeppt import AEPPT, Predictions
from aeppt.cli import main
from aeppt.cli.compare import comparison_table
from aeppt.cli.specification import function, known_recipes, made, parsed
from aeppt.data.tables import write_predictions
from aeppt.defenses.storage import DEFENSES
from aeppt.recipes import Dropout, Plain, Recipe

Make = Callable[..., Predictions]


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """``aeppt compare`` in this process and in an empty folder, whose results go to ``kept``."""

    def call(*arguments: object) -> Ended:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "200")
        given = ["aeppt", "compare", "--folder", "kept", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", given)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return call


def assert_one_line(ended: Ended, message: str) -> None:
    """Exit code 2 and one line that holds ``message``, a pattern."""
    assert ended.code == 2, ended
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err.startswith("aeppt: ")
    assert re.search(message, ended.err), ended.err


@pytest.fixture(scope="module")
def files(make_predictions: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of predictions; not to be written to."""
    folder = tmp_path_factory.mktemp("given")
    for number, name in enumerate(("target.npz", "shadow.csv", "known.parquet")):
        write_predictions(folder / name, make_predictions(50, 50, seed=30 + number))
    write_predictions(folder / "four.npz", make_predictions(50, 50, k=4))
    return folder


def given_files(files: Path) -> tuple[object, ...]:
    return "--target", files / "target.npz", "--shadow", files / "shadow.csv"


def table(folder: Path) -> pd.DataFrame:
    found = json.loads((folder / "kept" / "comparison.json").read_text())
    return pd.DataFrame(found["contenders"])


# --- names with parameters --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Plain", ("Plain", {})),
        (" TopK ( k = 3 ) ", ("TopK", {"k": 3})),
        ("A()", ("A", {})),
        (
            "A(x=-0.5, y='b', z=None, w=(1, 2), v=True)",
            ("A", {"x": -0.5, "y": "b", "z": None, "w": (1, 2), "v": True}),
        ),
    ],
)
def test_a_name_with_parameters_is_read(text: str, expected: tuple[str, dict[str, Any]]) -> None:
    assert parsed(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A(1)",
        "A(x=open('/etc/passwd'))",
        "A(x=__import__('os').system('true'))",
        "A(x=y)",
        "A(**{'x': 1})",
        "A(*[1])",
        "a.b(x=1)",
        "A(x=1)(y=2)",
        "A(x=1); B",
        "A(x=(lambda: 1)())",
        "A(x=[i for i in (1, 2)])",
        "A(x=1, x=2)",
        "A(x=2**99)",
        "A(x=f'{1}')",
        "A(",
        "3",
        "A" + "(x=" + "(" * 5000 + ")" * 5000 + ")",
        "A(x='\0')",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither a name nor a name with parameters"):
        parsed(text)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        name, parameters = parsed(text)
    except ValueError:
        return
    assert name.isidentifier()
    assert all(key.isidentifier() for key in parameters)


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text()
        | st.tuples(st.integers(), st.integers()),
    )
)
def test_literals_come_back(parameters: dict[str, Any]) -> None:
    text = ", ".join(f"{name}={value!r}" for name, value in parameters.items())
    assert parsed(f"Name({text})") == ("Name", parameters)


def test_objects_are_made_by_name() -> None:
    defense = made("AEPPT(max_l1=0.5, hidden=(8, 4), direction='member')", DEFENSES)
    expected = AEPPT(max_l1=0.5, hidden=(8, 4), direction="member")
    assert defense.get_params() == expected.get_params()
    assert made("Dropout(rate=0.25)", known_recipes()) == Dropout(rate=0.25)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("AEPTT", r"there is no 'AEPTT'; known are AEPPT, .*Undefended"),
        ("AEPPT(budget=1)", r"AEPPT has no parameter 'budget'; it has step_size, .*max_l1"),
        ("Undefended(x=1)", r"Undefended has no parameter 'x'; it has none"),
    ],
)
def test_unknown_names_and_parameters_list_the_known(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(text, DEFENSES)


@pytest.mark.parametrize("name", sorted(DEFENSES))
def test_every_defense_has_defaults(name: str) -> None:
    assert type(made(name, DEFENSES)) is DEFENSES[name]


def test_every_recipe_is_known_and_has_defaults() -> None:
    recipes = known_recipes()
    assert recipes["Plain"] is Plain
    assert "Recipe" not in recipes
    assert all(isinstance(made(name, recipes), Recipe) for name in recipes)


def test_a_function_is_found_in_its_module() -> None:
    assert function("json:dumps") is json.dumps


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train", "must be module:function"),
        (":train", "must be module:function"),
        ("no_such_module:train", "cannot import no_such_module"),
        ("json:no_such", "module json has no function 'no_such'"),
        ("json:__name__", "has no function"),
    ],
)
def test_a_function_that_is_not_there_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(text)


# --- own predictions --------------------------------------------------------------------------


def test_own_predictions_are_compared(run: Run, files: Path, tmp_path: Path) -> None:
    arguments = (
        *given_files(files),
        *("--defense", "Undefended", "--defense", "AEPPT(hidden=(8,), max_l1=0.5)"),
        *("--seeds", 2),
    )
    ended = run(*arguments)
    assert (ended.code, ended.err) == (0, "")
    found = table(tmp_path)
    assert set(found["defense"]) == {"Undefended", "AEPPT(hidden=(8,), max_l1=0.5)"}
    assert set(found["training"]) == {"target"}
    assert set(found["seeds"]) == {2}
    for row in found.to_dict("records"):
        assert f"{100 * row['adaptive']:.1f} [" in ended.out
        assert row["defense"] in ended.out
    page = (tmp_path / "kept" / "comparison.html").read_text()
    assert "Defenses compared on target" in page
    assert "50 members, 25 non-members" in page  # the other 25 are the defender's

    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "kept").glob("*-*.json")}
    assert len(before) == 4 + 2
    assert run(*arguments).code == 0
    assert before == {
        file: file.stat().st_mtime_ns for file in (tmp_path / "kept").glob("*-*.json")
    }
    assert table(tmp_path).equals(found)


def test_known_predictions_leave_the_target_whole(run: Run, files: Path, tmp_path: Path) -> None:
    html, figures = tmp_path / "page.html", tmp_path / "figures.json"
    ended = run(
        *given_files(files),
        *("--known", files / "known.parquet", "--defense", "Undefended", "--seeds", 1),
        *("--html", html, "--json", figures),
    )
    assert (ended.code, ended.err) == (0, "")
    facts = json.loads(figures.read_text())["facts"]
    assert facts["target records"] == "50 members, 50 non-members"
    assert "50 members, 50 non-members" in html.read_text()
    assert not (tmp_path / "kept" / "comparison.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --target and --shadow, or --data"),
        (("--target", "target.npz"), "give --target and --shadow, or --data"),
        (("--target", "target.npz", "--shadow", "none.npz"), "no file .*none.npz"),
        (("--target", "target.npz", "--shadow", "four.npz"), "seed 0: .*classes"),
        (("--target", "target.npz", "--shadow", "shadow.csv", "--data", "digits"), "not both"),
        (("--data", "digits", "--known", "known.parquet"), "not both"),
        (
            ("--target", "target.npz", "--shadow", "shadow.csv", "--training", "Plain"),
            "--training and --train need --data",
        ),
        (
            ("--target", "target.npz", "--shadow", "shadow.csv", "--known", "target.npz"),
            "predictions on non-members; fit defenses on others",
        ),
        (("--target", "target.npz", "--shadow", "shadow.csv", "--defense", "X"), "no 'X'; known"),
        (("--target", "target.npz", "--shadow", "shadow.csv", "--html", "no/x.html"), "folder"),
        (
            ("--target", "target.npz", "--shadow", "shadow.csv", "--defense", "TopK(k=0)"),
            r"audit of target, TopK\(k=0\), seed 0: k must be",
        ),
        (("--data", "location"), "--data location needs --path"),
        (("--data", "records.txt"), r"records.txt must end in \.parquet or \.csv"),
        (("--data", "digits", "--hidden", "a"), "--hidden must be positive integers.*'a'"),
        (("--data", "digits", "--hidden", "8,0"), "--hidden must be positive integers"),
        (("--data", "digits", "--epochs", "0"), "--epochs must be at least 1, got 0"),
        (("--data", "digits", "--members", "0"), "members must be at least 1, got 0"),
        (("--data", "digits", "--shadow-models", "3"), "shadow_models must be 0 or an even number"),
        (("--data", "digits", "--members", "900"), "seed 0: the split needs .* there are 1797"),
        (("--data", "digits", "--training", "Plane"), "no 'Plane'; known are .*Plain"),
        (("--data", "digits", "--train", "no_such:train"), "cannot import no_such"),
    ],
)
def test_errors_are_one_line(
    arguments: tuple[str, ...], message: str, run: Run, files: Path
) -> None:
    paths = {file.name: file for file in files.iterdir()}
    assert_one_line(run(*(paths.get(argument, argument) for argument in arguments)), message)


def test_an_interruption_says_that_the_work_is_kept(
    run: Run, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aeppt.evaluation.comparison.compare", interrupted)
    ended = run(*given_files(files))
    assert ended.code not in (0, 2)
    assert "goes on from what is in kept" in " ".join(ended.out.split())


# --- own training -----------------------------------------------------------------------------

SMALL = ("--members", 20, "--shadow-members", 20, "--shadow-models", 0, "--seeds", 1)
SMALL = (*SMALL, "--epochs", 2, "--hidden", "8,8", "--defense", "Undefended")


def test_recipes_are_compared(run: Run, tmp_path: Path) -> None:
    recipes = ("--training", "Plain", "--training", "Dropout(rate=0.25)")
    ended = run("--data", "digits", *recipes, *SMALL)
    assert (ended.code, ended.err) == (0, "")
    found = table(tmp_path)
    assert set(found["training"]) == {"Plain", "Dropout(rate=0.25)"}
    assert json.loads((tmp_path / "kept" / "comparison.json").read_text())["baseline"] == "Plain"
    assert found["training_seconds"].gt(0).all()
    assert "Dropout(rate=0.25), Undefended" in ended.out


def test_an_own_function_trains_on_an_own_table(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 240)
    columns = {"a": rng.normal(labels), "b": rng.normal(labels), "kind": labels}
    pd.DataFrame(columns).to_csv(tmp_path / "own.csv", index=False)
    (tmp_path / "way_of_my_own.py").write_text(
        "import numpy as np\n"
        "def train(records, reference, seed):\n"
        "    assert len(records) == 40 and len(reference) == 20, (len(records), len(reference))\n"
        "    shares = np.bincount(records.labels, minlength=records.n_classes) / len(records)\n"
        "    return lambda features: np.tile(shares.astype(np.float32), (len(features), 1))\n"
    )
    ended = run(
        *("--data", "own.csv", "--label", "kind", "--train", "way_of_my_own:train"),
        *("--defense", "Undefended", "--seeds", 1, "--shadow-models", 0),
    )
    assert (ended.code, ended.err) == (0, "")
    (row,) = table(tmp_path).to_dict("records")
    assert row["training"] == "way_of_my_own:train"
    share = np.bincount(labels).max() / 240
    assert row["accuracy"] == pytest.approx(share, abs=0.2)


# --- what the console shows -------------------------------------------------------------------


def test_a_narrow_console_shows_the_first_columns(
    files: Path, make_predictions: Make, tmp_path: Path
) -> None:
    from aeppt.attacks import CorrectnessAttack
    from aeppt.evaluation import compare, given_experiment

    experiment = given_experiment(
        make_predictions(40, 40, seed=1), make_predictions(40, 40, seed=2)
    )
    comparison = compare(
        {"own": experiment},
        {"Undefended": made("Undefended", DEFENSES)},
        [0],
        tmp_path / "kept",
        attacks=[CorrectnessAttack()],
    )
    narrow, wide = (
        [column.header for column in comparison_table(comparison, width).columns]
        for width in (80, 200)
    )
    assert narrow == wide[: len(narrow)]
    assert narrow[1:] == ["adaptive", "floor", "mean L1"]
    assert len(wide) == 8
