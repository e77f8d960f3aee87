"""Options that several commands have."""

from __future__ import annotations

import enum
from typing import Annotated

import typer


class Attacks(str, enum.Enum):
    """How many attacks run."""

    default = "default"
    all = "all"


AttacksOption = Annotated[
    Attacks, typer.Option(help="The usual few, or every kind that the data allow.")
]
