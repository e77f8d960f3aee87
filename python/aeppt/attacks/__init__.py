"""Membership inference attacks; :mod:`aeppt.attacks.base` says what each kind of attacker has."""

from aeppt.attacks.base import Attack, PerExampleAttack, QueriedModel, QueryAttack
from aeppt.attacks.label_only import (
    AugmentationAttack,
    BernoulliFlips,
    BoundaryDistanceAttack,
    GaussianNoise,
    NoiseRobustnessAttack,
    ShiftsAndMirror,
    default_augmentation,
)
from aeppt.attacks.learned import (
    BoostedTreesAttack,
    LogisticRegressionAttack,
    NearestNeighborsAttack,
    RandomForestAttack,
    SupportVectorAttack,
    UnlabelledTreesAttack,
)
from aeppt.attacks.lira import OfflineLiRA, OnlineLiRA
from aeppt.attacks.metric import (
    ConfidenceAttack,
    CorrectnessAttack,
    EntropyAttack,
    LossAttack,
    MaximumProbabilityAttack,
    ModifiedEntropyAttack,
    PrivacyRiskAttack,
    ThresholdAttack,
)
from aeppt.attacks.neural import (
    BorderAttack,
    DataTransferAttack,
    NeuralNetworkAttack,
    PerClassNetworkAttack,
    TopThreeAttack,
    VectorAndLabelNetworkAttack,
)
from aeppt.attacks.per_example import AttackR, DifficultyCalibration
from aeppt.attacks.quantile_regression import QuantileRegressionAttack
from aeppt.attacks.queries import (
    NeighbouringQueriesAttack,
    RepeatedQueriesAttack,
    ResponseTimeAttack,
)
from aeppt.attacks.ranks import PredictedLabelAttack, RankAttack
from aeppt.attacks.rmia import OfflineRMIA, OnlineRMIA

__all__ = [
    "Attack",
    "AttackR",
    "AugmentationAttack",
    "BernoulliFlips",
    "BoostedTreesAttack",
    "BorderAttack",
    "BoundaryDistanceAttack",
    "ConfidenceAttack",
    "CorrectnessAttack",
    "DataTransferAttack",
    "DifficultyCalibration",
    "EntropyAttack",
    "GaussianNoise",
    "LogisticRegressionAttack",
    "LossAttack",
    "MaximumProbabilityAttack",
    "ModifiedEntropyAttack",
    "NearestNeighborsAttack",
    "NeighbouringQueriesAttack",
    "NeuralNetworkAttack",
    "NoiseRobustnessAttack",
    "OfflineLiRA",
    "OfflineRMIA",
    "OnlineLiRA",
    "OnlineRMIA",
    "PerClassNetworkAttack",
    "PerExampleAttack",
    "PredictedLabelAttack",
    "PrivacyRiskAttack",
    "QuantileRegressionAttack",
    "QueriedModel",
    "QueryAttack",
    "RandomForestAttack",
    "RankAttack",
    "RepeatedQueriesAttack",
    "ResponseTimeAttack",
    "ShiftsAndMirror",
    "SupportVectorAttack",
    "ThresholdAttack",
    "TopThreeAttack",
    "UnlabelledTreesAttack",
    "VectorAndLabelNetworkAttack",
    "all_attacks",
    "default_attacks",
    "default_augmentation",
    "per_example_attacks",
    "query_attacks",
]


def default_attacks(random_state: int = 0) -> list[Attack]:
    """The attacks on single predictions that :func:`aeppt.audit` runs unless told otherwise."""
    return [
        NeuralNetworkAttack(random_state=random_state),
        BoostedTreesAttack(random_state=random_state),
        ConfidenceAttack(),
        EntropyAttack(),
        ModifiedEntropyAttack(),
        CorrectnessAttack(),
    ]


def all_attacks(random_state: int = 0) -> list[Attack]:
    """Every attack on single predictions that needs nothing but a shadow model's."""
    return [
        *default_attacks(random_state),
        PerClassNetworkAttack(random_state=random_state),
        TopThreeAttack(random_state=random_state),
        VectorAndLabelNetworkAttack(random_state=random_state),
        BorderAttack(random_state=random_state),
        UnlabelledTreesAttack(random_state=random_state),
        RandomForestAttack(random_state=random_state),
        LogisticRegressionAttack(),
        SupportVectorAttack(),
        NearestNeighborsAttack(),
        ConfidenceAttack(per_class=False),
        EntropyAttack(per_class=False),
        ModifiedEntropyAttack(per_class=False),
        LossAttack(),
        MaximumProbabilityAttack(),
        PrivacyRiskAttack(),
        RankAttack(random_state=random_state),
        PredictedLabelAttack(random_state=random_state),
    ]


def per_example_attacks(random_state: int = 0) -> list[PerExampleAttack]:
    """The attacks that :func:`aeppt.audit` adds where many shadow models are given."""
    return [
        OnlineLiRA(),
        OfflineLiRA(),
        OnlineRMIA(),
        OfflineRMIA(),
        AttackR(),
        DifficultyCalibration(),
        QuantileRegressionAttack(random_state=random_state),
    ]


def query_attacks(random_state: int = 0) -> list[QueryAttack]:
    """The attacks that :func:`aeppt.audit` adds where the models can be queried.

    :class:`ResponseTimeAttack` is not among them: it needs a machine that does nothing else.
    """
    return [
        AugmentationAttack(random_state=random_state),
        NoiseRobustnessAttack(random_state=random_state),
        BoundaryDistanceAttack(queries=500, random_state=random_state),
        RepeatedQueriesAttack(repeats=8),
        NeighbouringQueriesAttack(random_state=random_state),
    ]
