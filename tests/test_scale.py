"""Folders of predictions, comparisons and serving, here and over a local Ray cluster."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from aeppt import Predictions, PrivacyFunnel
from aeppt.attacks import ConfidenceAttack, CorrectnessAttack
from aeppt.cli import main
from aeppt.data.tables import CHUNK_ELEMENTS, protect_file, read_predictions, write_predictions
from aeppt.defenses import Undefended
from aeppt.evaluation import compare
from aeppt.evaluation.experiment import Experiment
from aeppt.evaluation.kept_work import Piece, finish, load_json, processes, save_json
from aeppt.serving import batch
from aeppt.serving.batch import protect_files
from aeppt.serving.cluster import ray_cluster, ray_tasks
from aeppt.serving.ray import ProtectedDeployment, protected_app

Make = Callable[..., Predictions]
Run = Callable[..., tuple[int, str, str]]
FILES = 5


class Given(NamedTuple):
    """A folder of predictions and a saved defense."""

    folder: Path
    defense: Path
    fitted: PrivacyFunnel


@pytest.fixture(scope="module")
def funnel(known: Predictions) -> PrivacyFunnel:
    return PrivacyFunnel(random_state=3).fit_predictions(known)


@pytest.fixture
def given(make_predictions: Make, funnel: PrivacyFunnel, tmp_path: Path) -> Given:
    folder = tmp_path / "given"
    (folder / "day=2").mkdir(parents=True)
    for i in range(FILES):
        name = f"day=2/part-{i}.parquet" if i == FILES - 1 else f"part-{i}.parquet"
        write_predictions(folder / name, make_predictions(20 + i, 20, seed=i))
    funnel.save(tmp_path / "defense.safetensors")
    return Given(folder, tmp_path / "defense.safetensors", funnel)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One local cluster for all tests of this file that need one."""
    import ray.cloudpickle

    # Its workers cannot import this file.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with ray_cluster(workers=2):
        yield


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def assert_protected(given: Given, destination: Path) -> None:
    """Every file is there under its name, with the rows that the defense gives, and no other."""
    names = {file.relative_to(given.folder) for file in given.folder.rglob("*.parquet")}
    assert {Path(name) for name in files_of(destination)} == names
    for name in names:
        rows, protected = (read_predictions(path / name) for path in (given.folder, destination))
        assert np.array_equal(protected.probs, given.fitted.protect(rows.probs))
        assert np.array_equal(protected.labels, rows.labels)


# --- a folder on one machine ------------------------------------------------------------------


def test_each_file_of_a_folder_gives_one_of_its_name(given: Given, tmp_path: Path) -> None:
    (given.folder / "_SUCCESS").touch()
    (given.folder / ".hidden.parquet").touch()
    told: list[tuple[str, int, int]] = []
    done = protect_files(
        given.folder,
        tmp_path / "out",
        given.defense,
        on_progress=lambda *progress: told.append(progress),
    )
    (given.folder / ".hidden.parquet").unlink()
    assert_protected(given, tmp_path / "out")
    assert (done.files, done.kept_files) == (FILES, 0)
    assert done.totals.rows == sum(40 + i for i in range(FILES)) == done.totals.statuses.total()
    expected = [
        given.fitted.protect(read_predictions(file).probs, return_info=True)[1].l1.sum()
        for file in given.folder.rglob("*.parquet")
    ]
    assert done.totals.l1 == pytest.approx(sum(expected), rel=1e-12)
    assert told == [("protecting files", i + 1, FILES) for i in range(FILES)]


def test_a_second_run_does_what_is_left(
    given: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def interrupted(source: Path, *arguments: Any) -> int:
        if source.name == "part-2.parquet":
            raise KeyboardInterrupt
        return protect_file(source, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(batch, "protect_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            protect_files(given.folder, out, given.defense)
    before = files_of(out)
    assert 0 < len(before) < FILES
    times = {file: file.stat().st_mtime_ns for file in out.rglob("*.parquet")}
    # As a process that was killed leaves it; and what is not ours.
    (out / ".part-3.parquet.abcdefgh").write_bytes(b"half")
    (out / ".other.parquet.abcdefgh").write_bytes(b"kept")
    done = protect_files(given.folder, out, given.defense)
    assert (done.files, done.kept_files) == (FILES - len(before), len(before))
    assert done.kept_rows + done.totals.rows == sum(40 + i for i in range(FILES))
    assert times.items() <= {file: file.stat().st_mtime_ns for file in out.rglob("*")}.items()
    (out / ".other.parquet.abcdefgh").unlink()
    assert_protected(given, out)
    assert protect_files(given.folder, out, given.defense).files == 0


def test_another_source_or_key_is_protected_anew(
    given: Given, make_predictions: Make, known: Predictions, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    protect_files(given.folder, out, given.defense)
    write_predictions(given.folder / "part-1.parquet", make_predictions(9, 9, seed=77))
    assert protect_files(given.folder, out, given.defense).files == 1
    assert_protected(given, out)

    other = PrivacyFunnel(random_state=4).fit_predictions(known)
    other.save(given.defense)
    assert protect_files(given.folder, out, given.defense).files == FILES
    assert_protected(given._replace(fitted=other), out)


def test_what_the_destination_tells_of_the_defense_does_not_depend_on_it_alone(
    given: Given, tmp_path: Path
) -> None:
    """Two files of one defense have different marks, so that none tells which defense it was."""
    protect_files(given.folder, tmp_path / "out", given.defense)
    marks = {
        pa.parquet.read_metadata(file).metadata[batch.MARK.encode()]
        for file in (tmp_path / "out").rglob("*.parquet")
    }
    assert len(marks) == FILES


def test_other_columns_and_what_the_schema_says_are_carried_along(
    given: Given, tmp_path: Path
) -> None:
    probs = np.random.default_rng(0).dirichlet(np.ones(5), 30).astype(np.float32)
    columns = {f"p{j}": probs[:, j] for j in range(5)}
    table = pa.table({"id": [f"r{i}" for i in range(30)], **columns, "note": pa.nulls(30)})
    table = table.replace_schema_metadata({"of": "mine"})
    source = tmp_path / "own"
    source.mkdir()
    pa.parquet.write_table(table, source / "a.parquet")
    protect_files(source, tmp_path / "out", given.defense)
    protected = pa.parquet.read_table(tmp_path / "out" / "a.parquet")
    assert protected.schema.equals(table.schema)
    assert protected.schema.metadata[b"of"] == b"mine"
    assert protected.drop_columns(list(columns)).equals(table.drop_columns(list(columns)))
    assert protected["p2"].to_numpy() == pytest.approx(given.fitted.protect(probs)[:, 2], abs=0)


def test_a_file_of_one_row_group_is_not_read_whole(tmp_path: Path) -> None:
    n, k = 1_000_000, 10
    columns = {f"p{j}": np.random.default_rng(j).random(n, np.float32) for j in range(k)}
    source = tmp_path / "one.parquet"
    pa.parquet.write_table(pa.table(columns), source, use_dictionary=False, row_group_size=n)
    before, held = pa.total_allocated_bytes(), []

    def protect(probs: np.ndarray) -> np.ndarray:
        held.append(pa.total_allocated_bytes() - before)
        return probs

    assert protect_file(source, tmp_path / "out.parquet", protect) == n
    assert len(held) == n * k // CHUNK_ELEMENTS
    assert max(held) < n * k * 4 / 2


# --- bad input --------------------------------------------------------------------------------


def damage(given: Given, make_predictions: Make) -> None:
    whole = (given.folder / "part-1.parquet").read_bytes()
    (given.folder / "part-1.parquet").write_bytes(whole[: len(whole) // 2])
    write_predictions(given.folder / "part-2.parquet", make_predictions(5, 5, k=4))


def assert_others_are_finished(given: Given, out: Path) -> None:
    for name in ("part-1.parquet", "part-2.parquet"):
        assert not (out / name).exists()
        (given.folder / name).unlink()
    assert_protected(given, out)


BOTH = r"2 of 5 files could not.*part-1\.parquet: cannot read.*part-2\.parquet.*5 classes"


def test_damaged_and_mixed_files_are_named_and_the_others_finished(
    given: Given, make_predictions: Make, tmp_path: Path
) -> None:
    damage(given, make_predictions)
    with pytest.raises(ValueError, match=BOTH):
        protect_files(given.folder, tmp_path / "out", given.defense)
    assert_others_are_finished(given, tmp_path / "out")


def test_folders_that_cannot_be_are_refused(given: Given, tmp_path: Path) -> None:
    def refused(error: type[Exception], message: str, source: Path, destination: Path) -> None:
        with pytest.raises(error, match=message):
            protect_files(source, destination, given.defense)

    (tmp_path / "empty").mkdir()
    refused(ValueError, r"empty holds no \.parquet file", tmp_path / "empty", tmp_path / "out")
    refused(ValueError, "inside each other", given.folder, given.folder / "out")
    refused(ValueError, "must not be the same", given.folder, given.folder)
    refused(ValueError, "inside each other", given.folder, tmp_path)
    refused(NotADirectoryError, "must be a folder", given.folder, given.defense)
    refused(FileNotFoundError, "no file .*none", tmp_path / "none.parquet", tmp_path / "q.parquet")
    (given.folder / "notes.txt").touch()
    refused(ValueError, r"notes\.txt must end in \.parquet", given.folder, tmp_path / "out")
    (given.folder / "notes.txt").unlink()
    assert not (tmp_path / "out").exists()

    (tmp_path / "out").mkdir()
    own = (given.folder / "part-0.parquet").read_bytes()
    (tmp_path / "out" / "part-0.parquet").write_bytes(own)
    refused(ValueError, r"part-0\.parquet is in the way", given.folder, tmp_path / "out")
    assert files_of(tmp_path / "out") == {"part-0.parquet": own}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``aeppt protect`` in this process: its exit code, and what it said on one line."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["aeppt", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "250")
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), " ".join(said.out.split()), said.err

    return call


def test_the_command_tells_what_was_done_and_what_before(
    run: Run, given: Given, tmp_path: Path
) -> None:
    command = ("protect", given.folder, tmp_path / "out", "--defense", given.defense)
    code, said, errors = run(*command)
    assert (code, errors) == (0, "")
    assert re.search(r"210 rows protected: .*out \(.*SUCCESS.*; mean L1 change 0\.\d{4}\)", said)
    (tmp_path / "out" / "part-0.parquet").unlink()
    assert re.search(r"40 rows protected.*; 170 rows were finished before", run(*command)[1])
    assert re.match(r"210 rows were finished before, in 5 files: .*out", run(*command)[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--address", "auto"), "--address needs --engine ray"),
        (("--workers", "2"), "--workers needs --engine ray"),
        (("--engine", "ray", "--address", "nonsense"), "must be host:port or auto"),
        (("--engine", "ray", "--address", "127.0.0.1:1"), "no Ray cluster answers at 127.0.0.1:1"),
    ],
)
def test_clusters_that_cannot_be_are_one_line(
    arguments: tuple[str, ...],
    message: str,
    run: Run,
    given: Given,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    command = ("protect", given.folder, tmp_path / "out", "--defense", given.defense)
    code, _, errors = run(*command, *arguments)
    assert (code, errors.count("\n")) == (2, 1)
    assert message in errors


def test_without_ray_its_name_is_told(
    run: Run,
    given: Given,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ("protect", given.folder, tmp_path / "out", "--defense", given.defense)
    code, _, errors = run(*command, "--engine", "ray")
    assert (code, errors.count("\n")) == (2, 1)
    assert 'pip install "ray[data]"' in errors
    with pytest.raises(ModuleNotFoundError, match=r"ray\[serve\]"):
        protected_app(uniform, given.defense)
    assert run(*command)[0] == 0


# --- a folder over Ray ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_ray_gives_the_very_files_of_one_machine(given: Given, tmp_path: Path) -> None:
    here = protect_files(given.folder, tmp_path / "here", given.defense)
    there = protect_files(given.folder, tmp_path / "there", given.defense, engine="ray")
    assert files_of(tmp_path / "here") == files_of(tmp_path / "there")
    assert there.totals.statuses == here.totals.statuses
    assert there.totals.l1 == pytest.approx(here.totals.l1, rel=1e-12)
    (tmp_path / "there" / "part-3.parquet").unlink()
    again = protect_files(given.folder, tmp_path / "there", given.defense, engine="ray")
    assert (again.files, again.kept_files) == (1, FILES - 1)
    single = given.folder / "part-1.parquet"
    protect_files(single, tmp_path / "one.csv", given.defense, engine="ray")
    protected = read_predictions(tmp_path / "one.csv").probs
    assert np.array_equal(protected, given.fitted.protect(read_predictions(single).probs))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_ray_names_damaged_and_mixed_files_and_finishes_the_others(
    given: Given, make_predictions: Make, tmp_path: Path
) -> None:
    damage(given, make_predictions)
    with pytest.raises(ValueError, match=BOTH):
        protect_files(given.folder, tmp_path / "out", given.defense, engine="ray")
    assert_others_are_finished(given, tmp_path / "out")


class Slow(PrivacyFunnel):
    """Leaves a note of its process, then takes half a second for each chunk."""

    def __init__(self, notes: str = "", random_state: int | None = None) -> None:
        super().__init__(random_state=random_state)
        self.notes = notes

    def protect(self, probs: Any, *, return_info: bool = False) -> Any:
        with Path(self.notes).open("a") as notes:
            notes.write(f"{os.getpid()}\n")
        time.sleep(0.5)
        return super().protect(probs, return_info=return_info)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_loses_nothing(
    given: Given, known: Predictions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes"
    slow = Slow(str(notes), random_state=3).fit_predictions(known)
    monkeypatch.setattr(batch, "load_defense", lambda path: slow)
    killed = []

    def kill_one() -> None:
        while not notes.exists() or not notes.read_text().endswith("\n"):
            time.sleep(0.02)
        killed.append(int(notes.read_text().split()[0]))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    done = protect_files(given.folder, tmp_path / "out", given.defense, engine="ray")
    killer.join()
    assert killed[0] != os.getpid()
    assert len(notes.read_text().split()) > FILES  # one was begun again
    assert (done.files, done.totals.rows) == (FILES, sum(40 + i for i in range(FILES)))
    assert_protected(given, tmp_path / "out")


# --- pieces of work over Ray ------------------------------------------------------------------


def piece(folder: Path, i: int, make: Callable[[], Any]) -> Piece:
    return Piece(f"piece {i}", folder / f"{i}.json", make, save_json, load_json)


class Squared:
    """Makes the square of a number; the first process to do so is killed where it is asked for."""

    def __init__(self, number: int, killed: Path | None = None) -> None:
        self.number, self.killed = number, killed

    def __call__(self) -> list[int]:
        if self.number < 0:
            raise ValueError("negative")
        if self.killed is not None and not self.killed.exists():
            self.killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [self.number**2, os.getpid()]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_pieces_are_made_by_ray_and_kept_here(tmp_path: Path) -> None:
    finish([piece(tmp_path, i, Squared(i)) for i in range(2)], processes(1))
    pieces = [piece(tmp_path, i, Squared(i, tmp_path / "killed")) for i in range(6)]
    told: list[str] = []
    finish(pieces, ray_tasks(), told.append)
    assert sorted(told) == [f"piece {i}" for i in range(6)]
    assert (tmp_path / "killed").exists()
    made = [load_json(p.file) for p in pieces]
    assert [number for number, _ in made] == [i**2 for i in range(6)]
    assert [process == os.getpid() for _, process in made] == [True] * 2 + [False] * 4


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_piece_that_fails_over_ray_is_named_and_the_finished_stay(tmp_path: Path) -> None:
    pieces = [piece(tmp_path, i, Squared(i if i < 2 else -1)) for i in range(3)]
    with pytest.raises(ValueError, match=r"^piece 2: negative$"):
        finish(pieces, ray_tasks(workers=1))
    assert [p.file.exists() for p in pieces] == [True, True, False]


def experiment(seed: int) -> Experiment:
    """Predictions that stand for a training, the same for the same seed."""
    rng = np.random.default_rng(seed)
    known, target, shadow = (
        Predictions(rng.dirichlet(np.ones(5), 80), rng.integers(0, 5, 80), np.arange(80) % 2)
        for _ in range(3)
    )
    return Experiment(known, target, shadow)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_comparison_over_ray_is_the_same(tmp_path: Path) -> None:
    kept: list[dict[str, object]] = []
    for folder, execute in (("here", processes(1)), ("over ray", ray_tasks())):
        compare(
            {"own": experiment},
            {"Undefended": Undefended(), "PrivacyFunnel": PrivacyFunnel()},
            [0, 1],
            tmp_path / folder,
            attacks=[CorrectnessAttack(), ConfidenceAttack()],
            execute=execute,
        )
        files = {file.name: file for file in (tmp_path / folder).iterdir()}
        kept.append(
            {name: load_json(file) for name, file in files.items() if name.startswith("audit")}
            | {name: file.read_bytes() for name, file in files.items() if file.suffix == ".npz"}
        )
    assert len(kept[0]) == 2 * 2 + 2
    assert kept[0] == kept[1]


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_the_command_compares_over_ray(
    run: Run, make_predictions: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("target.npz", "shadow.npz")):
        write_predictions(tmp_path / name, make_predictions(50, 50, seed=seed))
    command = ("compare", "--target", "target.npz", "--shadow", "shadow.npz", "--seeds", 1)
    code, said, errors = run(*command, "--defense", "Undefended", "--engine", "ray")
    assert (code, errors) == (0, "")
    assert "comparison/comparison.html" in said
    assert (tmp_path / "comparison" / "comparison.json").is_file()


# --- serving ----------------------------------------------------------------------------------


def uniform(features: np.ndarray) -> np.ndarray:
    """A model of five classes that is surer, the greater the feature."""
    logits = np.zeros((len(features), 5))
    logits[:, 2] = features[:, 0]
    weights = np.exp(logits)
    return weights / weights.sum(axis=1, keepdims=True)


def test_a_deployment_answers_through_the_defense_or_not_at_all(given: Given) -> None:
    features = np.linspace(-2, 4, 7)[:, None]
    deployment = ProtectedDeployment(uniform, given.defense)
    expected = given.fitted.protect(uniform(features))
    assert np.array_equal(deployment.predict_proba(features.tolist()), expected)
    broken = ProtectedDeployment(lambda x: 0.7 * uniform(x), given.defense)
    with pytest.raises(RuntimeError, match=r"^the prediction failed, or could not be protected$"):
        broken.predict_proba(features)
    with pytest.raises(ValueError, match="module:name"):
        ProtectedDeployment("numpy", given.defense)
    with pytest.raises(FileNotFoundError, match="no defense"):
        ProtectedDeployment("numpy:exp", "none.safetensors")


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_all_replicas_give_the_same_protected_answer(given: Given) -> None:
    from ray import serve

    class Model:
        def __call__(self, features: np.ndarray) -> np.ndarray:
            if features[0, 0] > 100:
                raise ValueError(f"secret {features[0, 0]}")
            logits = np.zeros((len(features), 5))
            logits[:, 2] = features[:, 0]
            weights = np.exp(logits)
            return weights / weights.sum(axis=1, keepdims=True)

    features = np.linspace(-2, 4, 7)[:, None].tolist()
    expected = given.fitted.protect(Model()(np.array(features)))

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def post(content: Any) -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/", json.dumps(content).encode())
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        handle = serve.run(
            protected_app(Model(), given.defense, replicas=2), logging_config={"log_level": "ERROR"}
        )
        for _ in range(8):  # the router chooses a replica at random
            code, text = post({"instances": features})
            assert code == 200
            assert np.array_equal(json.loads(text)["predictions"], expected)
        assert np.array_equal(handle.predict_proba.remote(features).result(), expected)
        code, text = post({"instances": [[101.0]]})
        assert code == 500
        assert "secret" not in text
        assert post({"instances": [[1.0], [1.0, 2.0]]})[0] == 400
        assert post(3)[0] == 400
    finally:
        serve.shutdown()
