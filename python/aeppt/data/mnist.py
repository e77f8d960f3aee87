"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017): grey images in 10 classes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from aeppt.data.images import TorchvisionDataSet
from aeppt.data.records import Records

IMAGES = {"train": 60_000, "test": 10_000}
MNIST = TorchvisionDataSet("MNIST", IMAGES, (28, 28), n_classes=10)
FASHION_MNIST = TorchvisionDataSet("FashionMNIST", IMAGES, (28, 28), n_classes=10)


def load_mnist(
    source: str | Path,
    count: int | None = None,
    random_state: int = 0,
    part: Literal["train", "test"] = "train",
    download: bool = False,
) -> Records:
    """Handwritten digits [n, 1, 28, 28] in [-0.5, 0.5], in 10 classes.

    Parameters
    ----------
    source : path
        torchvision's root folder, which holds ``MNIST/raw``. torchvision tests the MD5 sums of what
        it downloads; of files that are there already only the shape and the labels are tested.
    count : int or None
        Draw as many of the images, in random order; None takes all, in the order of the file.
    random_state : int
        Seed of the draw.
    part : {"train", "test"}
        The 60,000 images for training, or the 10,000 for testing.
    download : bool
        Let torchvision download the data set to ``source`` where it is not there.

    Raises
    ------
    ImportError
        torchvision is not installed.
    FileNotFoundError
        There is no such folder.
    ValueError
        The data set is not there, is damaged, or a parameter is out of range.
    OSError
        The download failed.
    """
    return MNIST.load(source, count, random_state, part, download)


def load_fashion_mnist(
    source: str | Path,
    count: int | None = None,
    random_state: int = 0,
    part: Literal["train", "test"] = "train",
    download: bool = False,
) -> Records:
    """Pictures of clothes [n, 1, 28, 28] in [-0.5, 0.5], in 10 classes.

    Parameters
    ----------
    source : path
        torchvision's root folder, which holds ``FashionMNIST/raw``.
    count, random_state, part, download
        As :func:`load_mnist` has them.

    Raises
    ------
    ImportError, FileNotFoundError, ValueError, OSError
        As :func:`load_mnist`.
    """
    return FASHION_MNIST.load(source, count, random_state, part, download)
