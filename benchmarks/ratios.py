"""A table of ratios from one run of the benchmark: python ratios.py RESULTS.json [OUTPUT.json]."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

Cell = tuple[int, str, int]


def main(source: Path, destination: Path | None) -> None:
    """Print the table; with a destination, also write its figures as JSON."""
    run = json.loads(source.read_text())
    cells: dict[Cell, dict[str, dict[str, float]]] = {}
    for result in run["benchmarks"]:
        info = result["extra_info"]
        cells.setdefault((info["k"], info["hidden"], info["n"]), {})[info["engine"]] = {
            "median_ms": 1e3 * result["stats"]["median"],
            "iqr_ms": 1e3 * result["stats"]["iqr"],
            "gflops": info["flops"] / result["stats"]["median"] / 1e9,
        }
    table = Table(title=f"50 gradient steps, {run['machine_info']['cpu'].get('brand_raw', '')}")
    for column in ("k", "hidden", "n", "fused ms", "GFLOP/s", "eager ms", "compiled ms", "ratio"):
        table.add_column(column, justify="right")
    figures = []
    for (k, hidden, n), engines in sorted(cells.items()):
        best = min(engines[name]["median_ms"] for name in ("eager", "compiled"))
        ratio = best / engines["fused"]["median_ms"]
        table.add_row(
            str(k),
            hidden,
            str(n),
            f"{engines['fused']['median_ms']:.3f} ± {engines['fused']['iqr_ms']:.3f}",
            f"{engines['fused']['gflops']:.0f}",
            f"{engines['eager']['median_ms']:.2f}",
            f"{engines['compiled']['median_ms']:.2f}",
            f"{ratio:.1f}",
        )
        figures.append({"k": k, "hidden": hidden, "n": n, "ratio": ratio, "engines": engines})
    console = Console(width=100)
    console.print(table)
    mean = statistics.geometric_mean(figure["ratio"] for figure in figures)
    console.print(f"ratio: best plain PyTorch over fused; geometric mean {mean:.1f}")
    if destination is not None:
        facts = {
            "machine": run["machine_info"]["cpu"].get("brand_raw", ""),
            "date": run["datetime"],
            "commit": run["commit_info"]["id"],
            "geometric_mean_ratio": mean,
            "cells": figures,
        }
        destination.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
