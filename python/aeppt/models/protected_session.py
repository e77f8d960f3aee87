"""ONNX Runtime sessions behind a defense."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from aeppt.defenses import OutputDefense
from aeppt.defenses.base import protect_strictly
from aeppt.models.protected import log_keeping_labels, protected_soft_max

if TYPE_CHECKING:
    import onnxruntime

Kind = Literal["probabilities", "logits"]


class ProtectedSession:
    """An ``onnxruntime.InferenceSession`` behind a defense, called in the same way.

    One output leaves protected. The others are denied, since hidden layers, logits beside
    probabilities and the like would tell what the defense hides; name those that may leave.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
    defense : OutputDefense
        Fitted on the session's probabilities.
    output : str
        The name of the output to protect, [n, k]. Float16 is returned as float32.
    kind : {"probabilities", "logits"}
        What that output is. Logits are returned as protected log-probabilities.
    allowed : collection of str
        Names of other outputs that may leave as they are, such as the label.

    Raises
    ------
    ValueError
        The session has no output of a name given, or ``kind`` is neither.
    sklearn.exceptions.NotFittedError
        The defense was not fitted.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        defense: OutputDefense,
        output: str,
        kind: Kind = "probabilities",
        allowed: Collection[str] = (),
    ) -> None:
        check_is_fitted(defense, "module_")
        if kind not in ("probabilities", "logits"):
            raise ValueError(f"kind must be 'probabilities' or 'logits', got {kind!r}")
        names = [value.name for value in session.get_outputs()]
        for name in (output, *allowed):
            if name not in names:
                raise ValueError(f"the session has no output {name!r}, only {', '.join(names)}")
        self.session = session
        self.defense = defense
        self.output = output
        self.kind = kind
        self.outputs = [name for name in names if name == output or name in allowed]

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: Any = None,
    ) -> list[Any]:
        """Run the session.

        Parameters
        ----------
        output_names : sequence of str or None
            What to return; None is all that may leave, in the session's order.
        input_feed : mapping of str to array
        run_options : onnxruntime.RunOptions or None

        Raises
        ------
        ValueError
            An output is asked for that may not leave, or a row of the protected one is no
            probability vector.
        """
        names = list(output_names) if output_names else self.outputs
        denied = [name for name in names if name not in self.outputs]
        if denied:
            raise ValueError(
                f"output {denied[0]!r} may not leave beside a protected one; "
                f"those that may: {', '.join(self.outputs)}"
            )
        values = self.session.run(names, dict(input_feed), run_options)
        return [
            self._protected(np.asarray(value)) if name == self.output else value
            for name, value in zip(names, values, strict=True)
        ]

    def get_inputs(self) -> list[Any]:
        """What the session takes."""
        return list(self.session.get_inputs())

    def get_outputs(self) -> list[Any]:
        """What may leave: the protected output and those that are allowed."""
        return [value for value in self.session.get_outputs() if value.name in self.outputs]

    def _protected(self, rows: NDArray) -> NDArray[np.floating]:
        rows = rows.astype(np.float32) if rows.dtype == np.float16 else rows
        if self.kind == "probabilities":
            return protect_strictly(self.defense, rows)[0]
        probs = protected_soft_max(
            torch.from_numpy(rows), self.defense.module_, self.defense.n_features_in_
        )
        logs: NDArray = log_keeping_labels(probs).numpy()
        return logs
