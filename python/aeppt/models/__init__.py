"""Wrappers that put a model behind a defense, and trainers of targets and of shadow models."""

from aeppt.models.multi_label import ProtectedMultiLabel, two_class_rows
from aeppt.models.protected import ProtectedFunction, ProtectedModel, log_keeping_labels, top_k
from aeppt.models.protected_classifier import ProtectedClassifier
from aeppt.models.protected_session import ProtectedSession
from aeppt.models.protected_transformer import ProtectedTransformer
from aeppt.models.shadows import train_shadows
from aeppt.models.training import predict_probs, train_classifier

__all__ = [
    "ProtectedClassifier",
    "ProtectedFunction",
    "ProtectedModel",
    "ProtectedMultiLabel",
    "ProtectedSession",
    "ProtectedTransformer",
    "log_keeping_labels",
    "predict_probs",
    "top_k",
    "train_classifier",
    "train_shadows",
    "two_class_rows",
]
