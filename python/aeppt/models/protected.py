"""Models whose predictions leave only through a defense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from typing_extensions import Self

from aeppt.defenses import OutputDefense


def log_probabilities(probs: Tensor) -> Tensor:
    """Logarithms of probabilities [n, k], finite, with the same first arg-max in every row."""
    # A zero would become minus infinity, which the usual losses cannot take.
    logs = probs.clamp_min(torch.finfo(probs.dtype).tiny).log()
    # The logarithm rounds neighbouring probabilities to one value; the label stays ahead.
    label = probs.argmax(dim=1, keepdim=True)
    others = logs.scatter(1, label, -torch.inf).amax(dim=1, keepdim=True)
    ahead = torch.nextafter(others, torch.full_like(others, torch.inf))
    return logs.scatter(1, label, torch.maximum(logs.gather(1, label), ahead))


class ProtectedModel(nn.Module):
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
        super().__init__()
        check_is_fitted(defense, "module_")
        self.model = model
        self.defense = defense.module_
        self.n_classes = defense.n_features_in_
        self.eval()

    def train(self, mode: bool = True) -> ProtectedModel:
        """Stay in eval mode: what is served is a trained model."""
        super().train(False)
        return self

    def predict_proba(self, inputs: Tensor) -> Tensor:
        """Protected probabilities [n, k], float32 (float64 where the logits are)."""
        with torch.no_grad():
            logits = self.model(inputs)
            if logits.ndim != 2 or logits.shape[1] != self.n_classes:
                raise ValueError(
                    f"the model must return logits [n, {self.n_classes}], as the defense was "
                    f"fitted on {self.n_classes} classes; got {list(logits.shape)}"
                )
            dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
            probs = torch.softmax(logits, dim=1, dtype=dtype)
            protected: Tensor = self.defense(probs)
            return protected

    def forward(self, inputs: Tensor) -> Tensor:
        """Protected log-probabilities [n, k]; their arg-max is the model's."""
        return log_probabilities(self.predict_proba(inputs))


class ProtectedClassifier(ClassifierMixin, BaseEstimator):
    """A fitted scikit-learn classifier behind a defense.

    Parameters
    ----------
    estimator : classifier with ``predict_proba`` and ``classes_``
        Already fitted; it is not changed.
    defense : OutputDefense
        Fitted on the estimator's probabilities, columns in the order of ``classes_``.
    """

    def __init__(self, estimator: Any, defense: OutputDefense) -> None:
        self.estimator = estimator
        self.defense = defense

    def fit(self, X: Any, y: Any) -> Self:
        """Do nothing: the estimator and the defense are fitted already."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        try:
            check_is_fitted(self.estimator)
            check_is_fitted(self.defense, "module_")
        except NotFittedError:
            return False
        return True

    @property
    def classes_(self) -> NDArray:
        """The class labels, in the order of the probability columns."""
        classes: NDArray = self.estimator.classes_
        return classes

    def predict_proba(self, X: Any) -> NDArray[np.floating]:
        """Protected probabilities [n, k]."""
        return self.defense.protect(np.asarray(self.estimator.predict_proba(X)))

    def predict(self, X: Any) -> NDArray:
        """The estimator's labels [n]; the defense does not change them."""
        places = self.predict_proba(X).argmax(axis=1)
        labels: NDArray = self.classes_[places]
        return labels


class ProtectedFunction:
    """Any callable that returns probability vectors as a NumPy array [n, k], behind a defense."""

    def __init__(
        self, function: Callable[..., NDArray[np.floating]], defense: OutputDefense
    ) -> None:
        check_is_fitted(defense, "module_")
        self.function = function
        self.defense = defense

    def __call__(self, *args: Any, **kwargs: Any) -> NDArray[np.floating]:
        """Call the function and return its protected answer [n, k]."""
        return self.defense.protect(np.asarray(self.function(*args, **kwargs)))
