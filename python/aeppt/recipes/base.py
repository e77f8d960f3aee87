"""What a recipe is: a way to train a classifier so that it leaks less of its training set.

Each recipe is a frozen dataclass of its method's parameters. An output defense such as AEPPT can
stand behind any of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn

from aeppt.data.records import Records
from aeppt.models.training import Architecture, OnEpoch


class Recipe(ABC):
    """A way to train a classifier."""

    #: Whether ``reference`` must be given.
    needs_reference: ClassVar[bool] = False

    @abstractmethod
    def train(
        self,
        architecture: Architecture,
        records: Records,
        epochs: int,
        random_state: int,
        reference: Records | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> nn.Module:
        """Train a classifier on ``records``.

        Parameters
        ----------
        architecture : callable
            Makes a new, untrained classifier: inputs [b, ...] to logits [b, k].
        records : Records
            The training set: its records are the members.
        epochs : int
            Passes over the training set; where several classifiers are trained, of each.
        random_state : int
            Seed of the initial parameters, of the order of batches and of all else that is drawn.
        reference : Records or None
            Records that are not members, from the same source, for recipes that need them.
        on_epoch : callable or None
            Called with the number of epochs done, for progress.

        Returns
        -------
        nn.Module
            In eval mode; inputs [b, ...] to logits [b, k].

        Raises
        ------
        ValueError
            A parameter is out of its range, or ``reference`` is missing or too small.
        """
