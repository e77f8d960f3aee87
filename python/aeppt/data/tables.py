"""Files of predictions: ``.npz``, Parquet and CSV; whole for an audit, in chunks for protection.

``.npz`` holds arrays ``probs`` [n, k], ``labels`` [n] and ``is_member`` [n]. Parquet and CSV have
columns ``p0`` … ``p{k-1}``, ``label`` and ``is_member``; other columns are carried along untouched.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch
from numpy.typing import NDArray

from aeppt.data.reading import reading
from aeppt.files import temporary_beside, write_arrays
from aeppt.predictions import Predictions
from aeppt.shadow_predictions import ShadowPredictions
from aeppt_ext import reference

#: Rows are read, protected and written in chunks of about this many probabilities.
CHUNK_ELEMENTS = 1_000_000

#: Bytes of each column that are read ahead of a Parquet file.
READ_AHEAD = 65_536

SUFFIXES = (".npz", ".parquet", ".csv")

#: Told after each chunk: how many rows are done.
OnRows = Callable[[int], None]


def read_predictions(path: str | Path) -> Predictions:
    """Read a whole file of predictions with labels and membership.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged, lacks a column, or a row is not valid; the message names it.
    """
    path = _existing(path)
    if path.suffix == ".npz":
        parts = _arrays(path, "probs", "labels", "is_member")
    else:
        batches = list(_batches(path))
        if not batches:
            raise ValueError(f"{path} has no rows")
        with reading(path):
            table = pa.Table.from_batches(batches)
            for name in ("label", "is_member"):
                if name not in table.column_names:
                    raise ValueError(f"it lacks the column {name!r}")
            parts = _probabilities(table), *(table[c].to_numpy() for c in ("label", "is_member"))
    try:
        return Predictions(*parts)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from error


def read_shadow_predictions(path: str | Path) -> ShadowPredictions:
    """Read an ``.npz`` file of many shadow models' predictions.

    It holds the arrays ``probs`` [m, n, k], ``labels`` [n] and ``trained_on`` [m, n].

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is no ``.npz`` file, is damaged, lacks an array, or a row is not valid.
    """
    path = _existing(path)
    if path.suffix != ".npz":
        raise ValueError(f"{path} must be an .npz file of probs, labels and trained_on")
    try:
        return ShadowPredictions(*_arrays(path, "probs", "labels", "trained_on"))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from error


def write_predictions(path: str | Path, predictions: Predictions) -> None:
    """Write a file that :func:`read_predictions` reads; the suffix chooses the format."""
    path = _writable(path)
    if path.suffix == ".npz":
        arrays = {
            "probs": predictions.probs,
            "labels": predictions.labels,
            "is_member": predictions.is_member,
        }
        write_arrays(path, arrays)
        return
    columns: dict[str, Any] = {f"p{j}": column for j, column in enumerate(predictions.probs.T)}
    columns |= {"label": predictions.labels, "is_member": predictions.is_member.astype(np.int8)}
    table = pa.table(columns)
    with temporary_beside(path) as temporary, _writer(path, temporary, table.schema) as writer:
        writer.write(table)


def protect_file(
    source: str | Path,
    destination: str | Path,
    protect: Callable[[NDArray[np.floating]], NDArray[np.floating]],
    on_rows: OnRows | None = None,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Protect the probabilities of a file, chunk by chunk, and write them to another.

    Memory stays bounded for Parquet and CSV; an ``.npz`` file is read whole. The destination
    appears complete or not at all, in the format of its own suffix (Parquet and CSV convert into
    each other) with ``metadata`` added where that is Parquet. Returns the number of rows.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`read_predictions`; rows are counted from the file's first one.
    """
    source, destination = _existing(source), _writable(destination)
    if (source.suffix == ".npz") != (destination.suffix == ".npz"):
        raise ValueError(f"cannot turn {source.suffix} into {destination.suffix}")
    tell = on_rows or (lambda rows: None)
    if source.suffix == ".npz":
        columns = _read_npz(source)
        if "probs" not in columns:
            raise ValueError(f"{source} lacks the array 'probs'; it has {sorted(columns)}")
        if len(columns["probs"]) == 0:
            raise ValueError(f"{source} has no rows")
        columns["probs"] = _protected(columns["probs"], 0, source, protect)
        write_arrays(destination, columns)
        tell(len(columns["probs"]))
        return len(columns["probs"])

    done = 0
    with temporary_beside(destination) as temporary:
        writer: Any = None
        try:
            for batch in _batches(source):
                table = pa.Table.from_batches([batch])
                with reading(source):
                    given = _probabilities(table)
                probs = _protected(given, done, source, protect)
                table = _with_probabilities(table, probs)
                if writer is None:
                    kept = {**(table.schema.metadata or {}), **(metadata or {})}
                    schema = table.schema.with_metadata(kept)
                    writer = _writer(destination, temporary, schema)
                writer.write_table(table)
                done += len(table)
                tell(done)
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise ValueError(f"{source} has no rows")
    return done


def count_rows(path: str | Path) -> int | None:
    """How many rows a file holds, where that is known without reading it all."""
    path = _existing(path)
    if path.suffix == ".parquet":
        with reading(path):
            return int(pa.parquet.read_metadata(path).num_rows)
    return None


def _protected(
    probs: NDArray[np.floating],
    first_row: int,
    source: Path,
    protect: Callable[[NDArray[np.floating]], NDArray[np.floating]],
) -> NDArray[np.floating]:
    try:
        return protect(probs)
    except (TypeError, ValueError) as error:
        tensor = torch.from_numpy(probs)
        wrong = (~reference.is_distribution(tensor)).nonzero()
        if len(wrong):  # say which row of the file it is, not of the chunk
            message = reference.invalid_row_message(
                tensor, int(wrong[0]), first_row, mend="mend or remove the row"
            )
            raise ValueError(f"{source}: {message}") from error
        raise type(error)(f"{source}: {error}") from error


def _probabilities(table: pa.Table) -> NDArray[np.floating]:
    """Columns p0 … p{k-1} as one array [n, k]; float32 where all columns are."""
    k = sum(map(_is_probability, table.column_names))
    names = [f"p{j}" for j in range(k)]
    missing = [name for name in names if name not in table.column_names]
    if k < 2 or missing:
        raise ValueError(
            f"it lacks the column {(missing or ['p0' if k == 0 else 'p1'])[0]!r}; probabilities "
            "stand in columns p0, p1, …"
        )
    types = {table.schema.field(name).type for name in names}
    dtype = np.float32 if types == {pa.float32()} else np.float64
    probs = np.empty((len(table), k), dtype)
    for j, name in enumerate(names):
        kind = table[name].type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise ValueError(f"its column {name!r} is not a number but {kind}")
        probs[:, j] = table[name].to_numpy()
    return probs


def _with_probabilities(table: pa.Table, probs: NDArray[np.floating]) -> pa.Table:
    """The table with ``probs`` [n, k] in the places of its columns p0 … p{k-1}."""
    columns, fields = table.columns, list(table.schema)
    for j, column in enumerate(np.ascontiguousarray(probs.T)):  # Arrow takes each as it lies
        at = table.schema.get_field_index(f"p{j}")
        columns[at] = pa.array(column)
        fields[at] = pa.field(f"p{j}", columns[at].type)
    return pa.table(columns, schema=pa.schema(fields, metadata=table.schema.metadata))


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    with reading(path):
        if path.suffix == ".parquet":
            # Without pre_buffer, which keeps every row group that was read; and with a buffer, or a
            # row group would be read whole, which may be the whole file.
            with pa.parquet.ParquetFile(path, pre_buffer=False, buffer_size=READ_AHEAD) as file:
                rows = max(1, CHUNK_ELEMENTS // max(1, len(file.schema_arrow)))
                yield from file.iter_batches(batch_size=rows)
            return
        with path.open(newline="") as lines:
            names = next(csv.reader(lines), [])
        # Named, since a column of whole numbers in the first block would be read as integers.
        types = {name: pa.float64() for name in names if _is_probability(name)}
        with pa.csv.open_csv(
            path,
            read_options=pa.csv.ReadOptions(block_size=16 * CHUNK_ELEMENTS),
            convert_options=pa.csv.ConvertOptions(column_types=types),
        ) as reader:
            yield from reader


def _is_probability(name: str) -> bool:
    return name[:1] == "p" and name[1:].isdigit()


def _writer(path: Path, temporary: Path, schema: pa.Schema) -> Any:
    kind = pa.parquet.ParquetWriter if path.suffix == ".parquet" else pa.csv.CSVWriter
    return kind(temporary, schema)


def _read_npz(path: Path) -> dict[str, NDArray]:
    with reading(path):
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it is not an .npz archive")
        with file:
            return dict(file)


def _arrays(path: Path, *names: str) -> tuple[NDArray, ...]:
    columns = _read_npz(path)
    missing = [name for name in names if name not in columns]
    if missing:
        raise ValueError(f"{path} lacks the array {missing[0]!r}; it has {sorted(columns)}")
    return tuple(columns[name] for name in names)


def _existing(path: str | Path) -> Path:
    path = _writable(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return path


def _writable(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} must end in one of {', '.join(SUFFIXES)}")
    return path
