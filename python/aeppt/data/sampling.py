"""Which records of a data set are taken, where not all are."""

from __future__ import annotations

from numbers import Integral

import numpy as np
from numpy.typing import NDArray


def drawn_rows(available: int, count: int | None, random_state: int) -> NDArray[np.int64]:
    """``count`` of the rows 0 to ``available`` - 1 in random order; None takes all, in order.

    Raises
    ------
    ValueError
        ``count`` is not a whole number from 1 to ``available``.
    """
    if count is None:
        return np.arange(available)
    if not isinstance(count, Integral) or not 1 <= count <= available:
        raise ValueError(f"count must be a whole number from 1 to {available}, got {count!r}")
    return np.random.default_rng(random_state).permutation(available)[:count]
