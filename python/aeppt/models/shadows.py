"""Shadow models: many models, each trained on its own random half of the same records.

Per-example attacks compare what models with a record and models without it say of that record.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import io
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from aeppt.data.records import Records
from aeppt.files import write_atomically
from aeppt.models import stacked_training, training
from aeppt.models.stacked_training import group_size, groups_of_equal_size, train_together
from aeppt.models.training import BATCH, LEARNING_RATE, new_model, predict_probs, relu_network
from aeppt.shadow_predictions import ShadowPredictions

PREDICTED_AT_ONCE = 256  # records; takes little beside the training of a group
DIGEST_BYTES = 32

Architecture = tuple[int, ...] | Callable[[], nn.Module]


def train_shadows(
    records: Records,
    models: int,
    architecture: Architecture,
    epochs: int,
    random_state: int,
    cache: str | Path | None = None,
    memory_budget: int = 1 << 30,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> ShadowPredictions:
    """Train shadow models on random halves of ``records``, and let each predict all of them.

    The design of LiRA (Carlini et al. 2022, IEEE S&P, section IV): of an even number of models,
    exactly half are trained on any one record. A model is what
    :func:`aeppt.models.train_classifier` makes of its half, to rounding, which grows with the
    epochs. Its half and its randomness depend on ``random_state`` and its place i among the models
    alone: not on how many models there are, nor on which are trained at once.

    Parameters
    ----------
    records : Records
        The pool of n records.
    models : int
        The number of models m, at least 2.
    architecture : tuple of int, or callable
        Widths of a ReLU network's hidden layers, or a function without arguments that returns a new
        module from inputs [b, d] to logits [b, k]. It must take its randomness from torch. Modules
        that vmap cannot train are refused: those with buffers (batch norm) or dropout.
    epochs : int
        Passes of each model over its half.
    random_state : int
        Seed of the halves, of the initial parameters and of the order of batches; not negative.
    cache : str, Path or None
        Folder for each model's predictions, made where it is missing. A run that was cut short goes
        on from there, and more models or the same ones again train only what is not there yet. A
        file is used only for the very same records, half, initial network, settings and code; a
        damaged file is trained anew, with a warning. What code a module calls outside of its
        classes and of ``architecture`` is not looked at: where that changes, take another folder.
    memory_budget : int
        Bytes for the training of models at once; one model is trained whatever it takes.
    on_progress : callable or None
        Called as ``on_progress(what, done, total)`` before a group and after each of its epochs;
        counts epochs of single models. Models found in ``cache`` do not count.

    Returns
    -------
    ShadowPredictions
        ``probs`` [m, n, k] float32: in memory without ``cache``; with it, mapped from an unnamed
        file in that folder, so that memory holds about one model's predictions at a time.

    Raises
    ------
    ValueError
        A parameter or a record is out of range, the architecture cannot be trained at once, or a
        model's predictions are not finite.
    TypeError
        The features are not float32, or the labels not int64.
    """
    _check(records, models, architecture, epochs)
    trained_on = random_halves(len(records), models, random_state)
    seeds = [model_seed(random_state, model) for model in range(models)]
    together = group_size(_build(architecture, records, seeds[0]), records, memory_budget)

    probs = _empty((models, len(records), records.n_classes), cache)
    files: list[Path] = []
    if cache is not None:
        keys = _keys(records, trained_on, architecture, epochs, seeds)
        files = [Path(cache) / f"shadow-{i:04d}-{key}.npy" for i, key in enumerate(keys)]
    missing = [i for i in range(models) if not (files and _read(files[i], probs[i]))]

    report_progress = on_progress or (lambda what, done, total: None)
    done, total = 0, len(missing) * epochs
    for group in groups_of_equal_size(missing, trained_on.sum(axis=1), together):
        what = f"training {len(group)} shadow models at once"
        report_progress(what, done, total)
        networks = [_build(architecture, records, seeds[i]) for i in group]
        rows = np.stack([np.flatnonzero(trained_on[i]) for i in group])
        for _ in train_together(networks, records, rows, [seeds[i] for i in group], epochs):
            done += len(group)
            report_progress(what, done, total)
        for i, network in zip(group, networks, strict=True):
            for start in range(0, len(records), PREDICTED_AT_ONCE):
                part = slice(start, start + PREDICTED_AT_ONCE)
                probs[i, part] = predict_probs(network, records.features[part])
            if files:
                _write(files[i], probs[i])
    return ShadowPredictions(probs, records.labels, trained_on)


def random_halves(n: int, models: int, random_state: int) -> NDArray[np.bool_]:
    """Which of ``n`` records each model is trained on, [models, n].

    Models 2i and 2i + 1 share the records out between them, so every pair has every record once.
    """
    halves = np.zeros((models, n), bool)
    for first in range(0, models, 2):
        seed = np.random.SeedSequence(random_state, spawn_key=(0, first))
        halves[first, np.random.default_rng(seed).permutation(n)[: n // 2]] = True
        halves[first + 1 : first + 2] = ~halves[first]
    return halves


def model_seed(random_state: int, model: int) -> int:
    """The seed of one model's initial parameters and order of batches."""
    sequence = np.random.SeedSequence(random_state, spawn_key=(1, model))
    return int(sequence.generate_state(1, np.uint64)[0])


def _check(records: Records, models: int, architecture: Architecture, epochs: int) -> None:
    if models < 2:
        raise ValueError(f"models must be at least 2, one with and one without a record: {models}")
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    if len(records) < 2:
        raise ValueError(f"the pool must have at least 2 records to halve, got {len(records)}")
    if records.n_classes < 2:
        raise ValueError(f"the records must have at least 2 classes, got {records.n_classes}")
    if not callable(architecture) and min(architecture, default=1) < 1:
        raise ValueError(f"hidden widths must be at least 1, got {architecture}")
    if records.features.dtype != np.float32:
        raise TypeError(f"features must be float32, got {records.features.dtype}")
    if records.labels.dtype != np.int64:
        raise TypeError(f"labels must be int64, got {records.labels.dtype}")
    if len(records.features) != len(records):
        raise ValueError(f"{len(records.features)} rows of features, but {len(records)} labels")
    wrong = np.flatnonzero(~np.isfinite(records.features).reshape(len(records), -1).all(axis=1))
    if len(wrong):
        raise ValueError(f"features row {wrong[0]} is not finite; drop or impute such records")
    wrong = np.flatnonzero((records.labels < 0) | (records.labels >= records.n_classes))
    if len(wrong):
        raise ValueError(
            f"labels row {wrong[0]} is {records.labels[wrong[0]]}, but the classes are 0 to "
            f"{records.n_classes - 1}"
        )


def _build(architecture: Architecture, records: Records, seed: int) -> nn.Module:
    if callable(architecture):
        # A copy, since a function may return the same module again, and that gets trained.
        return copy.deepcopy(new_model(architecture, seed))
    widths = (records.features.shape[1], *architecture, records.n_classes)
    return new_model(lambda: relu_network(widths), seed)


def _empty(shape: tuple[int, int, int], cache: str | Path | None) -> NDArray[np.float32]:
    if cache is None:
        return np.empty(shape, np.float32)
    Path(cache).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=cache) as file:  # lives on, nameless, while it is mapped
        return np.memmap(file, np.float32, mode="w+", shape=shape)


# --- the cache --------------------------------------------------------------------------------


def _read(file: Path, into: NDArray[np.float32]) -> bool:
    """Whether ``file`` is there and whole; if so its predictions are in ``into`` [n, k]."""
    if not file.exists():
        return False
    content = file.read_bytes()
    array, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if digest != _digest(file, array):
        warnings.warn(f"{file} is damaged; its model is trained anew", stacklevel=2)
        return False
    into[:] = np.load(io.BytesIO(array), allow_pickle=False)
    return True


def _write(file: Path, probs: NDArray[np.float32]) -> None:
    """Write an .npy file, which ends with a digest that ``numpy.load`` does not look at."""
    buffer = io.BytesIO()
    np.save(buffer, probs, allow_pickle=False)
    array = buffer.getvalue()
    write_atomically(file, lambda out: out.write(array + _digest(file, array)))


def _digest(file: Path, array: bytes) -> bytes:
    """Covers the name as well, so that no file passes for another."""
    return hashlib.sha256(file.name.encode() + array).digest()


def _keys(
    records: Records,
    trained_on: NDArray[np.bool_],
    architecture: Architecture,
    epochs: int,
    seeds: list[int],
) -> Iterator[str]:
    """Per model, the SHA-256 of everything that decides its predictions."""
    first = _build(architecture, records, seeds[0])
    shared = {
        "features": _array_facts(records.features),
        "labels": _array_facts(records.labels),
        "classes": int(records.n_classes),
        "architecture": _source(
            architecture if inspect.isroutine(architecture) else type(architecture)
        ),
        "modules": [
            (name, [_source(kind) for kind in type(module).__mro__], _settings(module))
            for name, module in first.named_modules()
        ],
        "epochs": epochs,
        "learning rate": LEARNING_RATE,
        "batch": BATCH,
        "code": [
            inspect.getsource(code) for code in (training, stacked_training, sys.modules[__name__])
        ],
        "torch": torch.__version__,
    }
    for model, seed in enumerate(seeds):
        own = {
            "model": model,
            "seed": seed,
            "trained on": _array_facts(trained_on[model]),
            "parameters": [
                (name, parameter.requires_grad, *_array_facts(parameter.detach().numpy()))
                for name, parameter in _build(architecture, records, seed).named_parameters()
            ],
        }
        yield hashlib.sha256(json.dumps([shared, own]).encode()).hexdigest()


def _array_facts(array: NDArray) -> tuple[str, tuple[int, ...], str]:
    """Type, shape and content."""
    content = np.ascontiguousarray(array)
    return content.dtype.str, content.shape, hashlib.sha256(content.data).hexdigest()


def _settings(module: nn.Module) -> list[str]:
    """What a module holds besides tensors and modules, as a slope or a stride."""
    return [
        f"{name}={value}"
        for name, value in vars(module).items()
        if isinstance(value, int | float | str | tuple)
    ]


def _source(code: Any) -> str:
    """Source text; the name where there is none, and of torch's own code, which is slow to find."""
    try:
        if not code.__module__.startswith("torch."):
            return inspect.getsource(code)
    except (OSError, TypeError):  # typed in an interactive session, or not written in Python
        pass
    return f"{code.__module__}.{code.__qualname__}"
