"""What a recipe is: a way to train a classifier so that it leaks less of its training set.

Each recipe is a frozen dataclass of its method's parameters. An output defense such as AEPPT can
stand behind any of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from aeppt.data.records import Records
from aeppt.models.training import Architecture, BatchLoss, OnEpoch, new_model, train


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

    def checked_reference(self, reference: Records | None) -> Records:
        """``reference``, for a recipe that needs it; ValueError where it is missing or empty."""
        if reference is None or len(reference) == 0:
            raise ValueError(
                f"{type(self).__name__} needs reference, got none; give records from the source of "
                "the training set that are not in it"
            )
        return reference


class LossRecipe(Recipe):
    """A recipe that changes the loss and nothing else."""

    @abstractmethod
    def make_loss(
        self, records: Records, reference: Records | None, random_state: int
    ) -> BatchLoss:
        """The loss of one training: called for each batch in turn, so it may keep state."""

    def train(
        self,
        architecture: Architecture,
        records: Records,
        epochs: int,
        random_state: int,
        reference: Records | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> nn.Module:
        """See :meth:`Recipe.train`."""
        loss = self.make_loss(records, reference, random_state)
        model = new_model(architecture, random_state)
        return train(model, records, epochs, random_state, batch_loss=loss, on_epoch=on_epoch)


def served(model: nn.Module, inputs: Tensor) -> Tensor:
    """What a model in training would answer in service: probabilities [b, k], in eval mode."""
    model.eval()
    probs: Tensor = model(inputs).softmax(dim=1)
    model.train()
    return probs
