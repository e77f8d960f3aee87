"""The defender's own membership inference model: the substitute that AEPPT misleads."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from numbers import Integral

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from aeppt.networks import Network
from aeppt_ext import reference

#: A smooth substitute gives useful gradients and a border that other attackers share; weight decay
#: of this strength (L2, per sample) does that, and keeps it from memorising its few records.
WEIGHT_DECAY = 0.1
MAX_EPOCHS = 100


def fit_substitute(
    probs: NDArray[np.floating],
    is_member: NDArray[np.bool_],
    features: str,
    hidden: tuple[int, ...],
    border: float | None,
    random_state: int,
) -> tuple[list[Tensor], list[Tensor]]:
    """Train the substitute and put its border where the defense wants it.

    The features go in as they are, not standardised: standardising blows up the tiny entries of
    confident predictions, and the substitute's border then follows noise that no attacker shares.

    Parameters
    ----------
    probs : array [n, k]
    is_member : array [n], bool
    features : {"sorted", "raw", "top3", "sorted_raw"}
    hidden : tuple of int
        Widths of the hidden layers; empty for logistic regression.
    border : float in [0, 1] or None
        The quantile of the members' logits that becomes zero; None leaves the border where the
        substitute, trained on as many members as it was given, calls both sides equally likely.
    random_state : int

    Returns
    -------
    weights, biases : lists of float32 Tensor [out, in], [out]
        The last layer's one output is the logit of "member".

    Raises
    ------
    ValueError
        A hidden width is not a positive integer.
    TypeError
        ``hidden`` is no sequence.
    """
    if not isinstance(hidden, Iterable):
        raise TypeError(f"hidden must be a tuple of integers, got {hidden!r}")
    if not all(isinstance(width, Integral) and width > 0 for width in hidden):
        raise ValueError(f"hidden must be positive integers, got {hidden!r}")
    inputs, _ = reference.extract_features(torch.from_numpy(probs), features)
    classifier = Network(
        tuple(hidden), alpha=WEIGHT_DECAY, max_iter=MAX_EPOCHS, random_state=random_state
    )
    with warnings.catch_warnings():  # the number of epochs is a choice, not a failure
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(inputs.numpy(), is_member)
    weights = [torch.from_numpy(w.T.astype(np.float32)).contiguous() for w in classifier.coefs_]
    biases = [torch.from_numpy(b.astype(np.float32)) for b in classifier.intercepts_]
    if border is not None:
        members = torch.from_numpy(probs[is_member].astype(np.float32))
        scores = reference.score(members, weights, biases, features).numpy()
        biases[-1] -= float(np.quantile(scores, border))
    return weights, biases


def named_layers(weights: list[Tensor], biases: list[Tensor]) -> dict[str, Tensor]:
    """A substitute's layers under the names that they have among a module's tensors."""
    return {
        f"{kind}_{i}": layer
        for kind, layers in (("weight", weights), ("bias", biases))
        for i, layer in enumerate(layers)
    }


def saved_layers(tensors: dict[str, Tensor], count: int) -> tuple[list[Tensor], list[Tensor]]:
    """The weights and biases of a substitute's ``count`` layers among a module's tensors."""
    layers = range(count)
    return [tensors[f"weight_{i}"] for i in layers], [tensors[f"bias_{i}"] for i in layers]
