"""Synthetic shopping baskets: stand in for Purchase100 where it cannot be downloaded."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

from aeppt.data.records import Records

#: Chosen by trial, so that overfitted networks leak, the more the more classes (docs/data.md).
TASTES = 14
SHARE_OF_TYPE = 0.6
STRENGTH_OF_TASTE = 2.0
SPREAD_OF_ACTIVITY = 0.5
HIGHEST_POPULARITY, POPULARITY_EXPONENT = 0.8, 0.6

MOST_CLASSES = 100
RECORDS_AT_ONCE = 10_000


def synthetic_baskets(
    count: int, n_classes: int, random_state: int = 0, n_items: int = 600
) -> Records:
    """Which items each of ``count`` invented shoppers bought; classes are types of shoppers.

    No real purchase is in it. The form is Purchase100's: binary features, and up to 100 classes.
    The more there are, the harder they are to tell apart, and the more an overfitted network leaks,
    as Shokri et al. 2017 report of the real purchases.

    Of r = 14 directions of taste, each type c has its tastes, and each item j its appeal::

        t_c ~ N(0, I_r),    v_j ~ N(0, I_r)

    A popular item is bought by many: of the items in random order, the m-th (from 1) has

        p_j = 0.8 m^-0.6,    a_j = log(p_j / (1 - p_j))

    Shopper i is of the type y_i, uniform over the classes. Three fifths of the variance of their
    tastes are the type's, the rest is their own; they buy more or less than others::

        z_i = sqrt(0.6) t_{y_i} + sqrt(0.4) e_i,    e_i ~ N(0, I_r),    b_i ~ N(0, 0.5^2)
        P(x_ij = 1) = 1 / (1 + exp(-a_j - b_i - 2 z_i · v_j / sqrt(r)))

    The model and its numbers are this library's own, not estimated from any data.

    Parameters
    ----------
    count : int
        The number of records. The first ones are the same whatever it is.
    n_classes : int
        The number of types, 2 to 100.
    random_state : int
        Seed of items, types and shoppers.
    n_items : int
        The number of features, at least 2.

    Returns
    -------
    Records
        ``features`` 0 or 1.

    Raises
    ------
    ValueError
        A parameter is out of range.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if not 2 <= n_classes <= MOST_CLASSES:
        raise ValueError(f"n_classes must be 2 to {MOST_CLASSES}, got {n_classes}")
    if n_items < 2:
        raise ValueError(f"n_items must be at least 2, got {n_items}")
    # One stream for each thing, so that how much of one is drawn leaves the others alone.
    of_items, of_types, of_labels, of_shoppers, of_purchases = map(
        np.random.default_rng, np.random.SeedSequence(random_state).spawn(5)
    )
    popularity = HIGHEST_POPULARITY * np.arange(1, n_items + 1) ** -POPULARITY_EXPONENT
    base = logit(of_items.permutation(popularity))
    appeal = of_items.standard_normal((n_items, TASTES)) * STRENGTH_OF_TASTE / np.sqrt(TASTES)
    types = of_types.standard_normal((n_classes, TASTES))
    labels = of_labels.integers(n_classes, size=count)
    features = np.empty((count, n_items), np.float32)
    for first in range(0, count, RECORDS_AT_ONCE):
        rows = slice(first, first + RECORDS_AT_ONCE)
        own = of_shoppers.standard_normal((len(labels[rows]), TASTES + 1))
        activity, own = SPREAD_OF_ACTIVITY * own[:, :1], own[:, 1:]
        taste = np.sqrt(SHARE_OF_TYPE) * types[labels[rows]] + np.sqrt(1 - SHARE_OF_TYPE) * own
        bought = expit(base + activity + taste @ appeal.T)
        features[rows] = of_purchases.random(bought.shape) < bought
    return Records(features, labels, n_classes)
