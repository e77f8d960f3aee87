"""A folder through ``aeppt protect --engine ray``: scale.py [--rows N] [--save FILE].

The rows are made here: soft-max of normal logits, float32, k = 10, in Parquet files of a million
rows, and are deleted at the end. The command is run as a user runs it, on a cluster of its own of 1
and then 2 workers; its seconds include the start and the end of Ray, and "once started" counts from
the first finished file to the last. Memory is the proportional set size (PSS) of all its processes
together, Ray's own and the shared object store included: the highest of samples taken every half
second. Rows out are counted in the footers of what was written.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from aeppt import Predictions, PrivacyFunnel

ROWS = 100_000_000
ROWS_OF_FILE = 1_000_000
CLASSES = 10
WORKERS = (1, 2)
KNOWN = 20_000  # rows that the defense is fitted on
SHARPNESS = 3.0  # scale of the logits
MEBIBYTE = 1024**2
COMMAND = "from aeppt.cli import main; main()"


def rows(n: int, seed: int) -> np.ndarray:
    """Soft-max rows [n, CLASSES], float32."""
    logits = np.random.default_rng(seed).standard_normal((n, CLASSES), np.float32)
    exponentials = np.exp(SHARPNESS * logits)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def save_defense(path: Path) -> None:
    """A PrivacyFunnel, fitted on rows that are sharper for members."""
    is_member = np.arange(KNOWN) % 2 == 0
    probs = rows(KNOWN, seed=2**31)
    probs[is_member] **= 1.2
    probs /= probs.sum(axis=1, keepdims=True)
    known = Predictions(probs, probs.argmax(axis=1), is_member)
    PrivacyFunnel(random_state=0).fit_predictions(known).save(path)


def make_folder(folder: Path, n: int) -> None:
    """Files of ``n`` rows in all."""
    folder.mkdir()
    for i, first in enumerate(range(0, n, ROWS_OF_FILE)):
        columns = np.ascontiguousarray(rows(min(ROWS_OF_FILE, n - first), seed=i).T)
        table = pa.table({f"p{j}": column for j, column in enumerate(columns)})
        pa.parquet.write_table(table, folder / f"part-{i:04d}.parquet", use_dictionary=False)


def rows_in(folder: Path) -> int:
    """The rows of all files, by their footers."""
    return sum(pa.parquet.read_metadata(file).num_rows for file in folder.glob("*.parquet"))


def text_of(path: Path) -> str:
    """What a file of ``/proc`` says; nothing where the process has ended."""
    try:
        return path.read_text()
    except OSError:
        return ""


def proportional_set_size(root: int) -> int:
    """Bytes that a process and all its descendants hold; shared pages are counted once."""
    stats = {int(entry.name): text_of(entry / "stat") for entry in Path("/proc").glob("[0-9]*")}
    parents = {
        process: int(stat.rpartition(")")[2].split()[1]) for process, stat in stats.items() if stat
    }
    tree = {root}
    while more := {process for process, parent in parents.items() if parent in tree} - tree:
        tree |= more
    lines = "".join(text_of(Path(f"/proc/{process}/smaps_rollup")) for process in tree).splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def measure(source: Path, destination: Path, defense: Path, workers: int) -> dict[str, Any]:
    """Run the command once; seconds, rows and memory."""
    arguments = ["protect", str(source), str(destination), "--defense", str(defense)]
    arguments += ["--engine", "ray", "--workers", str(workers)]
    start, highest = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, "-P", "-c", COMMAND, *arguments])
    while process.poll() is None:
        highest = max(highest, proportional_set_size(process.pid))
        time.sleep(0.5)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"the command ended with exit code {process.returncode}")
    done = rows_in(destination)
    finished = sorted(file.stat().st_mtime for file in destination.glob("*.parquet"))
    after_first = done * (len(finished) - 1) / len(finished)
    return {
        "workers": workers,
        "rows_out": done,
        "seconds": round(seconds, 1),
        "rows_per_second": round(done / seconds),
        "rows_per_second_once_started": round(after_first / (finished[-1] - finished[0])),
        "peak_memory_mib": round(highest / MEBIBYTE),
    }


def machine() -> dict[str, Any]:
    """What a reader needs to place the figures."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": model,
        "processors": os.cpu_count(),
        "memory_gib": round(memory / 1024**3, 1),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def main() -> None:
    import ray

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--folder", type=Path, help="where there is room for the files")
    parser.add_argument("--save", type=Path, help="where the figures go, as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        save_defense(folder / "defense.safetensors")
        make_folder(folder / "given", given.rows)
        n = rows_in(folder / "given")
        runs = []
        for workers in WORKERS:
            run = measure(
                *(folder / "given", folder / f"protected-{workers}"),
                *(folder / "defense.safetensors", workers),
            )
            if run["rows_out"] != n:
                raise SystemExit(f"{n} rows in, {run['rows_out']} out")
            print(json.dumps(run), flush=True)
            runs.append(run)
    figures = {
        "date": date.today().isoformat(),
        "machine": machine(),
        "ray": ray.__version__,
        "defense": "PrivacyFunnel",
        "classes": CLASSES,
        "dtype": "float32",
        "rows_in": n,
        "rows_per_file": ROWS_OF_FILE,
        "speed_up": round(runs[0]["seconds"] / runs[-1]["seconds"], 2),
        "speed_up_once_started": round(
            runs[-1]["rows_per_second_once_started"] / runs[0]["rows_per_second_once_started"], 2
        ),
        "runs": runs,
    }
    print(json.dumps(figures, indent=1))
    if given.save:
        given.save.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
