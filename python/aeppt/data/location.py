"""The Location data set: where people checked in, in Bangkok (Shokri et al. 2017).

5,010 records of 446 binary features in 30 classes, from Foursquare check-ins; prepared by Shokri et
al. (public repository privacytrustlab/datasets) and used by the MemGuard paper (Jia et al. 2019).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aeppt.data.download import data_file
from aeppt.data.records import Records

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
    OSError
        The download failed or broke off.
    """
    path = data_file(source, "the Location data set", "location30.npz", SHA256, cache)
    with np.load(path, allow_pickle=False) as arrays:
        bits: NDArray[np.uint8] = np.unpackbits(arrays["features"], axis=1, count=SHAPE[1])
        return Records(bits.astype(np.float32), arrays["labels"].astype(np.int64), N_CLASSES)
