"""What the loaders of images share: decoding, one scale of pixels, and torchvision's readers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from aeppt.data.records import Records
from aeppt.data.sampling import drawn_rows


def decoded(
    file: IO[bytes] | Path, where: str, size: tuple[int, int], resize: bool = False
) -> NDArray[np.uint8]:
    """The pixels [height, width, 3] of an image file of any format that Pillow reads.

    Parameters
    ----------
    file : binary file or path
    where : str
        Names the image in errors.
    size : (height, width)
    resize : bool
        Bring images to this size (bilinear, over all pixels that a new one covers); otherwise
        another size is an error.

    Raises
    ------
    ValueError
        It is no image, is damaged, has more than 8 bits per channel, or another size.
    """
    from PIL import Image

    height, width = size
    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would cut, not scale, its values
                raise ValueError(f"its pixels are of mode {image.mode}, not 8 bits per channel")
            if not resize and image.size != (width, height):
                raise ValueError(
                    f"it is {image.size[0]} × {image.size[1]} pixels, not {width} × {height}"
                )
            pixels = image.convert("RGB")
        if resize:
            pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(pixels)
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"{where}: cannot read the image: {error}") from error


def scaled(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pixels [n, height, width, channels] as float32 [n, channels, height, width], -0.5 to 0.5."""
    features = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)
    features /= 255
    features -= 0.5
    return features


def check_part(part: str, parts: Collection[str]) -> None:
    """Refuse a part that the data set does not have."""
    if part not in parts:
        raise ValueError(f"part must be one of {', '.join(map(repr, parts))}, got {part!r}")


@dataclass(frozen=True)
class TorchvisionDataSet:
    """A data set that torchvision downloads, checks and reads.

    ``name`` is that of the class in ``torchvision.datasets``, ``images`` the number of images of
    each part, ``shape`` that of one image.
    """

    name: str
    images: dict[str, int]
    shape: tuple[int, ...]
    n_classes: int

    def load(
        self, root: str | Path, count: int | None, random_state: int, part: str, download: bool
    ) -> Records:
        """Some images of one part (see :func:`aeppt.data.load_cifar10`)."""
        check_part(part, self.images)
        n = self.images[part]
        rows = drawn_rows(n, count, random_state)
        reader, root = self._reader(), Path(root)
        if not download and not root.is_dir():
            raise FileNotFoundError(
                f"there is no folder {root}; with download=True, torchvision makes it"
            )
        try:
            data = reader(root, train=part == "train", download=download)
            pixels, labels = np.asarray(data.data), np.asarray(data.targets)
        except OSError:
            raise
        except Exception as error:  # of damaged files torchvision raises many kinds
            raise ValueError(
                f"{root} does not hold torchvision's {self.name}, or it is damaged: {error}"
            ) from error
        if pixels.shape != (n, *self.shape) or labels.shape != (n,):
            raise ValueError(
                f"{root}: the {part} part of {self.name} has images {list(pixels.shape)} and "
                f"labels {list(labels.shape)}, expected {[n, *self.shape]} and {[n]}"
            )
        if labels.min() < 0 or labels.max() >= self.n_classes:
            raise ValueError(f"{root}: {self.name} has labels outside 0 to {self.n_classes - 1}")
        chosen = pixels[rows].reshape(len(rows), *self.shape[:2], -1)
        return Records(scaled(chosen), labels[rows].astype(np.int64), self.n_classes)

    def _reader(self) -> Callable[..., Any]:
        try:
            from torchvision import datasets
        except ImportError as error:
            raise ImportError(
                f"{self.name} is read by torchvision, which cannot be imported: {error}; "
                "pip install torchvision"
            ) from error
        reader: Callable[..., Any] = getattr(datasets, self.name)
        return reader
