"""The fused ranking release against sorting alone: bench_release.py [--save FILE].

One thread, float32, rows of soft-max probabilities, four million values of each number of classes.
``torch.sort`` and ``np.argsort`` give the order of the classes, which a release needs; ``np.sort``
gives the sorted values alone, which is the least that one might ask; ``copy`` is the memory's own
speed. None of them hashes, chooses or writes a codeword. Calls of all take turns; figures are
medians of the thread's processor time, which other programs on the machine disturb little.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aeppt_ext import ReleaseTables, check_tables, ops, rank_release, release

VALUES = 4_000_000
CLASSES = (2, 10, 100, 1000, 10_000)
ROUNDS = 21
SLOW_ROUNDS = 3  # of plain PyTorch
CONFIDENCES, SHAPES, MAPS = 8, 4, 4
KEY = torch.arange(16, dtype=torch.uint8)


def problem(k: int, n: int) -> tuple[Tensor, ReleaseTables]:
    """Rows [n, k] and tables of 32 cells."""
    generator = torch.Generator().manual_seed(k)
    probs = (3 * torch.randn(n, k, generator=generator)).softmax(1)
    cells = CONFIDENCES * SHAPES
    chances = torch.rand(MAPS, cells, cells, generator=generator, dtype=torch.float64)
    cumulative = (chances / chances.sum(2, keepdim=True)).cumsum(2)
    cumulative[:, :, -1] = 1
    powers = torch.linspace(0.5, 2, cells, dtype=torch.float64).unsqueeze(1)
    codebook = torch.arange(k, 0, -1, dtype=torch.float64) ** powers
    confidence = torch.linspace(0, 1, CONFIDENCES + 1, dtype=torch.float64)[1:-1]
    shape = torch.linspace(0, 1, SHAPES + 1, dtype=torch.float64)[1:-1]
    tables = ReleaseTables(
        probs[:1000].amax(1).double().quantile(confidence),
        shape.repeat(CONFIDENCES, 1),
        torch.randint(MAPS, (k,), generator=generator).int(),
        cumulative,
        (codebook / codebook.sum(1, keepdim=True)).float(),
    )
    check_tables(tables)
    return probs, tables


def medians(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Processor seconds of each call, the median of ``rounds`` in which all take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            start = time.thread_time()
            call()
            if round_ > 0:  # the first warms up
                seconds[name].append(time.thread_time() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def measure(k: int) -> dict[str, float]:
    """Processor nanoseconds per row of each way, and of one row alone."""
    n = VALUES // k
    probs, tables = problem(k, n)
    values = probs.numpy()
    seconds = medians(
        {
            "rank_release": lambda: rank_release(probs, tables, KEY),
            "torch.sort": lambda: torch.sort(probs, dim=1, descending=True, stable=True),
            "np.argsort": lambda: np.argsort(values, axis=1),
            "np.sort": lambda: np.sort(values, axis=1),
            "copy": probs.clone,
        },
        ROUNDS,
    )
    plain = {"plain PyTorch": lambda: release.rank_release(probs, tables, KEY)}
    seconds |= medians(plain, SLOW_ROUNDS)
    found = {name: taken / n * 1e9 for name, taken in seconds.items()}
    one = probs[:1].clone()
    alone = medians({"one row": lambda: rank_release(one, tables, KEY)}, 1000)
    return found | {"one row": alone["one row"] * 1e9}


def processor() -> str:
    """The processor's name, where Linux tells it."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--save", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    if ops.compiled is None:
        raise SystemExit(f"the compiled extension did not load: {ops.load_error}")
    torch.set_num_threads(1)
    figures = {}
    for k in CLASSES:
        figures[str(k)] = {name: round(taken, 1) for name, taken in measure(k).items()}
        print(k, figures[str(k)], flush=True)
    report = {
        "date": date.today().isoformat(),
        "processor": processor(),
        "instruction_set": ops.compiled.instruction_set(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": 1,
        "values": VALUES,
        "nanoseconds_per_row": figures,
    }
    if arguments.save:
        arguments.save.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
