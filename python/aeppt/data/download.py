"""Files of data sets: local ones, or downloaded once, checked, and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from http.client import HTTPException
from pathlib import Path, PurePath

from aeppt.files import temporary_beside

TIMEOUT = 60.0  # seconds without a byte
CHUNK_BYTES = 1 << 20


def data_file(
    source: str | Path,
    title: str,
    keep_as: str,
    sha256: str | None = None,
    cache: str | Path | None = None,
) -> Path:
    """The file at ``source``, downloaded first where that is a URL, with the checksum expected.

    A download appears complete and checked, or not at all.

    Parameters
    ----------
    source : path or URL
    title : str
        What the file is, for messages.
    keep_as : str
        Its name in the user's cache. Where there is no checksum, a digest of the URL is added to
        it, for nothing else would tell one file from another.
    sha256 : str or None
        The checksum in hexadecimal digits; None accepts any file.
    cache : path or None
        Where a download is kept instead.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The checksum differs, or ``source`` is a folder.
    OSError
        The download failed or broke off.
    """
    if sha256 is not None and len(sha256) != hashlib.sha256().digest_size * 2:
        raise ValueError(f"sha256 must be 64 hexadecimal digits, got {sha256!r}")
    mend = ""
    if not str(source).startswith(("http://", "https://")):
        path = Path(source)
    else:
        mend = "; remove it to download it again"
        url, name = str(source), PurePath(keep_as)
        if sha256 is None:
            digest = hashlib.sha256(url.encode()).hexdigest()
            name = name.with_stem(f"{name.stem}-{digest[:12]}")
        path = Path(cache) if cache is not None else user_cache() / name
        if not path.exists():
            _download(url, path, title, sha256)
            return path
    if path.is_dir():
        raise ValueError(f"{path} is a folder; {title} is read from one file")
    if not path.is_file():
        raise FileNotFoundError(f"{title} is not at {path}")
    if sha256 is not None:
        digests = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digests.update(chunk)
        _check(digests.hexdigest(), sha256, str(path), title, mend)
    return path


def user_cache() -> Path:
    """The folder for downloads of this package."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "aeppt"


def _download(url: str, path: Path, title: str, sha256: str | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, received = hashlib.sha256(), 0
    with temporary_beside(path) as temporary:
        try:
            with (
                urllib.request.urlopen(url, timeout=TIMEOUT) as response,
                temporary.open("wb") as file,
            ):
                announced = response.headers.get("Content-Length")
                while chunk := response.read(CHUNK_BYTES):
                    digest.update(chunk)
                    received += file.write(chunk)
        except (OSError, HTTPException) as error:
            raise OSError(f"cannot download {title} from {url}: {error}") from error
        # urllib takes a connection that was cut for the end of the file.
        if announced is not None and received != int(announced):
            raise OSError(
                f"cannot download {title} from {url}: it broke off after {received:,} of "
                f"{int(announced):,} bytes"
            )
        if sha256 is not None:
            _check(digest.hexdigest(), sha256, url, title)


def _check(found: str, expected: str, where: str, title: str, mend: str = "") -> None:
    if found != expected.lower():
        raise ValueError(
            f"{where} is not {title}: its SHA-256 is {found}, expected {expected}{mend}"
        )
