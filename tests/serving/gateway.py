"""Runs ``aeppt serve`` with ``arguments``, the first of which is the file that its log goes to."""

from __future__ import annotations

import os
import sys

from aeppt.cli import main

log, *given = arguments  # noqa: F821  given by who runs this
os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
sys.argv = ["aeppt", "serve", *given]
main()
