"""Models of many labels at once, each yes or no, behind a defense of two-class rows.

Each output p of such a model is a prediction of its own, the row [1 - p, p]; one defense, fitted on
all of them, protects each alone.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aeppt.defenses import OutputDefense
from aeppt.models.protected import ServedModel, floating_dtype, log_keeping_labels

Array = TypeVar("Array", NDArray[np.floating], Tensor)


def two_class_rows(probs: Array) -> Array:
    """Each output of a multi-label model as a row of two classes, "no" and "yes".

    Parameters
    ----------
    probs : ndarray or Tensor [n, m], float32 or float64
        Sigmoid outputs.

    Returns
    -------
    ndarray or Tensor [n·m, 2]
        The rows [1 - p, p], those of the first record first. The label is "yes" where p > 0.5, and
        "no" at exactly 0.5, since the first of equal classes is the label.

    Examples
    --------
    >>> import numpy as np
    >>> from aeppt import AEPPT
    >>> rng = np.random.default_rng(0)
    >>> probs, is_member = rng.beta(0.3, 0.3, (100, 4)), np.arange(100) < 50
    >>> defense = AEPPT(hidden=(8,)).fit(two_class_rows(probs), is_member.repeat(4))
    """
    flat = probs.reshape(-1)
    if isinstance(flat, Tensor):
        return torch.stack([1 - flat, flat], dim=1)
    return np.stack([1 - flat, flat], axis=1)


def check_two_classes(defense: OutputDefense) -> None:
    """Refuse a defense that was not fitted on two-class rows."""
    if defense.n_features_in_ != 2:
        raise ValueError(
            "a multi-label model needs a defense fitted on two_class_rows(probs); this one was "
            f"fitted on {defense.n_features_in_} classes"
        )


def protected_sigmoid(logits: Tensor, defense: nn.Module) -> Tensor:
    """Protected outputs [n, m] for ``logits`` [n, m], each above 0.5 where it was before.

    Raises
    ------
    ValueError
        ``logits`` are not [n, m], or one is not a number.
    """
    if logits.ndim != 2:
        raise ValueError(f"the model must return logits [n, m], got {list(logits.shape)}")
    # Not torch.sigmoid, which rounds an entry by where it lies in memory.
    both = torch.stack([torch.zeros_like(logits), logits], dim=2)
    probs = both.softmax(dim=2, dtype=floating_dtype(logits))[..., 1]
    protected = defense(two_class_rows(probs))[:, 1].reshape(probs.shape)
    half = torch.full_like(protected, 0.5)
    above = torch.nextafter(half, torch.ones_like(half))
    return torch.where(probs > 0.5, protected.maximum(above), protected.minimum(half))


def log_odds(probs: Tensor) -> Tensor:
    """Finite log-odds, positive where ``probs`` [n, m] exceed 0.5 and negative elsewhere."""
    no, yes = log_keeping_labels(two_class_rows(probs)).unbind(dim=1)
    return (yes - no).reshape(probs.shape)


class ProtectedMultiLabel(ServedModel):
    """A torch model of many yes-or-no labels behind a defense: inputs in, protected log-odds out.

    The model's sigmoid outputs are protected one by one; which of them exceed 0.5 stays. What the
    labels of one record tell together is not hidden.

    Parameters
    ----------
    model : torch.nn.Module
        Returns logits [n, m], one for each label, to be taken through a sigmoid.
    defense : OutputDefense
        Fitted on :func:`two_class_rows` of the model's outputs.

    Raises
    ------
    ValueError
        The defense was fitted on another number of classes than two.
    sklearn.exceptions.NotFittedError
        The defense was not fitted.
    """

    def __init__(self, model: nn.Module, defense: OutputDefense) -> None:
        super().__init__(model, defense)
        check_two_classes(defense)

    def predict_proba(self, inputs: Tensor) -> Tensor:
        """Protected outputs [n, m] in [0, 1], float32 (float64 where the logits are)."""
        with torch.no_grad():
            return protected_sigmoid(self.model(inputs), self.defense)

    def forward(self, inputs: Tensor) -> Tensor:
        """Protected log-odds [n, m], positive exactly where the model says yes."""
        return log_odds(self.predict_proba(inputs))
