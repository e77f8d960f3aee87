"""Loads the compiled extension and offers the op ``aeppt::perturb_search`` as a typed function.

With the extension the op runs compiled; without it the same op is registered on
:mod:`aeppt_ext.reference`, slower, after one warning. Either way ``torch.ops.aeppt.perturb_search``
exists, has a fake (meta) kernel, and works under ``torch.compile(fullgraph=True)``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from . import reference
from .options import OPTION_NAMES, SearchOptions, SearchResult

#: The op's schema; ``csrc/ops/perturb_search.cpp`` declares the same (a test compares them).
SCHEMA = (
    "perturb_search(Tensor probs, Tensor[] weights, Tensor[] biases, str features, "
    "str direction, str space, str norm, str method, float step_size, int max_steps, "
    "float margin, float tie_gap, int refine_steps, float? max_l1, bool constant_time, "
    "str precision, str on_invalid) "
    "-> (Tensor probs, Tensor status, Tensor steps, Tensor score_before, Tensor score_after, "
    "Tensor l1)"
)

#: The compiled module, or None; then ``load_error`` says why.
compiled: ModuleType | None = None
load_error: str | None = None


def _reference_op(
    probs: Tensor, weights: list[Tensor], biases: list[Tensor], *options: object
) -> tuple[Tensor, ...]:
    named = dict(zip(OPTION_NAMES, options, strict=True))
    with torch.autocast(probs.device.type, enabled=False):
        return tuple(reference.perturb_search(probs, weights, biases, SearchOptions(**named)))  # type: ignore[arg-type]


def _load() -> None:
    global compiled, load_error
    try:
        compiled = import_module("aeppt_ext._C")
        return
    except ImportError as error:
        load_error = f"{type(error).__name__}: {error}"
    warnings.warn(
        "aeppt runs without its compiled extension, on plain PyTorch, and is slower for it "
        f"({load_error}). Reinstall with a C++ compiler at hand: "
        "pip install --no-build-isolation --force-reinstall --no-deps aeppt",
        RuntimeWarning,
        stacklevel=2,
    )
    torch.library.define("aeppt::" + SCHEMA.split("(", 1)[0], "(" + SCHEMA.split("(", 1)[1])
    torch.library.impl("aeppt::perturb_search", "CompositeExplicitAutograd")(_reference_op)


_load()


@torch.library.register_fake("aeppt::perturb_search")  # type: ignore[untyped-decorator]
def _fake(
    probs: Tensor, weights: list[Tensor], biases: list[Tensor], *options: object
) -> tuple[Tensor, ...]:
    n, k = probs.shape
    return (
        probs.new_empty(n, k),
        probs.new_empty(n, dtype=torch.int8),
        probs.new_empty(n, dtype=torch.int32),
        probs.new_empty(n),
        probs.new_empty(n),
        probs.new_empty(n),
    )


def perturb_search(
    probs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], options: SearchOptions
) -> SearchResult:
    """Move each row of ``probs`` until the substitute is misled, its label unchanged.

    AEPPT's search (Xue et al. 2020, arXiv 2011.13696), reconstructed from the abstract;
    ``docs/design.md`` defines each step.

    Parameters
    ----------
    probs : Tensor [n, k], float32 or float64
        Predictions: rows on the simplex of k ≥ 2 classes. Any strides.
    weights : sequence of Tensor [out, in], of the dtype and device of ``probs``
        The substitute's dense layers, ReLU between them. The first takes k inputs (3 for
        ``features="top3"``, 2k for ``"sorted_raw"``), the last has one output, the logit of
        "member".
    biases : sequence of Tensor [out]
    options : SearchOptions

    Returns
    -------
    SearchResult

    Raises
    ------
    ValueError
        A shape does not fit, or a row is not a probability vector (unless
        ``on_invalid="passthrough"``); the message names the row and the reason.
    TypeError
        ``probs`` is neither float32 nor float64, or the substitute's dtype differs.
    """
    values = [getattr(options, name) for name in OPTION_NAMES]
    result = torch.ops.aeppt.perturb_search(probs, list(weights), list(biases), *values)
    return SearchResult(*result)
