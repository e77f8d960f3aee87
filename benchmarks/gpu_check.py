"""Everything that needs a GPU, in nine minutes: ``make gpu-check``.

Builds and installs aeppt for the GPU at hand, then runs at the same time the tests that need a GPU
(none may skip), the search's tests with the search on the GPU, and four tools of
compute-sanitizer; then the benchmark, alone. All other tests are those of ``make test``. Where all
checks passed, figures go to ``benchmarks/results/<gpu>/<date>.json`` and into README; else they
stay in ``build/gpu-check``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
INSTALLED = ROOT / "build" / "gpu"
LOGS = ROOT / "build" / "gpu-check"
SECONDS = 9 * 60
SECONDS_TO_END = 70  # what the benchmark's last engine may take beyond its deadline
SEARCH_TESTS = (
    "agreement",
    "guarantees",
    "bit_identity",
    "bad_input",
    "large",
    "retraction",
    "release",
)
GPU_TESTS = (
    "search/test_cuda.py",
    "search/test_release_cuda.py",
    "test_replicas.py",
    "test_defense_conformance.py",
)
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")


def build(environment: dict[str, str]) -> None:
    """Install this tree where nothing else is."""
    shutil.rmtree(INSTALLED, ignore_errors=True)
    major, minor = torch.cuda.get_device_capability()
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps"]
    subprocess.run(
        [*pip, "--target", str(INSTALLED), "--log", str(ROOT / "build" / "gpu.log"), str(ROOT)],
        env={**environment, "AEPPT_BUILD": "cuda", "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}"},
        check=True,
    )


def checks() -> dict[str, tuple[list[str], dict[str, str]]]:
    """Each check's command, to be run in ``tests/``, and its environment."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-c", "../pyproject.toml", "--rootdir", ".."]
    pytest += ["-p", "no:cacheprovider", "-n", "6"]
    search = [f"search/test_{name}.py" for name in SEARCH_TESTS]
    alone = {"OMP_NUM_THREADS": "1"}
    commands = {
        "tests": ([*pytest, "-k", "gpu or cuda", *GPU_TESTS], {**alone, "AEPPT_REQUIRE_GPU": "1"}),
        "search on the GPU": ([*pytest, *search], {**alone, "AEPPT_TEST_DEVICE": "cuda"}),
    }
    for tool in TOOLS:
        sanitizer = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1"]
        if tool == "racecheck":  # its warnings are of what it holds to be harmless
            sanitizer += ["--racecheck-detect-level", "error"]
        uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        commands[tool] = ([*sanitizer, sys.executable, "try_kernel.py", "cuda"], uncached)
    return commands


def run_checks(environment: dict[str, str], deadline: float) -> tuple[dict[str, str], list[str]]:
    """Run all checks at once; the last line that each printed, by name, and those that failed."""
    running = {}
    for name, (command, extra) in checks().items():
        with (LOGS / f"{name}.log").open("w") as log:
            running[name] = subprocess.Popen(
                command,
                cwd=ROOT / "tests",
                env={**environment, **extra},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    last_lines, failed = {}, []
    for name, process in running.items():
        try:
            code = process.wait(max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and all that it started
            code = process.wait()
        text = (LOGS / f"{name}.log").read_text(errors="replace")
        last_lines[name] = text.strip().rpartition("\n")[2]
        print(f"{name}: rc {code}: {last_lines[name]}", flush=True)
        if code != 0:
            failed.append(name)
            print(text[-3000:], flush=True)
    return last_lines, failed


def main() -> None:
    """Build, check, measure, write."""
    if not torch.cuda.is_available():
        raise SystemExit("this machine has no GPU")
    # Tests send interruptions, which a job in the background ignores, and so do its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    start = time.monotonic()
    environment = {
        **os.environ,
        "PYTHONPATH": str(INSTALLED),
        "PATH": f"{INSTALLED / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    build(environment)
    print(f"built in {time.monotonic() - start:.0f} s", flush=True)
    last_lines, failed = run_checks(environment, start + SECONDS / 2)

    figures = LOGS / "figures.json"
    left = SECONDS - SECONDS_TO_END - (time.monotonic() - start)
    subprocess.run(
        [sys.executable, "bench_cuda.py", str(figures), f"{left:.0f}"],
        cwd=ROOT / "benchmarks",
        env=environment,
        check=True,
    )
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; {LOGS} has all they printed")
    gpu = torch.cuda.get_device_name().replace(" ", "-").lower()
    results = ROOT / "benchmarks" / "results" / gpu / time.strftime("%Y-%m-%d.json", time.gmtime())
    results.parent.mkdir(parents=True, exist_ok=True)
    report = json.loads(figures.read_text())
    results.write_text(json.dumps({**report, "checks": last_lines}, indent=1) + "\n")
    subprocess.run(
        [sys.executable, "readme_times.py"], cwd=ROOT / "benchmarks", env=environment, check=True
    )
    print(f"{time.monotonic() - start:.0f} s; wrote {results.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
