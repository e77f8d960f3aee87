"""scikit-learn's network, as attacks and defenses train it."""

from __future__ import annotations

import warnings
from typing import Any

from numpy.typing import NDArray
from sklearn.neural_network import MLPClassifier
from typing_extensions import Self

_INTERRUPTED = "Training interrupted by user"


class Network(MLPClassifier):
    """``MLPClassifier``, whose training an interruption ends with KeyboardInterrupt.

    Its base takes an interruption for the wish to stop early and only warns: a network that is half
    trained would pass for a whole one.
    """

    def fit(self, X: NDArray[Any], y: NDArray[Any]) -> Self:
        """Train on X [n, d] and y [n]."""
        with warnings.catch_warnings():
            warnings.filterwarnings("error", _INTERRUPTED)
            try:
                super().fit(X, y)
            except UserWarning as warning:
                if not str(warning).startswith(_INTERRUPTED):
                    raise
                raise KeyboardInterrupt from None
        return self
