"""The Location data set: where people checked in, in Bangkok (Shokri et al. 2017).

5,010 records of 446 binary features in 30 classes, from Foursquare check-ins; prepared by Shokri et
al. (public repository privacytrustlab/datasets) and used by the MemGuard paper (Jia et al. 2019).
"""

from __future__ import annotations

import hashlib
import os
import urllib.request
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aeppt.data.records import Records
from aeppt.files import write_atomically

SHA256 = "18211845908541773124f9602ca50fc490e14b3767bd00d5024bdf0da831b2ff"
SHAPE = (5010, 446)
N_CLASSES = 30


def load_location(source: str | Path, cache: str | Path | None = None) -> Records:
    """Read the data set from a local file, or download it first.

    Parameters
    ----------
    source : path or URL
        An ``.npz`` file with ``features`` uint8 [5010, 56] (``numpy.packbits`` along axis 1),
        ``n_features`` 446 and ``labels`` int16 [5010].
    cache : path or None
        Where a download is kept; None means ``aeppt/location30.npz`` in the user's cache folder.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is not the data set: its checksum differs.
    """
    if str(source).startswith(("http://", "https://")):
        path = Path(cache) if cache is not None else user_cache() / "location30.npz"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with urllib.request.urlopen(str(source)) as response:  # the checksum is tested below
                content = response.read()
            _check(content, str(source))
            write_atomically(path, lambda file: file.write(content))
    else:
        path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"the Location data set is not at {path}")
    _check(path.read_bytes(), str(path))
    with np.load(path, allow_pickle=False) as arrays:
        bits: NDArray[np.uint8] = np.unpackbits(arrays["features"], axis=1, count=SHAPE[1])
        return Records(bits.astype(np.float32), arrays["labels"].astype(np.int64), N_CLASSES)


def user_cache() -> Path:
    """The folder for downloads of this package."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "aeppt"


def _check(content: bytes, where: str) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise ValueError(
            f"{where} is not the Location data set: its SHA-256 is {digest}, expected {SHA256}"
        )
