"""The command line: the whole way from predictions to a report, and errors of one line."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from rich.console import Console

import aeppt.data.download
from aeppt import AEPPT, AdaptiveAEPPT, Predictions, PrivacyFunnel, load_defense
from aeppt.attacks import all_attacks, default_attacks, per_example_attacks
from aeppt.cli import main
from aeppt.data.tables import read_predictions, write_predictions
from aeppt.evaluation import certify

Make = Callable[..., Predictions]


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process: ``run("fit", path, ...)``."""

    def call(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["aeppt", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "250")
        # Made anew: a console that is there already may have taken its width from elsewhere.
        monkeypatch.setattr(sys.modules["aeppt.cli.main"], "console", Console())
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    return call


def run_process(*arguments: object) -> Ended:
    """The command line in a process of its own."""
    code = "from aeppt.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def assert_one_line(ended: Ended, message: str) -> None:
    """An error as promised: exit code 2 and one line that holds ``message``, a pattern."""
    assert ended.code == 2, ended
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err.startswith("aeppt: ")
    assert re.search(message, ended.err), ended.err
    assert "Traceback" not in ended.out + ended.err


@pytest.fixture(scope="module")
def folder(make_predictions: Make, fitted: AEPPT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with predictions in every format, and a saved defense; not to be written to."""
    path = tmp_path_factory.mktemp("given")
    target, shadow = make_predictions(120, 100, seed=21), make_predictions(100, 100, seed=22)
    for suffix in ("npz", "parquet", "csv"):
        write_predictions(path / f"target.{suffix}", target)
        write_predictions(path / f"shadow.{suffix}", shadow)
    write_predictions(path / "four.npz", make_predictions(k=4))
    members = Predictions(target.probs, target.labels, np.ones(220))
    write_predictions(path / "members.npz", members)
    bad = target.probs.copy()
    bad[77, 1] = np.nan
    np.savez(path / "bad.npz", probs=bad, labels=target.labels, is_member=target.is_member)
    np.savez(path / "unlabelled.npz", probs=target.probs)
    np.savez(path / "empty.npz", probs=np.empty((0, 5)))
    (path / "damaged.parquet").write_bytes((path / "target.parquet").read_bytes()[:500])
    (path / "damaged.npz").write_bytes((path / "target.npz").read_bytes()[:500])
    (path / "notes.txt").write_text("nothing")
    (path / "damaged.safetensors").write_bytes(b"nothing at all")
    fitted.save(path / "defense.safetensors")
    return path


# --- the whole way ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["npz", "parquet", "csv"])
def test_protect_gives_what_the_library_gives(
    suffix: str, run: Run, folder: Path, fitted: AEPPT, tmp_path: Path
) -> None:
    source, destination = folder / f"target.{suffix}", tmp_path / f"protected.{suffix}"
    ended = run("protect", source, destination, "--defense", folder / "defense.safetensors")
    assert (ended.code, ended.err) == (0, "")
    given, protected = read_predictions(source), read_predictions(destination)
    expected, info = fitted.protect(given.probs, return_info=True)
    assert np.array_equal(protected.probs, expected)
    assert np.array_equal(protected.labels, given.labels)
    said = " ".join(ended.out.split())
    assert "220 rows protected" in said
    assert f"{(info.status == 1).sum()} SUCCESS" in said
    assert f"mean L1 change {info.l1.mean():.4f}" in said


def test_protect_writes_no_row_unprotected(run: Run, folder: Path, tmp_path: Path) -> None:
    known = read_predictions(folder / "target.npz")
    careless = AEPPT(hidden=(8,), on_invalid="passthrough").fit(known.probs, known.is_member)
    careless.save(tmp_path / "careless.safetensors")
    given = ("protect", folder / "bad.npz", tmp_path / "out.npz")
    code, _, errors = run(*given, "--defense", tmp_path / "careless.safetensors")
    assert code == 2
    assert "is not a probability vector" in errors
    assert not (tmp_path / "out.npz").exists()


def test_fit_takes_any_defense_and_protect_the_result(
    run: Run, folder: Path, make_predictions: Make, tmp_path: Path
) -> None:
    known = make_predictions(100, 100, seed=23)
    write_predictions(tmp_path / "known.csv", known)
    defense = tmp_path / "d.safetensors"
    text = "AEPPT(direction='member', space='prob', step_size=0.01, max_l1=1.5)"
    ended = run(
        *("fit", tmp_path / "known.csv", "--out", defense, "--defense", text, "--seed", 3),
    )
    assert (ended.code, ended.err) == (0, "")
    assert "200 predictions of 5 classes" in " ".join(ended.out.split())
    expected = AEPPT(direction="member", space="prob", step_size=0.01, max_l1=1.5, random_state=3)
    assert load_defense(defense).get_params() == expected.get_params()

    protected = tmp_path / "protected.parquet"
    assert run("protect", folder / "target.parquet", protected, "--defense", defense).code == 0
    target = read_predictions(folder / "target.parquet")
    expected.fit(known.probs, known.is_member)
    assert np.array_equal(read_predictions(protected).probs, expected.protect(target.probs))


def test_fit_makes_use_of_the_true_labels(
    run: Run, folder: Path, make_predictions: Make, tmp_path: Path
) -> None:
    known = make_predictions(100, 100, seed=23)
    write_predictions(tmp_path / "known.npz", known)
    arguments = ("fit", tmp_path / "known.npz", "--out", tmp_path / "d.safetensors", "--seed", 3)
    assert run(*arguments).code == 0
    target = read_predictions(folder / "target.npz")
    labelled = PrivacyFunnel(random_state=3).fit(known.probs, known.is_member, known.labels)
    unlabelled = PrivacyFunnel(random_state=3).fit(known.probs, known.is_member)
    protected = load_defense(tmp_path / "d.safetensors").protect(target.probs)
    assert np.array_equal(protected, labelled.protect(target.probs))
    assert not np.array_equal(protected, unlabelled.protect(target.probs))


def test_fit_refuses_a_defense_that_there_is_none(run: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "d.safetensors"
    ended = run("fit", folder / "shadow.npz", "--out", out, "--defense", "Magic")
    assert_one_line(ended, "there is no 'Magic'; known are AEPPT, ")
    assert not out.exists()


def test_audit_reports_every_attack(run: Run, folder: Path, tmp_path: Path) -> None:
    html, figures = tmp_path / "r.html", tmp_path / "r.json"
    ended = run(
        "audit", "--target", folder / "target.npz", "--shadow", folder / "shadow.csv",
        "--defense", folder / "defense.safetensors", "--html", html, "--json", figures, "--seed", 6,
    )  # fmt: skip
    assert (ended.code, ended.err) == (0, "")
    report = json.loads(figures.read_text())
    names = {attack.name for attack in default_attacks()}
    assert {entry["attack"] for entry in report["attacks"]} == names
    assert len(report["attacks"]) == 3 * len(names)
    assert report["facts"]["random state"] == "6"
    assert report["facts"]["target records"] == "120 members, 100 non-members"
    for shown in (*names, "undefended", "static", "adaptive", "Label-only floor", str(figures)):
        assert shown in ended.out
    assert 0 < report["utility"]["seconds_per_record"] < 1
    page = html.read_text()
    assert "milliseconds added per record" in page
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert all(name in page for name in names)


def test_audit_certifies_on_held_out_records(
    run: Run, folder: Path, fitted: AEPPT, tmp_path: Path, make_predictions: Make
) -> None:
    held_out = make_predictions(50, 40, seed=24)
    write_predictions(tmp_path / "held_out.csv", held_out)
    html, figures = tmp_path / "r.html", tmp_path / "r.json"
    ended = run(
        "audit", "--target", folder / "target.npz", "--shadow", folder / "shadow.npz",
        "--defense", folder / "defense.safetensors", "--held-out", tmp_path / "held_out.csv",
        "--html", html, "--json", figures, "--seed", 2,
    )  # fmt: skip
    assert (ended.code, ended.err) == (0, "")
    released = held_out.with_probs(fitted.protect(held_out.probs))
    expected = certify(released, random_state=2)
    assert json.loads(figures.read_text())["certificate"] == expected.to_dict()
    said = " ".join(ended.out.split())
    assert f"{expected.statement} {expected.measurements}" in said
    assert expected.statement in html.read_text()


def test_audit_takes_many_shadow_models_and_every_attack(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    target = read_predictions(folder / "target.npz")
    rng = np.random.default_rng(0)
    halves = np.stack([rng.permutation(len(target)) % 2 == 0 for _ in range(2)])
    shadows = tmp_path / "shadows.npz"
    np.savez(
        shadows,
        probs=np.stack([target.probs] * 4),
        labels=target.labels,
        trained_on=np.concatenate([halves, ~halves]),
    )
    out = [tmp_path / "r.html", tmp_path / "r.json"]
    ended = run(
        *("audit", "--target", folder / "target.npz", "--shadow", folder / "shadow.npz"),
        *("--defense", folder / "defense.safetensors", "--shadows", shadows),
        *("--attacks", "all", "--html", out[0], "--json", out[1]),
    )
    assert (ended.code, ended.err) == (0, "")
    names = {entry["attack"] for entry in json.loads(out[1].read_text())["attacks"]}
    assert names == {a.name for a in (*all_attacks(), *per_example_attacks())}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"probs": np.full((2, 3, 5), 0.2), "labels": np.zeros(3, int)}, "lacks .*trained_on"),
        (
            {
                "probs": np.full((2, 3, 5), 0.2),
                "labels": np.zeros(3, int),
                "trained_on": np.ones((2, 4)),
            },
            r"trained_on must be \[m, n\]",
        ),
        (
            {
                "probs": np.full((2, 3, 5), [[[0.2]], [[0.3]]]),
                "labels": np.zeros(3, int),
                "trained_on": np.ones((2, 3)),
            },
            "shadow model 1: probs row 0 .*sums to 1.5",
        ),
    ],
    ids=["missing", "shape", "row"],
)
def test_bad_shadow_models_are_named(
    content: dict[str, Any], message: str, run: Run, folder: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "shadows.npz", **content)
    ended = run(
        *("audit", "--target", folder / "target.npz", "--shadow", folder / "shadow.npz"),
        *("--defense", folder / "defense.safetensors", "--shadows", tmp_path / "shadows.npz"),
    )
    assert_one_line(ended, message)


def test_fit_takes_any_defense_and_shows_its_rounds(run: Run, folder: Path, tmp_path: Path) -> None:
    defense = tmp_path / "d.safetensors"
    text = "AdaptiveAEPPT(max_rounds=1, hidden=(4,))"
    ended = run("fit", folder / "shadow.parquet", "--out", defense, "--defense", text)
    assert ended.code == 0
    assert "round 1 of at most 1: 3 substitutes" in " ".join(ended.out.split())
    assert (
        load_defense(defense).get_params() == AdaptiveAEPPT(max_rounds=1, hidden=(4,)).get_params()
    )


def test_the_defaults_of_fit_are_those_of_the_library(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("fit", folder / "shadow.parquet").code == 0
    assert load_defense("defense.safetensors").get_params() == PrivacyFunnel().get_params()


def test_audit_takes_the_attackers_copy(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy.safetensors"
    shadow = read_predictions(folder / "shadow.npz")
    AEPPT(hidden=(4,), random_state=9).fit(shadow.probs, shadow.is_member).save(copy)
    monkeypatch.chdir(tmp_path)
    common = ("audit", "--target", folder / "target.csv", "--shadow", folder / "shadow.npz")
    common = (*common, "--defense", folder / "defense.safetensors")
    results = []
    for more in ((), ("--shadow-defense", copy)):
        assert run(*common, *more).code == 0
        assert (tmp_path / "report.html").stat().st_size > 1000
        report = json.loads((tmp_path / "report.json").read_text())
        results.append({(e["attack"], e["setting"]): e["auc"] for e in report["attacks"]})
    without, given = results
    assert all(without[key] == given[key] for key in without if key[1] != "adaptive")
    assert any(without[key] != given[key] for key in without)


def test_info_names_the_engine(run: Run) -> None:
    ended = run("info")
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r"engine +(compiled, |plain PyTorch; )", ended.out)
    assert re.search(rf"torch +{re.escape(torch.__version__)}", ended.out)
    assert re.search(r"aeppt +\S+", ended.out)


@pytest.mark.parametrize("command", ["demo", "fit", "protect", "audit", "info"])
def test_every_command_has_help(command: str, run: Run) -> None:
    ended = run(command, "--help")
    assert ended.code == 0
    assert f"aeppt {command}" in ended.out
    assert command in run("--help").out


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("fit {given}/none.npz", r"no file .*none\.npz"),
        ("fit {given}/notes.txt", r"must end in one of \.npz"),
        ("fit {given}/members.npz", "needs members and non-members"),
        ("fit {given}/bad.npz", r"bad\.npz: probs row 77 .*column 1 is nan"),
        ("fit {given}/unlabelled.npz", r"lacks the array 'labels'"),
        ("fit {given}/damaged.parquet", r"damaged\.parquet: cannot read it"),
        ("fit {given}/damaged.npz", r"damaged\.npz: cannot read it"),
        ("fit {given}/target.npz --out {out}/none/d.safetensors", "folder does not exist"),
        ("fit {given}/target.npz --out {out}/d --defense AEPPT(step_size=-1)", "step_size"),
        ("fit {given}/target.npz --out {out}/d --defense AEPPT(step_size=nan)", "step_size"),
        ("fit {given}/target.npz --out {out}/d --defense AEPPT(max_steps=-1)", "max_steps"),
        ("fit {given}/target.npz --out {out}/d --defense AEPPT(margin=-1)", "margin"),
        ("fit {given}/target.npz --out {out}/d --defense AEPPT(max_l1=-1)", "max_l1"),
        ("fit {given}/target.npz --out {out}/d --defense AEPPT --seed -1", "random_state|seed"),
        ("protect {given}/target.npz {out}/q.npz --defense {given}/none", "no defense at .*none"),
        (
            "protect {given}/target.npz {out}/q.npz --defense {given}/damaged.safetensors",
            "damaged, cut short",
        ),
        ("protect {given}/none.csv {out}/q.csv --defense {defense}", r"no file .*none\.csv"),
        ("protect {given}/four.npz {out}/q.npz --defense {defense}", r"four\.npz.*5 classes"),
        ("protect {given}/bad.npz {out}/q.npz --defense {defense}", "probs row 77"),
        ("protect {given}/target.csv {out}/q.npz --defense {defense}", r"cannot turn \.csv"),
        ("protect {given}/target.csv {out}/q.txt --defense {defense}", "must end in one of"),
        ("protect {given}/target.csv {out}/none/q.csv --defense {defense}", "folder does not"),
        ("protect {given} {out}/q --defense {defense}", r"\.npz must end in \.parquet"),
        (
            "audit --target {given}/target.npz --shadow {given}/four.npz --defense {defense}",
            "classes",
        ),
        (
            "audit --target {given}/members.npz --shadow {given}/shadow.npz --defense {defense}",
            "members and non-members",
        ),
        (
            "audit --target {given}/target.npz --shadow {given}/shadow.npz --defense {defense} "
            "--shadow-defense {given}/none",
            "no defense at",
        ),
        (
            "audit --target {given}/target.npz --shadow {given}/shadow.npz --defense {defense} "
            "--held-out {given}/members.npz",
            "certificate needs held-out members and non-members, got 220 and 0",
        ),
        ("demo --data location", "--path"),
        ("demo --data location --path {out}/none.npz", r"not at .*none\.npz"),
        ("demo --data location --path {given}/target.npz", "SHA-256"),
    ],
)
def test_an_error_is_one_line(
    arguments: str, message: str, run: Run, folder: Path, tmp_path: Path
) -> None:
    named = {"given": folder, "out": tmp_path, "defense": folder / "defense.safetensors"}
    assert_one_line(run(*arguments.format(**named).split()), message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("fit x.npz --step-size much", "--step-size"),
        ("fit x.npz --max-steps 2.5", "--max-steps"),
        ("fit x.npz --no-such-option", "no-such-option"),
        ("fit", "PREDICTIONS"),
        ("protect a.npz b.npz", "--defense"),
        ("audit --target a.npz", "--shadow"),
        ("demo --data cifar", "cifar"),
        ("bake", "bake"),
    ],
)
def test_wrong_usage_is_named(arguments: str, message: str, run: Run) -> None:
    ended = run(*arguments.split())
    assert ended.code == 2
    assert message.lower() in ended.err.lower()
    assert "Traceback" not in ended.err
    assert ended.out == ""


def test_an_empty_archive_is_no_crash(run: Run, folder: Path, tmp_path: Path) -> None:
    destination = tmp_path / "q.npz"
    ended = run(
        "protect", folder / "empty.npz", destination, "--defense", folder / "defense.safetensors"
    )
    if ended.code == 0:
        assert "0 rows protected" in " ".join(ended.out.split())
        assert np.load(destination)["probs"].shape == (0, 5)
    else:
        assert_one_line(ended, "no rows")


@pytest.mark.parametrize("place", [0, 1, 3])
def test_debug_shows_the_traceback(
    place: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["aeppt", "fit", str(folder / "none.npz")]
    arguments.insert(place + (place == 0), "--debug")
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(FileNotFoundError, match="no file"):
        main()


def test_a_url_of_location_is_downloaded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Response(io.BytesIO):
        headers: ClassVar[dict[str, str]] = {}

    def urlopen(url: str, timeout: float) -> Response:
        asked.append(url)
        return Response(b"another file")

    monkeypatch.setattr(aeppt.data.download.urllib.request, "urlopen", urlopen)
    monkeypatch.chdir(tmp_path)
    url = "https://example.org/location30.npz"
    ended = run("demo", "--data", "location", "--path", url)
    assert_one_line(ended, f"{url} is not the Location data set.*SHA-256")
    assert asked == [url]


# --- in a process of its own ------------------------------------------------------------------


def test_a_process_ends_with_one_line(folder: Path, tmp_path: Path) -> None:
    defense = folder / "defense.safetensors"
    ended = run_process("protect", folder / "bad.npz", tmp_path / "q.npz", "--defense", defense)
    assert_one_line(ended, r"bad\.npz: probs row 77")
    assert list(tmp_path.iterdir()) == []


def test_a_process_protects_quietly(folder: Path, fitted: AEPPT, tmp_path: Path) -> None:
    source, destination = folder / "target.csv", tmp_path / "q.parquet"
    ended = run_process("protect", source, destination, "--defense", folder / "defense.safetensors")
    assert (ended.code, ended.err) == (0, "")
    expected = fitted.protect(read_predictions(source).probs)
    assert np.array_equal(read_predictions(destination).probs, expected)


def test_a_process_shows_a_traceback_on_demand(folder: Path) -> None:
    ended = run_process("fit", folder / "none.npz", "--debug")
    assert ended.code == 1
    assert "Traceback" in ended.err
    assert ended.err.rstrip().splitlines()[-1].startswith("FileNotFoundError: ")


@pytest.mark.slow
def test_the_demonstration_runs(tmp_path: Path) -> None:
    html, figures = tmp_path / "demo.html", tmp_path / "demo.json"
    ended = run_process("demo", "--seed", 1, "--html", html, "--json", figures)
    assert (ended.code, ended.err) == (0, "")
    assert "PrivacyFunnel on digits" in ended.out
    report = json.loads(figures.read_text())
    assert report["title"] == "PrivacyFunnel on digits"
    assert report["facts"]["random state"] == "1"
    page = html.read_text()
    assert "PrivacyFunnel on digits" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
