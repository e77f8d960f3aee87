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


class Engine(str, enum.Enum):
    """Where the work is done."""

    local = "local"
    ray = "ray"


EngineOption = Annotated[Engine, typer.Option(help="This machine alone, or a Ray cluster.")]
AddressOption = Annotated[
    str | None,
    typer.Option(help="Of a Ray cluster, host:port or auto; if not given, one is started here."),
]


def check_address(engine: Engine, address: str | None) -> None:
    """Refuse an address that would have no effect."""
    if address is not None and engine is not Engine.ray:
        raise ValueError("--address needs --engine ray")
