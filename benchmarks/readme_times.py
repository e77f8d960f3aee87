"""Writes the times in README.md from the newest results: python readme_times.py.

Results are those of ``make bench`` and ``make gpu-check``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from aeppt.files import write_atomically

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MARKS = "<!-- {0} times: benchmarks/readme_times.py -->", "<!-- end of {0} times -->"
KERNEL, PLAIN = ("float32", "tf32", "bf16"), ("eager", "compiled")


def best(engines: list[dict], names: tuple[str, ...]) -> dict | None:
    """The fastest of the named engines; None where none has a time."""
    timed = [engine for engine in engines if engine["engine"] in names and "median_ms" in engine]
    return min(timed, key=lambda engine: engine["median_ms"], default=None)


def ms(median: float) -> str:
    """A time for people."""
    return f"{median:,.0f} ms" if median >= 1000 else f"{median:.3g} ms"


def grid(cells: list[dict], entry: Callable[[dict], str]) -> list[str]:
    """A table of one entry per cell: a line for each substitute, a column for each batch size."""
    by_place = {(cell["k"], cell["hidden"], cell["n"]): cell for cell in cells}
    sizes = sorted({n for _, _, n in by_place})
    lines = [
        "| k | hidden | " + " | ".join(f"n = {n:,}" for n in sizes) + " |",
        "| --- " * (2 + len(sizes)) + "|",
    ]
    for k, hidden in sorted({(k, hidden) for k, hidden, _ in by_place}):
        found = [by_place.get((k, hidden, n)) for n in sizes]
        entries = [entry(cell) if cell else "not yet measured" for cell in found]
        lines.append(f"| {k} | {hidden} | " + " | ".join(entries) + " |")
    return lines


def gpu_times(results: Path | None) -> str:
    """The latest run on a GPU."""
    if results is None:
        return "On a GPU: not yet measured."
    report = json.loads(results.read_text())

    def entry(cell: dict) -> str:
        kernel, plain = best(cell["engines"], KERNEL), best(cell["engines"], PLAIN)
        if kernel is None or plain is None:
            return "not yet measured"
        ratio = plain["median_ms"] / kernel["median_ms"]
        return f"{ms(kernel['median_ms'])} {kernel['engine']}, {ratio:.1f}×"

    lines = [
        f"On one {report['device']}, {report['date'][:10]}: the kernel's fastest precision, and "
        "how many times faster that is than the best of plain PyTorch; "
        f"[all figures]({results.relative_to(ROOT)}):",
        "",
        *grid(report["cells"], entry),
    ]
    return "\n".join(lines)


def cpu_times(results: Path) -> str:
    """The latest run on a CPU."""
    run = json.loads(results.read_text())
    picture = results.with_suffix(".svg").relative_to(ROOT)
    lowest = min(cell["ratio"] for cell in run["cells"])
    largest = max(cell["n"] for cell in run["cells"])
    last = [cell for cell in run["cells"] if cell["n"] == largest]
    many = ", ".join(f"{cell['of_matrix_rate']:.0%} (k = {cell['k']})" for cell in last)
    bf16 = ", ".join(
        f"{engines['fused']['median_ms'] / engines['fused-bf16']['median_ms']:.1f}× (k = {k})"
        for k, engines in ((cell["k"], cell["engines"]) for cell in last)
    )
    mkl, onednn = (run["matrix_rate_gflops"][f"{name} float32"] for name in ("torch.mm", "oneDNN"))
    early, machine = run["early"], run["machine"].replace("(R)", "")
    lines = [
        f"On an {machine} with {run['instruction_set']}, {run['threads']} threads, "
        f"{run['date'][:10]}: 50 gradient steps of every row, and how many times faster that is "
        "than the best of plain PyTorch (eager or `torch.compile`, float32 or bf16, finished rows "
        f"dropped); `make bench`, medians, [all figures]({results.relative_to(ROOT)}):",
        "",
        *grid(
            run["cells"],
            lambda cell: f"{ms(cell['engines']['fused']['median_ms'])}, {cell['ratio']:.1f}×",
        ),
        "",
        f"Geometric mean {run['geometric_mean_ratio']:.1f}×, lowest {lowest:.1f}×. With "
        f"n = {largest:,} the kernel reaches {many} of the float32 matrix rate of the same run, "
        f'{onednn:.0f} GFLOP/s by oneDNN (`torch.mm`: {mkl:.0f}). `precision="bf16"` makes it '
        f"{bf16} as fast.",
        "",
        f"Where rows succeed (k = {early['k']}, n = {early['n']:,}, {early['success']:.0%} of the "
        f'rows), the default `method="boundary"` takes {ms(early["boundary"]["median_ms"])} '
        f"and {early['boundary']['steps']:.1f} gradient steps per row; the best of plain PyTorch "
        f'with `method="step"` takes {ms(early["plain_step"]["median_ms"])} and '
        f"{early['plain_step']['steps']:.1f}: {early['ratio']:.1f}×.",
        "",
        f"![Ratio to the best of plain PyTorch, by batch size]({picture})",
    ]
    return "\n".join(lines)


def newest_gpu() -> Path | None:
    """The latest results of any GPU."""
    found = RESULTS.glob("*/*.json")
    return max(found, key=lambda path: path.name, default=None)


def between_marks(page: str, begin: str, end: str, text: str) -> str:
    """The page with ``text`` between two marks, in place of what stood there; or at its end."""
    if begin not in page:
        page += f"\n{begin}\n{end}\n"
    between = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    return between.sub(lambda _: f"{begin}\n{text}\n{end}", page)


def write_parts(page: Path, script: str, parts: Mapping[str, str]) -> None:
    """Writes each part that ``script`` makes of ``page`` into its place, marked by its name."""
    text = page.read_text()
    for name, part in parts.items():
        begin, end = f"<!-- {name}: benchmarks/{script} -->", f"<!-- end of {name} -->"
        text = between_marks(text, begin, end, part)
    write_atomically(page, lambda file: file.write(text.encode()))


def rewritten(readme: str) -> str:
    """README with the times in their places."""
    sections = {"CPU": cpu_times(RESULTS / "cpu.json"), "GPU": gpu_times(newest_gpu())}
    for name, text in sections.items():
        begin, end = (mark.format(name) for mark in MARKS)
        readme = between_marks(readme, begin, end, text)
    return readme


if __name__ == "__main__":
    path = ROOT / "README.md"
    text = rewritten(path.read_text())
    write_atomically(path, lambda file: file.write(text.encode()))
