"""What every defense of a classifier's output is: an estimator that fits, protects and saves.

A defense keeps its fitted state in ``module_``, a ``torch.nn.Module`` from probabilities to
protected probabilities, so that it can move between devices, be compiled and be saved as tensors.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors.torch import save
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn
from typing_extensions import Self

from aeppt.files import write_atomically
from aeppt.predictions import Predictions, checked_membership, checked_probs
from aeppt_ext import Status, reference

Array = TypeVar("Array", NDArray[np.floating], Tensor)

#: Written into every saved defense; a reader refuses a format it does not know.
FORMAT = "aeppt.defense"
FORMAT_VERSION = 1


class ProtectionInfo(NamedTuple):
    """What a defense did to each row; arrays of the kind that was protected.

    A defense that does not search takes no steps and has no scores (NaN); its rows are UNCHANGED or
    SUCCESS.
    """

    status: Any  # [n] int8, values of aeppt.Status
    steps: Any  # [n] int32, gradient steps taken
    score_before: Any  # [n], substitute logit at the given row; above zero is the member's side
    score_after: Any  # [n], substitute logit at the returned row
    l1: Any  # [n], sum of absolute changes

    def status_counts(self) -> dict[str, int]:
        """How many rows have each status, by its name."""
        return {status.name: int((self.status == status).sum()) for status in Status}


class OutputDefense(BaseEstimator, ABC):
    """Base of the defenses that change only a model's probability vectors.

    Subclasses follow scikit-learn's estimator rules: ``__init__`` stores its arguments, ``fit``
    checks them, sets ``module_`` and ``n_features_in_`` (the number of classes), and returns self.
    They define ``build_module``, and ``_learn`` where that needs more than the parameters.
    ``keeps_label`` says whether the first arg-max of every row stays.
    """

    keeps_label: ClassVar[bool] = True
    module_: nn.Module
    n_features_in_: int

    def fit(self, probs: ArrayLike, is_member: ArrayLike) -> Self:
        """Check the parameters and learn what the defense needs.

        Parameters
        ----------
        probs : array [n, k], float32 or float64
            The model's predictions on records of its training set and on records outside it, best
            in equal numbers. Tensors are read as arrays.
        is_member : array [n], bool or 0/1

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
        rows, membership = checked_fit(probs, is_member)
        return self._keep(rows, self._learn(rows, membership))

    def fit_predictions(self, known: Predictions) -> Self:
        """:meth:`fit` on predictions with their true labels, which few defenses make use of."""
        return self.fit(known.probs, known.is_member)

    def _learn(
        self, rows: NDArray[np.floating], membership: NDArray[np.bool_]
    ) -> dict[str, Tensor]:
        """The module's tensors, by name, from rows [n, k] and whether each is a member's [n]."""
        return {}

    def _keep(self, rows: NDArray[np.floating], learned: dict[str, Tensor]) -> Self:
        """Become fitted on ``rows`` [n, k] by what was ``learned``."""
        self.module_ = self.build_module(learned)
        self.n_features_in_ = rows.shape[1]
        return self

    @abstractmethod
    def build_module(self, tensors: dict[str, Tensor]) -> nn.Module:
        """The module that ``tensors`` (a module's state) belong to, for these parameters."""

    def _protect(self, probs: Tensor) -> tuple[Tensor, ProtectionInfo]:
        """Protected rows [n, k] and what was done to them."""
        protected: Tensor = self.module_(probs)
        l1 = reference.l1_distance(protected, probs).to(probs.dtype)
        unscored = torch.full_like(l1, torch.nan)
        status = torch.where(l1 > 0, Status.SUCCESS, Status.UNCHANGED).to(torch.int8)
        steps = torch.zeros_like(status, dtype=torch.int32)
        return protected, ProtectionInfo(status, steps, unscored, unscored, l1)

    @overload
    def protect(self, probs: Array) -> Array: ...
    @overload
    def protect(self, probs: Array, *, return_info: bool) -> Any: ...
    def protect(self, probs: Any, *, return_info: bool = False) -> Any:
        """Protected predictions, of the same kind, dtype, device and shape as given.

        Parameters
        ----------
        probs : ndarray or Tensor [n, k], float32 or float64
            Probability vectors.
        return_info : bool
            Also return what was done to each row.

        Returns
        -------
        ndarray or Tensor [n, k], or a pair of it and :class:`ProtectionInfo`

        Raises
        ------
        ValueError
            A row is not a probability vector (the message names it), or has another number of
            classes than the defense was fitted on.
        TypeError
            The dtype is neither float32 nor float64.
        sklearn.exceptions.NotFittedError
            The defense was not fitted.
        """
        check_is_fitted(self, "module_")
        given_tensor = isinstance(probs, Tensor)
        rows = _as_tensor(probs)
        if rows.ndim != 2 or rows.shape[1] != self.n_features_in_:
            raise ValueError(
                f"probs must be [n, {self.n_features_in_}], as this defense was fitted on "
                f"{self.n_features_in_} classes; got {list(rows.shape)}"
            )
        protected, info = self._protect(rows)
        if given_tensor:
            return (protected, info) if return_info else protected
        arrays = ProtectionInfo(*(column.numpy() for column in info))
        return (protected.numpy(), arrays) if return_info else protected.numpy()

    def transform(self, probs: Array) -> Array:
        """The same as :meth:`protect`."""
        return self.protect(probs)

    def save(self, path: str | Path) -> None:
        """Write the fitted defense as safetensors, its parameters as JSON metadata; atomically.

        :func:`aeppt.load_defense` reads it back. Nothing in the file is executable.
        """
        check_is_fitted(self, "module_")
        tensors = {name: t.cpu().contiguous() for name, t in self.module_.state_dict().items()}
        metadata = {
            "format": FORMAT,
            "format_version": str(FORMAT_VERSION),
            "defense": type(self).__name__,
            "n_classes": str(self.n_features_in_),
            "parameters": json.dumps(self.get_params(), default=lambda number: number.item()),
        }
        content = save(tensors, metadata=metadata)
        write_atomically(path, lambda file: file.write(content))


def seeded(defense: OutputDefense, seed: int) -> OutputDefense:
    """A copy of ``defense``, not fitted, whose ``random_state``, where it has one, is ``seed``."""
    copy: OutputDefense = clone(defense)
    if "random_state" in copy.get_params():
        copy.set_params(random_state=seed)
    return copy


def protect_strictly(defense: OutputDefense, probs: Array) -> tuple[Array, ProtectionInfo]:
    """What ``defense`` makes of ``probs`` [n, k] and did to each row, for what hands rows out.

    Raises
    ------
    ValueError
        As :meth:`OutputDefense.protect`, also for rows that a defense was told to let through
        (``on_invalid="passthrough"``); the message names the first.
    """
    protected, info = defense.protect(probs, return_info=True)
    if Status.INVALID in info.status:
        row = int(torch.as_tensor(info.status == Status.INVALID).nonzero()[0])
        raise ValueError(
            reference.invalid_row_message(_as_tensor(probs), row, mend="mend or remove the row")
        )
    return protected, info


def checked_fit(
    probs: ArrayLike, is_member: ArrayLike
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """What every ``fit`` is given, as arrays [n, k] and [n]; tensors are read as arrays.

    Raises
    ------
    ValueError
        A shape or a row is not valid, or one of the two sides is empty.
    TypeError
        ``probs`` is neither float32 nor float64.
    """
    rows = checked_probs(as_array(probs))
    membership = checked_membership(as_array(is_member), len(rows))
    if membership.all() or not membership.any():
        raise ValueError(
            f"fit needs members and non-members, got {int(membership.sum())} members "
            f"of {len(rows)} records"
        )
    return rows, membership


def as_array(values: ArrayLike) -> ArrayLike:
    """``values`` as an array, tensors included."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _as_tensor(probs: ArrayLike) -> Tensor:
    values = probs.detach() if isinstance(probs, Tensor) else np.ascontiguousarray(probs)
    if str(values.dtype).removeprefix("torch.") not in ("float32", "float64"):
        raise TypeError(f"probs must be float32 or float64, got {values.dtype}")
    if isinstance(values, Tensor):
        return values
    # A read-only array is copied: torch has no notion of read-only memory.
    return torch.from_numpy(values if values.flags.writeable else values.copy())
