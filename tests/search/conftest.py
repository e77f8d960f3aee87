"""Makes ``search_helpers`` importable under pytest's importlib mode, and offers shared fixtures."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors are slower with more threads, above all where others use the cores too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def gpu() -> torch.device:
    """A GPU that this build searches on; ``AEPPT_REQUIRE_GPU=1`` forbids to skip."""
    from aeppt_ext import ops

    if not torch.cuda.is_available():
        lacking = "this machine has no GPU"
    elif ops.compiled is None or not ops.compiled.cuda_architectures:
        lacking = "aeppt was built without CUDA"
    else:
        return torch.device("cuda", torch.cuda.current_device())
    if os.environ.get("AEPPT_REQUIRE_GPU"):
        pytest.fail(lacking)
    pytest.skip(lacking)


@pytest.fixture
def compiled_module() -> ModuleType:
    """The compiled extension; tests of the build itself make no sense without it."""
    from aeppt_ext import ops

    if ops.compiled is None:
        pytest.skip(f"the compiled extension did not load: {ops.load_error}")
    return ops.compiled
