"""A digest of what decides a result, so that a kept result is used again for that alone.

Values are digested as they are pickled. Code is digested as its source text: of the whole module
that a function, a class or one of its bases is defined in, since it may call the rest of it.
"""

from __future__ import annotations

import hashlib
import inspect
import pickle
import sys
from functools import cache
from types import CodeType, FunctionType
from typing import Any

import numpy as np


def fingerprint(*values: Any) -> str:
    """The SHA-256, in hexadecimal, of numbers, text, arrays, objects and functions.

    The same in every process with the same code and versions. What the modules of functions and
    classes import from others is not looked at; nor, in an interactive session, which has no source
    text, what a function calls there.

    Raises
    ------
    TypeError
        A value cannot be pickled, such as an open file.
    """
    digest = hashlib.sha256()
    try:
        _CodePickler(digest).dump(values)
    except (AttributeError, RecursionError, TypeError, ValueError, pickle.PicklingError) as error:
        raise TypeError(f"it cannot be told apart from others: {error}") from error
    return digest.hexdigest()


class _CodePickler(pickle.Pickler):
    """Pickles into a digest; never to be read back."""

    def __init__(self, digest: Any) -> None:
        super().__init__(_Sink(digest), protocol=5)
        self.fast = True  # equal values are alike, be they one object or two

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:  # however it lies in memory
            return tuple, ((value.dtype.str, value.shape, value.tobytes()),)
        if isinstance(value, CodeType):
            return tuple, ((value.co_code, value.co_consts, value.co_names),)
        if not isinstance(value, type | FunctionType) or value.__module__ == "builtins":
            return NotImplemented
        name = value.__module__, value.__qualname__
        if isinstance(value, type):
            return tuple, ((name, [_source(kind.__module__) for kind in value.__mro__]),)
        source, code = _source(value.__module__), value.__code__
        told = (
            name,
            source,
            code if source is None else code.co_firstlineno,
            value.__defaults__,
            value.__kwdefaults__,
            [cell.cell_contents for cell in value.__closure__ or ()],
        )
        return tuple, (told,)


class _Sink:
    """A file that keeps nothing but the digest of what is written to it."""

    def __init__(self, digest: Any) -> None:
        self.digest = digest

    def write(self, content: Any) -> int:
        self.digest.update(content)
        return memoryview(content).nbytes


@cache
def _source(module: str) -> str | None:
    """The digest of a module's source text, where there is one."""
    try:
        source = inspect.getsource(sys.modules[module])
    except (KeyError, OSError, TypeError):  # interactive, or compiled
        return None
    return hashlib.sha256(source.encode()).hexdigest()
