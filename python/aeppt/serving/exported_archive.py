"""Reads a torch.export archive (``.pt2``) without running anything that is not a torch operator.

``torch.export.load`` unpickles parts of an archive where ``weights_only`` fails, loads native
libraries that lie in it, and evaluates some of its texts as Python. A file of a model is to be
data, so all of that is refused before torch sees it. What is left is a graph of registered torch
operators, which still computes whatever its author chose.
"""

from __future__ import annotations

import ast
import io
import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.pt2_archive import PT2ArchiveReader
from torch.export.pt2_archive._package import load_pt2  # no fallback to older, pickled formats

GRAPH = "models/model.json"
SAMPLE_INPUTS = "data/sample_inputs/model.pt"
PAYLOADS = (
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
)
#: All that ``torch.export.save`` writes for plain tensors. Else: code, objects, pickles.
KNOWN_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|\.format_version|\.storage_alignment|"
    r"data/weights/weight_\d+|data/constants/tensor_\d+|extra/.*|"
    + "|".join(map(re.escape, (GRAPH, SAMPLE_INPUTS, *PAYLOADS))),
    re.DOTALL,
)
#: Names end up in generated Python code; without quotes and brackets they cannot do anything there.
NAME = re.compile(r"[\w.:/ +-]*")
#: Where texts are data: they are quoted, kept as notes, or never read.
FREE_TEXTS = {"metadata", "as_string", "as_strings", "guards_code"}
#: Calls that stand in the expressions of dynamic shapes.
EXPRESSION_CALLS = {
    *("Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Min", "Max", "Mod"),
    *("And", "Or", "Not", "Equality", "Unequality", "LessThan", "StrictLessThan"),
    *("GreaterThan", "StrictGreaterThan", "Eq", "Ne", "Le", "Lt", "Ge", "Gt"),
    *("FloorDiv", "CleanDiv", "CeilDiv", "PythonMod", "ModularIndexing", "Where"),
    *("IntTrueDiv", "FloatTrueDiv", "FloorToInt", "CeilToInt", "ToFloat", "TruncToInt"),
}
EXPRESSION_NODES = (
    ast.Expression,
    ast.Call,
    ast.keyword,
    ast.Name,
    ast.Load,
    ast.Constant,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
)


def read_exported_program(content: bytes) -> ExportedProgram:
    """The program in the bytes of an archive that ``torch.export.save`` wrote.

    Raises
    ------
    ValueError
        The archive has something that would be unpickled, loaded as native code, or evaluated.
    """
    archive = PT2ArchiveReader(io.BytesIO(content))
    _check_records(archive.get_file_names())
    for payload in PAYLOADS:
        for name, entry in json.loads(archive.read_bytes(payload))["config"].items():
            if entry["use_pickle"] or entry["path_name"].startswith("custom_obj"):
                raise ValueError(f"it holds {name!r} pickled; export it as a plain tensor")
    _check_sample_inputs(archive.read_bytes(SAMPLE_INPUTS))
    _check_texts(json.loads(archive.read_bytes(GRAPH)))
    with warnings.catch_warnings():
        # Nothing writes to the weights, which lie in the bytes that were read.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        program: ExportedProgram = load_pt2(io.BytesIO(content)).exported_programs["model"]
    return program


def _check_records(names: list[str]) -> None:
    unknown = [name for name in names if not KNOWN_RECORDS.fullmatch(name)]
    if unknown:
        raise ValueError(
            f"it holds {unknown[0]!r}, which may be code; save the program alone, with "
            "torch.export.save"
        )


def _check_sample_inputs(content: bytes) -> None:
    # torch tries the same first, and unpickles everything where it fails.
    try:
        if content:
            torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:
        raise ValueError(
            "its sample inputs are not plain tensors; set example_inputs = None before saving"
        ) from error


def _check_texts(graph: Any) -> None:
    for place, text in _texts(graph):
        if place == "expr_str":
            _check_expression(text)
        elif not NAME.fullmatch(text) or text == "__enum__":  # an enum's module would be imported
            raise ValueError(f"its graph has {text[:60]!r} for a name ({place})")


def _texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """All texts that torch reads, keys included, each with the key that it stands under."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield place, key
            if not (key in FREE_TEXTS and _holds_texts_only(inner)):
                yield from _texts(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, place)
    elif isinstance(value, str):
        if place in ("in_spec", "out_spec", "context"):
            yield from _texts(json.loads(value or "null"), "structure")
        else:
            yield place, value


def _holds_texts_only(value: Any) -> bool:
    # Else it is no such field but, for example, a tensor that is called "metadata".
    inner = value.values() if isinstance(value, dict) else value
    return isinstance(value, str) or all(isinstance(text, str) for text in inner)


def _check_expression(text: str) -> None:
    nodes = list(ast.walk(ast.parse(text, mode="eval")))
    plain = all(
        isinstance(node, EXPRESSION_NODES)
        and (
            not isinstance(node, ast.Call)
            or (isinstance(node.func, ast.Name) and node.func.id in EXPRESSION_CALLS)
        )
        and (
            not (isinstance(node, ast.Constant) and isinstance(node.value, str))
            or re.fullmatch(r"[\w.+-]+", node.value) is not None
        )
        for node in nodes
    )
    if not plain:
        raise ValueError(f"its graph has {text[:60]!r} for the size of a dimension")
