"""Defenses that change only what a model returns. All share one protocol: fit, protect, save."""

from aeppt.defenses.aeppt import AEPPT
from aeppt.defenses.base import OutputDefense, ProtectionInfo
from aeppt.defenses.storage import load_defense

__all__ = ["AEPPT", "OutputDefense", "ProtectionInfo", "load_defense"]
