"""What the serving benchmarks write: figures, with the machine and versions they belong to."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aeppt.files import write_atomically


def facts() -> dict[str, Any]:
    """The machine, the versions and the commit."""
    named = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    packages = ("kserve", "fastapi", "uvicorn", "grpcio", "torch")
    return {
        "date": date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "processor": named[0] if named else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def quantiles_ms(seconds: NDArray[np.float64]) -> dict[str, float]:
    """Median, 95th and 99th percentile of times [n], in milliseconds, without failed ones (NaN)."""
    p50, p95, p99 = (1e3 * np.nanpercentile(seconds, [50, 95, 99])).round(3).tolist()
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def save(report: Mapping[str, Any], path: Path) -> None:
    """Write the report as JSON."""
    write_atomically(path, lambda file: file.write(json.dumps(report, indent=1).encode() + b"\n"))
