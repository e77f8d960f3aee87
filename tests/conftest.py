"""Fixtures that several test files share: predictions that leak as much as asked, a fitted defense.

Test files cannot import each other (pytest's importlib mode), so helpers are fixtures here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import DTypeLike

from aeppt import AEPPT, Predictions


def _make_predictions(
    members: int = 200,
    others: int = 200,
    k: int = 5,
    leak: float = 8.0,
    seed: int = 0,
    dtype: DTypeLike = np.float64,
) -> Predictions:
    """Dirichlet rows around the true label; members are the more confident, the higher ``leak``."""
    rng = np.random.default_rng(seed)
    is_member = np.arange(members + others) < members
    labels = rng.integers(0, k, len(is_member))
    concentration = np.ones((len(is_member), k))
    concentration[np.arange(len(is_member)), labels] = 2 + leak * is_member
    rows = rng.standard_gamma(concentration)
    probs = (rows / rows.sum(axis=1, keepdims=True)).astype(dtype)
    return Predictions(probs, labels, is_member)


@pytest.fixture(scope="session")
def make_predictions() -> Callable[..., Predictions]:
    """``make_predictions(members, others, k, leak, seed, dtype)``."""
    return _make_predictions


@pytest.fixture(scope="session")
def known() -> Predictions:
    """400 predictions of 5 classes on which members are clearly more confident."""
    return _make_predictions()


@pytest.fixture(scope="session")
def fitted(known: Predictions) -> AEPPT:
    """A small AEPPT fitted on ``known``; tests must not change it."""
    return AEPPT(hidden=(16,)).fit(known.probs, known.is_member)
