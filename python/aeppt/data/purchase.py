"""Purchase100: what shoppers bought, of 600 products, in 100 clusters (Shokri et al. 2017)."""

from __future__ import annotations

from pathlib import Path

from aeppt.data.binary_records import BinaryDataSet
from aeppt.data.records import Records

PURCHASE100 = BinaryDataSet(
    "Purchase100",
    n_records=197_324,
    n_features=600,
    n_classes=100,
    texts={"dataset_purchase": 1 + 600},
)


def load_purchase100(
    source: str | Path,
    count: int | None = None,
    random_state: int = 0,
    sha256: str | None = None,
    cache: str | Path | None = None,
) -> Records:
    """197,324 records of 600 binary features, in 100 classes.

    Shokri et al. made it from Kaggle's Acquire Valued Shoppers Challenge; the classes are clusters
    of shoppers. No checksum of it is published that we know of: the numbers of records, features
    and classes and the values are tested, and ``sha256`` where it is given. The loader was written
    from descriptions of the files, and tested on made ones of the same form, not on the data set
    itself.

    Parameters
    ----------
    source : path or URL
        ``dataset_purchase.tgz`` of the public repository privacytrustlab/datasets: its member
        ``dataset_purchase`` has the class, 1 to 100, and the features in each row, between commas.
        Or an ``.npz`` file of ``features`` [197324, 600] and ``labels``, one-hot [197324, 100] or
        [197324]. Files whose features were normalised are refused.
    count : int or None
        Draw as many of the records, in random order; None takes all, in the order of the file.
    random_state : int
        Seed of the draw.
    sha256 : str or None
        The checksum that the file must have.
    cache : path or None
        Where a download is kept; None means the user's cache folder, by a name that the URL
        decides.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is not the data set or is damaged, or a parameter is out of range.
    OSError
        The download failed or broke off.
    """
    return PURCHASE100.load(source, count, random_state, sha256, cache)
