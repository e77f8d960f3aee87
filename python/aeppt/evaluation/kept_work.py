"""Long work in pieces: done in parallel, each piece kept in a file, so that a later run goes on."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from joblib import Parallel, delayed  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from aeppt.files import write_atomically

#: Calls functions, in any order and maybe in other processes; yields what each returns once it has.
Execute = Callable[[Iterable[Callable[[], Any]]], Iterator[Any]]


@dataclass(frozen=True)
class Piece:
    """One piece of work and the file that keeps it.

    ``what`` names it in errors and progress. The file's name must tell everything that decides what
    ``make`` returns, by a :func:`aeppt.evaluation.fingerprint.fingerprint`. ``load`` raises
    ValueError where the file is damaged.
    """

    what: str
    file: Path
    make: Callable[[], Any]
    save: Callable[[Any, Path], None]
    load: Callable[[Path], Any]


def finish(
    pieces: Sequence[Piece], execute: Execute, on_finished: Callable[[str], None] | None = None
) -> None:
    """Make every piece that has no file yet, or a damaged one, and leave the others as they are.

    A piece is made on one thread, for which results are the same wherever that is; this process
    writes the files. An interruption stops the work and loses only pieces that were not finished.

    Parameters
    ----------
    pieces : sequence of Piece
    execute : callable
        Such as :func:`processes`.
    on_finished : callable or None
        Called with what was finished, in any order; also for pieces that were there.

    Raises
    ------
    ValueError
        A piece could not be made; the message names it and says why.
    """
    tell = on_finished or (lambda what: None)
    missing = []
    for piece in pieces:
        if _is_kept(piece):
            tell(piece.what)
        else:
            missing.append(piece)
    calls = [partial(_made, i, piece.what, piece.make) for i, piece in enumerate(missing)]
    for i, made in execute(calls):
        missing[i].save(made, missing[i].file)
        tell(missing[i].what)


def processes(workers: int) -> Execute:
    """Work in that many processes at once; one alone is this process."""

    def execute(calls: Iterable[Callable[[], Any]]) -> Iterator[Any]:
        parallel = Parallel(
            n_jobs=workers,
            backend="loky",
            return_as="generator_unordered",
            max_nbytes=None,
            # An interruption is this process's to heed; it then ends the others.
            initializer=signal.signal,
            initargs=(signal.SIGINT, signal.SIG_IGN),
        )
        yield from parallel(delayed(call)() for call in calls)

    return execute


def save_json(content: Any, path: Path) -> None:
    """Write plain values, with a digest; NaN stays NaN."""
    text = json.dumps({"sha256": _digest(content), "content": content})
    write_atomically(path, lambda file: file.write(text.encode()))


def load_json(path: Path) -> Any:
    """Read what :func:`save_json` wrote; ValueError where the file is damaged."""
    try:
        kept = json.loads(path.read_bytes())
        is_whole = kept["sha256"] == _digest(kept["content"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error
    if not is_whole:
        raise ValueError(f"{path} is damaged: its digest differs")
    return kept["content"]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _is_kept(piece: Piece) -> bool:
    if not piece.file.is_file():
        return False
    try:
        piece.load(piece.file)
    except ValueError as error:
        warnings.warn(f"{error}; it is made anew", stacklevel=3)
        return False
    return True


def _made(i: int, what: str, make: Callable[[], Any]) -> tuple[int, Any]:
    try:
        with _one_thread(), _interruptible():
            return i, make()
    except Exception as error:
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{what}: {said}") from error


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


class _Interruption(BaseException):
    """A KeyboardInterrupt under a name that nobody else catches."""


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let an interruption end the work inside at once.

    scikit-learn's networks take a KeyboardInterrupt for the wish to end their training early, and
    the result would be kept as if it were whole.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise _Interruption

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except _Interruption:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)
