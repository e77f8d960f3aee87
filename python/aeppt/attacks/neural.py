"""A neural network on sorted predictions, trained on a shadow model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from aeppt.attacks.base import Attack
from aeppt.predictions import Predictions


class NeuralNetworkAttack(Attack):
    """Shokri et al. 2017 (IEEE S&P), with one network for all classes on the sorted probabilities.

    That is attack 1 of ML-Leaks (Salem et al. 2019, NDSS), which found it as good as one network
    per class, here on all probabilities instead of the top three.

    Parameters
    ----------
    hidden : tuple of int
        Widths of the hidden layers.
    random_state : int
    """

    name = "neural network"

    def __init__(self, hidden: tuple[int, ...] = (64,), random_state: int = 0) -> None:
        self.hidden = hidden
        self.random_state = random_state

    def run(self, shadow: Predictions, targets: Sequence[Predictions]) -> list[NDArray[np.float64]]:
        """The network's logit of "member"."""
        network = make_pipeline(
            StandardScaler(),
            MLPClassifier(self.hidden, max_iter=300, random_state=self.random_state),
        )
        with warnings.catch_warnings():  # a fixed number of epochs is the choice here
            warnings.simplefilter("ignore", ConvergenceWarning)
            network.fit(_descending(shadow.probs), shadow.is_member)
        smallest = np.finfo(np.float64).eps
        scores = []
        for target in targets:
            chance = network.predict_proba(_descending(target.probs))[:, 1].astype(np.float64)
            scores.append(logit(chance.clip(smallest, 1 - smallest)))
        return scores


def _descending(probs: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.sort(probs, axis=1)[:, ::-1]
