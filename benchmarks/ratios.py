"""What one run of the benchmark says: python ratios.py RUN.json [--baseline FILE] [--save FILE].

Prints a table. ``--baseline`` compares the ratios (not the times, which belong to a machine) with
those of an earlier run, and fails where one is clearly worse. ``--save`` writes the figures as JSON
and a picture of them beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

#: Ratios of the same code differ by this much from run to run on a busy machine: a cell may fall to
#: this share of the baseline's ratio, the geometric mean to that.
CELL_TOLERANCE, MEAN_TOLERANCE = 0.6, 0.8


def read_run(source: Path) -> dict:
    """The figures of a run of ``bench_search.py``."""
    run = json.loads(source.read_text())
    rates: dict[str, float] = {}
    timed: dict[tuple[int, str, int], dict[str, dict]] = {}
    early: dict[tuple[str, str], dict] = {}
    for result in run["benchmarks"]:
        info, stats = result["extra_info"], result["stats"]
        figures = {"median_ms": 1e3 * stats["median"], "iqr_ms": 1e3 * stats["iqr"]}
        if "flops" in info:
            figures["gflops"] = info["flops"] / stats["median"] / 1e9
        if "matrix_rate" in info:
            rates[info["matrix_rate"]] = figures["gflops"]
        elif "method" in info:
            early[info["method"], info["engine"]] = info | figures
        else:
            cell = info["k"], info["hidden"], info["n"]
            timed.setdefault(cell, {})[info["engine"]] = figures
        if info.get("engine") == "fused":
            facts = {name: info[name] for name in ("threads", "instruction_set")}
    rate = max(gflops for product, gflops in rates.items() if product.endswith("float32"))
    cells = []
    for (k, hidden, n), engines in sorted(timed.items()):
        plain = {
            name: figures["median_ms"]
            for name, figures in engines.items()
            if not name.startswith("fused")
        }
        best = min(plain, key=plain.__getitem__)
        fused = engines["fused"]
        cells.append(
            {
                "k": k,
                "hidden": hidden,
                "n": n,
                "ratio": plain[best] / fused["median_ms"],
                "best_plain": best,
                "of_matrix_rate": fused["gflops"] / rate,
                "engines": engines,
            }
        )
    boundary = early["boundary", "fused"]
    plain_step = min(
        (early["step", name] for name in ("eager", "compiled")), key=lambda e: e["median_ms"]
    )
    return {
        "machine": run["machine_info"]["cpu"].get("brand_raw", ""),
        **facts,
        "date": run["datetime"],
        "commit": run["commit_info"]["id"],
        "matrix_rate_gflops": rates,
        "geometric_mean_ratio": statistics.geometric_mean(cell["ratio"] for cell in cells),
        "cells": cells,
        "early": {
            "k": boundary["k"],
            "n": boundary["n"],
            "success": boundary["success"],
            "boundary": boundary,
            "plain_step": plain_step,
            "ratio": plain_step["median_ms"] / boundary["median_ms"],
            "all": [early[key] for key in sorted(early)],
        },
    }


def show(run: dict, console: Console) -> None:
    """The table."""
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in run["matrix_rate_gflops"].items())
    table = Table(title=f"50 gradient steps, {run['machine']}; matrix rates in GFLOP/s: {rates}")
    columns = ("k", "hidden", "n", "fused ms", "GFLOP/s", "of rate", "in bf16 ms")
    for column in (*columns, "best plain ms", "ratio"):
        table.add_column(column, justify="right")
    for cell in run["cells"]:
        fused, plain = cell["engines"]["fused"], cell["engines"][cell["best_plain"]]
        table.add_row(
            str(cell["k"]),
            cell["hidden"],
            str(cell["n"]),
            f"{fused['median_ms']:.3f} ± {fused['iqr_ms']:.3f}",
            f"{fused['gflops']:.0f}",
            f"{cell['of_matrix_rate']:.0%}",
            f"{cell['engines']['fused-bf16']['median_ms']:.3f}",
            f"{plain['median_ms']:.2f} {cell['best_plain']}",
            f"{cell['ratio']:.1f}",
        )
    console.print(table)
    console.print(f"geometric mean of the ratios {run['geometric_mean_ratio']:.1f}")
    for entry in run["early"]["all"]:
        console.print(
            f"{entry['engine']:10} {entry['method']:9} {entry['median_ms']:8.1f} ms, success "
            f"{entry['success']:.4f}, mean L1 {entry['mean_l1']:.5f}, steps {entry['steps']:.2f}"
        )
    console.print(f"boundary fused against step in plain PyTorch: {run['early']['ratio']:.1f}")


def worse(run: dict, baseline: dict) -> list[str]:
    """Where the ratios have fallen below the baseline's by more than the tolerance."""
    before = {(c["k"], c["hidden"], c["n"]): c["ratio"] for c in baseline["cells"]}
    found = [
        f"k={k}, {hidden}, n={n}: ratio {cell['ratio']:.1f}, was {before[k, hidden, n]:.1f}"
        for cell in run["cells"]
        for k, hidden, n in [(cell["k"], cell["hidden"], cell["n"])]
        if cell["ratio"] < CELL_TOLERANCE * before[k, hidden, n]
    ]
    mean, was = run["geometric_mean_ratio"], baseline["geometric_mean_ratio"]
    if mean < MEAN_TOLERANCE * was:
        found.append(f"geometric mean {mean:.1f}, was {was:.1f}")
    return found


def draw(run: dict, destination: Path) -> None:
    """The ratios as bars."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "aeppt"
    from matplotlib import pyplot

    cells = run["cells"]
    figure, axes = pyplot.subplots(figsize=(7, 3.2), layout="constrained")
    batches = sorted({cell["n"] for cell in cells})
    shapes = sorted({(cell["k"], cell["hidden"]) for cell in cells})
    for i, n in enumerate(batches):
        ratios = [c["ratio"] for c in cells if c["n"] == n]
        at = [j + (i - (len(batches) - 1) / 2) * 0.27 for j in range(len(shapes))]
        bars = axes.bar(at, ratios, 0.25, label=f"n = {n:,}", color=f"C{i}")
        axes.bar_label(bars, [f"{ratio:.1f}×" for ratio in ratios], fontsize=8)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_ylim(0.5, 3 * max(cell["ratio"] for cell in cells))
    axes.set_xticks(range(len(shapes)), [f"k = {k}, {hidden}" for k, hidden in shapes])
    axes.set_ylabel("times faster than the\nbest of plain PyTorch")
    axes.legend(ncols=len(batches), loc="upper right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(destination, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--baseline", type=Path)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    console = Console(width=120)
    run = read_run(arguments.run)
    show(run, console)
    found = []
    if arguments.baseline is not None:
        found = worse(run, json.loads(arguments.baseline.read_text()))
        for line in found:
            console.print(f"[red]worse than {arguments.baseline}:[/red] {line}")
    if arguments.save is not None:
        partial = arguments.save.with_suffix(".partial")
        partial.write_text(json.dumps(run, indent=1) + "\n")
        partial.replace(arguments.save)
        draw(run, arguments.save.with_suffix(".svg"))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
