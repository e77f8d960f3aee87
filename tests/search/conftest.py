"""Makes ``search_helpers`` importable under pytest's importlib mode, and offers shared fixtures."""

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
def compiled_module() -> ModuleType:
    """The compiled extension; tests of the build itself make no sense without it."""
    from aeppt_ext import ops

    if ops.compiled is None:
        pytest.skip(f"the compiled extension did not load: {ops.load_error}")
    return ops.compiled
