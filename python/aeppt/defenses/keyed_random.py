"""Randomness that is a function of a secret key and of the row, so that asking again tells nothing.

A defense that drew fresh noise for each query could be asked many times and averaged. Here the same
row gets the same numbers, for ever, in any batch, process and replica that holds the key, and
nobody without the key can tell them from fresh ones. Rows near each other share them too, so that
changing a record a little each time gives nothing to average either; records apart do not.

``docs/keys.md`` says where a key is kept, and what changing it costs.
"""

from __future__ import annotations

import copy
import hashlib
import os
import re
import secrets
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from aeppt.defenses.base import OutputDefense
from aeppt_ext.release import KEY_BYTES as SIPHASH_KEY_BYTES
from aeppt_ext.release import message

KEY_BYTES = 32
#: Of the environment: a key in hexadecimal, for who cannot give a file.
KEY_VARIABLE = "AEPPT_KEY"
HEXADECIMAL = re.compile(rb"[0-9a-fA-F]{64}\r?\n?")


def new_key(random_state: int | None) -> Tensor:
    """A key [32] uint8: drawn by the operating system for None, else made from the seed.

    Whoever knows the seed knows the key. TypeError where the seed is no integer.
    """
    if random_state is None:
        return torch.tensor(list(secrets.token_bytes(KEY_BYTES)), dtype=torch.uint8)
    if not isinstance(random_state, Integral):
        raise TypeError(f"random_state must be an integer or None, got {random_state!r}")
    digest = hashlib.blake2b(f"aeppt key {random_state}".encode(), digest_size=KEY_BYTES).digest()
    return torch.tensor(list(digest), dtype=torch.uint8)


def read_key(content: bytes) -> bytes:
    """The key [32] that a file holds: 64 hexadecimal digits, one newline at most, or 32 raw bytes.

    Raises
    ------
    ValueError
        It is neither. The message tells the length and never the content.
    """
    if len(content) == KEY_BYTES:
        return content
    if HEXADECIMAL.fullmatch(content):
        return bytes.fromhex(content.decode())
    raise ValueError(
        f"a key is {2 * KEY_BYTES} hexadecimal digits or {KEY_BYTES} raw bytes, got "
        f"{len(content)} bytes that are neither; `aeppt key FILE` makes one"
    )


def find_key(file: Path | None) -> bytes | None:
    """The key [32] in a file or, with none given, in the environment as ``AEPPT_KEY``, or None.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        What is there is no key; the message names the place and never the content.
    """
    if file is None:
        place, content = KEY_VARIABLE, os.environ.get(KEY_VARIABLE, "").encode()
        if not content:
            return None
    else:
        if not file.is_file():
            raise FileNotFoundError(f"there is no key at {file}; `aeppt key FILE` makes one")
        place, content = str(file), file.read_bytes()
    try:
        return read_key(content)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None


def with_key(defense: OutputDefense, key: bytes) -> OutputDefense:
    """A copy of a fitted defense that draws by another secret key.

    What the defense hashes with is derived from ``key`` and from the defense's name by BLAKE2b, so
    that one key may serve several defenses. The copy's ``random_state`` is None: no seed gives its
    key.

    Parameters
    ----------
    defense : OutputDefense
        Fitted, and random by a key; it is not changed.
    key : bytes
        32 bytes, best from :func:`secrets.token_bytes`.

    Raises
    ------
    ValueError
        The key is not 32 bytes long, or the defense has no key, since nothing of it is random.
    sklearn.exceptions.NotFittedError
        The defense was not fitted.
    """
    check_is_fitted(defense, "module_")
    name = type(defense).__name__
    if len(key) != KEY_BYTES:
        raise ValueError(f"the key must be {KEY_BYTES} bytes, got {len(key)}")
    tensors = defense.module_.state_dict()
    if "key" not in tensors:
        raise ValueError(f"{name} takes no key: its answers are not random")
    old = tensors["key"]
    derived = hashlib.blake2b(name.encode(), key=key, digest_size=len(old)).digest()
    changed = copy.deepcopy(defense)
    changed.set_params(random_state=None)
    own = torch.tensor(list(derived), dtype=torch.uint8, device=old.device)
    changed.module_ = changed.build_module({**changed.module_.state_dict(), "key": own})
    return changed


def keyed_uniforms(key: Tensor, probs: Tensor, count: int) -> Tensor:
    """Uniform numbers in (0, 1), float64 [n, count], for each row of ``probs`` [n, k].

    SHAKE-256 of the key and of where the row lies (:func:`aeppt_ext.release.message`, by the key's
    first half), expanded to as many numbers as asked for; the first do not depend on ``count``.
    """
    prefix = bytes(key.tolist())
    words = message(key[:SIPHASH_KEY_BYTES].cpu(), probs).cpu().numpy().astype("<i8")
    content = b"".join(hashlib.shake_256(prefix + row.tobytes()).digest(8 * count) for row in words)
    bits = np.frombuffer(content, "<u8").reshape(len(words), count)
    uniforms = ((bits >> np.uint64(12)) + 0.5) * 2.0**-52  # never 0 or 1
    return torch.from_numpy(uniforms).to(probs.device)


def keyed_normals(key: Tensor, probs: Tensor, count: int) -> Tensor:
    """Standard normal numbers, float64 [n, count]; see :func:`keyed_uniforms`."""
    normals: Tensor = torch.special.ndtri(keyed_uniforms(key, probs, count))
    return normals
