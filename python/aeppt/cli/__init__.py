"""The command line ``aeppt``; each command is a thin layer over a function of the library."""

from aeppt.cli.main import main

__all__ = ["main"]
