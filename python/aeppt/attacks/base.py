"""What every membership inference attack is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from aeppt.predictions import Predictions


class Attack(ABC):
    """An attacker who learns on a shadow model and judges the records of a target model.

    Subclasses implement :meth:`run`; callers use the attack as a function, which checks the result.
    """

    name: ClassVar[str]

    @abstractmethod
    def run(self, shadow: Predictions, targets: Sequence[Predictions]) -> list[NDArray[np.float64]]:
        """Scores of each of ``targets``, after learning once on ``shadow``."""

    @final
    def __call__(self, shadow: Predictions, *targets: Predictions) -> list[NDArray[np.float64]]:
        """Attack ``targets`` with what ``shadow`` teaches.

        Parameters
        ----------
        shadow : Predictions
            Of the attacker's own model, whose members the attacker knows.
        *targets : Predictions
            Of the model under attack. Their ``is_member`` is never looked at.

        Returns
        -------
        list of array [n], float64
            Per target, a score per record: higher is likelier a member, above zero means "member".

        Raises
        ------
        ValueError
            The numbers of classes differ, or the shadow records are all members or all not.
        RuntimeError
            The attack broke its promise: a wrong shape, or a score that is not finite.
        """
        for target in targets:
            if target.n_classes != shadow.n_classes:
                raise ValueError(
                    f"the shadow predictions have {shadow.n_classes} classes, the target's "
                    f"{target.n_classes}"
                )
        if shadow.is_member.all() or not shadow.is_member.any():
            raise ValueError("the shadow predictions need members and non-members")
        # An attack sees no membership of a target: what it does not have it cannot leak.
        blind = [Predictions(t.probs, t.labels, np.zeros(len(t), bool)) for t in targets]
        results = self.run(shadow, blind)
        if len(results) != len(targets):
            raise RuntimeError(f"the attack {self.name!r} did not score every target")
        for target, scores in zip(targets, results, strict=True):
            if scores.shape != (len(target),) or not np.isfinite(scores).all():
                raise RuntimeError(f"the attack {self.name!r} gave scores that are not valid")
        return [scores.astype(np.float64) for scores in results]
