"""Does the kind of inference model matter: inference_model.py [--data DATA].

The substitute is a neural network on the sorted probabilities. Here inference models of ten kinds,
none of which knows of the defense, read what it returns.
"""

from __future__ import annotations

from answers import answer
from comparisons import Comparison

from aeppt.attacks import (
    Attack,
    BoostedTreesAttack,
    BorderAttack,
    LogisticRegressionAttack,
    NearestNeighborsAttack,
    NeuralNetworkAttack,
    PerClassNetworkAttack,
    RandomForestAttack,
    SupportVectorAttack,
    TopThreeAttack,
    VectorAndLabelNetworkAttack,
)


def inference_models(seed: int) -> list[Attack]:
    return [
        NeuralNetworkAttack(random_state=seed),
        TopThreeAttack(random_state=seed),
        PerClassNetworkAttack(random_state=seed),
        VectorAndLabelNetworkAttack(random_state=seed),
        BorderAttack(random_state=seed),
        BoostedTreesAttack(seed),
        RandomForestAttack(seed),
        LogisticRegressionAttack(),
        SupportVectorAttack(),
        NearestNeighborsAttack(),
    ]


COMPARISON = Comparison(inference_models, ("undefended", "static"), "recall", "recall")

if __name__ == "__main__":
    answer(__file__, COMPARISON.measure, COMPARISON.tabulate, COMPARISON.draw)
