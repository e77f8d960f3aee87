"""Wrappers that put a model behind a defense, and trainers of targets and of shadow models."""

from aeppt.models.protected import ProtectedClassifier, ProtectedFunction, ProtectedModel
from aeppt.models.shadows import train_shadows
from aeppt.models.training import predict_probs, train_classifier

__all__ = [
    "ProtectedClassifier",
    "ProtectedFunction",
    "ProtectedModel",
    "predict_probs",
    "train_classifier",
    "train_shadows",
]
