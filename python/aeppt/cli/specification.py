"""What a command line says by name: ``MemGuard(budget=0.5)`` is an object, ``module:train`` code.

Parameters are Python literals. Nothing of a name with parameters is evaluated.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from aeppt.recipes import Recipe

Made = TypeVar("Made")


def made(text: str, known: Mapping[str, Callable[..., Made]]) -> Made:
    """The object that ``text`` describes.

    Parameters
    ----------
    text : str
        A name, or a name with keyword arguments in parentheses, as in Python.
    known : mapping from str to callable
        What makes the object, by its name.

    Raises
    ------
    ValueError
        The text has another form, the name or a parameter is unknown, or a value is not accepted.
    """
    name, parameters = parsed(text)
    if name not in known:
        raise ValueError(f"there is no {name!r}; known are {', '.join(sorted(known))}")
    accepted = list(inspect.signature(known[name]).parameters)
    for parameter in parameters:
        if parameter not in accepted:
            has = f"it has {', '.join(accepted)}" if accepted else "it has none"
            raise ValueError(f"{name} has no parameter {parameter!r}; {has}")
    try:
        return known[name](**parameters)
    except TypeError as error:
        raise ValueError(f"{text}: {error}") from error


def parsed(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the keyword arguments of ``text``, which are literals.

    Raises
    ------
    ValueError
        The text is neither a name nor a name with keyword arguments of literals.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if isinstance(tree, ast.Name):
            return tree.id, {}
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and not tree.args:
            given = {word.arg: ast.literal_eval(word.value) for word in tree.keywords}
            if None not in given and len(given) == len(tree.keywords):  # no **, and no name twice
                return tree.func.id, {str(name): value for name, value in given.items()}
    except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
        pass
    raise ValueError(
        f"{text!r} is neither a name nor a name with parameters that are numbers, texts, None, "
        "True, False or tuples of them, such as AEPPT(max_l1=0.5)"
    )


def known_recipes() -> dict[str, type[Recipe]]:
    """Every way of training that :mod:`aeppt.recipes` offers, by its name."""
    from aeppt import recipes

    offered = {name: getattr(recipes, name) for name in recipes.__all__}
    return {name: kind for name, kind in offered.items() if kind is not recipes.Recipe}


def function(text: str) -> Callable[..., Any]:
    """The function that ``module:name`` stands for; modules in the current folder are found too.

    Raises
    ------
    ValueError
        The text has another form, the module cannot be imported, or has no such function.
    """
    module_name, colon, name = text.partition(":")
    if not (module_name and colon and name):
        raise ValueError(f"{text!r} must be module:function, such as my_module:train")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"cannot import {module_name} for {text!r}: {error}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise ValueError(f"the module {module_name} has no function {name!r}")
    return found  # type: ignore[no-any-return]
