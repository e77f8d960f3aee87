"""Texas100: stays in the hospitals of Texas, in 100 kinds of procedure (Shokri et al. 2017)."""

from __future__ import annotations

from pathlib import Path

from aeppt.data.binary_records import BinaryDataSet
from aeppt.data.records import Records

TEXAS100 = BinaryDataSet(
    "Texas100",
    n_records=67_330,
    n_features=6_169,
    n_classes=100,
    texts={"texas/100/labels": 1, "texas/100/feats": 6_169},
)


def load_texas100(
    source: str | Path,
    count: int | None = None,
    random_state: int = 0,
    sha256: str | None = None,
    cache: str | Path | None = None,
) -> Records:
    """67,330 records of 6,169 binary features, in 100 classes; all of them take 1.7 GB.

    Shokri et al. made it from the Hospital Discharge Data of the Texas Department of State Health
    Services; the classes are the 100 most frequent procedures. No checksum of it is published that
    we know of: what is tested, and on what the loader itself was, is as for
    :func:`load_purchase100`.

    Parameters
    ----------
    source : path or URL
        ``dataset_texas.tgz`` of the public repository privacytrustlab/datasets: its members
        ``texas/100/labels`` and ``texas/100/feats`` have a class, 1 to 100, and the features in
        each row. Or an ``.npz`` file of ``features`` [67330, 6169] and ``labels``, one-hot
        [67330, 100] or [67330].
    count, random_state, sha256, cache
        As :func:`load_purchase100` has them.

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        As :func:`load_purchase100`.
    """
    return TEXAS100.load(source, count, random_state, sha256, cache)
