"""PrivacyFunnel: release the ranking of the classes, and as much confidence as tells nothing."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax, xlogy
from torch import Tensor, nn
from typing_extensions import Self

from aeppt.defenses.base import OutputDefense, as_array, checked_fit
from aeppt.defenses.codebook import fit_cells, fit_codebook, sorted_rows
from aeppt.defenses.keyed_random import new_key
from aeppt.defenses.least_distortion import Limit, cheapest_map
from aeppt.defenses.rows import SMALLEST, checked_integer, checked_real
from aeppt.predictions import Predictions
from aeppt_ext import ReleaseResult, ReleaseTables, check_tables, rank_release
from aeppt_ext.release import KEY_BYTES

#: Of members and of non-members, how many there must be for each cell. With fewer there are fewer
#: cells: shares estimated from few rows would look alike without being so.
RECORDS_PER_CELL = 15
#: The range in which the logarithm of the temperature that calibrates the model is looked for.
LOG_TEMPERATURES = (-3.0, 3.0)

Array = NDArray[np.float64]


class PrivacyFunnel(OutputDefense):
    """An optimal release that keeps the ranking (after Makhdoumi et al. 2014, arXiv 1402.1774).

    What is released of a row is its ranking of the classes and one codeword, a sorted row that
    stands for how sure the model is. Which codeword is decided by a randomised map from the row's
    confidence, and the map solves a linear program: the least expected distortion such that an
    attacker who knows the map and all distributions gains at most ``advantage`` from the codeword.
    Makhdoumi et al. bound mutual information instead, which no linear program can. The map's
    randomness is a keyed hash of the row, so asking again gives the same answer.

    The predicted label and the ranking of all classes stay, and what they tell still leaks; so does
    what a single record's confidence tells someone who knows how hard that very record is.
    ``docs/design.md`` has the program and what it does not promise.

    Parameters
    ----------
    advantage : float in [0, 0.5]
        The most that an attacker may gain from the codeword in balanced accuracy, on the rows that
        the defense is fitted on: over one half without the true label, and over the label-only
        floor with it (if ``fit`` is given the true labels).
    serving_prior : float in [0, 1]
        The share of members among the rows that will be served. Distortion is weighed by it: where
        most are not members, members pay.
    distortion : {"l1", "kl", "log_loss"}
        What is made small: the mean L1 change, the Kullback-Leibler divergence from the given to
        the released row, or the log-loss that is expected of the released row.
    keeps_calibration : bool
        Keep the non-members' expected log-loss and calibration error from exceeding those of the
        undefended rows, whatever else it costs; as far as can be, for sometimes no release within
        ``advantage`` does. Needs true labels; without them it does nothing.
    confidence_levels, shapes : int
        The codebook has that many levels of confidence, and shapes of what is left for each; fewer
        where there are few rows. Fewer of them hide more of a single record and change more.
    random_state : int or None
        Seed of the key; whoever knows it knows every draw. None draws a fresh secret key.

    Attributes
    ----------
    module_ : torch.nn.Module
        The fitted release with its key; moves between devices with ``.to``.
    n_features_in_ : int
        The number of classes, k.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> members, others = rng.dirichlet([9, 1, 1], 200), rng.dirichlet([4, 2, 2], 200)
    >>> defense = PrivacyFunnel()
    >>> defense = defense.fit(np.concatenate([members, others]), [1] * 200 + [0] * 200)
    >>> protected = defense.protect(members)
    >>> bool((protected.argsort(axis=1) == members.argsort(axis=1)).all())
    True
    """

    def __init__(
        self,
        advantage: float = 0.005,
        serving_prior: float = 0.1,
        distortion: Literal["l1", "kl", "log_loss"] = "l1",
        keeps_calibration: bool = True,
        confidence_levels: int = 14,
        shapes: int = 3,
        random_state: int | None = None,
    ) -> None:
        self.advantage = advantage
        self.serving_prior = serving_prior
        self.distortion = distortion
        self.keeps_calibration = keeps_calibration
        self.confidence_levels = confidence_levels
        self.shapes = shapes
        self.random_state = random_state

    def fit(self, probs: ArrayLike, is_member: ArrayLike, labels: ArrayLike | None = None) -> Self:
        """Choose cells and codewords, and solve for the map.

        Parameters
        ----------
        probs : array [n, k], float32 or float64
            The model's predictions on records of its training set and on records outside it.
            Tensors are read as arrays.
        is_member : array [n], bool or 0/1
        labels : array [n], integer, or None
            The true classes. Without them the codeword hides membership from an attacker who does
            not know the true label, and from one who does only by chance.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            A row, a parameter or a shape is not valid, or one of the two sides is empty.
        TypeError
            A parameter or ``probs`` is of a wrong type.
        """
        self._check()
        rows, membership = checked_fit(probs, is_member)
        known = (
            None if labels is None else Predictions(rows, np.asarray(as_array(labels)), membership)
        )
        return self._keep(rows, self._tables(rows, membership, known))

    def fit_predictions(self, known: Predictions) -> Self:
        """See :meth:`OutputDefense.fit_predictions`; the true labels are used."""
        return self.fit(known.probs, known.is_member, known.labels)

    def build_module(self, tensors: dict[str, Tensor]) -> RankRelease:
        """The release by saved tables and key (see :meth:`OutputDefense.build_module`)."""
        tables = ReleaseTables(*(tensors[name] for name in ReleaseTables._fields))
        check_tables(tables)
        return RankRelease(tables, tensors["key"])

    def _check(self) -> None:
        checked_real("advantage", self.advantage, 0, 0.5)
        checked_real("serving_prior", self.serving_prior, 0, 1)
        checked_integer("confidence_levels", self.confidence_levels, 1)
        checked_integer("shapes", self.shapes, 1)
        if self.distortion not in DISTORTIONS:
            raise ValueError(
                f"distortion must be one of {sorted(DISTORTIONS)}, got {self.distortion!r}"
            )

    def _tables(
        self,
        rows: NDArray[np.floating],
        is_member: NDArray[np.bool_],
        known: Predictions | None,
    ) -> dict[str, Tensor]:
        descending = sorted_rows(rows)
        fewest = int(min(is_member.sum(), (~is_member).sum()))
        shapes = self.shapes if rows.shape[1] > 2 else 1  # one runner-up has all that is left
        levels, shapes = _grid(self.confidence_levels, shapes, fewest // RECORDS_PER_CELL)
        cells = fit_cells(descending, is_member, levels, shapes)
        cell = cells.of(descending)
        codebook = fit_codebook(descending, is_member, cell, cells.count)
        map_of_class = _map_of_class(rows, is_member, cells.count)
        of_row = map_of_class[rows.argmax(axis=1)]
        is_correct = None if known is None else known.is_correct
        temperature = None if known is None else _temperature(known)
        maps = [
            self._map(
                descending[chosen],
                is_member[chosen],
                cell[chosen],
                codebook.astype(np.float64),
                None if is_correct is None else is_correct[chosen],
                temperature,
            )
            for chosen in (of_row == i for i in range(map_of_class.max() + 1))
        ]
        cumulative = np.cumsum(maps, axis=2)
        cumulative[:, :, -1] = 1.0
        tables = ReleaseTables(
            torch.from_numpy(cells.confidence_edges),
            torch.from_numpy(cells.shape_edges),
            torch.from_numpy(map_of_class.astype(np.int32)),
            torch.from_numpy(np.minimum(cumulative, 1.0)),
            torch.from_numpy(codebook),
        )
        return {**tables._asdict(), "key": new_key(self.random_state)[:KEY_BYTES].clone()}

    def _map(
        self,
        descending: Array,
        is_member: NDArray[np.bool_],
        cell: NDArray[np.int64],
        codebook: Array,
        is_correct: NDArray[np.bool_] | None,
        temperature: float | None,
    ) -> Array:
        """K [A, A] for the given rows."""
        cells = len(codebook)
        share = np.where(is_member, 1 / is_member.sum(), 1 / (~is_member).sum())

        def per_cell(weight: Array) -> Array:
            total: Array = np.bincount(cell, weight, cells).astype(np.float64)
            return total

        def summed(values: Array, weight: Array) -> Array:
            return np.stack([per_cell(column * weight) for column in values.T], axis=1)

        truth = descending if temperature is None else _tempered(descending, temperature)
        log_loss = -truth @ np.log(codebook).T
        served = share * np.where(is_member, self.serving_prior, 1 - self.serving_prior)
        distortion = DISTORTIONS[self.distortion](descending, codebook, log_loss)
        apart = share * np.where(is_member, 1, -1)
        limits = [Limit(_each_codeword(per_cell(apart)), 4 * self.advantage)]
        if is_correct is not None:
            right, wrong = per_cell(apart * is_correct), per_cell(apart * ~is_correct)
            floor = abs(right.sum()) + abs(wrong.sum())
            terms = np.concatenate([_each_codeword(right), _each_codeword(wrong)])
            limits.append(Limit(terms, floor + 4 * self.advantage))
        if is_correct is not None and self.keeps_calibration:
            others = share * ~is_member
            own = -(xlogy(truth, descending.clip(SMALLEST))).sum(axis=1)
            limits.append(Limit(summed(log_loss, others)[None], others @ own, is_soft=True))
            gap = (
                per_cell(others * is_correct)[:, None] - per_cell(others)[:, None] * codebook[:, 0]
            )
            undefended = np.abs(per_cell(others * (is_correct - descending[:, 0]))).sum()
            limits.append(Limit(_each_codeword(gap), undefended, is_soft=True))
        return cheapest_map(summed(distortion, served), limits)


class RankRelease(nn.Module):
    """The fitted release as a module: probabilities [n, k] in, codewords in their ranking out."""

    key: Tensor

    def __init__(self, tables: ReleaseTables, key: Tensor) -> None:
        super().__init__()
        for name, table in tables._asdict().items():
            self.register_buffer(name, table)
        self.register_buffer("key", key)
        self._host_key = key.cpu()  # the op reads it on the host, wherever the module is

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._host_key = self.key.cpu()

    def release(self, probs: Tensor) -> ReleaseResult:
        """The release's whole answer for ``probs`` [n, k]."""
        buffers: dict[str, Any] = dict(self.named_buffers())
        tables = ReleaseTables(*(buffers[name] for name in ReleaseTables._fields))
        tables = tables._replace(codebook=tables.codebook.to(probs.dtype))
        return rank_release(probs, tables, self._host_key)

    def forward(self, probs: Tensor) -> Tensor:
        """Protected probabilities [n, k]."""
        return self.release(probs).probs


def _l1(descending: Array, codebook: Array, log_loss: Array) -> Array:
    return np.stack([np.abs(descending - word).sum(axis=1) for word in codebook], axis=1)


def _kl(descending: Array, codebook: Array, log_loss: Array) -> Array:
    own = xlogy(descending, descending.clip(SMALLEST)).sum(axis=1, keepdims=True)
    divergence: Array = own - descending @ np.log(codebook).T
    return divergence


#: Of sorted rows [n, k] and each codeword's log-loss on them [n, A], the distortion [n, A].
DISTORTIONS = {"l1": _l1, "kl": _kl, "log_loss": lambda descending, codebook, log_loss: log_loss}


def _grid(confidence_levels: int, shapes: int, most: int) -> tuple[int, int]:
    """A grid of about the wanted proportions with at most ``most`` cells, but at least two."""
    if confidence_levels * shapes <= most:
        return confidence_levels, shapes
    shrunk = (most / (confidence_levels * shapes)) ** 0.5
    fewer = max(1, round(shapes * shrunk))
    return max(2, most // fewer), fewer


def _each_codeword(weight: Array) -> Array:
    """Terms [A, B, A] of the A sums Σ_b weight[b] · K[b, a]; ``weight`` is [B], or [B, A]."""
    cells = len(weight)
    each = np.zeros((cells, cells, cells))
    places = np.arange(cells)
    each[places, :, places] = np.broadcast_to(weight.reshape(cells, -1), (cells, cells)).T
    return each


def _map_of_class(
    rows: NDArray[np.floating], is_member: NDArray[np.bool_], cells: int
) -> NDArray[np.int64]:
    """Which map each predicted class has [k], from 0 without a gap.

    A class with enough rows on both sides has its own. The others share one; where they have too
    few rows even together, everybody shares it.
    """
    k = rows.shape[1]
    label = rows.argmax(axis=1)
    counts = np.stack([np.bincount(label[side], minlength=k) for side in (is_member, ~is_member)])
    enough = RECORDS_PER_CELL * cells
    has_own = counts.min(axis=0) >= enough
    if has_own.all():
        return np.arange(k)
    if counts[:, ~has_own].sum(axis=1).min() < enough:
        return np.zeros(k, np.int64)
    return np.where(has_own, np.cumsum(has_own), 0)


def _temperature(known: Predictions) -> float:
    """The temperature that calibrates the model on its non-members (Guo et al. 2017, ICML)."""
    others = ~known.is_member
    logits = np.log(known.probs[others].astype(np.float64).clip(SMALLEST))
    at_label = np.arange(len(logits)), known.labels[others]

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(logits / np.exp(log_temperature), axis=1)[at_label].mean())

    found = minimize_scalar(loss, bounds=LOG_TEMPERATURES, method="bounded")
    return float(np.exp(found.x))


def _tempered(rows: Array, temperature: float) -> Array:
    """``rows`` as the model would say them at that temperature."""
    tempered: Array = softmax(np.log(rows.clip(SMALLEST)) / temperature, axis=1)
    return tempered
