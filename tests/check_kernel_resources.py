"""Fails where a compiled CUDA kernel takes more than its occupancy allows.

``check_kernel_resources.py BUILD_LOG`` reads what ``ptxas -v`` said; of each kernel and
architecture the last compilation counts. Any spill or stack frame is a failure.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
THREADS = 256  # of a block
REGISTERS = 65536  # of a multiprocessor
SHARED_BYTES = 1024  # beside the slots, whose number follows from what is left

# Blocks that are to share a multiprocessor, for each kernel: name, type, lanes of a team, and
# whether its slots lie in shared memory.
BLOCKS = {
    ("search", "float", 8, True): 2,
    ("search", "float", 32, True): 2,
    ("search", "float", 256, True): 2,
    ("search", "float", 256, False): 1,
    ("search", "double", 8, True): 1,
    ("search", "double", 32, True): 1,
    ("search", "double", 256, True): 1,
    ("search", "double", 256, False): 1,
    **{
        ("release", dtype, lanes, shared): 4
        for dtype in ("float", "double")
        for lanes, shared in ((8, True), (32, True), (256, True), (256, False))
    },
    ("pack", "float", 0, False): 4,
    ("pack", "double", 0, False): 4,
}

Kernel = tuple[str, str, int, bool]


class Resources(NamedTuple):
    """What one kernel takes, per thread; ``shared`` per block. Sizes in bytes."""

    stack: int
    spilled: int
    registers: int
    shared: int


def read_log(text: str) -> dict[tuple[Kernel, str], Resources]:
    """What each kernel takes on each architecture."""
    found = {}
    for entry in text.split("Compiling entry function")[1:]:
        name = re.match(
            r" '\S*?(search|pack|release)_kernelI([fd])(?:Li(\d+)ELb([01])E)?\S*' for '(sm_\d+)'",
            entry,
        )
        figures = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
            r".*?Used (\d+) registers([^\n]*)",
            entry,
            re.DOTALL,
        )
        if name is None or figures is None:
            raise SystemExit(f"cannot read what ptxas says of{entry[:300]}")
        dtype = {"f": "float", "d": "double"}[name[2]]
        kernel = (name[1], dtype, int(name[3] or 0), name[4] == "1")
        shared = re.search(r"(\d+) bytes smem", figures[5])
        found[kernel, name[5]] = Resources(
            stack=int(figures[1]),
            spilled=int(figures[2]) + int(figures[3]),
            registers=int(figures[4]),
            shared=int(shared[1]) if shared else 0,
        )
    return found


def complaints(found: dict[tuple[Kernel, str], Resources]) -> list[str]:
    """One line for each kernel that is missing, unknown or takes too much."""
    expected = {(kernel, sm) for kernel in BLOCKS for sm in ARCHITECTURES}
    lines = [f"{kernel} for {sm}: not in the log" for kernel, sm in sorted(expected - set(found))]
    for (kernel, sm), taken in sorted(found.items()):
        if (kernel, sm) not in expected:
            lines.append(f"{kernel} for {sm}: say in BLOCKS what its occupancy is to be")
            continue
        allowed = min(255, REGISTERS // (BLOCKS[kernel] * THREADS))
        if taken.stack or taken.spilled or taken.registers > allowed or taken.shared > SHARED_BYTES:
            lines.append(
                f"{kernel} for {sm}: {taken}; allowed are no stack, no spills, {allowed} "
                f"registers, {SHARED_BYTES} bytes of shared memory"
            )
    return lines


if __name__ == "__main__":
    found = read_log(Path(sys.argv[1]).read_text())
    for kernel in BLOCKS:
        registers = [found[kernel, sm].registers for sm in ARCHITECTURES if (kernel, sm) in found]
        print(*kernel, "registers", *registers)
    if wrong := complaints(found):
        raise SystemExit("\n".join(wrong))
    print(
        f"{len(found)} kernels: no stack frames, no spills, registers and shared memory as allowed"
    )
