"""Labelled records, and their division among the parties of a membership inference experiment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Records:
    """Features [n, d] float32 and labels [n] int64, 0 to ``n_classes`` - 1."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    n_classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> Records:
        """The records at ``rows``."""
        return Records(self.features[rows], self.labels[rows], self.n_classes)


def join_records(*parts: Records) -> Records:
    """The records of all parts, in order."""
    return Records(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.labels for part in parts]),
        max(part.n_classes for part in parts),
    )


@dataclass(frozen=True)
class Split:
    """Who has which records; no record has two roles.

    The target model trains on ``members``. Its defender knows them, and ``known_non_members``.
    ``fresh_non_members`` stand for the records that strangers ask about. The attacker trains a
    shadow model on ``shadow_members`` and knows that ``shadow_non_members`` are none. Ways of
    training that need more records than the members have ``reference`` for it, and the attacker
    ``shadow_reference``.
    """

    members: Records
    known_non_members: Records
    fresh_non_members: Records
    shadow_members: Records
    shadow_non_members: Records
    reference: Records
    shadow_reference: Records


def split_records(
    records: Records, members: int, shadow_members: int, random_state: int, reference: int = 0
) -> Split:
    """Shuffle, then deal: ``members`` records to each of the target's three parts.

    The shadow's two parts get ``shadow_members`` records each, the two reference sets ``reference``
    each, which leaves the others' parts as they are without it.

    Raises
    ------
    ValueError
        There are too few records.
    """
    sizes = [members] * 3 + [shadow_members] * 2 + [reference] * 2
    if sum(sizes) > len(records):
        raise ValueError(f"the split needs {sum(sizes)} records, there are {len(records)}")
    order = np.random.default_rng(random_state).permutation(len(records))
    ends = np.cumsum(sizes)
    return Split(
        *(records.take(order[end - size : end]) for size, end in zip(sizes, ends, strict=True))
    )
