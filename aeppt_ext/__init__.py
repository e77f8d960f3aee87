"""The compute layer of aeppt: its ops, and the same in plain PyTorch.

It imports only torch. :mod:`aeppt_ext.ops` loads the compiled kernels; :mod:`aeppt_ext.reference`
is the perturbation search in plain PyTorch, :mod:`aeppt_ext.release` the ranking release.
"""

from .ops import perturb_search, rank_release
from .options import SearchOptions, SearchResult, Status
from .release import ReleaseResult, ReleaseTables, check_tables

__all__ = [
    "ReleaseResult",
    "ReleaseTables",
    "SearchOptions",
    "SearchResult",
    "Status",
    "check_tables",
    "perturb_search",
    "rank_release",
]
