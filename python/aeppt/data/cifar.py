"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): photographs of 32 × 32 pixels in 10 or 100 classes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np

from aeppt.data.images import TorchvisionDataSet, check_part, decoded, scaled
from aeppt.data.reading import reading
from aeppt.data.records import Records
from aeppt.data.sampling import drawn_rows

IMAGES = {"train": 50_000, "test": 10_000}
SIZE = (32, 32)
CIFAR10 = TorchvisionDataSet("CIFAR10", IMAGES, (*SIZE, 3), n_classes=10)
CIFAR100 = TorchvisionDataSet("CIFAR100", IMAGES, (*SIZE, 3), n_classes=100)


def load_cifar10(
    source: str | Path,
    count: int | None = None,
    random_state: int = 0,
    part: Literal["train", "test"] = "train",
    download: bool = False,
) -> Records:
    """Images [n, 3, 32, 32] in [-0.5, 0.5], in 10 classes.

    Parameters
    ----------
    source : path
        torchvision's root folder, which holds ``cifar-10-batches-py``; torchvision tests the MD5
        sums of its files. Or an ``.npz`` file of the images as JPEG, which is slightly lossy: of
        each part the arrays ``train_jpeg`` uint8 (the files end to end), ``train_offsets`` int64
        [n + 1] and ``train_labels`` uint8 [n]. No checksum of such a file is public.
    count : int or None
        Draw as many of the images, in random order; None takes all, in the order of the file.
    random_state : int
        Seed of the draw.
    part : {"train", "test"}
        The 50,000 images for training, or the 10,000 for testing.
    download : bool
        Let torchvision download the data set to the folder ``source`` where it is not there.

    Raises
    ------
    ImportError
        ``source`` is a folder, and torchvision is not installed.
    FileNotFoundError
        There is no such file or folder.
    ValueError
        The data set is not there, is damaged, or a parameter is out of range.
    OSError
        The download failed.
    """
    if Path(source).suffix == ".npz":
        return _of_jpeg(Path(source), count, random_state, part)
    return CIFAR10.load(source, count, random_state, part, download)


def load_cifar100(
    source: str | Path,
    count: int | None = None,
    random_state: int = 0,
    part: Literal["train", "test"] = "train",
    download: bool = False,
) -> Records:
    """Images [n, 3, 32, 32] in [-0.5, 0.5], in the 100 fine classes.

    Parameters
    ----------
    source : path
        torchvision's root folder, which holds ``cifar-100-python``.
    count, random_state, part, download
        As :func:`load_cifar10` has them.

    Raises
    ------
    ImportError, FileNotFoundError, ValueError, OSError
        As :func:`load_cifar10`.
    """
    return CIFAR100.load(source, count, random_state, part, download)


def _of_jpeg(path: Path, count: int | None, random_state: int, part: str) -> Records:
    check_part(part, IMAGES)
    if not path.is_file():
        raise FileNotFoundError(f"CIFAR-10 is not at {path}")
    with reading(path), np.load(path, allow_pickle=False) as arrays:
        names = [f"{part}_{name}" for name in ("jpeg", "offsets", "labels")]
        missing = [name for name in names if name not in arrays]
        if missing:
            raise ValueError(f"it lacks the array {missing[0]!r}; it has {sorted(arrays)}")
        jpeg, offsets, labels = (arrays[name] for name in names)
        if len(labels) == 0 or offsets.shape != (len(labels) + 1,):
            raise ValueError(f"it has {len(offsets)} offsets for {len(labels)} labels")
        if offsets[0] != 0 or offsets[-1] != len(jpeg) or (np.diff(offsets) <= 0).any():
            raise ValueError(f"{part}_offsets do not divide {part}_jpeg into images")
        if labels.min() < 0 or labels.max() >= CIFAR10.n_classes:
            raise ValueError(f"{part}_labels must be 0 to {CIFAR10.n_classes - 1}")
    rows = drawn_rows(len(labels), count, random_state)
    pixels = np.empty((len(rows), *SIZE, 3), np.uint8)
    for place, row in enumerate(rows):
        file = io.BytesIO(jpeg[offsets[row] : offsets[row + 1]].tobytes())
        pixels[place] = decoded(file, f"{path}, {part} image {row}", SIZE)
    return Records(scaled(pixels), labels[rows].astype(np.int64), CIFAR10.n_classes)
