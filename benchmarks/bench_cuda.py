"""The CUDA kernel against plain PyTorch on one GPU: python bench_cuda.py OUTPUT.json [SECONDS].

The problems are those of ``bench_search.py``: every row takes all 50 gradient steps, so each engine
does the same work, and each must give the same answers. Engines:

- ``float32``, ``tf32``, ``bf16``: the kernel at each precision;
- ``eager``: ``aeppt_ext.reference``;
- ``compiled``: its gradient step under ``torch.compile`` (max-autotune), and all steps with their
  bookkeeping in one CUDA graph, so that nothing waits for the host.

The reference runs with float32 products and with tf32 ones, compiled it runs with tf32; the best
time counts. Times are of CUDA events; where rows are few they are mostly the call's own. Inputs
rotate through up to 64 copies: through more memory than the cache holds, where rows are many. The
two ceilings (copy, matrix product) are measured in the same run. Cells for which SECONDS leaves no
time are left out; a later run of the same commit adds them to OUTPUT.json.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from bench_search import OPTIONS, problem
from torch import Tensor

import aeppt_ext
from aeppt.files import write_atomically
from aeppt_ext import SearchOptions, SearchResult, Status, perturb_search, reference

CLASSES = (10, 100, 1000)
HIDDEN = ((64,), (256, 128, 64))
ROWS = (65_536, 1, 4096, 64, 1_048_576)  # in order of interest, should time run out
PRECISIONS = ("float32", "tf32", "bf16")
ROTATED_BYTES = 256 << 20  # several times the second-level cache
SECONDS_PER_MEDIAN = 1.5
SECONDS_TO_WARM = 0.3  # until the clocks are up
SECONDS_FOR_ONE = 3.0  # what takes longer is timed once
# Larger chunks than a CPU's caches like, so that launches do not bound the reference.
reference.CHUNK_ELEMENTS = 1 << 26

Case = tuple[Tensor, list[Tensor], list[Tensor]]


def median_ms(run: Callable[[int], object]) -> dict[str, float]:
    """Median and quartiles of the device's milliseconds in ``run(i)``, i counting up."""

    def timed(i: int) -> float:
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        run(i)
        after.record()
        after.synchronize()
        return before.elapsed_time(after)

    start = time.monotonic()
    times = [timed(0)]
    if times[0] < 1e3 * SECONDS_FOR_ONE:
        while time.monotonic() < start + SECONDS_TO_WARM:
            timed(0)
        times.clear()
        deadline = time.monotonic() + SECONDS_PER_MEDIAN
        while len(times) < 3 or (time.monotonic() < deadline and len(times) < 300):
            times.append(timed(len(times)))
    low, median, high = statistics.quantiles(times * 2 if len(times) == 1 else times, n=4)
    return {"median_ms": median, "low_ms": low, "high_ms": high, "runs": len(times)}


def copy_ceiling() -> float:
    """Bytes read and written per second by a copy on the device."""
    source = torch.empty(1 << 32, dtype=torch.uint8, device="cuda").random_(0, 255)
    target = torch.empty_like(source)
    return 2 * source.numel() / median_ms(lambda _: target.copy_(source))["median_ms"] * 1e3


def matrix_ceiling(precision: str) -> float:
    """Floating-point operations per second of a large matrix product."""
    n = 8192
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    left, right = (torch.randn(n, n, device="cuda").to(dtype) for _ in range(2))
    return 2 * n**3 / median_ms(lambda _: left @ right)["median_ms"] * 1e3


def rotated(case: Case) -> list[Tensor]:
    """Copies of the rows, as many as it takes to leave the cache between two uses."""
    probs = case[0]
    copies = min(64, 1 + ROTATED_BYTES // (probs.numel() * probs.element_size()))
    return [probs.roll(shift, 0).contiguous() for shift in range(copies)]


def captured(
    case: Case, options: SearchOptions, step: reference.Step
) -> tuple[Callable[[Tensor], None], tuple[Tensor, Tensor]]:
    """The search of unsuccessful rows in one CUDA graph, and where it leaves rows and scores."""
    probs, weights, biases = case
    rows = probs.clone()

    def search() -> tuple[Tensor, Tensor]:
        label, side = rows.argmax(1), torch.ones_like(rows[:, 0])
        logit, gradient = reference.score_and_gradient(rows, weights, biases, options.features)
        points, best, best_logit = rows, rows, logit
        for _ in range(options.max_steps):
            points, logit, gradient = step(
                points, logit, gradient, side, label, weights, biases, options
            )
            better = logit < best_logit
            best = torch.where(better.unsqueeze(1), points, best)
            best_logit = torch.where(better, logit, best_logit)
        return best, best_logit

    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):  # compiles, and warms up as a capture asks
        search()
    side_stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answers = search()

    def replay(given: Tensor) -> None:
        rows.copy_(given)
        graph.replay()

    return replay, answers


def time_eager(case: Case, options: SearchOptions, inputs: list[Tensor]) -> dict:
    """The reference, rows in chunks as it makes them."""
    _, weights, biases = case

    def run(i: int) -> SearchResult:
        return reference.perturb_search(inputs[i % len(inputs)], weights, biases, options)

    return median_ms(run)


def time_compiled(case: Case, options: SearchOptions, inputs: list[Tensor]) -> dict:
    """The captured search, and the share of rows on which its answer is another."""
    probs, weights, biases = case
    torch._dynamo.reset()
    step = torch.compile(reference.step, mode="max-autotune-no-cudagraphs", dynamic=False)
    replay, (best, _) = captured(case, options, step)
    replay(probs)
    expected = perturb_search(probs, weights, biases, options)
    # Where rounding decides, a row may go another way; most must not.
    differ = ((best - expected.probs).abs().amax(1) > 1e-3).double().mean().item()
    return {"other_rows": differ, **median_ms(lambda i: replay(inputs[i % len(inputs)]))}


def measure(k: int, hidden: tuple[int, ...], n: int, deadline: float) -> dict:
    """All engines on one problem. TimeoutError where one would begin after the deadline."""
    probs, weights, biases = problem(k, hidden, n)
    case = (probs.cuda(), [w.cuda() for w in weights], [b.cuda() for b in biases])
    inputs = rotated(case)
    options = replace(OPTIONS, on_invalid="passthrough")

    def time_kernel(precision: str) -> dict:
        chosen = replace(options, precision=precision)
        result = perturb_search(*case, chosen)
        assert (result.steps == OPTIONS.max_steps).all(), "the substitute was misled"
        return median_ms(
            lambda i: perturb_search(inputs[i % len(inputs)], case[1], case[2], chosen)
        )

    engines: list[tuple[dict, Callable[[], dict]]] = [
        ({"engine": precision}, partial(time_kernel, precision)) for precision in PRECISIONS
    ]
    for engine, matmul in (("eager", "highest"), ("eager", "high"), ("compiled", "high")):
        timer = time_eager if engine == "eager" else time_compiled
        timed = partial(timer, case, options, inputs)
        engines.append(({"engine": engine, "matmul": matmul}, timed))
    measured = []
    for name, engine_time in engines:
        if time.monotonic() > deadline:
            raise TimeoutError
        torch.set_float32_matmul_precision(name.get("matmul", "highest"))
        try:
            measured.append({**name, **engine_time()})
        except Exception as error:  # the others' times are worth having
            measured.append({**name, "error": f"{type(error).__name__}: {error}"[:500]})
        torch.cuda.empty_cache()
    return {
        "k": k,
        "hidden": "-".join(map(str, hidden)),
        "n": n,
        "operations": 4 * OPTIONS.max_steps * n * sum(weight.numel() for weight in weights),
        "engines": measured,
    }


def one_row_that_succeeds() -> dict:
    """Times of rows alone where the substitute's border is near, as it is for typical rows."""
    probs, weights, biases = problem(100, (256, 128, 64), 64)
    scores = reference.score(probs, weights, biases, OPTIONS.features)
    biases[-1] -= scores.min() - 0.1 * scores.std()  # all rows are taken for members, some barely
    given = probs.cuda()
    rows = [given[i : i + 1] for i in range(len(given))]
    layers = ([weight.cuda() for weight in weights], [bias.cuda() for bias in biases])
    options = replace(OPTIONS, on_invalid="passthrough")
    found = perturb_search(given, *layers, options)
    succeeded = (found.status == int(Status.SUCCESS)).nonzero()[:, 0].tolist()
    assert succeeded, "no row succeeds"
    rows = [rows[i] for i in succeeded]
    steps = found.steps[succeeded].double().mean().item()
    timed = median_ms(lambda i: perturb_search(rows[i % len(rows)], *layers, options))
    return {"rows": len(rows), "mean_steps": steps, **timed}


def facts() -> dict:
    """The machine and the versions."""

    def answer(*command: str) -> str:
        if shutil.which(command[0]) is None:
            return ""
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    query = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"
    return {
        "device": torch.cuda.get_device_name(),
        "nvidia_smi": dict(
            zip(
                query.split(","),
                answer("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader").split(", "),
                strict=False,
            )
        ),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "aeppt": aeppt_ext.ops.compiled.version if aeppt_ext.ops.compiled else None,
        # A copy of the tree that has no history is told by whoever made it.
        "commit": answer("git", "rev-parse", "HEAD") or os.environ.get("COMMIT", ""),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def is_huge(cell: tuple[int, int, tuple[int, ...]]) -> bool:
    """Whether the cell takes minutes, and comes last."""
    n, k, _ = cell
    return n * k > 1 << 28


def begun(output: Path) -> dict:
    """What an earlier run of this commit on this machine has measured; else all but the cells."""
    report = facts()
    if output.exists():
        earlier = json.loads(output.read_text())
        if all(earlier[name] == report[name] for name in ("device", "torch", "commit")):
            return earlier
    report |= {"copy_bytes_per_s": copy_ceiling(), "cells": []}
    report["flop_per_s"] = {precision: matrix_ceiling(precision) for precision in PRECISIONS}
    report["one_row_that_succeeds"] = one_row_that_succeeds()
    return report


def save(report: dict, output: Path) -> None:
    """Write it whole or not at all."""
    text = json.dumps(report, indent=1) + "\n"
    write_atomically(output, lambda file: file.write(text.encode()))


def main(output: Path, seconds: float) -> None:
    """Measure, and write after each cell what there is."""
    deadline = time.monotonic() + seconds
    report = begun(output)
    save(report, output)
    known = {(cell["n"], cell["k"], cell["hidden"]) for cell in report["cells"]}
    for n, k, hidden in sorted(product(ROWS, CLASSES, HIDDEN), key=is_huge):
        if (n, k, "-".join(map(str, hidden))) in known:
            continue
        try:
            cell = measure(k, hidden, n, deadline)
        except TimeoutError:
            print(f"no time left for n={n} k={k} {hidden} and what follows", flush=True)
            return
        report["cells"].append(cell)
        times = ", ".join(f"{e['engine']} {e.get('median_ms', 0):.3f}" for e in cell["engines"])
        print(f"k={k} {cell['hidden']} n={n}: {times} ms", flush=True)
        save(report, output)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else float("inf"))
