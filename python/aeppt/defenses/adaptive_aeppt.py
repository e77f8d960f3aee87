"""AEPPT in rounds: each misleads the substitutes of all before it and new ones that saw its output.

One substitute is blind to what another kind of attack model sees, above all to one that is trained
on protected rows. So the defense plays that attacker against itself, until a learner that it holds
records back for cannot tell protected members from protected non-members.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from torch import Tensor

from aeppt.defenses.aeppt import PerturbationSearch, SearchDefense
from aeppt.defenses.ensemble import Substitute, depth, merged
from aeppt.defenses.rows import checked_integer, checked_real
from aeppt.defenses.substitute import fit_substitute, named_layers, saved_layers
from aeppt.roc import area_under_roc
from aeppt_ext import SearchOptions, reference
from aeppt_ext.options import FEATURES

#: The share of the records, of each side, that the substitutes are not trained on.
HELD_OUT = 1 / 3
#: The learner is judged on each of so many parts of the held-out records, trained on the others.
FOLDS = 5

logger = logging.getLogger(__name__)


class Round(NamedTuple):
    """What the held-out learner says of the defense after one round."""

    substitutes: int  # in the ensemble
    auc: float  # of the learner, with its 95 % interval
    low: float
    high: float
    l1: float  # mean change of the held-out rows


class AdaptiveAEPPT(SearchDefense):
    """AEPPT against an ensemble of substitutes, grown by attackers of its own output.

    In each round one substitute of each kind is trained on what the rounds before it protect (in
    the first, on the undefended predictions) and joins the ensemble. All rows are searched anew:
    rows that some substitute calls non-members are moved until all call them members, the others to
    where the first is about to change its mind. That is the search of :class:`AEPPT` on the least
    of the substitutes' logits (:func:`.ensemble.merged`). Where no point satisfies all, a row ends
    at the best one found, EXHAUSTED.

    A third of the records is held out of all that. After each round boosted trees, cross-fitted on
    the protected held-out rows, say how well members can be told apart. The rounds end where the
    95 % interval of their AUC reaches down to 0.5 + ``tolerance``; the round with the least AUC is
    kept.

    This library's extension of Xue et al. 2020 (arXiv 2011.13696); ``docs/design.md`` has what it
    gains, and where it gains nothing.

    Parameters
    ----------
    max_rounds : int
        The most rounds.
    kinds : tuple of {"sorted", "raw", "top3", "sorted_raw"}
        What the substitutes of one round see of a row; one is trained for each entry.
    hidden : tuple of int
        Widths of each substitute's hidden layers. The merged network holds them side by side, so
        its cost grows with the square of the number of substitutes.
    border : float in [0, 1]
        Where each substitute's border lies, as a quantile of the members' scores; as in
        :class:`AEPPT`.
    tolerance : float
        In [0, 0.5]: how far above 0.5 the lower end of the held-out AUC's interval may be when the
        rounds end.
    step_size, max_steps, max_l1, constant_time, precision, on_invalid
        Of the search, as in :class:`AEPPT`.
    random_state : int
        Seed of the substitutes' training and of the choice of held-out records.

    Attributes
    ----------
    module_ : torch.nn.Module
        The fitted search; moves between devices with ``.to``.
    rounds_ : list of Round
        How each round was judged. Also told while fitting, by :mod:`logging` at level INFO.
    n_features_in_ : int
        The number of classes, k.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> members, others = rng.dirichlet([9, 1, 1], 200), rng.dirichlet([4, 2, 2], 200)
    >>> defense = AdaptiveAEPPT(max_rounds=2, hidden=(8,))
    >>> defense.fit(np.concatenate([members, others]), [1] * 200 + [0] * 200).rounds_[0].substitutes
    3
    """

    def __init__(
        self,
        max_rounds: int = 3,
        kinds: tuple[str, ...] = ("sorted", "raw", "top3"),
        hidden: tuple[int, ...] = (64, 32),
        border: float = 0.5,
        tolerance: float = 0.0,
        step_size: float = 0.3,
        max_steps: int = 50,
        max_l1: float | None = None,
        constant_time: bool = False,
        precision: Literal["float32", "tf32", "bf16"] = "float32",
        on_invalid: Literal["raise", "passthrough"] = "raise",
        random_state: int = 0,
    ) -> None:
        self.max_rounds = max_rounds
        self.kinds = kinds
        self.hidden = hidden
        self.border = border
        self.tolerance = tolerance
        self.step_size = step_size
        self.max_steps = max_steps
        self.max_l1 = max_l1
        self.constant_time = constant_time
        self.precision = precision
        self.on_invalid = on_invalid
        self.random_state = random_state

    @property
    def rounds_(self) -> list[Round]:
        """How each round was judged."""
        return _rounds(self.module_.get_buffer("rounds"))

    def _learn(
        self, rows: NDArray[np.floating], membership: NDArray[np.bool_]
    ) -> dict[str, Tensor]:
        options = self._options()
        max_rounds = checked_integer("max_rounds", self.max_rounds, 1)
        border = checked_real("border", self.border, 0, 1)
        tolerance = checked_real("tolerance", self.tolerance, 0, 0.5)
        self._check_kinds()
        rng = np.random.default_rng(self.random_state)
        held_out = _held_out(membership, rng)
        taught, judged = membership[~held_out], membership[held_out]

        protected = rows
        ensemble: list[Substitute] = []
        networks: list[Substitute] = []
        rounds: list[Round] = []
        while len(rounds) < max_rounds:
            lesson = protected[~held_out]
            for kind in self.kinds:
                seed = int(rng.integers(2**31))
                layers = fit_substitute(lesson, taught, kind, self.hidden, border, seed)
                ensemble.append(Substitute(kind, *layers))
            network = merged(ensemble, rows.shape[1])
            search = PerturbationSearch(network.weights, network.biases, options)
            protected = search(torch.tensor(rows)).numpy()
            auc = told_apart(protected[held_out], judged, int(rng.integers(2**31)))
            l1 = np.abs(protected[held_out] - rows[held_out]).sum(axis=1).mean()
            networks.append(network)
            rounds.append(Round(len(ensemble), *auc, float(l1)))
            logger.info(
                "round %d of at most %d: %d substitutes, AUC of a held-out learner %.3f "
                "[%.3f–%.3f], mean L1 change %.3f",
                len(rounds),
                max_rounds,
                *rounds[-1],
            )
            if auc[1] <= 0.5 + tolerance:
                break
        kept = networks[_best(rounds)]
        return {
            **named_layers(kept.weights, kept.biases),
            "rounds": torch.tensor(rounds, dtype=torch.float64),
        }

    def build_module(self, tensors: dict[str, Tensor]) -> PerturbationSearch:
        """The search on a saved ensemble (see :meth:`OutputDefense.build_module`)."""
        rounds = _rounds(tensors["rounds"])
        layers = depth(len(self.hidden) + 1, rounds[_best(rounds)].substitutes)
        module = PerturbationSearch(*saved_layers(tensors, layers), self._options())
        module.register_buffer("rounds", tensors["rounds"])
        return module

    def _options(self) -> SearchOptions:
        return SearchOptions(
            features="sorted_raw",
            direction="both",
            step_size=self.step_size,
            max_steps=self.max_steps,
            max_l1=self.max_l1,
            constant_time=self.constant_time,
            precision=self.precision,
            on_invalid=self.on_invalid,
        )

    def _check_kinds(self) -> None:
        if isinstance(self.kinds, str) or not isinstance(self.kinds, Iterable):
            raise TypeError(f"kinds must be a tuple of {FEATURES}, got {self.kinds!r}")
        if not self.kinds or not all(kind in FEATURES for kind in self.kinds):
            raise ValueError(f"kinds must be one or more of {FEATURES}, got {self.kinds!r}")


def _held_out(membership: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which records [n] the substitutes do not see: the same share of both sides."""
    held_out = np.zeros(len(membership), bool)
    for side, name in ((True, "members"), (False, "non-members")):
        records = rng.permutation(np.flatnonzero(membership == side))
        count = round(HELD_OUT * len(records))
        if count < 2:
            raise ValueError(f"fit needs at least 5 {name}, to hold 2 out; got {len(records)}")
        held_out[records[:count]] = True
    return held_out


def told_apart(
    probs: NDArray[np.floating], is_member: NDArray[np.bool_], seed: int
) -> tuple[float, float, float]:
    """The AUC of boosted trees on sorted and raw rows, cross-fitted, with its interval."""
    inputs, _ = reference.extract_features(torch.from_numpy(probs), "sorted_raw")
    folds = StratifiedKFold(
        min(FOLDS, int(is_member.sum()), int((~is_member).sum())), shuffle=True, random_state=seed
    )
    scores = cross_val_predict(
        HistGradientBoostingClassifier(max_iter=50, random_state=seed),
        inputs.numpy(),
        is_member,
        cv=folds,
        method="decision_function",
    )
    return area_under_roc(scores, is_member)


def _rounds(table: Tensor) -> list[Round]:
    """The rounds that ``table`` [rounds, fields] holds."""
    return [Round(int(row[0]), *row[1:]) for row in table.tolist()]


def _best(rounds: list[Round]) -> int:
    """The round after which members are told least; of equals, and below chance, the first."""
    return int(np.argmin([max(0.5, judged.auc) for judged in rounds]))
