"""When the machine itself was slow: ``Probe``, beside a benchmark of response times.

A virtual machine may be slowed by its host in ways that it is not told of, as when the host looks
through its memory: then a process that uses many pages takes several times as long, which counts
neither as waiting nor as stolen time. A process of its own touches a page each of 24 MiB every 10
ms; where that takes much longer than usual, so does all else.
"""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

PAGES, PAGE_BYTES = 6000, 4096
EVERY = 0.01  # seconds
SLOW = 2.5  # times the usual, which is the first fifth of all
AROUND = 0.06  # seconds before and after a slow probe that count as slow too


def _touch(pipe: Connection) -> None:
    """Until told to stop; sends [n, 2]: when, on ``perf_counter``, and seconds taken."""
    pages = np.ones((PAGES, PAGE_BYTES), np.uint8)
    found = []
    pipe.send(None)
    while not pipe.poll(EVERY):
        start = time.perf_counter()
        pages[:, 0] += 1
        found.append((start, time.perf_counter() - start))
    pipe.send(np.array(found))


class Probe:
    """Watches the machine while in the ``with`` block; afterwards says when it was slow."""

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_touch, args=(theirs,), daemon=True)
        self._process.start()
        self._pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(None)
        when, seconds = self._pipe.recv().T
        self._process.join()
        self._slow = when[seconds > SLOW * np.quantile(seconds, 0.2)]

    def was_slow(self, when: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether the machine was slow about each moment [n] of ``time.perf_counter``."""
        before = np.searchsorted(self._slow, when - AROUND, side="right")
        slow: NDArray[np.bool_] = np.searchsorted(self._slow, when + AROUND) > before
        return slow
