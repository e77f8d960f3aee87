"""An ensemble of substitutes as one network: its logit is the least of the members'."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aeppt.defenses.ensemble import Substitute, depth, merged
from aeppt_ext import reference
from aeppt_ext.options import FEATURES


def random_member(
    features: str, k: int, hidden: list[int], generator: torch.Generator
) -> Substitute:
    widths = [reference.feature_width(features, k), *hidden, 1]
    weights = [
        torch.randn(out, width, generator=generator, dtype=torch.float64)
        for width, out in pairwise(widths)
    ]
    biases = [torch.randn(len(w), generator=generator, dtype=torch.float64) for w in weights]
    return Substitute(features, weights, biases)


def random_rows(n: int, k: int, generator: torch.Generator) -> Tensor:
    return (3 * torch.randn(n, k, generator=generator, dtype=torch.float64)).softmax(1)


def score(network: Substitute, rows: Tensor) -> Tensor:
    return reference.score(rows, network.weights, network.biases, network.features)


@st.composite
def ensembles(draw: st.DrawFn) -> tuple[list[Substitute], Tensor]:
    k = draw(st.integers(2, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    kinds = draw(st.lists(st.sampled_from(FEATURES), min_size=1, max_size=7))
    hidden = st.lists(st.integers(1, 9), max_size=3)
    members = [random_member(kind, k, draw(hidden), generator) for kind in kinds]
    return members, random_rows(20, k, generator)


@given(ensembles())
@settings(max_examples=200, deadline=None)
def test_the_logit_is_the_least_of_all(case: tuple[list[Substitute], Tensor]) -> None:
    members, rows = case
    scores = torch.stack([score(member, rows) for member in members])
    size = 1 + scores.abs().amax()
    network = merged(members, rows.shape[1])
    assert network.features == "sorted_raw"
    layers = max(len(member.weights) for member in members)
    assert len(network.weights) == len(network.biases) == depth(layers, len(members))
    assert ((score(network, rows) - scores.amin(0)).abs() <= 1e-12 * size).all()


@given(ensembles())
@settings(max_examples=50, deadline=None)
def test_the_gradient_is_that_of_the_least(case: tuple[list[Substitute], Tensor]) -> None:
    members, rows = case
    found = [reference.score_and_gradient(rows, m.weights, m.biases, m.features) for m in members]
    scores = torch.stack([logit for logit, _ in found])
    least = scores.argmin(0)
    expected = torch.stack([gradient for _, gradient in found])[least, torch.arange(len(rows))]
    network = merged(members, rows.shape[1])
    _, gradient = reference.score_and_gradient(
        rows, network.weights, network.biases, network.features
    )
    ahead = scores.topk(min(2, len(members)), dim=0, largest=False).values
    clear = ahead[-1] - ahead[0] > 1e-9 if len(members) > 1 else torch.ones(len(rows)).bool()
    size = 1 + expected.abs().amax()
    assert ((gradient - expected).abs()[clear] <= 1e-12 * size).all()


def test_widths_are_as_said() -> None:
    generator = torch.Generator().manual_seed(0)
    members = [random_member(kind, 10, [64, 32], generator) for kind in ("sorted", "raw", "top3")]
    network = merged([*members, *members], 10)
    assert [len(weight) for weight in network.weights] == [6 * 64, 6 * 32, 9, 5, 3, 1]


def test_one_member_stays_as_deep_as_it_is() -> None:
    member = random_member("sorted", 5, [4, 3], torch.Generator().manual_seed(0))
    network = merged([member], 5)
    assert [tuple(w.shape) for w in network.weights] == [(4, 10), (3, 4), (1, 3)]


def test_an_empty_ensemble_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one substitute"):
        merged([], 4)


def test_a_member_of_other_rows_is_named() -> None:
    generator = torch.Generator().manual_seed(0)
    members = [random_member("sorted", 4, [3], generator), random_member("raw", 5, [3], generator)]
    with pytest.raises(ValueError, match="substitute 1 on raw features takes 5 inputs, not the 4"):
        merged(members, 4)
