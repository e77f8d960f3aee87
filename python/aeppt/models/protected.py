"""Torch models and functions whose predictions leave only through a defense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from typing_extensions import Self

from aeppt.defenses import OutputDefense
from aeppt.defenses.base import protect_strictly


def protected_soft_max(logits: Tensor, defense: nn.Module, n_classes: int) -> Tensor:
    """Protected probabilities [n, k] for ``logits`` [n, k], in float32 (float64 if they are).

    Raises
    ------
    ValueError
        ``logits`` are not [n, ``n_classes``], or a row is not finite.
    """
    if logits.ndim != 2 or logits.shape[1] != n_classes:
        raise ValueError(
            f"the model must return logits [n, {n_classes}], as the defense was "
            f"fitted on {n_classes} classes; got {list(logits.shape)}"
        )
    protected: Tensor = defense(torch.softmax(logits, dim=1, dtype=floating_dtype(logits)))
    return protected


def floating_dtype(logits: Tensor) -> torch.dtype:
    """What a defense computes in for such logits: float64 for float64, else float32."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def log_keeping_labels(probs: Tensor) -> Tensor:
    """Finite logarithms of probability rows [n, k], the first arg-max of each row kept."""
    # A zero would become minus infinity, which the usual losses cannot take.
    logs = probs.clamp_min(torch.finfo(probs.dtype).tiny).log()
    # The logarithm rounds neighbouring probabilities to one value; the label stays ahead.
    label = probs.argmax(dim=1, keepdim=True)
    others = logs.scatter(1, label, -torch.inf).amax(dim=1, keepdim=True)
    ahead = torch.nextafter(others, torch.full_like(others, torch.inf))
    return logs.scatter(1, label, torch.maximum(logs.gather(1, label), ahead))


def top_k(probs: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` greatest entries of each row [n, k] and their classes [n, k], greatest first.

    Of equal entries the lower class comes first, on every device and in any batch, so the first
    class is the label. Take them of protected rows: a defense needs the whole vector, and behind a
    server that returns only the best few there is nothing that it could protect.

    Raises
    ------
    ValueError
        ``k`` is below one, or above the number of classes.
    """
    if not 1 <= k <= probs.shape[1]:
        raise ValueError(f"k must be in [1, {probs.shape[1]}], the number of classes; got {k}")
    values, classes = probs.sort(dim=1, descending=True, stable=True)
    return values[:, :k], classes[:, :k]


class ServedModel(nn.Module):
    """A trained torch model and a fitted defense; it stays in eval mode."""

    def __init__(self, model: nn.Module, defense: OutputDefense) -> None:
        super().__init__()
        check_is_fitted(defense, "module_")
        self.model = model
        self.defense = defense.module_
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: what is served is a trained model."""
        return super().train(False)


class ProtectedModel(ServedModel):
    """A torch classifier behind a defense: inputs in, protected log-probabilities out.

    Works with any module that returns logits [n, k]: plain, scripted or compiled, on any device,
    also under autocast (soft-max and defense run in float32 then). The model itself is not
    touched; it is put in eval mode, and gradients do not pass the defense.

    Parameters
    ----------
    model : torch.nn.Module
        Returns logits [n, k], k as the defense was fitted on.
    defense : OutputDefense
        A fitted defense.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        The defense was not fitted.
    """

    def __init__(self, model: nn.Module, defense: OutputDefense) -> None:
        super().__init__(model, defense)
        self.n_classes = defense.n_features_in_

    def predict_proba(self, inputs: Tensor) -> Tensor:
        """Protected probabilities [n, k], float32 (float64 where the logits are)."""
        with torch.no_grad():
            return protected_soft_max(self.model(inputs), self.defense, self.n_classes)

    def top_k(self, inputs: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The ``k`` greatest protected probabilities of each input and their classes, both [n, k].

        See :func:`top_k` for ties.
        """
        return top_k(self.predict_proba(inputs), k)

    def forward(self, inputs: Tensor) -> Tensor:
        """Protected log-probabilities [n, k]; their arg-max is the model's."""
        return log_keeping_labels(self.predict_proba(inputs))


class ProtectedFunction:
    """Any callable that returns probability vectors as a NumPy array [n, k], behind a defense."""

    def __init__(
        self, function: Callable[..., NDArray[np.floating]], defense: OutputDefense
    ) -> None:
        check_is_fitted(defense, "module_")
        self.function = function
        self.defense = defense

    def __call__(self, *args: Any, **kwargs: Any) -> NDArray[np.floating]:
        """Call the function and return its protected answer [n, k].

        Raises
        ------
        ValueError
            A row is no probability vector; also where the defense would let it through.
        """
        return protect_strictly(self.defense, np.asarray(self.function(*args, **kwargs)))[0]
