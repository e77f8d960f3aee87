"""Files of predictions: round trips, protection in chunks, damage of every kind, bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from aeppt import AEPPT, Predictions
from aeppt.data import tables
from aeppt.data.tables import count_rows, protect_file, read_predictions, write_predictions
from aeppt.files import temporary_beside, write_arrays, write_atomically

Make = Callable[..., Predictions]
Protect = Callable[[NDArray[Any]], NDArray[Any]]
SUFFIXES = (".npz", ".parquet", ".csv")


def write_table(path: Path, frame: pd.DataFrame, **options: Any) -> Path:
    """Write a frame as Parquet or CSV, by another way than the code under test."""
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False, **options)
    else:
        frame.to_csv(path, index=False)
    return path


def read_table(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path, float_precision="round_trip")  # not the default before pandas 3


def frame_of(predictions: Predictions) -> pd.DataFrame:
    """Probability columns not side by side, and columns of other kinds among them."""
    k = predictions.n_classes
    frame = pd.DataFrame({"name": [f"record {i}" for i in range(len(predictions))]})
    for j in range(k):
        frame[f"p{j}"] = predictions.probs[:, j]
        frame[f"note {j}"] = j + np.arange(len(predictions))
    frame["label"] = predictions.labels
    frame["is_member"] = predictions.is_member.astype(int)
    frame["p"] = 7
    frame["page"] = "x"
    return frame


def probabilities(frame: pd.DataFrame, k: int = 5) -> NDArray[Any]:
    return frame[[f"p{j}" for j in range(k)]].to_numpy()


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows per chunk, in Parquet as in CSV."""
    monkeypatch.setattr(tables, "CHUNK_ELEMENTS", 100)


# --- reading and writing ----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predictions_come_back_the_same(
    suffix: str, dtype: type, make_predictions: Make, tmp_path: Path
) -> None:
    written = make_predictions(30, 20, dtype=dtype)
    path = tmp_path / f"predictions{suffix}"
    write_predictions(str(path), written)
    back = read_predictions(str(path))
    if suffix != ".csv":
        assert back.probs.dtype == dtype
    assert np.array_equal(back.probs.astype(dtype), written.probs)
    assert np.array_equal(back.labels, written.labels)
    assert np.array_equal(back.is_member, written.is_member)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_tables_of_others_are_read(suffix: str, known: Predictions, tmp_path: Path) -> None:
    path = write_table(tmp_path / f"theirs{suffix}", frame_of(known))
    back = read_predictions(path)
    assert np.array_equal(back.probs, known.probs)
    assert np.array_equal(back.labels, known.labels)
    assert np.array_equal(back.is_member, known.is_member)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_columns_are_read_by_number_not_by_place(suffix: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(12), 4)
    frame = pd.DataFrame(rows, columns=[f"p{j}" for j in range(12)])
    frame = frame[sorted(frame.columns)].assign(label=[0, 3, 10, 11], is_member=[1, 0, 1, 0])
    back = read_predictions(write_table(tmp_path / f"sorted{suffix}", frame))
    assert np.array_equal(back.probs, rows)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_membership_may_be_true_and_false(suffix: str, known: Predictions, tmp_path: Path) -> None:
    frame = frame_of(known).assign(is_member=known.is_member)
    back = read_predictions(write_table(tmp_path / f"bool{suffix}", frame))
    assert np.array_equal(back.is_member, known.is_member)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_reading_joins_all_chunks(suffix: str, known: Predictions, tmp_path: Path) -> None:
    path = write_table(tmp_path / f"long{suffix}", frame_of(known))
    assert np.array_equal(read_predictions(path).probs, known.probs)


def test_rows_are_counted_where_that_is_cheap(known: Predictions, tmp_path: Path) -> None:
    counts = {}
    for suffix in SUFFIXES:
        write_predictions(tmp_path / f"p{suffix}", known)
        counts[suffix] = count_rows(tmp_path / f"p{suffix}")
    assert counts[".parquet"] == 400
    assert counts[".csv"] in (None, 400)
    assert counts[".npz"] in (None, 400)


# --- protection -------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("source_suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_chunks_are_protected_as_the_whole_is(
    source_suffix: str, suffix: str, known: Predictions, fitted: AEPPT, tmp_path: Path
) -> None:
    frame = frame_of(known)
    options = {"row_group_size": 37} if source_suffix == ".parquet" else {}
    source = write_table(tmp_path / f"source{source_suffix}", frame, **options)
    sizes, told = [], []

    def protect(rows: NDArray[Any]) -> NDArray[Any]:
        sizes.append(len(rows))
        return fitted.protect(rows)

    destination = tmp_path / f"destination{suffix}"
    assert protect_file(str(source), str(destination), protect, told.append) == 400
    assert len(sizes) > 10, "the file was not read in chunks"
    assert np.array_equal(told, np.cumsum(sizes))
    after = read_table(destination)
    assert list(after.columns) == list(frame.columns)
    assert np.array_equal(probabilities(after), fitted.protect(known.probs))
    others = [name for name in frame.columns if name not in {f"p{j}" for j in range(5)}]
    pd.testing.assert_frame_equal(after[others], frame[others], check_dtype=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [source.name, destination.name]
    )


def test_single_precision_stays_single_in_parquet(
    fitted: AEPPT, make_predictions: Make, tmp_path: Path
) -> None:
    rows = make_predictions(20, 20, dtype=np.float32)
    source = write_table(tmp_path / "source.parquet", frame_of(rows))
    protect_file(source, tmp_path / "destination.parquet", fitted.protect)
    after = pd.read_parquet(tmp_path / "destination.parquet")
    assert probabilities(after).dtype == np.float32
    assert np.array_equal(probabilities(after), fitted.protect(rows.probs))


def test_an_archive_is_protected_and_keeps_its_other_arrays(
    known: Predictions, fitted: AEPPT, tmp_path: Path
) -> None:
    source, destination = tmp_path / "source.npz", tmp_path / "destination.npz"
    extra = np.arange(6).reshape(2, 3)
    np.savez_compressed(source, probs=known.probs, labels=known.labels, extra=extra)
    told: list[int] = []
    assert protect_file(source, destination, fitted.protect, told.append) == 400
    assert told == [400]
    with np.load(destination) as arrays:
        assert set(arrays) == {"probs", "labels", "extra"}
        assert np.array_equal(arrays["probs"], fitted.protect(known.probs))
        assert np.array_equal(arrays["labels"], known.labels)
        assert np.array_equal(arrays["extra"], extra)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_can_be_protected_in_place(
    suffix: str, known: Predictions, fitted: AEPPT, tmp_path: Path
) -> None:
    path = tmp_path / f"p{suffix}"
    write_predictions(path, known)
    protect_file(path, path, fitted.protect)
    assert np.array_equal(read_predictions(path).probs, fitted.protect(known.probs))


@pytest.mark.usefixtures("small_chunks")
def test_whole_numbers_in_the_first_chunk_do_not_fix_the_type(
    fitted: AEPPT, known: Predictions, tmp_path: Path
) -> None:
    # pyarrow guesses a column's type from the first block; certain predictions are whole numbers.
    rows = np.concatenate([np.eye(5)[np.zeros(300, int)], known.probs])
    source = tmp_path / "source.csv"
    lines = [",".join(f"{p:.17g}" for p in row) for row in rows]
    source.write_text("\n".join(["p0,p1,p2,p3,p4", *lines]) + "\n")
    protect_file(source, tmp_path / "destination.csv", fitted.protect)
    after = pd.read_csv(tmp_path / "destination.csv", float_precision="round_trip")
    assert np.array_equal(probabilities(after), fitted.protect(rows))


# --- what goes wrong --------------------------------------------------------------------------


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("existing", [False, True])
def test_a_bad_row_is_named_and_leaves_nothing(
    suffix: str, existing: bool, known: Predictions, fitted: AEPPT, tmp_path: Path
) -> None:
    probs = known.probs.copy()
    probs[321, 3] = 2.0
    source = tmp_path / f"source{suffix}"
    if suffix == ".npz":
        np.savez(source, probs=probs)
    else:
        write_table(source, frame_of(known).assign(p3=probs[:, 3]))
    destination = tmp_path / f"destination{suffix}"
    if existing:
        destination.write_bytes(b"what was there")
    with pytest.raises(ValueError, match="not a probability vector") as caught:
        protect_file(source, destination, fitted.protect)
    assert str(source) in str(caught.value)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == ({source.name, destination.name} if existing else {source.name})
    if existing:
        assert destination.read_bytes() == b"what was there"


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_row_is_counted_from_the_files_first_one(
    suffix: str, known: Predictions, fitted: AEPPT, tmp_path: Path
) -> None:
    probs = known.probs.copy()
    probs[321, 3] = 2.0
    source = tmp_path / f"source{suffix}"
    if suffix == ".npz":
        np.savez(source, probs=probs)
    else:
        write_table(source, frame_of(known).assign(p3=probs[:, 3]))
    with pytest.raises(ValueError, match=r"row 321\b"):
        protect_file(source, tmp_path / f"destination{suffix}", fitted.protect)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_write_that_fails_leaves_nothing(
    suffix: str,
    known: Predictions,
    fitted: AEPPT,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = write_table(tmp_path / f"source{suffix}", frame_of(known))
    destination = tmp_path / f"destination{suffix}"
    destination.write_bytes(b"what was there")
    real = tables._writer

    class Failing:
        def __init__(self, *arguments: Any) -> None:
            self.writer = real(*arguments)

        def write_table(self, table: pa.Table) -> None:
            raise OSError("no space left on the device")

        def close(self) -> None:
            self.writer.close()

    monkeypatch.setattr(tables, "_writer", Failing)
    with pytest.raises((OSError, ValueError), match="no space left") as caught:
        protect_file(source, destination, fitted.protect)
    assert destination.read_bytes() == b"what was there"
    assert {path.name for path in tmp_path.iterdir()} == {source.name, destination.name}
    assert "cannot read" not in str(caught.value), "it is the writing that failed"


def test_a_callback_that_fails_is_not_blamed_on_the_file(
    known: Predictions, fitted: AEPPT, tmp_path: Path
) -> None:
    def fail(rows: int) -> None:
        raise KeyError("a mistake of the caller's")

    source = write_table(tmp_path / "source.csv", frame_of(known))
    with pytest.raises(KeyError, match="caller"):
        protect_file(source, tmp_path / "destination.csv", fitted.protect, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["source.csv"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("column", ["label", "is_member", "p0", "p2", "p4"])
def test_a_missing_column_is_named(
    suffix: str, column: str, known: Predictions, tmp_path: Path
) -> None:
    path = write_table(tmp_path / f"p{suffix}", frame_of(known).drop(columns=column))
    # Without p4 the file is one of four classes, whose rows do not sum to one.
    message = f"lacks the column '{column}'" if column != "p4" else "row 0 .*sums to"
    with pytest.raises(ValueError, match=message) as caught:
        read_predictions(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize(("columns", "missing"), [(["label"], "p0"), (["p0", "label"], "p1")])
def test_a_table_without_probabilities_is_refused(
    suffix: str, columns: list[str], missing: str, known: Predictions, tmp_path: Path
) -> None:
    path = write_table(tmp_path / f"p{suffix}", frame_of(known)[columns])
    with pytest.raises(ValueError, match=f"'{missing}'"):
        protect_file(path, tmp_path / f"q{suffix}", lambda rows: rows)


@pytest.mark.parametrize("array", ["probs", "labels", "is_member"])
def test_a_missing_array_is_named(array: str, known: Predictions, tmp_path: Path) -> None:
    arrays = {"probs": known.probs, "labels": known.labels, "is_member": known.is_member}
    del arrays[array]
    np.savez(tmp_path / "p.npz", allow_pickle=False, **arrays)
    with pytest.raises(ValueError, match=f"lacks the array '{array}'"):
        read_predictions(tmp_path / "p.npz")
    if array == "probs":
        with pytest.raises(ValueError, match="lacks the array 'probs'"):
            protect_file(tmp_path / "p.npz", tmp_path / "q.npz", lambda rows: rows)


@pytest.mark.parametrize(
    ("suffix", "named"), [(".parquet", "'p3' is not a number"), (".csv", "invalid value 'much'")]
)
def test_text_among_the_probabilities_is_named(
    suffix: str, named: str, known: Predictions, tmp_path: Path
) -> None:
    frame = frame_of(known).assign(p3="much")
    path = write_table(tmp_path / f"p{suffix}", frame)
    for use in (read_predictions, lambda p: protect_file(p, tmp_path / "q.csv", lambda rows: rows)):
        with pytest.raises(ValueError, match=named):
            use(path)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_missing_value_is_named(suffix: str, known: Predictions, tmp_path: Path) -> None:
    frame = frame_of(known)
    frame.loc[5, "p1"] = None
    path = write_table(tmp_path / f"p{suffix}", frame)
    with pytest.raises(ValueError, match=r"row 5 .*column 1 is nan"):
        read_predictions(path)
    frame = frame_of(known).assign(label=pd.array([None, *known.labels[1:]], "Int64"))
    with pytest.raises(ValueError, match="label"):
        read_predictions(write_table(path, frame))


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_an_empty_table_is_refused(suffix: str, known: Predictions, tmp_path: Path) -> None:
    path = write_table(tmp_path / f"p{suffix}", frame_of(known).iloc[:0])
    with pytest.raises(ValueError, match="no rows"):
        protect_file(path, tmp_path / f"q{suffix}", lambda rows: rows)
    with pytest.raises(ValueError, match="no rows"):
        read_predictions(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["p.txt", "p", "p.NPZ", "p.csv.gz"])
def test_an_unknown_suffix_is_refused(name: str, known: Predictions, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("p0,p1\n")
    good = tmp_path / "good.csv"
    write_predictions(good, known)
    for use in (
        lambda: read_predictions(path),
        lambda: write_predictions(path, known),
        lambda: count_rows(path),
        lambda: protect_file(path, good, lambda rows: rows),
        lambda: protect_file(good, path, lambda rows: rows),
    ):
        with pytest.raises(ValueError, match=r"must end in one of \.npz, \.parquet, \.csv"):
            use()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_file_is_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"none{suffix}"
    with pytest.raises(FileNotFoundError, match=str(path)):
        read_predictions(path)
    with pytest.raises(FileNotFoundError, match=str(path)):
        protect_file(path, tmp_path / f"q{suffix}", lambda rows: rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_folder_is_named(suffix: str, known: Predictions, tmp_path: Path) -> None:
    source = tmp_path / f"p{suffix}"
    write_predictions(source, known)
    nowhere = tmp_path / "none" / f"q{suffix}"
    with pytest.raises(FileNotFoundError, match="folder does not exist"):
        write_predictions(nowhere, known)
    with pytest.raises(FileNotFoundError, match="folder does not exist"):
        protect_file(source, nowhere, lambda rows: rows)


def test_archives_and_tables_do_not_convert(known: Predictions, tmp_path: Path) -> None:
    for source, destination in (("p.npz", "q.csv"), ("p.parquet", "q.npz")):
        write_predictions(tmp_path / source, known)
        with pytest.raises(ValueError, match="cannot turn"):
            protect_file(tmp_path / source, tmp_path / destination, lambda rows: rows)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PK\x03\x04 nothing", b"\x93NUMPY", b"\xff\xfe"]
)
def test_what_is_no_such_file_is_refused(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"p{suffix}"
    path.write_bytes(content)
    for use in (read_predictions, lambda p: protect_file(p, tmp_path / f"q{suffix}", lambda r: r)):
        with pytest.raises(ValueError, match=str(path)):
            use(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_file_cut_short_is_refused(suffix: str, known: Predictions, tmp_path: Path) -> None:
    path = tmp_path / f"p{suffix}"
    write_predictions(path, known)
    content = path.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match=str(path)):
            read_predictions(path)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_damaged_byte_is_refused_or_harmless(
    suffix: str, known: Predictions, tmp_path: Path
) -> None:
    path = tmp_path / f"p{suffix}"
    if suffix == ".npz":
        arrays = {"probs": known.probs, "labels": known.labels, "is_member": known.is_member}
        np.savez_compressed(path, allow_pickle=False, **arrays)
    else:
        write_predictions(path, known)
    content = path.read_bytes()
    refused = 0
    for at in range(0, len(content), len(content) // 60):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x5A]) + content[at + 1 :])
        try:
            read_predictions(path)
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 5


def test_one_array_is_not_an_archive(known: Predictions, tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    with path.open("wb") as file:
        np.save(file, known.probs)
    with pytest.raises(ValueError, match=str(path)):
        read_predictions(path)


def test_pickled_objects_are_refused(known: Predictions, tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    np.savez(path, probs=known.probs.astype(object), labels=known.labels)
    with pytest.raises(ValueError, match=str(path)):
        read_predictions(path)


# --- atomic writing ---------------------------------------------------------------------------


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def half(file: Any) -> None:
        file.write(b"half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_atomically(path, half)
    assert list(tmp_path.iterdir()) == []
    write_atomically(path, lambda file: file.write(b"old"))
    with pytest.raises(RuntimeError, match="power cut"):
        write_atomically(path, half)
    assert path.read_bytes() == b"old"
    write_atomically(str(path), lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_arrays_may_have_any_name(tmp_path: Path) -> None:
    arrays = {"file": np.arange(3), "allow_pickle": np.eye(2), "a/b": np.array("text")}
    write_arrays(tmp_path / "a.npz", arrays)
    with np.load(tmp_path / "a.npz") as read:
        assert {name: read[name].tolist() for name in read} == {
            name: array.tolist() for name, array in arrays.items()
        }
    with pytest.raises(ValueError, match=r"[Oo]bject arrays"):
        write_arrays(tmp_path / "a.npz", {"objects": np.array([None])})
    with np.load(tmp_path / "a.npz") as read:
        assert sorted(read) == sorted(arrays)


def test_the_temporary_lies_beside_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    with temporary_beside(path) as temporary:
        assert temporary.parent == tmp_path
        assert not path.exists()
        temporary.write_text("done")
    assert path.read_text() == "done"
    assert not temporary.exists()
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


# --- a large file -----------------------------------------------------------------------------

#: Runs the command line and reports the peak of its own memory. Not RUSAGE_CHILDREN: that also
#: counts what the parent held when it forked, and every other child.
MEASURED = """
import re
from pathlib import Path
from aeppt.cli import main
try:
    main()
finally:
    status = Path("/proc/self/status").read_text()
    print("peak kB:", re.search(r"VmHWM:\\s*(\\d+)", status).group(1))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_a_million_rows_take_bounded_memory(tmp_path: Path) -> None:
    k, chunk, chunks = 100, 50_000, 20
    rng = np.random.default_rng(0)

    def rows(n: int, concentration: float) -> NDArray[np.float32]:
        weights = rng.standard_gamma(concentration, (n, k), np.float32) + np.float32(1e-6)
        return weights / weights.sum(axis=1, keepdims=True)

    fit_on = np.concatenate([rows(500, 0.05), rows(500, 0.1)])
    defense = AEPPT(hidden=(64,)).fit(fit_on, np.repeat([1, 0], 500))
    defense.save(tmp_path / "defense.safetensors")
    source, destination = tmp_path / "source.parquet", tmp_path / "destination.parquet"
    schema = pa.schema([*((f"p{j}", pa.float32()) for j in range(k)), ("row", pa.int64())])
    with pq.ParquetWriter(source, schema, compression="none") as writer:
        for part in range(chunks):
            columns = [*rows(chunk, 0.07).T, part * chunk + np.arange(chunk)]
            writer.write_table(pa.table([pa.array(c) for c in columns], schema=schema), chunk)

    started = time.perf_counter()
    arguments = ["protect", str(source), str(destination), "--defense"]
    arguments.append(str(tmp_path / "defense.safetensors"))
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.split("peak kB:")[1]) / 1024
    print(f"{chunk * chunks:,} rows in {seconds:.1f} s, peak {peak:.0f} MiB")
    assert peak < 1024

    with pq.ParquetFile(destination) as file:
        assert file.metadata.num_rows == chunk * chunks
        numbers = file.read(["row"])["row"].to_numpy()
        last = file.read_row_group(file.num_row_groups - 1).to_pandas()
    assert np.array_equal(numbers, np.arange(chunk * chunks))
    given = pd.read_parquet(source, filters=[("row", "in", last["row"].tolist()[-500:])])
    expected = defense.protect(probabilities(given, k))
    assert np.array_equal(probabilities(last, k)[-500:], expected)
