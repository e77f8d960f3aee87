"""Tiny ImageNet (Le & Yang 2015): photographs of 64 × 64 pixels in 200 classes of ImageNet."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from zipfile import ZipFile

import numpy as np

from aeppt.data.download import data_file
from aeppt.data.images import check_part, decoded, scaled
from aeppt.data.reading import reading
from aeppt.data.records import Records
from aeppt.data.sampling import drawn_rows

#: Of tiny-imagenet-200.zip from http://cs231n.stanford.edu, 248,100,043 bytes: several public
#: repositories state it, and of a file of that size the MD5 sum 90528d7ca1a48142e341f4ef8d21d0de.
SHA256 = "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821"
N_CLASSES = 200
IMAGES_PER_CLASS = {"train": 500, "val": 50}
SIZE = (64, 64)
FOLDER = "tiny-imagenet-200"
VAL_LIST = "val/val_annotations.txt"


def load_tiny_imagenet(
    source: str | Path,
    count: int | None = None,
    random_state: int = 0,
    part: Literal["train", "val"] = "train",
    cache: str | Path | None = None,
) -> Records:
    """Images [n, 3, 64, 64] in [-0.5, 0.5], in 200 classes; 100,000 of them take 4.9 GB.

    Classes are numbered in the order of their WordNet ids, as ``sorted`` has them. Tested on small
    files of the same form, not on the data set itself.

    Parameters
    ----------
    source : path or URL
        ``tiny-imagenet-200.zip``, whose checksum is tested, or the folder ``tiny-imagenet-200`` out
        of it, where only the numbers of images are.
    count : int or None
        Draw as many of the images, in random order; None takes all, in the order of their names
        or, of ``val``, of its list.
    random_state : int
        Seed of the draw.
    part : {"train", "val"}
        The 100,000 images for training or the 10,000 for validation. The test images have no
        labels.
    cache : path or None
        Where a download is kept; None means ``aeppt/tiny-imagenet-200.zip`` in the user's cache
        folder.

    Raises
    ------
    FileNotFoundError
        There is no such file or folder.
    ValueError
        It is not the data set, an image is damaged, or a parameter is out of range.
    OSError
        The download failed or broke off.
    """
    check_part(part, IMAGES_PER_CLASS)
    rows = drawn_rows(N_CLASSES * IMAGES_PER_CLASS[part], count, random_state)
    pixels = np.empty((len(rows), *SIZE, 3), np.uint8)
    labels = np.empty(len(rows), np.int64)
    with _opened(source, cache) as (root, names, read):
        for name in ("wnids.txt", VAL_LIST):
            if name not in names:
                raise ValueError(f"{root} is not {FOLDER}: it lacks {name}")
        wnids = sorted(set(read("wnids.txt").decode().split()))
        if len(wnids) != N_CLASSES:
            raise ValueError(f"{root}/wnids.txt has {len(wnids)} classes, not {N_CLASSES}")
        images = _train(names) if part == "train" else _val(read(VAL_LIST), root)
        per_class = Counter(wnid for _, wnid in images)
        unknown = sorted(per_class.keys() - set(wnids))
        if unknown:
            raise ValueError(f"{root}: {part} has the class {unknown[0]}, which wnids.txt lacks")
        for wnid in wnids:
            if per_class[wnid] != IMAGES_PER_CLASS[part]:
                raise ValueError(
                    f"{root}: {part} has {per_class[wnid]} images of class {wnid}, not "
                    f"{IMAGES_PER_CLASS[part]}"
                )
        numbers = {wnid: number for number, wnid in enumerate(wnids)}
        for place, row in enumerate(rows):
            name, wnid = images[row]
            if name not in names:
                raise ValueError(f"{root} lacks the image {name}")
            pixels[place] = decoded(io.BytesIO(read(name)), f"{root}/{name}", SIZE)
            labels[place] = numbers[wnid]
    return Records(scaled(pixels), labels, N_CLASSES)


@contextmanager
def _opened(
    source: str | Path, cache: str | Path | None
) -> Iterator[tuple[Path, set[str], Callable[[str], bytes]]]:
    """Where it is, the names of its files as they are in the folder, and how to read one."""
    root = Path(source)
    if root.is_dir():
        names = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
        with reading(root):
            yield root, names, lambda name: (root / name).read_bytes()
        return
    path = data_file(source, "Tiny ImageNet", f"{FOLDER}.zip", SHA256, cache)
    with reading(path), ZipFile(path) as archive:
        inside = {name for name in archive.namelist() if name.startswith(f"{FOLDER}/")}
        names = {name.removeprefix(f"{FOLDER}/") for name in inside}
        yield path, names, lambda name: archive.read(f"{FOLDER}/{name}")


def _train(names: set[str]) -> list[tuple[str, str]]:
    """The images' names and WordNet ids: train/<id>/images/<file>.JPEG."""
    found = []
    for name in sorted(names):
        match name.split("/"):
            case ["train", wnid, "images", file] if file.endswith(".JPEG"):
                found.append((name, wnid))
    return found


def _val(content: bytes, root: Path) -> list[tuple[str, str]]:
    """The same out of a list: a file's name, its WordNet id, and the box around the object."""
    found = []
    for number, line in enumerate(content.decode().splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) != 6:
            raise ValueError(f"{root}/{VAL_LIST}: line {number} is {line!r}, expected 6 fields")
        found.append((f"val/images/{fields[0]}", fields[1]))
    return found
