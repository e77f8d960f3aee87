"""One error for a file that cannot be read, whatever is wrong with it."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from zipfile import BadZipFile

import pyarrow as pa


@contextmanager
def reading(where: object) -> Iterator[None]:
    """Turns every way in which a file can be unreadable into one ValueError that names it."""
    try:
        yield
    except (
        pa.ArrowException,
        tarfile.TarError,
        BadZipFile,
        zlib.error,
        OSError,
        EOFError,
        ValueError,
    ) as error:
        if str(error).startswith(str(where)):
            raise
        raise ValueError(f"{where}: cannot read it: {error}") from error
