"""Neighbouring queries: near copies of a record share its draw, so an attacker cannot average them.

What is shared by which rows is in search/test_release.py, of the compiled release as well.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.model_selection import cross_val_predict

from aeppt import PrivacyFunnel
from aeppt.defenses import with_key
from aeppt.defenses.keyed_random import keyed_normals, new_key
from aeppt.roc import area_under_roc
from aeppt_ext.release import message

K, COPIES = 30, 30
Rows = NDArray[np.float64]


def logits_of(n: int, seed: int) -> tuple[Rows, NDArray[np.bool_]]:
    """Logits of a model that is surer of its members, and who they are."""
    rng = np.random.default_rng(seed)
    is_member = rng.random(n) < 0.5
    return rng.normal(size=(n, K)) * np.where(is_member, 7.0, 4.0)[:, None], is_member


def near(logits: Rows, noise: float) -> Rows:
    """Probabilities [n * COPIES, K] of copies of each record, one after the other."""
    drawn = np.random.default_rng(1).normal(scale=noise, size=(len(logits), COPIES, K))
    copies: Rows = softmax((logits[:, None] + drawn).reshape(-1, K), axis=1)
    return copies


@lru_cache
def fitted() -> PrivacyFunnel:
    logits, is_member = logits_of(3000, 0)
    return PrivacyFunnel(random_state=0).fit(softmax(logits, axis=1), is_member)


def learned(seen: Rows, is_member: NDArray[np.bool_]) -> tuple[float, float, float]:
    """AUC, cross-fitted, of who learns membership from what is seen [n, f], with its interval."""
    trees = GradientBoostingClassifier(max_depth=2, n_estimators=20, random_state=0)
    scores = cross_val_predict(trees, seen, is_member, cv=4, method="predict_proba")
    return area_under_roc(scores[:, 1], is_member)


def test_averaging_neighbours_tells_no_more_than_one_answer() -> None:
    logits, is_member = logits_of(1500, 2)
    copies = near(logits, 1e-3)
    one = fitted().protect(softmax(logits, axis=1)).max(axis=1)
    greatest = fitted().protect(copies).max(axis=1).reshape(-1, COPIES)
    auc, *_ = learned(one[:, None], is_member)
    seen = np.stack([greatest.mean(axis=1), greatest.std(axis=1)], axis=1)
    _, least, _ = learned(seen, is_member)
    assert least <= max(auc, 0.5)
    # The same attacker finds out where each copy has a draw of its own.
    keys = [bytes([i] * 32) for i in range(COPIES)]
    fresh = [
        with_key(fitted(), key).protect(copies[i::COPIES]).max(axis=1) for i, key in enumerate(keys)
    ]
    seen = np.stack([np.mean(fresh, axis=0), np.std(fresh, axis=0)], axis=1)
    _, least, _ = learned(seen, is_member)
    assert least > max(auc, 0.5) + 0.1


@pytest.mark.parametrize(("noise", "shared"), [(1e-4, 0.999), (1e-3, 0.995), (1e-2, 0.96)])
def test_noise_does_not_average_out_over_neighbours(noise: float, shared: float) -> None:
    """Of every defense that adds noise."""
    logits, _ = logits_of(300, 3)
    key = new_key(0)
    own = keyed_normals(key, torch.from_numpy(softmax(logits, axis=1)), K)
    of_copies = keyed_normals(key, torch.from_numpy(near(logits, noise)), K).view(-1, COPIES, K)
    assert (of_copies == own[:, None]).double().mean() > shared
    assert of_copies.mean(1).std() > 0.95


def test_records_of_a_data_set_get_many_draws() -> None:
    logits, _ = logits_of(2000, 4)
    key = torch.arange(16, dtype=torch.uint8)
    words = message(key, torch.from_numpy(softmax(logits, axis=1)))
    assert len(words.unique(dim=0)) > 1980
