"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from zipfile import ZipFile

import numpy as np
from numpy.lib.format import write_array
from numpy.typing import ArrayLike

#: The umask can only be read by setting it, which threads must not do at the same time.
UMASK_LOCK = threading.Lock()


def check_folders(*paths: Path) -> None:
    """Refuse paths whose folder does not exist; called before long work that ends in a file."""
    for path in paths:
        if not path.parent.is_dir():
            raise FileNotFoundError(f"cannot write {path}: its folder does not exist")


@contextmanager
def temporary_beside(path: str | Path, mode: int = 0o666) -> Iterator[Path]:
    """A temporary name in the folder of ``path``, renamed to it on success, removed on failure.

    The file gets the permissions ``mode`` less the umask; until it is renamed only its owner may
    read it.
    """
    target = Path(path)
    check_folders(target)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(mode & ~_umask())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(
    path: str | Path, write: Callable[[IO[bytes]], object], mode: int = 0o666
) -> None:
    """Let ``write`` fill a temporary file, then rename it to ``path``, with ``mode`` less umask."""
    # The file is closed, and so flushed, before the outer context renames it.
    with temporary_beside(path, mode) as temporary, temporary.open("wb") as file:
        write(file)


def write_arrays(path: str | Path, arrays: Mapping[str, ArrayLike]) -> None:
    """Write arrays of any names as an ``.npz`` file, atomically; nothing is pickled.

    Raises
    ------
    ValueError
        An array holds objects.
    """
    with temporary_beside(path) as temporary, ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                write_array(member, np.asanyarray(array), allow_pickle=False)


def _umask() -> int:
    with UMASK_LOCK:
        mask = os.umask(0o077)  # what another thread makes meanwhile is private, not public
        os.umask(mask)
    return mask
