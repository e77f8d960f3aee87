"""From a predictor's answer to what may leave: the only way from one to the other.

What is not named here is dropped. A protected output leaves as the defense made it, or the request
is refused; there is no third way. Nothing here knows of REST or gRPC.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aeppt.defenses import OutputDefense
from aeppt.defenses.base import protect_strictly
from aeppt.models.protected import log_keeping_labels
from aeppt.serving.refusals import unusable
from aeppt_ext import Status

Floats = NDArray[np.floating]


class Kind(str, Enum):
    """What the numbers of the protected output are."""

    probabilities = "probabilities"
    logits = "logits"
    log_probabilities = "log-probabilities"


class Protection(NamedTuple):
    """What protecting some rows took."""

    status_counts: NDArray[np.int64]  # rows by status, in the order of aeppt.Status
    seconds: float

    @property
    def rows(self) -> int:
        """How many rows were protected."""
        return int(self.status_counts.sum())


@dataclass(frozen=True)
class Release:
    """What leaves of an answer: one output, protected, and the outputs that are allowed besides.

    Parameters
    ----------
    defense : OutputDefense
        Fitted on k classes.
    output : str or None
        The name of the output to protect; None where V1 predictions are bare rows.
    kind : Kind
        What its numbers are. It leaves as the same kind.
    allowed : frozenset of str
        Outputs that leave as they are.
    """

    defense: OutputDefense
    output: str | None
    kind: Kind
    allowed: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """The names of all outputs that may leave."""
        return self.allowed if self.output is None else self.allowed | {self.output}

    def tensors(
        self, outputs: Mapping[str, NDArray], requested: Sequence[str]
    ) -> tuple[dict[str, NDArray], Protection]:
        """What leaves of named arrays: those requested, or with none requested all that may.

        Raises
        ------
        RefusedError
            A requested output is missing, or the output to protect is, or cannot be protected.
        """
        leaving = list(requested) or [name for name in outputs if name in self.allowed]
        if not requested and self.output is not None:
            leaving = [self.output, *leaving]
        released: dict[str, NDArray] = {}
        protection = Protection(np.zeros(len(Status), np.int64), 0.0)
        for name in leaving:
            if name not in self.names or name not in outputs:
                raise unusable(f"it has no output {name!r}")
            if name == self.output:
                released[name], protection = self.protect(outputs[name])
            else:
                released[name] = outputs[name]
        return released, protection

    def predictions(self, predictions: object, n: int) -> tuple[Any, Protection]:
        """What leaves of V1 predictions for ``n`` instances: rows, or dictionaries with rows.

        Raises
        ------
        RefusedError
            There are not ``n`` of them, or they cannot be protected.
        """
        if not isinstance(predictions, list) or len(predictions) != n:
            raise unusable("it must hold one prediction for each instance")
        keyed = any(isinstance(prediction, dict) for prediction in predictions)
        rows: Any = predictions
        if keyed:
            try:
                rows = [prediction[self.output] for prediction in predictions]
            except (KeyError, TypeError):
                raise unusable(f"not every prediction has {self.output!r}") from None
        try:
            # JSON does not tell integers from floats: a one-hot row may come as integers.
            values = np.asarray(rows)
            values = values.astype(np.float64) if values.dtype.kind in "iu" else values
        except (OverflowError, TypeError, ValueError):
            raise unusable("its predictions are not rows of equal length") from None
        if values.ndim != 2:
            raise unusable("its predictions are not rows of equal length")
        released, protection = self.protect(values)
        if not keyed:
            return released, protection
        return [
            {self.output: row} | {key: given[key] for key in given if key in self.allowed}
            for row, given in zip(released.tolist(), predictions, strict=True)
        ], protection

    def protect(self, values: NDArray) -> tuple[Floats, Protection]:
        """Protect ``values`` [n, k] or [k], float16, float32 or float64.

        Returns
        -------
        protected : ndarray
            Of the same kind, shape and dtype, with the label that the defense gives.
        protection : Protection

        Raises
        ------
        RefusedError
            The shape, the dtype or the numbers are not what they must be.
        """
        k = self.defense.n_features_in_
        if values.dtype not in (np.float16, np.float32, np.float64):
            raise unusable("the output to protect must be FP16, FP32 or FP64")
        if values.ndim not in (1, 2) or values.shape[-1] != k:
            raise unusable(
                f"the output to protect must be [n, {k}], as the defense was fitted on {k} classes"
            )
        started = time.perf_counter()
        wide = np.float64 if values.dtype == np.float64 else np.float32
        probs = self._probabilities(torch.from_numpy(values.reshape(-1, k).astype(wide)))
        try:
            protected, info = protect_strictly(self.defense, probs)
        except ValueError:
            message = f"the output to protect does not hold {self.kind.value}"
            raise unusable(message) from None
        counts = np.bincount(info.status.numpy(), minlength=len(Status))
        if self.kind is not Kind.probabilities:
            protected = log_keeping_labels(protected)
        narrow = keeping_label(protected.numpy(), values.dtype).reshape(values.shape)
        return narrow, Protection(counts, time.perf_counter() - started)

    def _probabilities(self, values: Tensor) -> Tensor:
        if self.kind is Kind.probabilities:
            return values
        if self.kind is Kind.logits:
            return torch.softmax(values, dim=1)
        return values.exp()


def keeping_label(rows: Floats, dtype: np.dtype) -> Floats:
    """``rows`` [n, k] rounded to ``dtype``, each with the same first arg-max."""
    rounded = rows.astype(dtype, copy=False)
    if rounded.dtype == rows.dtype:
        return rows
    # Rounding may make an earlier entry as great as the label's, which is then raised.
    label = rows.argmax(axis=1)
    lost = np.flatnonzero(rounded.argmax(axis=1) != label)
    raised = np.nextafter(rounded[lost, label[lost]], dtype.type(np.inf))
    rounded[lost, label[lost]] = raised
    return rounded
