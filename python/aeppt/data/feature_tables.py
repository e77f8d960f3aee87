"""Own tables: any Parquet or CSV file with a column of labels and columns of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from aeppt.data.reading import reading
from aeppt.data.records import Records


def load_table(path: str | Path, label: str, features: Sequence[str] | None = None) -> Records:
    """The records of a table; rows in errors are counted from 0, without the line of names.

    Parameters
    ----------
    path : path
        A ``.parquet`` file, or a ``.csv`` file whose first line has the columns' names.
    label : str
        The column of the classes: whole numbers, text or booleans. Classes are numbered in the
        order of these values, as ``sorted`` has them.
    features : sequence of str or None
        The columns of the features: numbers or booleans, in this order. None takes all columns but
        ``label``.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged or of another kind, lacks a column, has fewer than two classes, or a
        value is missing, is no number, or is beyond float32.
    """
    path = Path(path)
    if path.suffix not in (".parquet", ".csv"):
        raise ValueError(f"{path} must end in .parquet or .csv")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with reading(path):
        table = _read(path)
        names = table.column_names
        chosen = [name for name in names if name != label] if features is None else list(features)
        for name in (label, *chosen):
            if names.count(name) != 1:
                raise ValueError(f"it has {names.count(name)} columns {name!r}; it has {names}")
        if label in chosen or not chosen:
            raise ValueError(f"features must be columns beside {label!r}, got {chosen}")
        if len(table) == 0:
            raise ValueError("it has no rows")
        labels, n_classes = _classes(table[label], label)
        values = np.empty((len(table), len(chosen)), np.float32)
        for column, name in enumerate(chosen):
            values[:, column] = _numbers(table[name], name)
    return Records(values, labels, n_classes)


def _read(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return pa.parquet.read_table(path)
    options = pa.csv.ConvertOptions(null_values=[""], strings_can_be_null=True)
    return pa.csv.read_csv(path, convert_options=options)


def _classes(column: pa.ChunkedArray, name: str) -> tuple[NDArray[np.int64], int]:
    _check_complete(column, name)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (text or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise ValueError(
            f"its column {name!r} is of {kind}; classes must be whole numbers, text or booleans"
        )
    classes, numbers = np.unique(np.array(column.to_pylist()), return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"its column {name!r} has one class only, {classes.tolist()[0]!r}")
    return numbers.astype(np.int64), len(classes)


def _numbers(column: pa.ChunkedArray, name: str) -> NDArray[np.float32]:
    _check_complete(column, name)
    kind, given = column.type, column.to_pandas()
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        row = pd.to_numeric(given.astype(str), errors="coerce").isna().to_numpy().argmax()
        raise ValueError(
            f"its column {name!r} is of {kind}, not of numbers: row {row} is "
            f"{column[int(row)].as_py()!r}"
        )
    with np.errstate(over="ignore"):
        values: NDArray[np.float32] = given.to_numpy().astype(np.float32)
    wrong = ~np.isfinite(values)
    if wrong.any():
        row = wrong.argmax()
        raise ValueError(
            f"row {row} of its column {name!r} is {given[row]}, which is not a finite float32"
        )
    return values


def _check_complete(column: pa.ChunkedArray, name: str) -> None:
    if column.null_count:
        row = column.is_null().to_numpy().argmax()
        raise ValueError(f"row {row} of its column {name!r} is empty")
