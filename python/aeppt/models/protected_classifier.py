"""A fitted scikit-learn classifier or pipeline whose predictions leave only through a defense."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted
from typing_extensions import Self

from aeppt.defenses import OutputDefense
from aeppt.defenses.base import protect_strictly
from aeppt.models.protected import log_keeping_labels


class ProtectedClassifier(ClassifierMixin, BaseEstimator):
    """A fitted scikit-learn classifier behind a defense.

    Like scikit-learn's ``FrozenEstimator`` it is not fitted again: ``fit`` does nothing and
    ``clone`` keeps the fitted parts, so it can stand in pipelines, searches and cross-validation.
    There is no ``decision_function``, and the estimator's other methods are not passed on, since
    they would tell what the defense hides.

    Parameters
    ----------
    estimator : classifier with ``predict_proba`` and ``classes_``
        Already fitted; it is not changed. A pipeline that ends in one is a classifier too.
    defense : OutputDefense
        Fitted on the estimator's probabilities, columns in the order of ``classes_``.
    """

    def __init__(self, estimator: Any, defense: OutputDefense) -> None:
        self.estimator = estimator
        self.defense = defense

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Do nothing: the estimator and the defense are fitted already.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            One of them is not.
        """
        check_is_fitted(self.estimator)
        check_is_fitted(self.defense, "module_")
        return self

    def __sklearn_is_fitted__(self) -> bool:
        try:
            self.fit()
        except NotFittedError:
            return False
        return True

    def __sklearn_clone__(self) -> Self:
        return type(self)(self.estimator, self.defense)

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import get_tags  # new in scikit-learn 1.6, as what calls this method

        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        tags.input_tags = inner.input_tags
        tags.classifier_tags = inner.classifier_tags
        return tags

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The estimator and the defense; theirs are not parameters of this, which is not fitted."""
        return {"estimator": self.estimator, "defense": self.defense}

    def set_params(self, **params: Any) -> Self:
        """Set the estimator or the defense.

        Raises
        ------
        ValueError
            Another name is given, such as a parameter of the estimator: to change it would do
            nothing before the estimator is fitted again.
        """
        unknown = sorted(set(params) - {"estimator", "defense"})
        if unknown:
            raise ValueError(
                f"{unknown[0]!r} is not a parameter of ProtectedClassifier; set it on the "
                "estimator or the defense, fit that, and wrap it again"
            )
        for name, value in params.items():
            setattr(self, name, value)
        return self

    @property
    def classes_(self) -> NDArray:
        """The class labels, in the order of the probability columns."""
        classes: NDArray = self.estimator.classes_
        return classes

    @property
    def n_features_in_(self) -> int:
        """The number of features that the estimator was fitted on."""
        return int(self.estimator.n_features_in_)

    @property
    def feature_names_in_(self) -> NDArray:
        """The names of the features, where the estimator knows them."""
        names: NDArray = self.estimator.feature_names_in_
        return names

    def predict_proba(self, X: Any) -> NDArray[np.floating]:
        """Protected probabilities [n, k].

        Raises
        ------
        ValueError
            A row is no probability vector; also where the defense would let it through.
        """
        check_is_fitted(self.estimator)
        return protect_strictly(self.defense, np.asarray(self.estimator.predict_proba(X)))[0]

    def predict_log_proba(self, X: Any) -> NDArray[np.floating]:
        """Protected log-probabilities [n, k], finite; their arg-max is the label."""
        logs: NDArray = log_keeping_labels(torch.from_numpy(self.predict_proba(X))).numpy()
        return logs

    def predict(self, X: Any) -> NDArray:
        """The labels [n] of the greatest protected probabilities.

        They are the estimator's own where it predicts what it gives the greatest probability, as
        nearly all do (``SVC(probability=True)`` does not), and the defense keeps labels.
        """
        places = self.predict_proba(X).argmax(axis=1)
        labels: NDArray = self.classes_[places]
        return labels
