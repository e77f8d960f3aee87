"""The compute layer of aeppt: the perturbation search as a PyTorch op, and its reference.

It imports only torch. :mod:`aeppt_ext.ops` loads the compiled kernels; :mod:`aeppt_ext.reference`
is the same search in plain PyTorch.
"""

from .ops import perturb_search
from .options import SearchOptions, SearchResult, Status

__all__ = ["SearchOptions", "SearchResult", "Status", "perturb_search"]
