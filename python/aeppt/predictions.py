"""Predictions of a classifier, with the truth that an evaluation needs beside them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from aeppt_ext import reference


@dataclass(frozen=True)
class Predictions:
    """What a model says of some records, their true labels, and whether it was trained on them.

    Parameters
    ----------
    probs : array [n, k], float32 or float64
        Probability vectors. Integers and other floats are refused, not converted.
    labels : array [n], integer
        True classes, 0 to k - 1.
    is_member : array [n], bool or 0/1
        Whether the record was in the training set.

    Raises
    ------
    ValueError
        The shapes do not fit, a row of ``probs`` is not a probability vector, a label is not a
        class, or ``is_member`` holds something else than 0 and 1; the message names the row.
    TypeError
        ``probs`` is not float32 or float64.
    """

    probs: NDArray[np.floating]
    labels: NDArray[np.int64]
    is_member: NDArray[np.bool_]

    def __post_init__(self) -> None:
        probs = checked_probs(self.probs)
        n, k = probs.shape
        labels = _column(self.labels, "labels", n)
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"labels must be integers, got {labels.dtype}")
        wrong = np.flatnonzero((labels < 0) | (labels >= k))
        if len(wrong):
            raise ValueError(
                f"labels row {wrong[0]} is {labels[wrong[0]]}, but the classes are 0 to {k - 1}"
            )
        object.__setattr__(self, "probs", probs)
        object.__setattr__(self, "labels", labels.astype(np.int64))
        object.__setattr__(self, "is_member", checked_membership(self.is_member, n))

    def __len__(self) -> int:
        return len(self.probs)

    @property
    def n_classes(self) -> int:
        """The number of classes, k."""
        return int(self.probs.shape[1])

    @property
    def is_correct(self) -> NDArray[np.bool_]:
        """Whether the predicted label (the first arg-max) is the true one, per row [n]."""
        correct: NDArray[np.bool_] = self.probs.argmax(1) == self.labels
        return correct

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Predictions:
        """The predictions at ``rows``: places, or whether each is taken."""
        return Predictions(self.probs[rows], self.labels[rows], self.is_member[rows])

    def with_probs(self, probs: NDArray[np.floating]) -> Predictions:
        """The same records with other probability vectors."""
        return Predictions(probs, self.labels, self.is_member)


def checked_probs(probs: ArrayLike) -> NDArray[np.floating]:
    """``probs`` as an array [n, k], or an error that names the first bad row."""
    array = np.asarray(probs)
    if array.ndim != 2 or array.shape[1] < 2:
        raise ValueError(f"probs must be [n, k] with at least 2 classes, got {array.shape}")
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"probs must be float32 or float64, got {array.dtype}")
    check_rows(torch.from_numpy(np.ascontiguousarray(array)))
    return array


def check_rows(probs: Tensor) -> None:
    """Raise ValueError, naming the row, where one of ``probs`` [n, k] is no distribution."""
    wrong = (~reference.is_distribution(probs)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(reference.invalid_row_message(probs, row, mend="mend or remove the row"))


def checked_membership(is_member: ArrayLike, n: int) -> NDArray[np.bool_]:
    """``is_member`` as a bool array [n], or an error that names the first bad row."""
    column = _column(is_member, "is_member", n)
    wrong = np.flatnonzero((column != 0) & (column != 1))
    if len(wrong):
        raise ValueError(f"is_member row {wrong[0]} is {column[wrong[0]]!r}, must be 0 or 1")
    return column.astype(bool)


def _column(values: ArrayLike, name: str, n: int) -> NDArray:
    column = np.asarray(values)
    if column.shape != (n,):
        raise ValueError(f"{name} must be [{n}], one per row of probs, got {column.shape}")
    return column
