"""The network that attacks and defenses train."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from aeppt import AEPPT
from aeppt.networks import Network

X = np.random.default_rng(0).normal(size=(100, 3))
Y = X[:, 0] > 0


@contextmanager
def interrupted_soon() -> Iterator[None]:
    """Ctrl-C in a moment."""
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def test_an_interruption_ends_training_and_leaves_no_network() -> None:
    endless = {"max_iter": 10**9, "n_iter_no_change": 10**9}
    with interrupted_soon(), pytest.raises(KeyboardInterrupt):
        Network((4,), **endless).fit(X, Y)


def test_a_defense_that_is_interrupted_is_not_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aeppt.defenses.substitute.MAX_EPOCHS", 10**9)
    monkeypatch.setattr(Network, "_update_no_improvement_count", lambda *_: None)
    defense = AEPPT()
    probs = np.random.default_rng(0).dirichlet([1, 1, 1], 100)
    with interrupted_soon(), pytest.raises(KeyboardInterrupt):
        defense.fit(probs, Y)
    with pytest.raises(ValueError, match="fit"):
        defense.protect(probs)


def test_else_it_is_scikit_learns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        ours = Network((4,), max_iter=20, random_state=0)
        assert ours.fit(X, Y) is ours
        theirs = MLPClassifier((4,), max_iter=20, random_state=0).fit(X, Y)
    assert np.array_equal(ours.predict_proba(X), theirs.predict_proba(X))
    with pytest.warns(ConvergenceWarning):
        Network((4,), max_iter=2).fit(X, Y)
