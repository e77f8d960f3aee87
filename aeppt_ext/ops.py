"""Loads the compiled extension and offers its ops as typed functions.

They are ``aeppt::perturb_search`` and ``aeppt::rank_release``. With the extension they run
compiled; without it the same ops are registered on :mod:`aeppt_ext.reference` and
:mod:`aeppt_ext.release`, slower, after one warning. Either way ``torch.ops.aeppt`` has them, with
fake (meta) kernels, and they work under ``torch.compile(fullgraph=True)``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from . import reference, release
from .options import OPTION_NAMES, SearchOptions, SearchResult
from .release import ReleaseResult, ReleaseTables

#: The op's schema; ``csrc/ops/perturb_search.cpp`` declares the same (a test compares them).
SCHEMA = (
    "perturb_search(Tensor probs, Tensor[] weights, Tensor[] biases, str features, "
    "str direction, str space, str norm, str method, float step_size, int max_steps, "
    "float margin, float tie_gap, int refine_steps, float? max_l1, bool constant_time, "
    "str precision, str on_invalid) "
    "-> (Tensor probs, Tensor status, Tensor steps, Tensor score_before, Tensor score_after, "
    "Tensor l1)"
)

#: The same of ``csrc/ops/rank_release.cpp``.
RELEASE_SCHEMA = (
    "rank_release(Tensor probs, Tensor confidence_edges, Tensor shape_edges, Tensor map_of_class, "
    "Tensor cumulative, Tensor codebook, Tensor key, str on_invalid) "
    "-> (Tensor probs, Tensor status, Tensor codeword)"
)

#: The compiled module, or None; then ``load_error`` says why.
compiled: ModuleType | None = None
load_error: str | None = None


def _reference_op(
    probs: Tensor, weights: list[Tensor], biases: list[Tensor], *options: object
) -> tuple[Tensor, ...]:
    named = dict(zip(OPTION_NAMES, options, strict=True))
    if named["constant_time"]:
        raise RuntimeError(
            "constant_time needs the compiled extension: plain PyTorch takes less time for rows "
            f"that need no change. It did not load: {load_error}"
        )
    with torch.autocast(probs.device.type, enabled=False):
        return tuple(reference.perturb_search(probs, weights, biases, SearchOptions(**named)))  # type: ignore[arg-type]


def _reference_release(
    probs: Tensor,
    confidence_edges: Tensor,
    shape_edges: Tensor,
    map_of_class: Tensor,
    cumulative: Tensor,
    codebook: Tensor,
    key: Tensor,
    on_invalid: str,
) -> tuple[Tensor, ...]:
    tables = ReleaseTables(confidence_edges, shape_edges, map_of_class, cumulative, codebook)
    with torch.autocast(probs.device.type, enabled=False):
        return tuple(release.rank_release(probs, tables, key, on_invalid))


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
        "pip install --no-build-isolation --force-reinstall --no-deps . (in its folder)",
        RuntimeWarning,
        stacklevel=2,
    )
    for schema, engine in ((SCHEMA, _reference_op), (RELEASE_SCHEMA, _reference_release)):
        name, arguments = schema.split("(", 1)
        torch.library.define(f"aeppt::{name}", f"({arguments}")
        torch.library.impl(f"aeppt::{name}", "CompositeExplicitAutograd")(engine)


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


@torch.library.register_fake("aeppt::rank_release")  # type: ignore[untyped-decorator]
def _fake_release(probs: Tensor, *rest: object) -> tuple[Tensor, ...]:
    n, k = probs.shape
    return (
        probs.new_empty(n, k),
        probs.new_empty(n, dtype=torch.int8),
        probs.new_empty(n, dtype=torch.int32),
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


def rank_release(
    probs: Tensor, tables: ReleaseTables, key: Tensor, on_invalid: str = "raise"
) -> ReleaseResult:
    """Release of each row its ranking of the classes, and one codeword of a codebook.

    The row's two greatest entries give its cell, its label the map, and a keyed hash of the row the
    number u in [0, 1) that chooses: the codeword is the first a with u < ``cumulative[map, cell,
    a]``. The returned row has that codeword's r-th entry where the given one has its r-th greatest
    (ties by index), so label and ranking stay. The hash is SipHash-2-4 (Aumasson & Bernstein 2012)
    of the values rounded to 3 bits of mantissa.

    Parameters
    ----------
    probs : Tensor [n, k], float32 or float64
        Predictions: rows on the simplex of k ≥ 2 classes. Any strides.
    tables : ReleaseTables
        On the device of ``probs``; :func:`aeppt_ext.check_tables` checks their values.
    key : Tensor [16] uint8
        The secret, on the CPU.
    on_invalid : {"raise", "passthrough"}
        What to do with a row that is not a probability vector; passed through, it comes back bit
        for bit, with codeword -1.

    Returns
    -------
    ReleaseResult

    Raises
    ------
    ValueError
        A shape or device does not fit, or a row is not a probability vector (unless
        ``on_invalid="passthrough"``); the message names the row and the reason.
    TypeError
        A dtype does not fit.
    """
    return ReleaseResult(*torch.ops.aeppt.rank_release(probs, *tables, key, on_invalid))
