"""Writes the table of GPU times in README.md from the newest results: python gpu_table.py.

Results are those of ``make gpu-check``; without any the table says that nothing was measured.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- GPU times: benchmarks/gpu_table.py -->", "<!-- end of GPU times -->"
KERNEL, PLAIN = ("float32", "tf32", "bf16"), ("eager", "compiled")


def best(engines: list[dict], names: tuple[str, ...]) -> dict:
    """The fastest of the named engines."""
    timed = [engine for engine in engines if engine["engine"] in names and "median_ms" in engine]
    return min(timed, key=lambda engine: engine["median_ms"])


def table(results: Path | None) -> str:
    """The text between README's two marks."""
    if results is None:
        return "On a GPU: not yet measured."
    report = json.loads(results.read_text())
    cells = {(c["k"], c["hidden"], c["n"]): c["engines"] for c in report["cells"]}
    rows = sorted({n for _, _, n in cells})
    lines = [
        f"On one {report['device']}, {report['date'][:10]}: the kernel's fastest precision, and "
        "how many times faster that is than the best of plain PyTorch; "
        f"[all figures]({results.relative_to(ROOT)}):",
        "",
        "| k | hidden | " + " | ".join(f"n = {n:,}" for n in rows) + " |",
        "| --- " * (2 + len(rows)) + "|",
    ]
    for k, hidden in sorted({(k, hidden) for k, hidden, _ in cells}):
        entries = []
        for n in rows:
            engines = cells.get((k, hidden, n))
            if engines is None:
                entries.append("not yet measured")
                continue
            kernel, plain = best(engines, KERNEL), best(engines, PLAIN)
            ratio = plain["median_ms"] / kernel["median_ms"]
            entries.append(f"{kernel['median_ms']:.3g} ms {kernel['engine']}, {ratio:.1f}×")
        lines.append(f"| {k} | {hidden} | " + " | ".join(entries) + " |")
    return "\n".join(lines)


def newest() -> Path | None:
    """The latest results of any GPU."""
    found = (ROOT / "benchmarks" / "results").glob("*/*.json")
    return max(found, key=lambda path: path.name, default=None)


def rewritten(readme: str) -> str:
    """README with the table in its place."""
    between = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    return between.sub(lambda _: f"{BEGIN}\n{table(newest())}\n{END}", readme)


if __name__ == "__main__":
    path = ROOT / "README.md"
    text = rewritten(path.read_text())
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
