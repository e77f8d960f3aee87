"""Tries an installation as a user would, outside the source tree: try_installation.py WHERE."""

import sys
from pathlib import Path

import numpy as np

import aeppt
import aeppt_ext
from aeppt_ext import ops

where = Path(sys.argv[1]).resolve()
for package in (aeppt, aeppt_ext):
    assert where in Path(package.__file__).resolve().parents, package.__file__
assert ops.compiled is not None, ops.load_error
# The extension runs on torch's own libraries: a copy of OpenMP's would have threads of its own.
assert not (where / "aeppt.libs").exists()

rng = np.random.default_rng(0)
probs = np.concatenate([rng.dirichlet([9, 1, 1], 200), rng.dirichlet([4, 2, 2], 200)])
protected = aeppt.AEPPT().fit(probs, [1] * 200 + [0] * 200).protect(probs)
assert (protected.argmax(1) == probs.argmax(1)).all()
assert not np.array_equal(protected, probs)
print(f"aeppt {aeppt.__version__} works from {where}")
