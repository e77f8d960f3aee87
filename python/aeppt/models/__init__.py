"""Wrappers that put a model behind a defense, and a small trainer for demonstrations."""

from aeppt.models.protected import ProtectedClassifier, ProtectedFunction, ProtectedModel
from aeppt.models.training import predict_probs, train_classifier

__all__ = [
    "ProtectedClassifier",
    "ProtectedFunction",
    "ProtectedModel",
    "predict_probs",
    "train_classifier",
]
