"""Makes ``search_helpers`` importable under pytest's importlib mode, and offers shared fixtures."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def compiled_module() -> ModuleType:
    """The compiled extension; tests of the build itself make no sense without it."""
    from aeppt_ext import ops

    if ops.compiled is None:
        pytest.skip(f"the compiled extension did not load: {ops.load_error}")
    return ops.compiled
