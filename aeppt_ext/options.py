"""What the search can be asked to do, and what it answers: options, statuses and the result.

These names are shared by every engine, ``reference.py`` and the compiled kernels;
``docs/design.md`` gives the exact meaning of each option.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import IntEnum
from numbers import Integral, Real
from typing import NamedTuple

from torch import Tensor

FEATURES = ("sorted", "raw", "top3", "sorted_raw")
DIRECTIONS = ("member", "both")
SPACES = ("prob", "logit")
NORMS = ("linf", "l2")
METHODS = ("boundary", "step")
PRECISIONS = ("float32", "tf32", "bf16")

#: A row must sum to one within this much, or it is refused as not a distribution.
SUM_TOLERANCE = 1e-3
#: A row whose sum is off by more than this (and less than ``SUM_TOLERANCE``) is first made exact.
EXACT_SUM = 1e-6
#: Bisection steps that find the longest move inside ``max_l1``; they cost no substitute evaluation.
BUDGET_STEPS = 30
#: Probabilities are raised to this before a logarithm, so that ``space="logit"`` can leave zero.
LOG_FLOOR = 1e-12
#: ``method="boundary"`` goes this much further than the border seems to be (DeepFool's 1 + η,
#: Moosavi-Dezfooli et al. 2016) and takes no step longer than this many times ``step_size``.
OVERSHOOT = 1.02
LONGEST_STEP = 4.0
#: Refinement by the ITP method (Oliveira & Takahashi 2020): no finer than this many halvings, at
#: most this many evaluations more than bisection (n₀), and its κ₁; κ₂ is 2.
FINEST_CUT = 30
SPARE_CUTS = 2
CUT_SHIFT = 0.2


class Status(IntEnum):
    """What became of one row."""

    UNCHANGED = 0  #: the substitute was misled already; the row is returned as it came
    SUCCESS = 1  #: the substitute is misled by the returned row
    BUDGET = 2  #: misleading costs more than ``max_l1``; the row is the furthest point inside it
    EXHAUSTED = 3  #: ``max_steps`` did not suffice; the row is the best point found
    INVALID = 4  #: not a probability vector; only with ``on_invalid="passthrough"``


class SearchResult(NamedTuple):
    """The answer of one search over n rows of k classes."""

    probs: Tensor  # [n, k], dtype of the input
    status: Tensor  # [n] int8, values of Status
    steps: Tensor  # [n] int32, gradient steps taken
    score_before: Tensor  # [n], substitute logit at the given row
    score_after: Tensor  # [n], substitute logit at the returned row
    l1: Tensor  # [n], sum of absolute changes


@dataclass(frozen=True)
class SearchOptions:
    """Options of the perturbation search; the defaults are those of :class:`aeppt.AEPPT`.

    Parameters
    ----------
    features : {"sorted", "raw", "top3", "sorted_raw"}
        What the substitute sees of a row; the last are the sorted probabilities, then the row.
    direction : {"member", "both"}
        ``member`` moves the rows that the substitute calls members; ``both`` also moves the
        others, to the members' side of the border.
    space : {"prob", "logit"}
        Steps are added to the probabilities, or to their logarithms.
    norm : {"linf", "l2"}
        The norm in which the length of a step is measured.
    method : {"boundary", "step"}
        ``boundary`` steps as far as the border is to first order, at least ``step_size`` and at
        most four times that; ``step`` always steps ``step_size``, as the paper does.
    step_size : float
        Length of a step, in probability (``space="prob"``) or in nats (``space="logit"``).
    max_steps : int
        The most gradient steps a row takes.
    margin : float
        How far past the border the substitute's logit must go.
    tie_gap : float
        The label's probability stays at least this much above every other; at least 1e-6, below
        which float32 cannot keep the label apart.
    refine_steps : int
        A successful move is shortened to within 2^-refine_steps of its length (2^-30 at the
        finest) of the border, as by so many bisections, in about half as many evaluations.
    max_l1 : float or None
        The most a row may change, as the sum of absolute differences.
    constant_time : bool
        Every row does the work of the slowest, so that response time tells nothing.
    precision : {"float32", "tf32", "bf16"}
        The lowest precision in which the products of a gradient step may be made: by a GPU, and in
        bf16 by a CPU that multiplies it (AVX512_BF16, AMX). Whether a row misleads the substitute
        is decided in float32 whatever is chosen here; float64 rows are searched in float64.
    on_invalid : {"raise", "passthrough"}
        What to do with a row that is not a probability vector.

    Raises
    ------
    ValueError
        An option is outside its range; the message names it, the value and the range.
    """

    features: str = "sorted"
    direction: str = "both"
    space: str = "logit"
    norm: str = "linf"
    method: str = "boundary"
    step_size: float = 0.3
    max_steps: int = 50
    margin: float = 0.0
    tie_gap: float = 1e-6
    refine_steps: int = 10
    max_l1: float | None = None
    constant_time: bool = False
    precision: str = "float32"
    on_invalid: str = "raise"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("features", FEATURES),
            ("direction", DIRECTIONS),
            ("space", SPACES),
            ("norm", NORMS),
            ("method", METHODS),
            ("precision", PRECISIONS),
            ("on_invalid", ("raise", "passthrough")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        for name, low, high in (
            ("step_size", 0.0, 1e6),
            ("margin", 0.0, math.inf),
            ("tie_gap", 1e-6, 0.1),
            ("max_l1", 0.0, math.inf),
        ):
            value = getattr(self, name)
            if name == "max_l1" and value is None:
                continue
            if not isinstance(value, Real):
                raise TypeError(f"{name} must be a number, got {value!r}")
            if not low <= float(value) <= high or math.isinf(value):
                raise ValueError(f"{name} must be finite and in [{low}, {high}], got {value!r}")
        for name in ("max_steps", "refine_steps"):
            value = getattr(self, name)
            if not (isinstance(value, Integral) and 0 <= int(value) <= 1_000_000):
                raise ValueError(f"{name} must be an integer in [0, 1000000], got {value!r}")
        if not isinstance(self.constant_time, bool):
            raise TypeError(f"constant_time must be a bool, got {self.constant_time!r}")


#: The names of all options, in the order in which the op takes them.
OPTION_NAMES = tuple(field.name for field in fields(SearchOptions))
