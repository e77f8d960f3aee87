"""scikit-learn's own checks of the wrapper of its classifiers, and its place in pipelines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks
from typing_extensions import Self

from aeppt import AEPPT, ProtectedClassifier, ProtectedFunction

FEATURES, LABELS = load_iris(return_X_y=True)


@pytest.fixture(scope="module")
def protected() -> ProtectedClassifier:
    """A pipeline that was fitted on half of iris, behind a defense."""
    members = np.random.default_rng(0).permutation(150) < 75
    inner = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    inner.fit(FEATURES[members], LABELS[members])
    return ProtectedClassifier(
        inner, AEPPT(hidden=(8,)).fit(inner.predict_proba(FEATURES), members)
    )


class Trained(ProtectedClassifier):
    """Trains what it wraps, so that scikit-learn's checks can predict on data of their own."""

    def __init__(self, base: Any = None) -> None:
        self.base = base

    get_params = BaseEstimator.get_params
    set_params = BaseEstimator.set_params
    __sklearn_clone__ = BaseEstimator.__sklearn_clone__
    estimator = property(lambda self: vars(self).get("estimator_", self.base))
    defense = property(lambda self: vars(self).get("defense_", AEPPT()))

    def fit(self, X: Any, y: Any) -> Self:
        self.estimator_ = clone(self.base).fit(X, y)
        probs = self.estimator_.predict_proba(X)
        surer = probs**2 / (probs**2).sum(1, keepdims=True)
        # The checks ask for the accuracy of a good classifier, so labels must be given a chance.
        self.defense_ = AEPPT(hidden=(4,), random_state=0).fit(
            np.concatenate([probs, surer]), np.arange(2 * len(probs)) < len(probs)
        )
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return "estimator_" in vars(self)


@pytest.mark.slow
@parametrize_with_checks([Trained(LogisticRegression())])
def test_it_predicts_as_scikit_learn_asks(estimator: Trained, check: Any) -> None:
    check(estimator)


OTHER_DATA = "the check predicts on data of another width than the estimator was fitted on"
FITTED_ALREADY = "it wraps what is fitted already, as FrozenEstimator does"
FIT_READS_NOTHING = "fit does nothing, so it does not look at its data either"
#: scikit-learn's checks that what is fitted already cannot pass, and why.
EXPECTED_FAILURES = {
    "check_classifier_data_not_an_array": OTHER_DATA,
    "check_classifiers_classes": OTHER_DATA,
    "check_classifiers_one_label": OTHER_DATA,
    "check_dict_unchanged": OTHER_DATA,
    "check_dtype_object": OTHER_DATA,
    "check_estimators_dtypes": OTHER_DATA,
    "check_estimators_pickle": OTHER_DATA,
    "check_f_contiguous_array_estimator": OTHER_DATA,
    "check_fit_idempotent": OTHER_DATA,
    "check_fit_score_takes_y": OTHER_DATA,
    "check_methods_sample_order_invariance": OTHER_DATA,
    "check_methods_subset_invariance": OTHER_DATA,
    "check_pipeline_consistency": OTHER_DATA,
    "check_supervised_y_2d": OTHER_DATA,
    "check_estimators_unfitted": FITTED_ALREADY,
    "check_fit_check_is_fitted": FITTED_ALREADY,
    "check_n_features_in": FITTED_ALREADY,
    "check_classifiers_regression_target": FIT_READS_NOTHING,
    "check_classifiers_train": FIT_READS_NOTHING,
    "check_complex_data": FIT_READS_NOTHING,
    "check_estimator_sparse_array": FIT_READS_NOTHING,
    "check_estimator_sparse_matrix": FIT_READS_NOTHING,
    "check_estimator_sparse_tag": FIT_READS_NOTHING,
    "check_estimators_empty_data_messages": FIT_READS_NOTHING,
    "check_estimators_nan_inf": FIT_READS_NOTHING,
    "check_fit1d": FIT_READS_NOTHING,
    "check_supervised_y_no_nan": FIT_READS_NOTHING,
    "check_estimators_overwrite_params": "joblib's hash of a torch module differs between copies",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_only_what_needs_fitting_fails(protected: ProtectedClassifier) -> None:
    results = check_estimator(protected, on_fail=None)
    failed = {result["check_name"] for result in results if result["status"] == "failed"}
    assert failed == set(EXPECTED_FAILURES)
    assert sum(result["status"] == "passed" for result in results) >= 20


def test_it_survives_cloning_searching_and_cross_validation(protected: ProtectedClassifier) -> None:
    wanted = protected.predict_proba(FEATURES)
    copy = clone(protected)
    assert copy is not protected
    np.testing.assert_array_equal(copy.predict_proba(FEATURES), wanted)
    crossed = cross_val_predict(protected, FEATURES, LABELS, cv=3, method="predict_proba")
    np.testing.assert_array_equal(crossed, wanted)

    pipe = make_pipeline(FunctionTransformer(), protected)
    search = GridSearchCV(pipe, {"functiontransformer__validate": [False, True]}, cv=2)
    search.fit(FEATURES, LABELS)
    np.testing.assert_array_equal(search.predict_proba(FEATURES), wanted)
    assert search.best_score_ > 0.9


def test_parameters_of_what_is_fitted_are_not_set(protected: ProtectedClassifier) -> None:
    with pytest.raises(ValueError, match="'estimator__memory' is not a parameter"):
        protected.set_params(estimator__memory=None)
    assert set(protected.get_params(deep=True)) == {"estimator", "defense"}


def test_no_row_passes_unprotected(protected: ProtectedClassifier) -> None:
    class Careless(LogisticRegression):
        def predict_proba(self, X: Any) -> Any:
            return 0.9985 * super().predict_proba(X)

    rows = protected.estimator.predict_proba(FEATURES)
    careless = AEPPT(hidden=(8,), on_invalid="passthrough").fit(rows, np.arange(150) < 75)
    model = Careless().fit(FEATURES, LABELS)
    for wrapped in (
        ProtectedClassifier(model, careless).predict_proba,
        ProtectedFunction(model.predict_proba, careless),
    ):
        with pytest.raises(ValueError, match="row 0 is not a probability vector"):
            wrapped(FEATURES)


def test_logarithms_are_of_the_protected(protected: ProtectedClassifier) -> None:
    logs = protected.predict_log_proba(FEATURES)
    assert np.isfinite(logs).all()
    np.testing.assert_allclose(np.exp(logs), protected.predict_proba(FEATURES), atol=1e-12)
    np.testing.assert_array_equal(logs.argmax(1), protected.predict(FEATURES))


def test_nothing_else_of_the_estimator_is_passed_on(protected: ProtectedClassifier) -> None:
    for name in ("decision_function", "transform", "coef_", "steps", "named_steps"):
        assert not hasattr(protected, name)
    assert protected.n_features_in_ == 4
    assert not hasattr(protected, "feature_names_in_")
