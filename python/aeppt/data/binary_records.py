"""What Purchase100 and Texas100 share: records of 0 and 1, in two forms of file.

Shokri et al. 2017 (IEEE S&P) made both data sets, and offer them as ``.tgz`` archives of
comma-separated text in the public repository privacytrustlab/datasets. Others pass them around as
``.npz`` files. No checksum of either is published, so shape, values and classes are tested.
"""

from __future__ import annotations

import gzip
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from aeppt.data.download import data_file
from aeppt.data.reading import reading
from aeppt.data.records import Records
from aeppt.data.sampling import drawn_rows

BLOCK_BYTES = 1 << 24  # of text, parsed at once
ZIP, GZIP = b"PK\x03\x04", b"\x1f\x8b"


@dataclass(frozen=True)
class BinaryDataSet:
    """A data set of Shokri et al. 2017, and where its ``.tgz`` archive has it.

    ``texts`` has the members of the archive and their numbers of columns. The first member's first
    column is the class, from 1; the last member's last ``n_features`` columns are the features.
    """

    name: str
    n_records: int
    n_features: int
    n_classes: int
    texts: dict[str, int]

    def load(
        self,
        source: str | Path,
        count: int | None,
        random_state: int,
        sha256: str | None,
        cache: str | Path | None,
    ) -> Records:
        """Some of the records (see :func:`aeppt.data.load_purchase100`)."""
        rows = drawn_rows(self.n_records, count, random_state)
        path = data_file(source, self.name, self.name.lower(), sha256, cache)
        with reading(path):
            with path.open("rb") as file:
                start = file.read(4)
            if start == ZIP:
                features, labels = self._read_npz(path)
            elif start[:2] == GZIP:
                features, labels = self._read_tgz(path)
            else:
                raise ValueError(f"it is neither the .tgz archive of {self.name} nor an .npz file")
            classes = np.arange(self.n_classes)
            if not np.array_equal(np.unique(labels), classes):
                raise ValueError(
                    f"it has labels of {len(np.unique(labels))} classes from {labels.min()} to "
                    f"{labels.max()}, expected {self.n_classes} classes without a gap"
                )
        return Records(features[rows].astype(np.float32), labels[rows], self.n_classes)

    def _read_tgz(self, path: Path) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
        """Features, and labels from 0. Nothing is unpacked: members are read by their names."""
        found: dict[str, NDArray[np.int8]] = {}
        with gzip.open(path) as content, tarfile.open(fileobj=content) as archive:
            for member in archive:
                name = str(PurePosixPath(member.name))
                text = archive.extractfile(member) if member.isfile() else None
                if text is not None and name in self.texts:
                    found[name] = self._read_text(text, f"{path}, {name}", self.texts[name])
            while content.read(BLOCK_BYTES):  # to the end, where gzip tests its checksum
                pass
        missing = [name for name in self.texts if name not in found]
        if missing:
            raise ValueError(f"it lacks the member {missing[0]!r}")
        parts = [found[name] for name in self.texts]
        features, labels = parts[-1][:, -self.n_features :], parts[0][:, 0]
        _check_binary(features)
        return features, labels.astype(np.int64) - 1

    def _read_text(self, file: IO[bytes], where: str, columns: int) -> NDArray[np.int8]:
        """All rows of small whole numbers; parsed a block at a time, one byte each."""
        rows = np.empty((self.n_records, columns), np.int8)
        names = [str(column) for column in range(columns)]
        # One thread, since errors name the row only then.
        read = pa.csv.ReadOptions(column_names=names, block_size=BLOCK_BYTES, use_threads=False)
        convert = pa.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.int8()), null_values=[]
        )
        done = 0
        with reading(where), pa.csv.open_csv(file, read, convert_options=convert) as batches:
            for batch in batches:
                end = done + len(batch)
                if end > self.n_records:
                    raise ValueError(f"it has more than {self.n_records:,} rows")
                for column, values in enumerate(batch.columns):
                    rows[done:end, column] = values.to_numpy()
                done = end
            if done < self.n_records:
                raise ValueError(f"it has {done:,} rows, expected {self.n_records:,}")
        return rows

    def _read_npz(self, path: Path) -> tuple[NDArray, NDArray[np.int64]]:
        """Features, and labels from 0, which are one-hot rows or numbers from 0 or 1."""
        with np.load(path, allow_pickle=False) as arrays:
            missing = [name for name in ("features", "labels") if name not in arrays]
            if missing:
                raise ValueError(f"it lacks the array {missing[0]!r}; it has {sorted(arrays)}")
            features, labels = arrays["features"], arrays["labels"]
        n, one_hot = self.n_records, (self.n_records, self.n_classes)
        if features.shape != (n, self.n_features) or labels.shape not in ((n,), one_hot):
            raise ValueError(
                f"it has features {list(features.shape)} and labels {list(labels.shape)}, "
                f"expected {[n, self.n_features]} and {list(one_hot)} or {[n]}"
            )
        for name, array in (("features", features), ("labels", labels)):
            if array.dtype.kind not in "biuf":
                raise ValueError(f"its {name} are not numbers but {array.dtype}")
        _check_binary(features)
        if labels.shape == one_hot:
            wrong = ((labels != 0) & (labels != 1)).any(axis=1) | (labels.sum(axis=1) != 1)
            if wrong.any():
                raise ValueError(f"its labels of row {wrong.argmax()} are not one 1 among zeros")
            return features, labels.argmax(axis=1)
        numbers = labels.astype(np.int64)
        if (numbers != labels).any():
            raise ValueError("its labels are not whole numbers")
        return features, numbers - (numbers.min() == 1)


def _check_binary(features: NDArray) -> None:
    wrong = (features != 0) & (features != 1)
    rows = wrong.any(axis=1)
    if rows.any():
        row = rows.argmax()
        column = wrong[row].argmax()
        raise ValueError(
            f"row {row}, feature {column} is {features[row, column]}; features must be 0 or 1"
        )
