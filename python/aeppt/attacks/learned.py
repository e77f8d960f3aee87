"""Attacks by a classifier that learns on labelled shadow predictions to say "member"."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from aeppt.attacks.base import Attack
from aeppt.predictions import Predictions


class LearnedAttack(Attack):
    """Trains a classifier on the shadow's features and takes its evidence for "member" as score.

    Subclasses say what the classifier sees and which one it is.
    """

    @abstractmethod
    def features(self, predictions: Predictions) -> NDArray[np.floating]:
        """What the classifier sees of each record, [n, d]."""

    @abstractmethod
    def classifier(self) -> Any:
        """An unfitted scikit-learn classifier.

        Either it gives probabilities, or it has a decision function and weighs both sides equally.
        """

    def run(self, shadow: Predictions, targets: Sequence[Predictions]) -> list[NDArray[np.float64]]:
        """The evidence for "member", zero where both sides are equally likely."""
        classifier = self.classifier()
        fit_quietly(classifier, self.features(shadow), shadow.is_member)
        share = float(shadow.is_member.mean())
        return [evidence(classifier, self.features(target), share) for target in targets]


def fit_quietly(
    classifier: Any, features: NDArray[np.floating], is_member: NDArray[np.bool_]
) -> None:
    """Fit, without a warning where a network's number of epochs ends the training."""
    with warnings.catch_warnings():  # that number is a choice here, not a failure
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(features, is_member)


def evidence(
    classifier: Any, features: NDArray[np.floating], member_share: float
) -> NDArray[np.float64]:
    """What a fitted classifier says for "member", [n]: finite, zero where it cannot decide.

    That is its decision function if it has one. Else it is the log-odds of its probability, less
    those of ``member_share``, the share of members it was trained on: a classifier that saw more
    members than others starts out in their favor.
    """
    if hasattr(classifier, "decision_function"):
        decision: NDArray[np.float64] = classifier.decision_function(features)
        return decision
    smallest = np.finfo(np.float64).eps
    chance = classifier.predict_proba(features)[:, 1].astype(np.float64)
    log_odds: NDArray[np.float64] = logit(chance.clip(smallest, 1 - smallest))
    return log_odds - float(logit(member_share))


def one_hot(classes: NDArray[np.int64], n_classes: int) -> NDArray[np.float64]:
    """Classes [n] as rows [n, k] with a one at the class."""
    rows: NDArray[np.float64] = np.eye(n_classes)[classes]
    return rows


def descending(probs: NDArray[np.floating]) -> NDArray[np.floating]:
    """Each row of ``probs`` [n, k] in descending order."""
    return np.sort(probs, axis=1)[:, ::-1]


class LabelledPredictionAttack(LearnedAttack):
    """Shows its classifier all that a prediction and its true label hold.

    These are the vector in the order of the classes, the label (one-hot), the probability of the
    label, and whether it is the predicted one.
    """

    def features(self, predictions: Predictions) -> NDArray[np.float64]:
        """Vector, one-hot label, probability of the label, correctness: [n, 2 k + 2]."""
        rows = np.arange(len(predictions))
        return np.column_stack(
            [
                predictions.probs,
                one_hot(predictions.labels, predictions.n_classes),
                predictions.probs[rows, predictions.labels],
                predictions.is_correct,
            ]
        )


class BoostedTreesAttack(LabelledPredictionAttack):
    """Gradient-boosted trees, which need no scaling and find borders and bands of any place.

    The learner is LightGBM's (Ke et al. 2017, NeurIPS) in scikit-learn's version.

    Parameters
    ----------
    random_state : int
    """

    name = "boosted trees"

    def __init__(self, random_state: int = 0) -> None:
        self.random_state = random_state

    def classifier(self) -> HistGradientBoostingClassifier:
        """The trees, which weigh members and non-members equally."""
        return HistGradientBoostingClassifier(
            class_weight="balanced", random_state=self.random_state
        )


class UnlabelledTreesAttack(BoostedTreesAttack):
    """Boosted trees for an attacker who does not know the true label.

    Parameters
    ----------
    random_state : int
    """

    name = "boosted trees without label"

    def features(self, predictions: Predictions) -> NDArray[np.float64]:
        """The vector in the order of the classes, and in descending order: [n, 2 k]."""
        return np.column_stack([predictions.probs, descending(predictions.probs)])


class RandomForestAttack(LabelledPredictionAttack):
    """A random forest (Breiman 2001, Machine Learning).

    Parameters
    ----------
    random_state : int
    """

    name = "random forest"

    def __init__(self, random_state: int = 0) -> None:
        self.random_state = random_state

    def classifier(self) -> RandomForestClassifier:
        """The forest."""
        return RandomForestClassifier(random_state=self.random_state)


class LogisticRegressionAttack(LabelledPredictionAttack):
    """Logistic regression: the evidence is a weighted sum of the features."""

    name = "logistic regression"

    def classifier(self) -> Any:
        """The regression on standardised features."""
        return make_pipeline(
            StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
        )


class SupportVectorAttack(LabelledPredictionAttack):
    """A support vector machine with a Gaussian kernel (Cortes & Vapnik 1995, Machine Learning).

    The score is the decision function: how far the record is beyond the border, in margins.
    """

    name = "support vectors"

    def classifier(self) -> Any:
        """The machine on standardised features."""
        return make_pipeline(StandardScaler(), SVC(kernel="rbf", class_weight="balanced"))


class NearestNeighborsAttack(LabelledPredictionAttack):
    """The share of members among the nearest shadow predictions (Cover & Hart 1967, IEEE TIT).

    Parameters
    ----------
    neighbors : int
        How many are asked; at most the number of shadow records.
    """

    name = "nearest neighbors"

    def __init__(self, neighbors: int = 25) -> None:
        self.neighbors = neighbors

    def classifier(self) -> KNeighborsClassifier:
        """The neighbors, by Euclidean distance of the features as they are."""
        return KNeighborsClassifier(self.neighbors)

    def run(self, shadow: Predictions, targets: Sequence[Predictions]) -> list[NDArray[np.float64]]:
        """As of any learned attack, with no more neighbors than there are shadow records."""
        if self.neighbors > len(shadow):
            return NearestNeighborsAttack(len(shadow)).run(shadow, targets)
        return super().run(shadow, targets)
