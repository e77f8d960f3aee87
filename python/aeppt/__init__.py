"""aeppt: defends classifiers against membership inference by changing only their output.

The names here are the stable interface::

    from aeppt import AEPPT, Predictions, ProtectedModel, audit, load_defense
"""

from aeppt.defenses import AEPPT, AdaptiveAEPPT, PrivacyFunnel, load_defense
from aeppt.evaluation import audit
from aeppt.models import (
    ProtectedClassifier,
    ProtectedFunction,
    ProtectedModel,
    ProtectedMultiLabel,
    ProtectedSession,
    ProtectedTransformer,
)
from aeppt.predictions import Predictions
from aeppt.shadow_predictions import ShadowPredictions
from aeppt.version import __version__
from aeppt_ext import Status

__all__ = [
    "AEPPT",
    "AdaptiveAEPPT",
    "Predictions",
    "PrivacyFunnel",
    "ProtectedClassifier",
    "ProtectedFunction",
    "ProtectedModel",
    "ProtectedMultiLabel",
    "ProtectedSession",
    "ProtectedTransformer",
    "ShadowPredictions",
    "Status",
    "__version__",
    "audit",
    "load_defense",
]
