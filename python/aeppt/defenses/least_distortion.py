"""The linear program behind PrivacyFunnel: the cheapest randomised map within limits.

A map K [B, A] gives for each cell b, in which a row may lie, the probabilities of releasing each of
A codewords. What it costs, how far apart it leaves members and non-members, and how well calibrated
its releases are: all of it is linear in K, or a sum of absolute values of what is linear in K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog

#: What exceeding a soft limit costs per unit: so much that it is done only where no map keeps it.
COST_OF_EXCESS = 100.0

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Limit:
    """Σ_i |Σ_b Σ_a terms[i, b, a] · K[b, a]| must not exceed ``most``.

    ``terms`` is [i, B, A]. A soft limit is exceeded where no map keeps it, but no further than need
    be.
    """

    terms: Array
    most: float
    is_soft: bool = False


def cheapest_map(cost: Array, limits: Sequence[Limit]) -> Array:
    """The map that costs least among those within the limits.

    Parameters
    ----------
    cost : array [B, A]
        What each release costs, weighted with how often its cell occurs.
    limits : sequence of Limit

    Returns
    -------
    array [B, A]
        Rows that are distributions over codewords.

    Raises
    ------
    ValueError
        No map keeps the limits that are not soft.
    """
    cells, codewords = cost.shape
    sums = sum(len(limit.terms) for limit in limits)
    # Unknowns: K, row by row; of each absolute value a bound; of each limit its excess.
    bounds = cost.size + np.arange(sums)
    excess = cost.size + sums + np.arange(len(limits))
    unknowns = cost.size + sums + len(limits)
    of_limit = np.repeat(np.arange(len(limits)), [len(limit.terms) for limit in limits])
    terms = np.concatenate([limit.terms.reshape(len(limit.terms), -1) for limit in limits])
    within = sparse.lil_matrix((2 * sums + len(limits), unknowns))
    within[:sums, : cost.size] = terms
    within[sums : 2 * sums, : cost.size] = -terms
    within[np.arange(2 * sums), np.tile(bounds, 2)] = -1
    within[2 * sums + of_limit, bounds] = 1
    within[2 * sums + np.arange(len(limits)), excess] = -1
    distributions = sparse.lil_matrix((cells, unknowns))
    distributions[np.repeat(np.arange(cells), codewords), np.arange(cost.size)] = 1
    price = np.zeros(unknowns)
    price[: cost.size] = cost.ravel()
    price[excess] = COST_OF_EXCESS
    most = np.full(unknowns, np.inf)
    most[excess[[not limit.is_soft for limit in limits]]] = 0
    found = linprog(  # type: ignore[call-overload]  # the stubs know no sparse matrices here
        price,
        A_ub=within.tocsr(),
        b_ub=np.concatenate([np.zeros(2 * sums), [limit.most for limit in limits]]),
        A_eq=distributions.tocsr(),
        b_eq=np.ones(cells),
        bounds=[(0.0, float(limit)) for limit in most],
        method="highs",
    )
    if found.x is None:
        raise ValueError(f"no map keeps the limits ({found.message})")
    # The solver keeps bounds and sums to about 1e-7.
    chosen = np.maximum(found.x[: cost.size].reshape(cost.shape), 0.0)
    kept: Array = chosen / chosen.sum(axis=1, keepdims=True)
    return kept
