"""AEPPT: perturb each prediction until the defender's own attack model is misled."""

from __future__ import annotations

from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from aeppt.defenses.base import OutputDefense, ProtectionInfo
from aeppt.defenses.substitute import fit_substitute, named_layers, saved_layers
from aeppt_ext import SearchOptions, SearchResult, perturb_search
from aeppt_ext.options import OPTION_NAMES


class SearchDefense(OutputDefense):
    """Base of the defenses whose ``module_`` searches: they tell all that the search told."""

    module_: PerturbationSearch

    def _protect(self, probs: Tensor) -> tuple[Tensor, ProtectionInfo]:
        result = self.module_.search(probs)
        return result.probs, ProtectionInfo(*result[1:])


class AEPPT(SearchDefense):
    """Adversarial-example defense of predictions (Xue et al. 2020, arXiv 2011.13696).

    The defender trains a membership inference model, the *substitute*, and moves each probability
    vector, as one crafts an adversarial example, until the substitute is misled. The predicted
    label never changes, and the model is not retrained. Reconstructed from the paper's abstract;
    ``docs/design.md`` defines every step.

    Parameters
    ----------
    step_size : float
        Length of a step: in nats for ``space="logit"``, in probability for ``space="prob"``. With
        ``method="boundary"`` the shortest; the longest is four times that.
    max_steps : int
        The most gradient steps a row takes.
    direction : {"both", "member"}
        ``member`` moves the rows on the members' side to the border (the paper's defense);
        ``both`` moves the others there too, so that all rows look alike to the substitute.
    space : {"logit", "prob"}
        Whether steps are added to the logarithms of the probabilities or to the probabilities.
    norm : {"linf", "l2"}
        The norm that measures a step.
    method : {"boundary", "step"}
        ``boundary`` goes as far as the border seems to be, which takes fewer steps; ``step`` goes
        ``step_size`` each time (the paper's form).
    features : {"sorted", "raw", "top3", "sorted_raw"}
        What the substitute sees of a row; the last are the sorted probabilities, then the row.
    hidden : tuple of int
        Widths of the substitute's hidden layers.
    border : float in [0, 1] or None
        Where the substitute's border lies, as a quantile of the members' scores. At 0.5 half of the
        members are beyond it: members change little, and non-members come to look like the median
        member. None leaves the border where the trained substitute has it, as in the paper.
    margin : float
        How far past the border a row must go, in units of the substitute's logit.
    tie_gap : float
        The label's probability stays at least this much above every other; at least 1e-6.
    refine_steps : int
        A successful move is shortened to within 2^-refine_steps of its length of the border.
    max_l1 : float or None
        The most that one row may change, as the sum of absolute differences.
    constant_time : bool
        Every row takes the work of the slowest, so that response time tells nothing.
    precision : {"float32", "tf32", "bf16"}
        The lowest precision in which the products of a gradient step may be made: by a GPU, and in
        bf16 by a CPU that multiplies it (AVX512_BF16, AMX). Whether a row misleads the substitute
        is decided in float32 in any case.
    on_invalid : {"raise", "passthrough"}
        What to do with a row that is not a probability vector.
    random_state : int
        Seed of the substitute's training; the same seed gives the same defense.

    Attributes
    ----------
    module_ : torch.nn.Module
        The fitted search; moves between devices with ``.to``.
    n_features_in_ : int
        The number of classes, k.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> members, others = rng.dirichlet([9, 1, 1], 200), rng.dirichlet([4, 2, 2], 200)
    >>> defense = AEPPT().fit(np.concatenate([members, others]), [1] * 200 + [0] * 200)
    >>> defense.protect(members).shape
    (200, 3)
    """

    def __init__(
        self,
        step_size: float = 0.3,
        max_steps: int = 50,
        direction: Literal["both", "member"] = "both",
        space: Literal["logit", "prob"] = "logit",
        norm: Literal["linf", "l2"] = "linf",
        method: Literal["boundary", "step"] = "boundary",
        features: Literal["sorted", "raw", "top3", "sorted_raw"] = "sorted",
        hidden: tuple[int, ...] = (256, 128, 64),
        border: float | None = 0.5,
        margin: float = 0.0,
        tie_gap: float = 1e-6,
        refine_steps: int = 10,
        max_l1: float | None = None,
        constant_time: bool = False,
        precision: Literal["float32", "tf32", "bf16"] = "float32",
        on_invalid: Literal["raise", "passthrough"] = "raise",
        random_state: int = 0,
    ) -> None:
        self.step_size = step_size
        self.max_steps = max_steps
        self.direction = direction
        self.space = space
        self.norm = norm
        self.method = method
        self.features = features
        self.hidden = hidden
        self.border = border
        self.margin = margin
        self.tie_gap = tie_gap
        self.refine_steps = refine_steps
        self.max_l1 = max_l1
        self.constant_time = constant_time
        self.precision = precision
        self.on_invalid = on_invalid
        self.random_state = random_state

    def _learn(
        self, rows: NDArray[np.floating], membership: NDArray[np.bool_]
    ) -> dict[str, Tensor]:
        if self.border is not None and not isinstance(self.border, Real):
            raise TypeError(f"border must be a number or None, got {self.border!r}")
        if self.border is not None and not 0 <= self.border <= 1:
            raise ValueError(f"border must be in [0, 1] or None, got {self.border!r}")
        self._options()  # a wrong option is told before the training
        return named_layers(
            *fit_substitute(
                rows, membership, self.features, self.hidden, self.border, self.random_state
            )
        )

    def build_module(self, tensors: dict[str, Tensor]) -> PerturbationSearch:
        """The search on a saved substitute (see :meth:`OutputDefense.build_module`)."""
        weights, biases = saved_layers(tensors, len(self.hidden) + 1)
        return PerturbationSearch(weights, biases, self._options())

    def _options(self) -> SearchOptions:
        return SearchOptions(**{name: getattr(self, name) for name in OPTION_NAMES})


class PerturbationSearch(nn.Module):
    """The fitted search as a module: probabilities [n, k] in, protected ones out.

    The substitute's layers are buffers, so they move with the module. Rows in float64 are searched
    in float64.
    """

    def __init__(self, weights: list[Tensor], biases: list[Tensor], options: SearchOptions) -> None:
        super().__init__()
        self.options = options
        self.layers = len(weights)
        for name, layer in named_layers(weights, biases).items():
            self.register_buffer(name, layer)

    def search(self, probs: Tensor) -> SearchResult:
        """The search's whole answer for ``probs`` [n, k]."""
        buffers: dict[str, Any] = dict(self.named_buffers())
        weights = [buffers[f"weight_{layer}"].to(probs.dtype) for layer in range(self.layers)]
        biases = [buffers[f"bias_{layer}"].to(probs.dtype) for layer in range(self.layers)]
        return perturb_search(probs, weights, biases, self.options)

    def forward(self, probs: Tensor) -> Tensor:
        """Protected probabilities [n, k]."""
        return self.search(probs).probs
