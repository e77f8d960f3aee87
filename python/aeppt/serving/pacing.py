"""When an answer leaves, so that the time it took tells nothing of its rows.

A search that takes the same number of steps for every row still sorts some rows faster than others,
and whoever sends many copies of one row can hear that. So each answer is held until a time is over
that depends on the number of rows alone, and is twice what the slowest rows needed at the start.
"""

from __future__ import annotations

import asyncio
import math
import time

import numpy as np

from aeppt.defenses import OutputDefense

SLACK = 2.0  # how many times as long as measured an answer is held
MANY = 64  # rows, to tell the time of a call from the time of a row
SLEEP_ERROR = 0.002  # seconds by which an event loop may sleep too long


class Pace:
    """Holds answers back.

    Parameters
    ----------
    per_call, per_row : float
        Seconds that a protection is given.
    """

    def __init__(self, per_call: float, per_row: float) -> None:
        self.per_call = per_call
        self.per_row = per_row

    @classmethod
    def of(cls, defense: OutputDefense) -> Pace:
        """The pace that a defense can keep on this machine, measured on rows of all kinds."""
        generator = np.random.default_rng(0)
        k = defense.n_features_in_
        sharpness = np.geomspace(0.01, 100, MANY)
        rows = np.stack([generator.dirichlet(np.full(k, each)) for each in sharpness])
        rows = np.maximum(rows, 1e-30)
        rows /= rows.sum(axis=1, keepdims=True)
        defense.protect(rows)  # the first call of all is slow
        slowest = max(_seconds(defense, row[None]) for row in rows)
        together = max(_seconds(defense, np.repeat(row[None], MANY, axis=0)) for row in rows[::8])
        return cls(SLACK * slowest, SLACK * together / MANY)

    async def hold(self, started: float, rows: int) -> None:
        """Return when the time of ``rows`` rows is over since ``started``, by `perf_counter`.

        Where that is over already, the next multiple of it counts.
        """
        allotted = self.per_call + self.per_row * rows
        end = started + allotted * math.ceil((time.perf_counter() - started) / allotted)
        # A timer rounds up, and would carry what it is to hide: the last moments are waited out.
        await asyncio.sleep(max(0.0, end - time.perf_counter() - SLEEP_ERROR))
        while time.perf_counter() < end:
            await asyncio.sleep(0)


def _seconds(defense: OutputDefense, rows: np.ndarray) -> float:
    """What protecting some rows takes, undisturbed."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        defense.protect(rows)
        times.append(time.perf_counter() - started)
    return min(times)
