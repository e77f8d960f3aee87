"""The loaders of data sets, on small files of the same formats, and on whatever else is in a file.

CIFAR-10 as JPEG is read from ../shared/data/cifar10_jpeg.npz beside the repository, or from the
file that the environment variable AEPPT_CIFAR10 names; its test skips where there is none.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import struct
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from aeppt.data import (
    Records,
    load_cifar10,
    load_cifar100,
    load_fashion_mnist,
    load_image_folder,
    load_mnist,
    load_purchase100,
    load_table,
    load_texas100,
    load_tiny_imagenet,
)
from aeppt.data.download import data_file
from aeppt.data.sampling import drawn_rows

ROOT = Path(__file__).resolve().parents[1]
CIFAR10 = Path(
    os.environ.get("AEPPT_CIFAR10", ROOT.parent / "shared" / "data" / "cifar10_jpeg.npz")
)
CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER_SHA256 = hashlib.sha256(b"other").hexdigest()


# --- which records are drawn ------------------------------------------------------------------


def test_all_rows_in_order_or_some_in_random_order() -> None:
    assert drawn_rows(5, None, 3).tolist() == [0, 1, 2, 3, 4]
    expected = np.random.default_rng(3).permutation(100)
    assert drawn_rows(100, 7, 3).tolist() == expected[:7].tolist()
    assert drawn_rows(100, 100, 3).tolist() == expected.tolist()
    assert drawn_rows(100, 7, 4).tolist() != expected[:7].tolist()


@pytest.mark.parametrize("count", [0, -1, 6, 2.0, "2"])
def test_a_count_out_of_range_is_refused(count: Any) -> None:
    with pytest.raises(ValueError, match=r"count must be a whole number from 1 to 5, got"):
        drawn_rows(5, count, 0)


# --- local files and downloads ----------------------------------------------------------------


class Server(BaseHTTPRequestHandler):
    """Serves CONTENT, or its beginning as if it were the whole."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/none":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: 1000 if self.path == "/cut" else None])

    def log_message(self, *arguments: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The address of a server on this machine; the user's cache is in a folder of its own."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Server.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def kept_files(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_a_download_is_kept_and_not_repeated(server: str, tmp_path: Path) -> None:
    for _ in range(2):
        path = data_file(f"{server}/whole", "the set", "set.bin", SHA256)
        assert path == tmp_path / "cache" / "aeppt" / "set.bin"
        assert path.read_bytes() == CONTENT
    assert Server.asked == ["/whole"]
    elsewhere = tmp_path / "new folder" / "own.bin"
    assert data_file(f"{server}/whole", "the set", "set.bin", SHA256, elsewhere) == elsewhere
    assert elsewhere.read_bytes() == CONTENT


def test_a_download_without_checksum_is_kept_by_its_address(server: str, tmp_path: Path) -> None:
    first, second = (data_file(f"{server}/{name}", "the set", "set.bin") for name in "ab")
    assert first != second
    assert first.parent == second.parent == tmp_path / "cache" / "aeppt"
    assert {first.suffix, second.suffix} == {".bin"}
    assert data_file(f"{server}/a", "the set", "set.bin") == first
    assert Server.asked == ["/a", "/b"]


@pytest.mark.parametrize("sha256", [SHA256, None], ids=["checksum", "no checksum"])
def test_a_download_cut_short_leaves_nothing(
    server: str, tmp_path: Path, sha256: str | None
) -> None:
    with pytest.raises(OSError, match=r"cannot download the set from .*/cut: .*1,?000"):
        data_file(f"{server}/cut", "the set", "set.bin", sha256)
    assert kept_files(tmp_path) == []
    assert data_file(f"{server}/whole", "the set", "set.bin", sha256).read_bytes() == CONTENT


def test_a_download_of_something_else_leaves_nothing(server: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"/whole is not the set: .*{SHA256}.*{OTHER_SHA256}"):
        data_file(f"{server}/whole", "the set", "set.bin", OTHER_SHA256)
    assert kept_files(tmp_path) == []


def test_a_failed_download_names_the_address(server: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot download the set from .*/none: .*404"):
        data_file(f"{server}/none", "the set", "set.bin", SHA256)
    assert kept_files(tmp_path) == []


def test_a_kept_file_that_was_damaged_is_refused_with_the_mend(server: str, tmp_path: Path) -> None:
    path = data_file(f"{server}/whole", "the set", "set.bin", SHA256)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=f"{path} is not the set: .*; remove it to download"):
        data_file(f"{server}/whole", "the set", "set.bin", SHA256)


def test_a_local_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "set.bin"
    path.write_bytes(CONTENT)
    assert data_file(path, "the set", "x") == path
    assert data_file(str(path), "the set", "x", SHA256.upper()) == path
    with pytest.raises(ValueError, match=f"{path} is not the set: .*{SHA256}.*{OTHER_SHA256}$"):
        data_file(path, "the set", "x", OTHER_SHA256)
    with pytest.raises(ValueError, match="sha256 must be 64 hexadecimal digits, got 'abc'"):
        data_file(path, "the set", "x", "abc")


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"the set is not at {tmp_path / 'none'}"):
        data_file(tmp_path / "none", "the set", "x")
    with pytest.raises(ValueError, match=f"{tmp_path} is a folder; the set is read from one file"):
        data_file(tmp_path, "the set", "x")


# --- Purchase100 and Texas100 -----------------------------------------------------------------

Members = dict[str, bytes]


@pytest.fixture(params=["purchase", "texas"])
def binary(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Any]:
    """One of the two data sets, made small: 12 records of 7 features in 4 classes."""
    name: str = request.param
    if name == "purchase":
        from aeppt.data import purchase as module

        texts, load = {"dataset_purchase": 8}, load_purchase100
    else:
        from aeppt.data import texas as module

        texts, load = {"texas/100/labels": 1, "texas/100/feats": 7}, load_texas100
    full = getattr(module, f"{name.upper()}100")
    assert list(full.texts) == list(texts)
    assert list(full.texts.values())[-1] - list(texts.values())[-1] == full.n_features - 7
    small = replace(full, n_records=12, n_features=7, n_classes=4, texts=texts)
    monkeypatch.setattr(module, f"{name.upper()}100", small)
    return name, load


def binary_records() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 2, (12, 7)), rng.permutation(np.arange(12) % 4)


def text_members(name: str, features: NDArray, classes: NDArray) -> Members:
    """The archive's members, as the authors' text has them; ``classes`` from 1."""

    def text(rows: NDArray) -> bytes:
        return "".join(",".join(map(str, row)) + "\n" for row in rows.tolist()).encode()

    if name == "purchase":
        return {"dataset_purchase": text(np.column_stack([classes, features]))}
    return {"texas/100/feats": text(features), "texas/100/labels": text(classes[:, None])}


def write_tgz(path: Path, members: Members) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def test_the_full_sizes_are_those_published() -> None:
    from aeppt.data.purchase import PURCHASE100
    from aeppt.data.texas import TEXAS100

    assert (PURCHASE100.n_records, PURCHASE100.n_features, PURCHASE100.n_classes) == (
        197324,
        600,
        100,
    )
    assert (TEXAS100.n_records, TEXAS100.n_features, TEXAS100.n_classes) == (67330, 6169, 100)


@pytest.mark.parametrize("prefix", ["", "./"])
def test_an_archive_of_text_is_read(binary: tuple[str, Any], tmp_path: Path, prefix: str) -> None:
    name, load = binary
    features, labels = binary_records()
    members = text_members(name, features, labels + 1)
    members = {prefix + member: content for member, content in members.items()}
    records = load(write_tgz(tmp_path / "set.tgz", members))
    assert records.features.dtype == np.float32
    assert np.array_equal(records.features, features)
    assert records.labels.dtype == np.int64
    assert np.array_equal(records.labels, labels)
    assert records.n_classes == 4


def test_text_is_read_in_blocks(
    binary: tuple[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, load = binary
    features, labels = binary_records()
    path = write_tgz(tmp_path / "set.tgz", text_members(name, features, labels + 1))
    monkeypatch.setattr("aeppt.data.binary_records.BLOCK_BYTES", 48)
    records = load(path)
    assert np.array_equal(records.features, features)
    assert np.array_equal(records.labels, labels)


@pytest.mark.parametrize("form", ["one-hot", "from 0", "from 1"])
@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.uint8])
def test_arrays_are_read(
    binary: tuple[str, Any], tmp_path: Path, form: str, dtype: type[np.generic]
) -> None:
    _, load = binary
    features, labels = binary_records()
    given = np.eye(4)[labels] if form == "one-hot" else labels + (form == "from 1")
    path = tmp_path / "set.npz"
    np.savez_compressed(path, features=features.astype(dtype), labels=given.astype(dtype))
    records = load(path)
    assert records.features.dtype == np.float32
    assert np.array_equal(records.features, features)
    assert records.labels.dtype == np.int64
    assert np.array_equal(records.labels, labels)


def test_some_records_are_drawn(binary: tuple[str, Any], tmp_path: Path) -> None:
    name, load = binary
    features, labels = binary_records()
    path = write_tgz(tmp_path / "set.tgz", text_members(name, features, labels + 1))
    records = load(path, 5, random_state=3)
    rows = np.random.default_rng(3).permutation(12)[:5]
    assert np.array_equal(records.features, features[rows])
    assert np.array_equal(records.labels, labels[rows])
    assert records.n_classes == 4
    with pytest.raises(ValueError, match=r"^count must be a whole number from 1 to 12, got 13"):
        load(path, 13)


def test_a_pinned_checksum_is_tested(binary: tuple[str, Any], tmp_path: Path) -> None:
    name, load = binary
    features, labels = binary_records()
    path = write_tgz(tmp_path / "set.tgz", text_members(name, features, labels + 1))
    assert len(load(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())) == 12
    with pytest.raises(ValueError, match=rf"{path} is not (Purchase|Texas)100: .*{OTHER_SHA256}"):
        load(path, sha256=OTHER_SHA256)


def changed(row: int, column: int, value: int) -> Callable[[NDArray, NDArray], Any]:
    def change(features: NDArray, classes: NDArray) -> Any:
        features[row, column] = value
        return features, classes

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(5, 2, 2), "row 5, feature 2 is 2; features must be 0 or 1"),
        (changed(11, 6, -1), "row 11, feature 6 is -1"),
        (changed(3, 1, 999), "invalid value '999'"),
        (lambda f, c: (f[:-1], c[:-1]), "it has 11 rows, expected 12"),
        (lambda f, c: (np.tile(f, (2, 1)), np.tile(c, 2)), "it has more than 12 rows"),
        (lambda f, c: (f[:, :-1], c), r"Expected \d columns, got \d"),
        (lambda f, c: (f, c - 1), "4 classes from -1 to 2, expected 4"),
        (lambda f, c: (f, c + 1), "4 classes from 1 to 4, expected 4"),
        (lambda f, c: (f, np.minimum(c, 3)), "3 classes from 0 to 2, expected 4"),
    ],
)
def test_wrong_text_is_refused(
    binary: tuple[str, Any],
    tmp_path: Path,
    change: Callable[[NDArray, NDArray], Any],
    message: str,
) -> None:
    name, load = binary
    features, labels = binary_records()
    members = text_members(name, *change(features, labels + 1))
    path = write_tgz(tmp_path / "set.tgz", members)
    with pytest.raises(ValueError, match=f"^{path}.*{message}"):
        load(path)


def test_a_missing_value_is_refused(binary: tuple[str, Any], tmp_path: Path) -> None:
    name, load = binary
    features, labels = binary_records()
    members = text_members(name, features, labels + 1)
    text = next(iter(members))
    lines = members[text].decode().splitlines()
    lines[4] = ",".join(["", *lines[4].split(",")[1:]])
    path = write_tgz(tmp_path / "set.tgz", {**members, text: "\n".join(lines).encode()})
    with pytest.raises(ValueError, match=rf"^{path}, {text}: .*Row #5: .*invalid value ''"):
        load(path)


@pytest.mark.parametrize("damage", [b"", b"1,0,1\n,,\n", b"\xff\xfe\x00", b"much\n" * 12])
def test_what_is_no_table_of_numbers_is_refused(
    binary: tuple[str, Any], tmp_path: Path, damage: bytes
) -> None:
    name, load = binary
    features, labels = binary_records()
    members = text_members(name, features, labels + 1)
    members[next(iter(members))] = damage
    path = write_tgz(tmp_path / "set.tgz", members)
    with pytest.raises(ValueError, match=f"^{path}, .*: cannot read it"):
        load(path)


def test_an_archive_cut_short_is_refused(binary: tuple[str, Any], tmp_path: Path) -> None:
    name, load = binary
    features, labels = binary_records()
    path = write_tgz(tmp_path / "set.tgz", text_members(name, features, labels + 1))
    content = path.read_bytes()
    for share in (0.05, 0.3, 0.6, 0.9, 0.99):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match=f"^{path}"):
            load(path)


def test_a_damaged_byte_is_refused_or_harmless(binary: tuple[str, Any], tmp_path: Path) -> None:
    name, load = binary
    features, labels = binary_records()
    path = write_tgz(tmp_path / "set.tgz", text_members(name, features, labels + 1))
    content = path.read_bytes()
    refused = 0
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x5A]) + content[at + 1 :])
        try:
            records = load(path)
        except ValueError as error:
            assert str(error).startswith(str(path))
            refused += 1
        else:
            assert np.array_equal(records.features, features)
            assert np.array_equal(records.labels, labels)
    assert refused > 0.9 * len(content)


def test_members_are_read_by_name_and_nothing_is_unpacked(
    binary: tuple[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, load = binary
    monkeypatch.chdir(tmp_path)
    features, labels = binary_records()
    good = text_members(name, features, labels + 1)
    path = tmp_path / "deep" / "set.tgz"
    path.parent.mkdir()
    bad = {
        f"{way}{member}": b"9,9,9\n"
        for member in good
        for way in ("../", "/", "../../", "elsewhere/")
    }
    assert np.array_equal(load(write_tgz(path, {**bad, **good, "more": b"x"})).labels, labels)
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]
    with pytest.raises(ValueError, match=f"{path}.*it lacks the member"):
        load(write_tgz(path, bad))


def test_a_link_in_place_of_a_member_is_not_followed(
    binary: tuple[str, Any], tmp_path: Path
) -> None:
    name, load = binary
    outside = tmp_path / "outside"
    features, labels = binary_records()
    members = text_members(name, features, labels + 1)
    first, content = next(iter(members.items()))
    outside.write_bytes(content)
    path = tmp_path / "set.tgz"
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo(first)
        entry.type, entry.linkname = tarfile.SYMTYPE, str(outside)
        archive.addfile(entry)
    with pytest.raises(ValueError, match=f"^{path}"):
        load(path)


def arrays(**changes: Any) -> dict[str, NDArray]:
    features, labels = binary_records()
    return {"features": features.astype(float), "labels": np.eye(4)[labels], **changes}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": np.zeros(3)}, r"lacks the array 'features'; it has \['x'\]"),
        (arrays(features=np.zeros((12, 6))), r"features \[12, 6\] and labels \[12, 4\], expected"),
        (arrays(labels=np.zeros(11)), r"labels \[11\], expected \[12, 7\] and \[12, 4\] or \[12\]"),
        (arrays(features=np.full((12, 7), 0.378)), "row 0, feature 0 is 0.378; .* must be 0 or 1"),
        (arrays(features=np.full((12, 7), np.nan)), "row 0, feature 0 is nan"),
        (arrays(features=np.full((12, 7), "1")), "features are not numbers but <U1"),
        (arrays(features=np.full((12, 7), None)), "allow_pickle"),
        (arrays(labels=np.full((12, 4), "1")), "labels are not numbers but <U1"),
        (arrays(labels=np.ones((12, 4))), "labels of row 0 are not one 1 among zeros"),
        (arrays(labels=np.zeros((12, 4))), "labels of row 0 are not one 1 among zeros"),
        (arrays(labels=np.arange(12) % 4 + 0.5), "labels are not whole numbers"),
        (arrays(labels=np.arange(12) % 4 + 2), "4 classes from 2 to 5, expected 4"),
        (arrays(labels=np.arange(12) % 3), "3 classes from 0 to 2, expected 4"),
    ],
)
def test_wrong_arrays_are_refused(
    binary: tuple[str, Any], tmp_path: Path, given: dict[str, NDArray], message: str
) -> None:
    _, load = binary
    path = tmp_path / "set.npz"
    np.savez(path, **given)
    with pytest.raises(ValueError, match=f"^{path}: cannot read it: .*{message}"):
        load(path)


def test_arrays_cut_short_are_refused(binary: tuple[str, Any], tmp_path: Path) -> None:
    _, load = binary
    path = tmp_path / "set.npz"
    np.savez_compressed(path, **arrays())
    content = path.read_bytes()
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match=f"^{path}"):
            load(path)


def test_another_kind_of_file_is_refused(binary: tuple[str, Any], tmp_path: Path) -> None:
    _, load = binary
    path = tmp_path / "set.txt"
    path.write_bytes(b"1,0,1,0,1,1,0\n")
    with pytest.raises(ValueError, match=rf"{path}.*neither the \.tgz archive"):
        load(path)
    with pytest.raises(FileNotFoundError, match="is not at"):
        load(tmp_path / "none.tgz")


# --- CIFAR ------------------------------------------------------------------------------------


def photographs(n: int, size: int = 32) -> NDArray[np.uint8]:
    """Smooth images [n, size, size, 3], which JPEG hardly changes."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 256, (n, 1, 1, 3)) + np.linspace(-30, 30, size)[:, None, None]
    return np.clip(corners + np.zeros((n, size, size, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(params=["CIFAR10", "CIFAR100"])
def cifar(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, Path, NDArray[np.uint8], NDArray[np.int64]]:
    """Loader, torchvision's root folder with 20 + 5 images, and what is in it.

    The files are as torchvision has them: batches pickled, their MD5 sums known to its class.
    """
    datasets = pytest.importorskip("torchvision.datasets")
    from aeppt.data import cifar as module

    name: str = request.param
    k = 10 if name == "CIFAR10" else 100
    kind = getattr(datasets, name)
    images, labels = photographs(25), np.arange(25) * 7 % k
    folder = tmp_path / kind.base_folder
    folder.mkdir()

    def write(file: str, content: dict[str, Any]) -> str:
        (folder / file).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / file).read_bytes()).hexdigest()

    def batch(rows: slice) -> dict[str, Any]:
        flat = images[rows].transpose(0, 3, 1, 2).reshape(-1, 3072)
        key = "labels" if name == "CIFAR10" else "fine_labels"
        return {"data": flat, key: labels[rows].tolist()}

    files = [file for file, _ in kind.train_list]
    edges = np.linspace(0, 20, len(files) + 1).astype(int)
    parts = [slice(*edge) for edge in pairwise(edges)]
    monkeypatch.setattr(
        kind, "train_list", [[f, write(f, batch(p))] for f, p in zip(files, parts, strict=True)]
    )
    test_file = kind.test_list[0][0]
    monkeypatch.setattr(kind, "test_list", [[test_file, write(test_file, batch(slice(20, 25)))]])
    meta = write(kind.meta["filename"], {kind.meta["key"]: [str(i) for i in range(k)]})
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": meta})
    small = replace(getattr(module, name), images={"train": 20, "test": 5})
    monkeypatch.setattr(module, name, small)
    return (load_cifar10 if k == 10 else load_cifar100), tmp_path, images, labels


def test_torchvision_reads_cifar(cifar: tuple[Any, Path, NDArray, NDArray]) -> None:
    load, root, images, labels = cifar
    train, test = load(root), load(str(root), part="test")
    for records, rows in ((train, slice(0, 20)), (test, slice(20, 25))):
        expected = images[rows].transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5
        assert records.features.dtype == np.float32
        assert records.features.flags.c_contiguous
        assert np.array_equal(records.features, expected)
        assert records.labels.dtype == np.int64
        assert np.array_equal(records.labels, labels[rows])
    assert train.n_classes == (10 if load is load_cifar10 else 100)
    drawn = load(root, 6, random_state=2)
    rows = np.random.default_rng(2).permutation(20)[:6]
    assert np.array_equal(drawn.features, train.features[rows])
    assert np.array_equal(drawn.labels, labels[rows])


def test_a_changed_batch_is_refused(cifar: tuple[Any, Path, NDArray, NDArray]) -> None:
    load, root, _, _ = cifar
    batch = next(path for path in root.rglob("*") if path.name in ("data_batch_1", "train"))
    batch.write_bytes(batch.read_bytes() + b"x")
    with pytest.raises(ValueError, match=f"{root} does not hold torchvision's CIFAR10"):
        load(root)


def test_another_number_of_images_is_refused(
    cifar: tuple[Any, Path, NDArray, NDArray], monkeypatch: pytest.MonkeyPatch
) -> None:
    load, root, _, _ = cifar
    from aeppt.data import cifar as module

    for name in ("CIFAR10", "CIFAR100"):
        wanted = replace(getattr(module, name), images={"train": 21, "test": 5})
        monkeypatch.setattr(module, name, wanted)
    with pytest.raises(ValueError, match=r"images \[20, 32, 32, 3\] and labels \[20\], expected"):
        load(root)


@pytest.mark.parametrize("load", [load_cifar10, load_cifar100, load_mnist, load_fashion_mnist])
def test_torchvision_is_asked_for(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*none; with download=True"):
        load(tmp_path / "none")
    with pytest.raises(ValueError, match=f"{tmp_path} does not hold torchvision's"):
        load(tmp_path)
    with pytest.raises(ValueError, match="part must be one of 'train', 'test', got 'val'"):
        load(tmp_path, part="val")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="pip install torchvision"):
        load(tmp_path)


def jpeg(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95)
    return file.getvalue()


def jpeg_arrays(n: int = 8, size: int = 32) -> dict[str, NDArray]:
    given = {}
    for part in ("train", "test"):
        files = [jpeg(image) for image in photographs(n, size)]
        given[f"{part}_jpeg"] = np.frombuffer(b"".join(files), np.uint8)
        given[f"{part}_offsets"] = np.concatenate([[0], np.cumsum([len(f) for f in files])])
        given[f"{part}_labels"] = (np.arange(n) % 10).astype(np.uint8)
    return given


def test_cifar10_as_jpeg_is_read_without_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    path = tmp_path / "cifar.npz"
    np.savez(path, **jpeg_arrays())
    records = load_cifar10(path, 5, random_state=1)
    rows = np.random.default_rng(1).permutation(8)[:5]
    expected = photographs(8)[rows].transpose(0, 3, 1, 2) / 255 - 0.5
    assert records.features.dtype == np.float32
    assert np.abs(records.features - expected).max() < 0.03, "JPEG is not exact"
    assert records.labels.tolist() == rows.tolist()
    assert records.n_classes == 10
    assert len(load_cifar10(path, part="test")) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": None}, "lacks the array 'train_labels'"),
        ({"train_labels": np.arange(7)}, "has 9 offsets for 7 labels"),
        ({"train_labels": np.zeros(0, int)}, "has 9 offsets for 0 labels"),
        ({"train_labels": np.full(8, 10)}, "train_labels must be 0 to 9"),
        ({"train_offsets": np.arange(9)}, "do not divide train_jpeg"),
        ({"train_offsets": np.arange(9)[::-1]}, "do not divide train_jpeg"),
        (
            {"train_offsets": jpeg_arrays()["train_offsets"][[0, 2, 1, 3, 4, 5, 6, 7, 8]]},
            "do not divide train_jpeg",
        ),
        ({"train_offsets": np.zeros(9, object)}, "allow_pickle"),
    ],
)
def test_wrong_jpeg_arrays_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "cifar.npz"
    given = {**jpeg_arrays(), **changes}
    np.savez(path, **{name: array for name, array in given.items() if array is not None})
    with pytest.raises(ValueError, match=f"^{path}: cannot read it: .*{message}"):
        load_cifar10(path)


def test_a_damaged_jpeg_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cifar.npz"
    given = jpeg_arrays()
    content = given["train_jpeg"].copy()
    content[given["train_offsets"][3] : given["train_offsets"][4]] = 7
    np.savez(path, **{**given, "train_jpeg": content})
    with pytest.raises(ValueError, match=f"^{path}, train image 3: cannot read the image"):
        load_cifar10(path)
    np.savez(path, **jpeg_arrays(size=31))
    with pytest.raises(ValueError, match=r"train image 0: .*31 × 31 pixels, not 32 × 32"):
        load_cifar10(path)


def test_a_missing_or_broken_npz_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cifar.npz"
    with pytest.raises(FileNotFoundError, match=f"CIFAR-10 is not at {path}"):
        load_cifar10(path)
    with pytest.raises(ValueError, match="part must be one of 'train', 'test'"):
        load_cifar10(path, part="val")  # type: ignore[arg-type]
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ValueError, match=f"^{path}: cannot read it"):
        load_cifar10(path)


def test_the_real_cifar10_is_drawn_as_the_benchmarks_draw_it() -> None:
    if not CIFAR10.is_file():
        pytest.skip(f"CIFAR-10 as JPEG is not at {CIFAR10}; AEPPT_CIFAR10 can name it")
    records = load_cifar10(CIFAR10, 50, random_state=1)
    with np.load(CIFAR10) as files:
        data, offsets, labels = (files[f"train_{n}"] for n in ("jpeg", "offsets", "labels"))
    chosen = np.random.default_rng(1).permutation(50_000)[:50]
    assert np.array_equal(records.labels, labels[chosen])
    for features, i in zip(records.features, chosen, strict=True):
        image = Image.open(io.BytesIO(data[offsets[i] : offsets[i + 1]].tobytes()))
        expected = np.asarray(image).transpose(2, 0, 1).astype(np.float32) / 255 - 0.5
        assert np.array_equal(features, expected)


# --- MNIST and Fashion-MNIST ------------------------------------------------------------------


def idx(array: NDArray[np.uint8]) -> bytes:
    """The format of MNIST's files: magic number, sizes, then the bytes."""
    return struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(params=["MNIST", "FashionMNIST"])
def mnist(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, Path, NDArray[np.uint8], NDArray[np.uint8]]:
    """Loader, torchvision's root folder with 12 + 4 images, and what is in it."""
    pytest.importorskip("torchvision")
    from aeppt.data import mnist as module

    images = np.random.default_rng(0).integers(0, 256, (16, 28, 28)).astype(np.uint8)
    labels = (np.arange(16) % 10).astype(np.uint8)
    folder = tmp_path / request.param / "raw"
    folder.mkdir(parents=True)
    for part, rows in (("train", slice(0, 12)), ("t10k", slice(12, 16))):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(images[rows]))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels[rows]))
    for name in ("MNIST", "FASHION_MNIST"):
        small = replace(getattr(module, name), images={"train": 12, "test": 4})
        monkeypatch.setattr(module, name, small)
    return (
        (load_mnist if request.param == "MNIST" else load_fashion_mnist),
        tmp_path,
        images,
        labels,
    )


def test_torchvision_reads_mnist(mnist: tuple[Any, Path, NDArray, NDArray]) -> None:
    load, root, images, labels = mnist
    for part, rows in (("train", slice(0, 12)), ("test", slice(12, 16))):
        records = load(root, part=part)
        assert records.features.shape == (len(images[rows]), 1, 28, 28)
        assert records.features.dtype == np.float32
        assert np.array_equal(records.features[:, 0], images[rows].astype(np.float32) / 255 - 0.5)
        assert records.labels.dtype == np.int64
        assert np.array_equal(records.labels, labels[rows])
        assert records.n_classes == 10
    drawn = load(root, 3, random_state=1)
    assert np.array_equal(drawn.labels, labels[np.random.default_rng(1).permutation(12)[:3]])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train-images-idx3-ubyte", idx(np.zeros((11, 28, 28), np.uint8)), r"\[11, 28, 28\]"),
        ("train-images-idx3-ubyte", idx(np.zeros((12, 14, 28), np.uint8)), r"\[12, 14, 28\]"),
        ("train-images-idx3-ubyte", idx(np.zeros((12, 28, 28), np.uint8))[:-9], "is damaged"),
        ("train-images-idx3-ubyte", b"", "is damaged"),
        ("train-images-idx3-ubyte", b"\xff" * 40, "is damaged"),
        ("train-labels-idx1-ubyte", idx(np.zeros(11, np.uint8)), r"labels \[11\]"),
        ("train-labels-idx1-ubyte", idx(np.full(12, 10, np.uint8)), "labels outside 0 to 9"),
    ],
)
def test_damaged_mnist_is_refused(
    mnist: tuple[Any, Path, NDArray, NDArray], file: str, content: bytes, message: str
) -> None:
    load, root, _, _ = mnist
    (path,) = root.rglob(file)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{root}.*{message}"):
        load(root)


def test_compressed_files_alone_are_not_enough(mnist: tuple[Any, Path, NDArray, NDArray]) -> None:
    load, root, _, _ = mnist
    (path,) = root.rglob("t10k-labels-idx1-ubyte")
    path.with_suffix(".gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    with pytest.raises(ValueError, match="Dataset not found"):
        load(root)


# --- Tiny ImageNet ----------------------------------------------------------------------------

WNIDS = ["n02", "n01", "n03"]  # in wnids.txt they are not sorted either
TINY = "tiny-imagenet-200"


def tiny_members() -> Members:
    """3 classes of 4 images to train and 2 to validate; the second is grey, as some are."""
    images = photographs(18, 64)
    files = [jpeg(image) for image in images]
    files[1] = jpeg(images[1, :, :, 0])
    members = {"wnids.txt": "\n".join(WNIDS).encode() + b"\n", "words.txt": b"n01\tgoldfish\n"}
    for c, wnid in enumerate(WNIDS):
        for i in range(4):
            members[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = files[4 * c + i]
        members[f"train/{wnid}/{wnid}_boxes.txt"] = b"0\t0\t10\t10\n"
    rows = [f"val_{i}.JPEG\t{WNIDS[i % 3]}\t0\t32\t44\t62" for i in range(6)]
    members["val/val_annotations.txt"] = "\n".join(rows).encode()
    for i in range(6):
        members[f"val/images/val_{i}.JPEG"] = files[12 + i]
    members["test/images/test_0.JPEG"] = files[0]
    return members


@pytest.fixture(params=["folder", "zip"])
def tiny(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Members], Path]:
    """Writes the data set in one of its two forms, small."""
    from aeppt.data import tiny_imagenet as module

    monkeypatch.setattr(module, "N_CLASSES", 3)
    monkeypatch.setattr(module, "IMAGES_PER_CLASS", {"train": 4, "val": 2})

    def write(members: Members) -> Path:
        if request.param == "folder":
            for name, content in members.items():
                path = tmp_path / TINY / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            return tmp_path / TINY
        path = tmp_path / f"{TINY}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(f"{TINY}/{name}", content)
            archive.writestr("../wnids.txt", b"n99")
            archive.writestr("wnids.txt", b"n99")
        monkeypatch.setattr(module, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
        return path

    return write


def test_tiny_imagenet_is_read(tiny: Callable[[Members], Path], tmp_path: Path) -> None:
    path = tiny(tiny_members())
    train, val = load_tiny_imagenet(path), load_tiny_imagenet(path, part="val")
    for records in (train, val):
        assert records.features.dtype == np.float32
        assert records.labels.dtype == np.int64
        assert records.n_classes == 3
    # n01, n02, n03 are classes 0, 1, 2; they stand second, first and third in the files.
    order = [*range(4, 8), *range(4), *range(8, 12)]
    assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert val.labels.tolist() == [1, 0, 2, 1, 0, 2]
    expected = photographs(18, 64).transpose(0, 3, 1, 2) / 255 - 0.5
    grey = expected[1].copy()
    expected[1] = grey[:1]
    assert np.abs(train.features - expected[order]).max() < 0.03
    assert np.abs(val.features - expected[12:]).max() < 0.03
    drawn = load_tiny_imagenet(path, 5, random_state=2)
    rows = np.random.default_rng(2).permutation(12)[:5]
    assert np.array_equal(drawn.features, train.features[rows])
    assert np.array_equal(drawn.labels, train.labels[rows])
    assert not (tmp_path.parent / "wnids.txt").exists(), "nothing is unpacked"


@pytest.mark.parametrize(
    ("name", "content", "part", "message"),
    [
        ("wnids.txt", None, "train", "is not tiny-imagenet-200: it lacks wnids.txt"),
        ("val/val_annotations.txt", None, "val", "it lacks val/val_annotations.txt"),
        ("wnids.txt", b"n01\nn02\n", "train", "wnids.txt has 2 classes, not 3"),
        (
            "wnids.txt",
            b"n01\nn02\nn04\n",
            "train",
            "train has the class n03, which wnids.txt lacks",
        ),
        ("wnids.txt", b"\xff\xfe", "train", "cannot read it: .*decode"),
        ("train/n03/images/n03_1.JPEG", None, "train", "train has 3 images of class n03, not 4"),
        ("train/n03/images/n03_9.JPEG", b"x", "train", "train has 5 images of class n03, not 4"),
        ("train/n03/images/n03_2.JPEG", b"x", "train", "n03_2.JPEG: cannot read the image"),
        ("val/images/val_3.JPEG", None, "val", "lacks the image val/images/val_3.JPEG"),
        ("val/images/val_3.JPEG", jpeg(photographs(1)[0]), "val", "32 × 32 pixels, not 64 × 64"),
        ("val/val_annotations.txt", b"val_0.JPEG n01\n", "val", "line 1 is 'val_0.JPEG n01'"),
        ("val/val_annotations.txt", b"../x\tn09\t0\t0\t0\t0\n", "val", "val has the class n09"),
    ],
)
def test_wrong_tiny_imagenets_are_refused(
    tiny: Callable[[Members], Path], name: str, content: bytes | None, part: Any, message: str
) -> None:
    members = tiny_members()
    members.pop(name, None)
    if content is not None:
        members[name] = content
    path = tiny(members)
    with pytest.raises(ValueError, match=f"^{path}.*{message}"):
        load_tiny_imagenet(path, part=part)


def test_images_outside_the_folder_are_not_read(tiny: Callable[[Members], Path]) -> None:
    members = tiny_members()
    rows = members["val/val_annotations.txt"].decode().replace("val_0.JPEG", "../../../val_0.JPEG")
    path = tiny({**members, "val/val_annotations.txt": rows.encode()})
    (path.parent / "val_0.JPEG").write_bytes(members["val/images/val_0.JPEG"])
    with pytest.raises(ValueError, match=r"lacks the image val/images/\.\./\.\./\.\./val_0\.JPEG"):
        load_tiny_imagenet(path, part="val")


def test_the_checksum_of_the_zip_is_tested(tmp_path: Path) -> None:
    path = tmp_path / f"{TINY}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in tiny_members().items():
            archive.writestr(f"{TINY}/{name}", content)
    with pytest.raises(ValueError, match=rf"{path} is not Tiny ImageNet: .*6198c8ae015e2b3e"):
        load_tiny_imagenet(path)
    with pytest.raises(FileNotFoundError, match="Tiny ImageNet is not at"):
        load_tiny_imagenet(tmp_path / "none.zip")
    with pytest.raises(ValueError, match="part must be one of 'train', 'val', got 'test'"):
        load_tiny_imagenet(path, part="test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="count must be a whole number from 1 to 10000"):
        load_tiny_imagenet(path, 10_001, part="val")


# --- own images -------------------------------------------------------------------------------


def write_images(folder: Path, **classes: list[Image.Image]) -> Path:
    for name, images in classes.items():
        (folder / name).mkdir(parents=True)
        for i, image in enumerate(images):
            image.save(folder / name / f"{i}.png")
    return folder


def plain(colour: Any, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour)


def test_a_folder_of_images_is_read(tmp_path: Path) -> None:
    folder = write_images(
        tmp_path,
        dog=[plain((255, 0, 51)), plain((0, 255, 0), (9, 9))],
        cat=[plain(102, mode="L")],
    )
    (folder / "dog" / "deeper").mkdir()
    plain((0, 0, 255)).save(folder / "dog" / "deeper" / "0.BMP")
    for passed_over in ("dog/notes.txt", "dog/.hidden.png", "readme.png"):
        (folder / passed_over).write_bytes(b"no image")
    (folder / ".git").mkdir()
    records = load_image_folder(folder, size=(2, 3))
    assert records.features.shape == (4, 3, 2, 3)
    assert records.features.dtype == np.float32
    assert records.labels.tolist() == [0, 1, 1, 1]
    assert records.n_classes == 2
    colours = records.features.min(axis=(2, 3))
    assert np.array_equal(colours, records.features.max(axis=(2, 3)))
    expected = [[0.4] * 3, [1, 0, 0.2], [0, 1, 0], [0, 0, 1]]
    assert np.allclose(colours + 0.5, expected, atol=1e-6)
    drawn = load_image_folder(str(folder), (2, 3), count=2, random_state=5)
    rows = np.random.default_rng(5).permutation(4)[:2]
    assert np.array_equal(drawn.features, records.features[rows])
    assert np.array_equal(drawn.labels, records.labels[rows])


def test_height_comes_first_and_every_pixel_counts(tmp_path: Path) -> None:
    pixels = np.zeros((8, 4, 3), np.uint8)
    pixels[:4] = 255
    pixels[::2, 0] = 255 - pixels[::2, 0]
    image = Image.fromarray(pixels)
    folder = write_images(tmp_path, a=[image], b=[image])
    records = load_image_folder(folder, size=(2, 1))
    assert records.features.shape == (2, 3, 2, 1)
    upper, lower = records.features[0, 0, :, 0]
    assert 0.1 < upper < 0.45, "white above, dimmed by the column of stripes"
    assert -0.45 < lower < -0.1


def test_images_of_the_size_are_not_changed(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    folder = write_images(tmp_path, a=[Image.fromarray(pixels)], b=[plain(0)])
    records = load_image_folder(folder, size=(5, 7))
    expected = pixels.transpose(2, 0, 1).astype(np.float32) / 255 - 0.5
    assert np.array_equal(records.features[0], expected)


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "16 bits"])
def test_a_damaged_image_is_named(tmp_path: Path, kind: str) -> None:
    folder = write_images(tmp_path, a=[plain(0)] * 3, b=[plain(1)])
    path = folder / "a" / "1.png"
    whole = path.read_bytes()
    if kind == "16 bits":
        Image.fromarray(np.full((4, 4), 300, np.uint16)).save(path)
    else:
        path.write_bytes({"empty": b"", "text": b"text", "cut": whole[: len(whole) // 2]}[kind])
    with pytest.raises(ValueError, match=f"^{path}: cannot read the image"):
        load_image_folder(folder, (4, 4))


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"there is no folder {tmp_path / 'none'}"):
        load_image_folder(tmp_path / "none", (4, 4))
    with pytest.raises(ValueError, match="has 0 subfolders"):
        load_image_folder(tmp_path, (4, 4))
    write_images(tmp_path, a=[plain(0)])
    with pytest.raises(ValueError, match="has 1 subfolders"):
        load_image_folder(tmp_path, (4, 4))
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match=f"{tmp_path / 'b'} has no images"):
        load_image_folder(tmp_path, (4, 4))
    for size in ((4,), (4, 0), (4, 4, 3)):
        with pytest.raises(ValueError, match="size must be a height and a width"):
            load_image_folder(tmp_path, size)  # type: ignore[arg-type]


# --- own tables -------------------------------------------------------------------------------


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "age": [31, 62, 47, 20],
            "kind": ["b", "a", "c", "a"],
            "weight": [1.5, -2.0, 0.25, 1e30],
            "member": [True, False, False, True],
        }
    )


def write_table(path: Path, table: pd.DataFrame) -> Path:
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False)
    return path


SUFFIXES = pytest.mark.parametrize("suffix", [".csv", ".parquet"])


@SUFFIXES
def test_a_table_is_read(suffix: str, tmp_path: Path) -> None:
    path = write_table(tmp_path / f"t{suffix}", frame())
    records = load_table(path, "kind")
    assert records.features.dtype == np.float32
    expected = np.array([[31, 1.5, 1], [62, -2, 0], [47, 0.25, 0], [20, 1e30, 1]], np.float32)
    assert np.array_equal(records.features, expected)
    assert records.labels.dtype == np.int64
    assert records.labels.tolist() == [1, 0, 2, 0]
    assert records.n_classes == 3
    some = load_table(str(path), "kind", ["weight", "age"])
    assert np.array_equal(some.features, expected[:, [1, 0]])


@SUFFIXES
@pytest.mark.parametrize(
    ("values", "labels"),
    [([7, -3, 7, 10], [1, 0, 1, 2]), ([True, False, True, True], [1, 0, 1, 1])],
)
def test_classes_are_numbers_or_booleans_too(
    suffix: str, values: list[Any], labels: list[int], tmp_path: Path
) -> None:
    path = write_table(tmp_path / f"t{suffix}", frame().assign(kind=values))
    assert load_table(path, "kind").labels.tolist() == labels


def test_categories_are_classes(tmp_path: Path) -> None:
    table = frame().assign(kind=pd.Categorical(["b", "a", "c", "a"], ["c", "b", "a"]))
    path = write_table(tmp_path / "t.parquet", table)
    assert load_table(path, "kind").labels.tolist() == [1, 0, 2, 0]


@SUFFIXES
@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, {"label": "sort"}, "has 0 columns 'sort'; it has"),
        ({}, {"features": ["age", "height"]}, "has 0 columns 'height'"),
        ({}, {"features": []}, "features must be columns beside 'kind'"),
        ({}, {"features": ["age", "kind"]}, "features must be columns beside 'kind'"),
        ({"age": ["31", "much", "47", "20"]}, {}, "'age' is of .*string.*: row 1 is 'much'"),
        ({"age": [31, None, 47, 20]}, {}, "row 1 of its column 'age'"),
        ({"weight": [1.5, 0, np.inf, 1]}, {}, "row 2 of its column 'weight' is inf"),
        ({"weight": [1.5, 0, 0, -1e39]}, {}, "row 3 of its column 'weight' is -1e.39"),
        ({"kind": ["b", None, "c", "a"]}, {}, "row 1 of its column 'kind' is empty"),
        ({"kind": [0.5, 1.5, 2.5, 3.5]}, {}, "'kind' is of double; classes must be"),
        ({"kind": ["a"] * 4}, {}, "'kind' has one class only, 'a'"),
    ],
)
def test_wrong_tables_are_refused(
    suffix: str, changes: dict[str, Any], arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write_table(tmp_path / f"t{suffix}", frame().assign(**changes))
    with pytest.raises(ValueError, match=f"^{path}: cannot read it: .*{message}"):
        load_table(path, **{"label": "kind", **arguments})


@SUFFIXES
def test_an_empty_table_is_refused(suffix: str, tmp_path: Path) -> None:
    path = write_table(tmp_path / f"t{suffix}", frame().iloc[:0])
    with pytest.raises(ValueError, match="has no rows"):
        load_table(path, "kind")


@SUFFIXES
@pytest.mark.parametrize("content", [b"", b"PAR1", b"a,b\n1,2\n3\n"])
def test_a_broken_table_is_named(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"t{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path}: cannot read it"):
        load_table(path, "a")


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,x,y\n1,2,a\n3,4,b\n")
    with pytest.raises(ValueError, match="has 2 columns 'x'"):
        load_table(path, "y")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.parquet or \.csv"):
        load_table(tmp_path / "t.xlsx", "kind")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_table(tmp_path / "t.csv", "kind")


def test_loaders_return_records_that_a_split_takes(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.csv", frame())
    records = load_table(path, "kind")
    assert isinstance(records, Records)
    assert len(records.take(np.array([0, 2]))) == 2
