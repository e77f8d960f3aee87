"""Reading a saved defense back; every way in which a file can be wrong has its own message."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from aeppt.defenses.adaptive_aeppt import AdaptiveAEPPT
from aeppt.defenses.aeppt import AEPPT
from aeppt.defenses.base import FORMAT, FORMAT_VERSION, OutputDefense
from aeppt.defenses.dynanoise import DynaNoise
from aeppt.defenses.hamp import HAMPOutput
from aeppt.defenses.memguard import MemGuard
from aeppt.defenses.neighborhood_blending import NeighborhoodBlending
from aeppt.defenses.noise import GaussianNoise, ReverseSigmoid
from aeppt.defenses.privacy_funnel import PrivacyFunnel
from aeppt.defenses.temperature import Temperature
from aeppt.defenses.truncation import LabelOnly, Rounding, TopK
from aeppt.defenses.undefended import Undefended

#: Every defense there is, by the name that its file holds.
DEFENSES: dict[str, type[OutputDefense]] = {
    defense.__name__: defense
    for defense in (
        AEPPT,
        AdaptiveAEPPT,
        DynaNoise,
        GaussianNoise,
        HAMPOutput,
        LabelOnly,
        MemGuard,
        NeighborhoodBlending,
        PrivacyFunnel,
        ReverseSigmoid,
        Rounding,
        Temperature,
        TopK,
        Undefended,
    )
}


def load_defense(path: str | Path) -> OutputDefense:
    """Read a defense that :meth:`~aeppt.defenses.OutputDefense.save` wrote.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged, is not a saved defense, or was written by a later version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no defense at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged, cut short or not a safetensors file ({error})"
        ) from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is a safetensors file, but not a saved aeppt defense")
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise ValueError(
            f"{path} has format version {metadata.get('format_version')}, this aeppt reads "
            f"{FORMAT_VERSION}; use the version of aeppt that wrote it"
        )
    name = metadata.get("defense")
    if name not in DEFENSES:
        raise ValueError(f"{path} holds the defense {name!r}; known are {sorted(DEFENSES)}")
    try:
        parameters = json.loads(metadata["parameters"])
        defense = DEFENSES[name](
            **{key: tuple(v) if isinstance(v, list) else v for key, v in parameters.items()}
        )
        defense.module_ = defense.build_module(tensors)
        defense.n_features_in_ = int(metadata["n_classes"])
        # One row through it shows whether tensors, parameters and classes belong together.
        k = defense.n_features_in_
        defense.protect(np.full((1, k), 1 / k))
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is a damaged aeppt defense ({type(error).__name__}: {error})"
        ) from error
    return defense
