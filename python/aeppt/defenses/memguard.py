"""MemGuard: noise that leaves the defender's attack model undecided, under an expected budget."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aeppt.defenses.aeppt import PerturbationSearch, SearchDefense
from aeppt.defenses.keyed_random import keyed_uniforms, new_key
from aeppt.defenses.rows import checked_real
from aeppt.defenses.substitute import fit_substitute, named_layers, saved_layers
from aeppt.predictions import check_rows
from aeppt_ext import SearchOptions, SearchResult, Status

#: Of the substitute's training where the key is a fresh secret: the training can be repeated.
TRAINING_SEED = 0


class MemGuard(SearchDefense):
    """MemGuard (Jia et al. 2019, ACM CCS, arXiv 1909.10594), both phases.

    Phase I finds for each row the noise that puts the substitute's answer at one half, with the
    least L1 change found, while the label stays. Phase II adds it with the probability of
    :func:`noise_probability` and leaves it out otherwise, so that a row's expected change is within
    the budget. The choice is a keyed hash of the row: asking again gives the same answer (the
    paper's one-time randomness).

    The noise is found by the search of ``docs/design.md`` with both directions and L2 steps on the
    logits, as in the paper. It differs from the released code (repository jinyuan-jia/MemGuard) in
    three points: the label is kept by an exact projection, not by a penalty; the change is made
    least by refining the move, not by starting again with greater penalties on it; and a row that
    ``max_steps`` do not bring to one half keeps the best point found, not its own values. The
    substitute is trained as AEPPT's, in the released code's widths.

    Parameters
    ----------
    budget : float or None
        The most that a row may change in expectation, as the sum of absolute differences (the
        paper's ε). None adds every noise that helps.
    step_size : float
        Euclidean length of a step, in nats.
    max_steps : int
        The most gradient steps a row takes.
    hidden : tuple of int
        Widths of the substitute's hidden layers.
    random_state : int or None
        Seed of the substitute's training and of the key; whoever knows it knows both. None draws a
        fresh secret key, and trains the same substitute each time.

    Attributes
    ----------
    module_ : torch.nn.Module
        Both phases, with the substitute and the key; moves between devices with ``.to``.
    n_features_in_ : int
        The number of classes, k.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> members, others = rng.dirichlet([9, 1, 1], 200), rng.dirichlet([4, 2, 2], 200)
    >>> defense = MemGuard(budget=0.5)
    >>> defense = defense.fit(np.concatenate([members, others]), [1] * 200 + [0] * 200)
    >>> defense.protect(members).shape
    (200, 3)
    """

    def __init__(
        self,
        budget: float | None = 1.0,
        step_size: float = 0.1,
        max_steps: int = 300,
        hidden: tuple[int, ...] = (256, 128, 64),
        random_state: int | None = None,
    ) -> None:
        self.budget = budget
        self.step_size = step_size
        self.max_steps = max_steps
        self.hidden = hidden
        self.random_state = random_state

    def _learn(
        self, rows: NDArray[np.floating], membership: NDArray[np.bool_]
    ) -> dict[str, Tensor]:
        options, _ = self._options(), self._checked_budget()  # told before the training
        seed = TRAINING_SEED if self.random_state is None else self.random_state
        weights, biases = fit_substitute(
            rows, membership, options.features, self.hidden, border=None, random_state=seed
        )
        return {**named_layers(weights, biases), "key": new_key(self.random_state)}

    def build_module(self, tensors: dict[str, Tensor]) -> TwoPhases:
        """Both phases with a saved substitute and key (see :meth:`OutputDefense.build_module`)."""
        weights, biases = saved_layers(tensors, len(self.hidden) + 1)
        return TwoPhases(weights, biases, self._options(), tensors["key"], self._checked_budget())

    def _options(self) -> SearchOptions:
        return SearchOptions(
            direction="both",
            space="logit",
            norm="l2",
            method="step",
            step_size=self.step_size,
            max_steps=self.max_steps,
        )

    def _checked_budget(self) -> float | None:
        return None if self.budget is None else checked_real("budget", self.budget, 0.0)


class TwoPhases(PerturbationSearch):
    """Phase I for every row, and of its noise what phase II lets pass.

    A row whose noise is left out is returned as it came, UNCHANGED; the steps that were taken to
    find its noise count.
    """

    key: Tensor

    def __init__(
        self,
        weights: list[Tensor],
        biases: list[Tensor],
        options: SearchOptions,
        key: Tensor,
        budget: float | None,
    ) -> None:
        super().__init__(weights, biases, options)
        self.register_buffer("key", key)
        self.budget = budget

    def search(self, probs: Tensor) -> SearchResult:
        """Both phases' answer for ``probs`` [n, k]; ValueError where a row is no distribution."""
        check_rows(probs)
        noisy = super().search(probs)
        chance = noise_probability(noisy.score_before, noisy.score_after, noisy.l1, self.budget)
        left_out = keyed_uniforms(self.key, probs, 1)[:, 0] >= chance
        return SearchResult(
            torch.where(left_out.unsqueeze(1), probs, noisy.probs),
            noisy.status.masked_fill(left_out, int(Status.UNCHANGED)),
            noisy.steps,
            noisy.score_before,
            torch.where(left_out, noisy.score_before, noisy.score_after),
            noisy.l1.masked_fill(left_out, 0.0),
        )


def noise_probability(
    score_before: Tensor, score_after: Tensor, l1: Tensor, budget: float | None
) -> Tensor:
    """With which probability each row gets its noise: phase II in closed form.

    Of all probabilities whose expected L1 change is within the budget ε, the one that brings the
    substitute's expected answer nearest to one half: zero where the noise takes its answer no
    nearer, else ε over the noise's change, at most one (as the released evaluate_nn_attack.py has
    it). That is the optimum where the noise ends at or before one half. Phase I may end a little
    beyond it; the optimum is then a little less than one, and one is taken.

    Parameters
    ----------
    score_before, score_after : Tensor [n]
        The substitute's logits without and with the noise; zero is an answer of one half.
    l1 : Tensor [n]
        Sum of absolute changes by the noise.
    budget : float or None
        ε, not negative; None for no limit.

    Returns
    -------
    Tensor [n], float64
    """
    helps = score_after.abs() < score_before.abs()
    within = torch.ones_like(l1, dtype=torch.float64)
    if budget is not None:
        within = torch.where(l1 > 0, budget / l1.double(), 1.0)
        # Rounded down: rounded up, it would spend more than the budget.
        within = torch.nextafter(within, torch.zeros_like(within)).clamp_max(1.0)
    return torch.where(helps, within, 0.0)
