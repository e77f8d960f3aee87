"""Membership inference attacks: each learns on shadow predictions and scores target records."""

from aeppt.attacks.base import Attack
from aeppt.attacks.metric import (
    ConfidenceAttack,
    CorrectnessAttack,
    EntropyAttack,
    ModifiedEntropyAttack,
    ThresholdAttack,
)
from aeppt.attacks.neural import NeuralNetworkAttack

__all__ = [
    "Attack",
    "ConfidenceAttack",
    "CorrectnessAttack",
    "EntropyAttack",
    "ModifiedEntropyAttack",
    "NeuralNetworkAttack",
    "ThresholdAttack",
    "default_attacks",
]


def default_attacks(random_state: int = 0) -> list[Attack]:
    """The attacks that :func:`aeppt.audit` runs unless told otherwise."""
    return [
        NeuralNetworkAttack(random_state=random_state),
        ConfidenceAttack(),
        EntropyAttack(),
        ModifiedEntropyAttack(),
        CorrectnessAttack(),
    ]
