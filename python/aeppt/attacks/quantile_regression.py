"""A threshold per record, learnt by regression on non-members (Bertran et al. 2023, NeurIPS)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor

from aeppt.attacks.base import PerExampleAttack
from aeppt.attacks.metric import TINY
from aeppt.attacks.per_example import check_models, scaled_confidence
from aeppt.predictions import Predictions
from aeppt.shadow_predictions import ShadowPredictions


class QuantileRegressionAttack(PerExampleAttack):
    """Bertran et al. 2023: φ against the quantile of a non-member's φ that a regressor predicts.

    One regressor is trained with the pinball loss on non-members, so records share what is known
    of them. Three things differ from the paper, since an attack here sees predictions and not
    records:

    - The regressor does not see the record. It sees its true class and what out-models say of it
      on average: log-probabilities, the true class's first, the others' in descending order.
    - It learns φ of non-members under shadow models, not under the target, whose non-members
      are not known. When it learns φ of a model, that model is left out of the average.
    - The records it learns from are those under attack, where shadow models left them out. The
      paper needs no shadow models, and no prediction of another model for the record.

    The regressor is scikit-learn's gradient boosting, the paper's a network or boosted trees.

    Parameters
    ----------
    quantile : float
        The level of the quantile, between 0 and 1: one minus the false-positive rate aimed at.
    random_state : int

    Raises
    ------
    ValueError
        ``quantile`` is not between 0 and 1.
    """

    name = "quantile regression"

    def __init__(self, quantile: float = 0.95, random_state: int = 0) -> None:
        if not 0 < quantile < 1:
            raise ValueError(f"quantile must be between 0 and 1, got {quantile}")
        self.quantile = quantile
        self.random_state = random_state

    def run(self, shadows: ShadowPredictions, target: Predictions) -> NDArray[np.float64]:
        """By how much [n] φ is above the predicted quantile."""
        without_it = ~shadows.trained_on
        check_models(without_it, "without")
        models = without_it.sum(axis=0)
        if models.max() < 2:
            raise ValueError(
                "quantile regression needs records that 2 shadow models were trained without, got "
                f"at most {models.max()}; train more shadow models"
            )
        said = np.stack([_log_probabilities(each, shadows.labels) for each in shadows.probs])
        total = said.sum(axis=0, where=without_it[..., None])
        classes = np.eye(shadows.n_classes)[shadows.labels]
        known = scaled_confidence(shadows.probs, shadows.labels)
        inputs, outputs = [], []
        for model in range(len(shadows)):
            rows = without_it[model] & (models >= 2)
            average = (total[rows] - said[model, rows]) / (models[rows, None] - 1)
            inputs.append(np.hstack([average, classes[rows]]))
            outputs.append(known[model, rows])
        regressor = HistGradientBoostingRegressor(
            loss="quantile",
            quantile=self.quantile,
            early_stopping=False,
            random_state=self.random_state,
        )
        regressor.fit(np.concatenate(inputs), np.concatenate(outputs))
        threshold = regressor.predict(np.hstack([total / models[:, None], classes]))
        phi = scaled_confidence(target.probs, target.labels)
        difference: NDArray[np.float64] = phi - threshold
        return difference


def _log_probabilities(
    probs: NDArray[np.floating], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The true class's first, the others' in descending order, [n, k]."""
    values = np.log(probs.astype(np.float64).clip(TINY))
    rows = np.arange(len(values))
    true = values[rows, labels]
    values[rows, labels] = -np.inf
    values = -np.sort(-values, axis=1)
    return np.column_stack([true, values[:, :-1]])
