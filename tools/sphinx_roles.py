"""Shows Sphinx roles in docstrings, such as ``:func:`aeppt.audit```, as plain code in the pages."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`~?\.?([^`]+)`")


class SphinxRoles(griffe.Extension):
    """What mkdocstrings does to each docstring that it reads."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the roles in the object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)
