"""Attacks by neural networks that are trained on a shadow model's predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from aeppt.attacks.base import Attack
from aeppt.attacks.learned import (
    BoostedTreesAttack,
    LearnedAttack,
    descending,
    evidence,
    fit_quietly,
    one_hot,
)
from aeppt.networks import Network
from aeppt.predictions import Predictions


class NeuralNetworkAttack(LearnedAttack):
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

    def features(self, predictions: Predictions) -> NDArray[np.floating]:
        """The probabilities in descending order, [n, k]."""
        return descending(predictions.probs)

    def classifier(self) -> Any:
        """The network on standardised features."""
        return make_pipeline(
            StandardScaler(),
            Network(self.hidden, max_iter=300, random_state=self.random_state),
        )


class PerClassNetworkAttack(NeuralNetworkAttack):
    """Shokri et al. 2017 (IEEE S&P), section V: a network for each true class, on the vector.

    A class with fewer than :attr:`fewest` shadow members or non-members is left to a network of all
    classes.

    Parameters
    ----------
    hidden : tuple of int
        Widths of each network's hidden layers.
    random_state : int
    """

    name = "neural network per class"
    fewest = 10

    def features(self, predictions: Predictions) -> NDArray[np.floating]:
        """The probabilities in the order of the classes, [n, k]."""
        return predictions.probs

    def run(self, shadow: Predictions, targets: Sequence[Predictions]) -> list[NDArray[np.float64]]:
        """The log-odds of "member" by the network of the record's true class."""
        scores = super().run(shadow, targets)
        for label in range(shadow.n_classes):
            lesson = shadow.take(shadow.labels == label)
            sides = np.bincount(lesson.is_member, minlength=2)
            asked = [i for i, target in enumerate(targets) if (target.labels == label).any()]
            if asked and sides.min() >= self.fewest:
                own = super().run(
                    lesson, [targets[i].take(targets[i].labels == label) for i in asked]
                )
                for i, score in zip(asked, own, strict=True):
                    scores[i][targets[i].labels == label] = score
        return scores


class TopThreeAttack(NeuralNetworkAttack):
    """ML-Leaks, adversary 1 (Salem et al. 2019, NDSS, section III): the three greatest, sorted.

    Parameters
    ----------
    hidden : tuple of int
        Widths of the hidden layers.
    random_state : int
    """

    name = "top three (ML-Leaks 1)"

    def features(self, predictions: Predictions) -> NDArray[np.floating]:
        """The three greatest probabilities, [n, 3]; of two classes, the third is zero."""
        top = descending(predictions.probs)[:, :3]
        return np.pad(top, [(0, 0), (0, 3 - top.shape[1])])


class DataTransferAttack(TopThreeAttack):
    """ML-Leaks, adversary 2 (Salem et al. 2019, NDSS, section IV): learns on another data set.

    The shadow predictions of the call are not looked at: this attacker has no data like the
    target's. One who knows the target's defense applies it to ``source``.

    Parameters
    ----------
    source : Predictions
        Of a model for another task, of any number of classes, with members and non-members.
    hidden : tuple of int
        Widths of the hidden layers.
    random_state : int

    Raises
    ------
    ValueError
        The records of ``source`` are all members or all not.
    """

    name = "data transfer (ML-Leaks 2)"

    def __init__(
        self, source: Predictions, hidden: tuple[int, ...] = (64,), random_state: int = 0
    ) -> None:
        if source.is_member.all() or not source.is_member.any():
            raise ValueError("the source predictions need members and non-members")
        super().__init__(hidden, random_state)
        self.source = source

    def run(self, shadow: Predictions, targets: Sequence[Predictions]) -> list[NDArray[np.float64]]:
        """The log-odds of "member" by the network that learned on the other data set."""
        return super().run(self.source, targets)


class VectorAndLabelNetworkAttack(NeuralNetworkAttack):
    """Nasr et al. 2018 (ACM CCS), section 3: a network on the vector and the one-hot label.

    Theirs reads the two in branches of their own before it joins them; here one network reads both.

    Parameters
    ----------
    hidden : tuple of int
        Widths of the hidden layers.
    random_state : int
    """

    name = "network on vector and label"

    def __init__(self, hidden: tuple[int, ...] = (128, 64), random_state: int = 0) -> None:
        super().__init__(hidden, random_state)

    def features(self, predictions: Predictions) -> NDArray[np.floating]:
        """The vector and the one-hot label, [n, 2 k]."""
        label = one_hot(predictions.labels, predictions.n_classes)
        return np.column_stack([predictions.probs, label])


class BorderAttack(Attack):
    """Finds the rows that a defense put near the border of its substitute.

    A search that ends when the substitute is misled leaves its rows just beyond the border. This
    attacker trains a substitute on half of the shadow predictions. How far the other half is from
    its border, and on which side, teaches boosted trees which distances are members'. The halves
    are apart because a network's distances to what it was trained on are not those to new rows.

    Parameters
    ----------
    hidden : tuple of int
        Widths of the substitute's hidden layers.
    random_state : int
    """

    name = "distance to the border"

    def __init__(self, hidden: tuple[int, ...] = (64,), random_state: int = 0) -> None:
        self.hidden = hidden
        self.random_state = random_state

    def run(self, shadow: Predictions, targets: Sequence[Predictions]) -> list[NDArray[np.float64]]:
        """The trees' log-odds of "member"."""
        sides = np.bincount(shadow.is_member, minlength=2)
        if sides.min() < 2:
            raise ValueError(
                f"the attack {self.name!r} needs 2 shadow members and 2 non-members, got "
                f"{sides[1]} and {sides[0]}"
            )
        first, second = train_test_split(
            np.arange(len(shadow)),
            test_size=0.5,
            stratify=shadow.is_member,
            random_state=self.random_state,
        )
        # As in AEPPT: no standardisation and much weight decay, for a border that others share.
        substitute = Network(self.hidden, alpha=0.1, max_iter=100, random_state=self.random_state)
        fit_quietly(substitute, descending(shadow.probs[first]), shadow.is_member[first])

        def distances(probs: NDArray[np.floating]) -> NDArray[np.float64]:
            scores = evidence(substitute, descending(probs), 0.5)
            return np.column_stack([np.abs(scores), scores > 0])

        trees = BoostedTreesAttack(self.random_state).classifier()
        trees.fit(distances(shadow.probs[second]), shadow.is_member[second])
        return [evidence(trees, distances(target.probs), 0.5) for target in targets]
