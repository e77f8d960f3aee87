"""Imports point one way, read off the source, and the tests run against the installed package."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import aeppt
import aeppt_ext

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "python" / "aeppt"

#: Per part of the package, the parts that it may import besides itself.
ALLOWED = {
    "version": set(),
    "files": set(),
    "predictions": {"aeppt_ext"},
    "roc": set(),
    "networks": set(),
    "shadow_predictions": {"predictions"},
    "defenses": {"aeppt_ext", "files", "networks", "predictions", "roc"},
    "attacks": {"aeppt_ext", "networks", "predictions", "shadow_predictions"},
    "data": {"aeppt_ext", "files", "predictions", "shadow_predictions"},
    "recipes": {"data", "models"},
    "models": {"aeppt_ext", "data", "defenses", "files", "predictions", "shadow_predictions"},
    "evaluation": {
        "aeppt_ext",
        "attacks",
        "data",
        "defenses",
        "files",
        "models",
        "predictions",
        "recipes",
        "roc",
        "shadow_predictions",
        "version",
    },
    "serving": {
        "aeppt_ext",
        "data",
        "defenses",
        "evaluation",
        "files",
        "models",
        "predictions",
        "version",
    },
}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """The full names that a file imports, wherever they stand in it, with their lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(PACKAGE.parent if PACKAGE in path.parents else ROOT).parts
            base = ".".join(package[: -node.level]) if node.level else ""
            yield ".".join(filter(None, [base, node.module])), node.lineno


def part_of(path: Path) -> str:
    """``evaluation`` for python/aeppt/evaluation/page.py, ``files`` for python/aeppt/files.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def own_imports(path: Path) -> Iterator[tuple[str, str]]:
    """Where the file is, and which part of our own packages it imports."""
    for name, line in imports(path):
        first, *rest = name.split(".")
        if first == "aeppt_ext":
            yield f"{path}:{line}", "aeppt_ext"
        elif first == "aeppt":
            yield f"{path}:{line}", rest[0] if rest else "aeppt"


def test_every_part_has_a_rule() -> None:
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")}
    assert parts == {*ALLOWED, "cli", "__init__"}


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_imports_point_down(part: str) -> None:
    upward = [
        f"{where} imports {imported}"
        for path in PACKAGE.rglob("*.py")
        if part_of(path) == part
        for where, imported in own_imports(path)
        if imported not in ALLOWED[part] | {part}
    ]
    assert upward == []


def test_models_know_of_data_only_what_a_record_is() -> None:
    names = {
        name
        for path in (PACKAGE / "models").glob("*.py")
        for name, _ in imports(path)
        if name.startswith("aeppt.data")
    }
    assert names == {"aeppt.data.records"}


def test_nothing_imports_the_command_line() -> None:
    importers = [
        where
        for path in PACKAGE.rglob("*.py")
        if part_of(path) != "cli"
        for where, imported in own_imports(path)
        if imported == "cli"
    ]
    assert importers == []


def test_the_extension_imports_torch_and_the_standard_library_only() -> None:
    foreign = [
        f"{path}:{line} imports {name}"
        for path in (ROOT / "aeppt_ext").glob("*.py")
        for name, line in imports(path)
        if name.split(".")[0] not in {*sys.stdlib_module_names, "torch", "aeppt_ext"}
    ]
    assert foreign == []


def test_the_installed_package_is_tested() -> None:
    given = [Path(entry).resolve() for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    if ROOT in given or ROOT / "python" in given:
        pytest.skip("PYTHONPATH points at the source tree")
    sources = [ROOT / "python" / "aeppt", ROOT / "aeppt_ext"]
    for package, source in zip((aeppt, aeppt_ext), sources, strict=True):
        assert Path(package.__file__ or "").resolve().parent != source
