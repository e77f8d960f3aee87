"""Defenses that change only what a model returns. All share one protocol: fit, protect, save."""

from aeppt.defenses.aeppt import AEPPT
from aeppt.defenses.base import OutputDefense, ProtectionInfo
from aeppt.defenses.storage import load_defense
from aeppt.defenses.undefended import Undefended

__all__ = ["AEPPT", "OutputDefense", "ProtectionInfo", "Undefended", "load_defense"]
