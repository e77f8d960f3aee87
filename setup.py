"""Builds the extension ``aeppt_ext._C``; everything else about the package is in pyproject.toml.

``AEPPT_BUILD`` chooses what is built: ``cpu``; ``cuda`` (fails where it cannot); ``auto``, the
default: CUDA where this torch has CUDA and nvcc is found. A GPU is never needed to build;
``TORCH_CUDA_ARCH_LIST`` names the architectures (default: those in ``CUDA_ARCHITECTURES``).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

CUDA_ARCHITECTURES = "8.0;8.6;8.9;9.0;10.0;12.0+PTX"
ROOT = Path(__file__).resolve().parent


def cuda_toolkit() -> Path | None:
    """The CUDA toolkit's folder: CUDA_HOME, else where nvcc says that its own files are.

    ``nvcc`` on PATH may be a wrapper far from the toolkit, so its path alone proves nothing.
    """
    home = os.environ.get("CUDA_HOME")
    if home and Path(home, "bin", "nvcc").is_file():
        return Path(home)
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    dryrun = subprocess.run(
        [nvcc, "--dryrun", "none.cu"], capture_output=True, text=True, check=False
    )
    top = re.search(r"^#\$ TOP=(.*)$", dryrun.stdout + dryrun.stderr, re.MULTILINE)
    return Path(top[1]).resolve() if top else None


def wants_cuda() -> bool:
    """Whether to build the CUDA kernels; sets the environment that torch's build reads."""
    choice = os.environ.get("AEPPT_BUILD", "auto")
    if choice not in ("auto", "cpu", "cuda"):
        raise SystemExit(f"AEPPT_BUILD must be auto, cpu or cuda, got {choice!r}")
    if choice == "cpu":
        return False
    toolkit = cuda_toolkit()
    if toolkit is not None:
        os.environ["CUDA_HOME"] = str(toolkit)  # before torch's build tools look for it

    import torch

    missing = []
    if torch.version.cuda is None:
        missing.append("this torch was built without CUDA")
    if toolkit is None:
        missing.append("nvcc was not found (set CUDA_HOME or PATH)")
    if missing and choice == "cuda":
        raise SystemExit("AEPPT_BUILD=cuda, but " + " and ".join(missing))
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", CUDA_ARCHITECTURES)
    return not missing


CUDA = wants_cuda()

from setuptools import setup  # noqa: E402
from torch.utils.cpp_extension import (  # noqa: E402
    BuildExtension,
    CppExtension,
    CUDAExtension,
)

VERSION = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
folders = ("cpu", "ops", "cuda") if CUDA else ("cpu", "ops")
sources = [
    str(path.relative_to(ROOT))
    for folder in folders
    for path in sorted((ROOT / "csrc" / folder).glob("*.c*"))
]
architectures = os.environ["TORCH_CUDA_ARCH_LIST"] if CUDA else ""

setup(
    ext_modules=[
        (CUDAExtension if CUDA else CppExtension)(
            name="aeppt_ext._C",
            sources=sources,
            include_dirs=[str(ROOT / "csrc" / "include")],
            define_macros=[
                ("AEPPT_VERSION", VERSION),
                ("AEPPT_CUDA_ARCHITECTURES", architectures),
            ],
            # No contraction and no fast-math: a result is a decision. Without -fopenmp torch's
            # parallel_for would be a plain loop; linked against torch's own OpenMP library, it
            # takes torch's threads. tests/check_kernel_resources.py reads what ptxas says.
            extra_compile_args={
                "cxx": ["-std=c++20", "-O3", "-fopenmp", "-ffp-contract=off", "-Wall"],
                "nvcc": [
                    "-std=c++20",
                    "-O3",
                    "-fmad=false",
                    "--expt-relaxed-constexpr",
                    "-Xptxas=-v",
                ],
            },
            extra_link_args=["-fopenmp"],
        )
    ],
    cmdclass={"build_ext": BuildExtension},
)
