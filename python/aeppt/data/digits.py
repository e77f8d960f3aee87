"""The handwritten digits that ship with scikit-learn: real data that is always at hand."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits as _load

from aeppt.data.records import Records


def load_digits() -> Records:
    """1,797 images of 8 × 8 pixels, scaled to [0, 1], in 10 classes (Alpaydin & Kaynak 1998)."""
    bunch = _load()
    return Records((bunch.data / 16).astype(np.float32), bunch.target.astype(np.int64), 10)
