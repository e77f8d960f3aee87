"""Defenses that change only what a model returns. All share one protocol: fit, protect, save."""

from aeppt.defenses.adaptive_aeppt import AdaptiveAEPPT
from aeppt.defenses.aeppt import AEPPT
from aeppt.defenses.base import OutputDefense, ProtectionInfo
from aeppt.defenses.dynanoise import DynaNoise
from aeppt.defenses.hamp import HAMPOutput
from aeppt.defenses.keyed_random import find_key, read_key, with_key
from aeppt.defenses.memguard import MemGuard
from aeppt.defenses.neighborhood_blending import NeighborhoodBlending
from aeppt.defenses.noise import GaussianNoise, ReverseSigmoid
from aeppt.defenses.privacy_funnel import PrivacyFunnel
from aeppt.defenses.storage import DEFENSES, load_defense
from aeppt.defenses.temperature import Temperature
from aeppt.defenses.truncation import LabelOnly, Rounding, TopK
from aeppt.defenses.undefended import Undefended

__all__ = [
    "AEPPT",
    "DEFENSES",
    "AdaptiveAEPPT",
    "DynaNoise",
    "GaussianNoise",
    "HAMPOutput",
    "LabelOnly",
    "MemGuard",
    "NeighborhoodBlending",
    "OutputDefense",
    "PrivacyFunnel",
    "ProtectionInfo",
    "ReverseSigmoid",
    "Rounding",
    "Temperature",
    "TopK",
    "Undefended",
    "find_key",
    "load_defense",
    "read_key",
    "with_key",
]
