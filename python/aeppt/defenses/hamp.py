"""HAMP's output modification: every row takes the values of a prediction on a random input."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from typing_extensions import Self

from aeppt.defenses.base import OutputDefense, as_array, checked_fit
from aeppt.defenses.keyed_random import keyed_uniforms, new_key
from aeppt.defenses.rows import RowModule
from aeppt.predictions import checked_probs


class HAMPOutput(OutputDefense):
    """The testing-time half of HAMP (Chen & Pattabiraman, NDSS 2024, arXiv 2307.01610).

    The values of a row are replaced by those of the model's prediction on a random input, sorted
    into the row's own order: label and ranks stay, and nothing else. HAMP's other half is a way of
    training; without it the model may be sure of random inputs too.

    The paper makes a new random input for each query. Here the random inputs' predictions are a
    pool, given to ``fit``, and a keyed hash of the row (``aeppt.defenses.keyed_random``) chooses
    one, so that asking again gives the same answer.

    Parameters
    ----------
    random_state : int or None
        Seed of the key. Keep it secret: whoever knows it knows the choice. None draws a fresh
        secret key.
    """

    def __init__(self, random_state: int | None = None) -> None:
        self.random_state = random_state

    def fit(
        self, probs: ArrayLike, is_member: ArrayLike, random_probs: ArrayLike | None = None
    ) -> Self:
        """Take the pool of values.

        Parameters
        ----------
        probs : array [n, k], float32 or float64
            The model's predictions on records of its training set and on records outside it.
            Tensors are read as arrays.
        is_member : array [n], bool or 0/1
        random_probs : array [m, k], float32 or float64, or None
            The model's predictions on random inputs (uniform noise for images, random bits for
            binary features). With None the pool is the known non-members' rows. That is a stand-in
            of this library, for where the model is not at hand: those rows are surer than
            predictions on random inputs should be.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            A row or a shape is not valid, or one of the two sides or the pool is empty.
        TypeError
            ``probs`` or ``random_probs`` is neither float32 nor float64, or ``random_state`` is no
            integer.
        """
        rows, membership = checked_fit(probs, is_member)
        if random_probs is None:
            pool = rows[~membership]
        else:
            pool = _checked_pool(random_probs, rows.shape[1])
        descending = np.sort(pool, axis=1)[:, ::-1].copy()
        learned = {"key": new_key(self.random_state), "pool": torch.from_numpy(descending)}
        return self._keep(rows, learned)

    def build_module(self, tensors: dict[str, Tensor]) -> BorrowedValues:
        """The rule with its pool and key (see :meth:`OutputDefense.build_module`)."""
        return BorrowedValues(tensors["pool"], tensors["key"])


class BorrowedValues(RowModule):
    """Values of a row of ``pool`` [m, k], each row in descending order, in each row's own order."""

    pool: Tensor
    key: Tensor

    def __init__(self, pool: Tensor, key: Tensor) -> None:
        super().__init__()
        self.register_buffer("pool", pool)
        self.register_buffer("key", key)

    def change(self, probs: Tensor) -> Tensor:
        """See :meth:`RowModule.change`."""
        chosen = (keyed_uniforms(self.key, probs, 1)[:, 0] * len(self.pool)).long()
        order = probs.argsort(dim=1, descending=True, stable=True)
        values = self.pool[chosen].double()
        return torch.zeros_like(values).scatter(1, order, values)


def _checked_pool(random_probs: ArrayLike, k: int) -> NDArray[np.floating]:
    try:
        pool = checked_probs(as_array(random_probs))
    except (TypeError, ValueError) as error:
        raise type(error)(f"random_probs: {error}") from error
    if len(pool) == 0 or pool.shape[1] != k:
        raise ValueError(f"random_probs must be [m, {k}] with m at least 1, got {list(pool.shape)}")
    return pool
