"""Randomness that is a function of a secret key and of the row, so that asking again tells nothing.

A defense that drew fresh noise for each query could be asked many times and averaged. Here the same
row gets the same numbers, for ever, in any batch, process and replica that holds the key, and
nobody without the key can tell them from fresh ones. Rows further apart than rounding get other
numbers, so whoever changes a record a little each time still sees fresh noise.
"""

from __future__ import annotations

import hashlib
import secrets
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from aeppt.defenses.rows import logits

KEY_BYTES = 32
#: The logarithms of a row are rounded to multiples of this many nats before they are hashed:
#: replicas that compute a row with other rounding errors still agree on its numbers. Logarithms,
#: since confident rows differ in nothing else: rounded themselves, most would be the same row.
QUANTUM = 2.0**-3


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


def keyed_uniforms(key: Tensor, probs: Tensor, count: int) -> Tensor:
    """Uniform numbers in (0, 1), float64 [n, count], for each row of ``probs`` [n, k].

    SHAKE-256 of the key and the rounded row, expanded to as many numbers as asked for; the first
    ones do not depend on ``count``.
    """
    grid = (logits(probs.double()) / QUANTUM).round().to(torch.int16).cpu().numpy().astype("<i2")
    prefix = bytes(key.tolist())
    content = b"".join(hashlib.shake_256(prefix + row.tobytes()).digest(8 * count) for row in grid)
    bits = np.frombuffer(content, "<u8").reshape(len(grid), count)
    uniforms = ((bits >> np.uint64(12)) + 0.5) * 2.0**-52  # never 0 or 1
    return torch.from_numpy(uniforms).to(probs.device)


def keyed_normals(key: Tensor, probs: Tensor, count: int) -> Tensor:
    """Standard normal numbers, float64 [n, count]; see :func:`keyed_uniforms`."""
    normals: Tensor = torch.special.ndtri(keyed_uniforms(key, probs, count))
    return normals
