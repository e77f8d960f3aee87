"""Own images: any folder that has one subfolder per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aeppt.data.images import decoded, scaled
from aeppt.data.records import Records
from aeppt.data.sampling import drawn_rows

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def load_image_folder(
    folder: str | Path,
    size: tuple[int, int],
    count: int | None = None,
    random_state: int = 0,
) -> Records:
    """Images [n, 3, height, width] in [-0.5, 0.5]; their classes are the names of the subfolders.

    Classes are numbered in the order of their names, as ``sorted`` has them. A class has all images
    below its folder; files of other kinds than ``SUFFIXES``, and those whose names begin with a
    dot, are passed over. All become red, green and blue; transparency is dropped.

    Parameters
    ----------
    folder : path
    size : (height, width)
        All images are brought to it, in pixels: bilinear, over all pixels that a new one covers.
        Their proportions are not kept.
    count : int or None
        Draw as many of the images, in random order; None takes all, in the order of their names.
    random_state : int
        Seed of the draw.

    Raises
    ------
    FileNotFoundError
        There is no such folder.
    ValueError
        It has fewer than two classes, a class is empty, an image is damaged or has more than 8 bits
        per channel, or a parameter is out of range.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be a height and a width in pixels, got {size!r}")
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    if len(classes) < 2:
        raise ValueError(
            f"{folder} has {len(classes)} subfolders; images are sorted into one per class"
        )
    images = []
    for label, own in enumerate(classes):
        found = [path for path in sorted(own.rglob("*")) if _is_image(path)]
        if not found:
            raise ValueError(f"{own} has no images ({', '.join(sorted(SUFFIXES))})")
        images += [(path, label) for path in found]
    rows = drawn_rows(len(images), count, random_state)
    pixels = np.empty((len(rows), *size, 3), np.uint8)
    for place, row in enumerate(rows):
        path = images[row][0]
        pixels[place] = decoded(path, str(path), size, resize=True)
    labels = np.array([images[row][1] for row in rows], np.int64)
    return Records(scaled(pixels), labels, len(classes))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.name[0] != "." and path.is_file()
