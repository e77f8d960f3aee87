#!/usr/bin/env bash
# Builds what is shipped, and tries it: build_wheel.sh FOLDER. An sdist, a wheel from that sdist, the
# wheel repaired for manylinux, and that one installed in a folder of its own and tried there.
#
# Needs on PATH: a python with requirements.txt's torch and build tools, and auditwheel and patchelf.
# AEPPT_BUILD=auto|cpu|cuda as in setup.py. CONTRIBUTING.md says for which systems the wheel is good.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$1
try=$PWD/tests/try_installation.py
rm -rf "$out"
python -m build --no-isolation --outdir "$out" .
# These come with torch's wheel. A second libgomp would bring a second pool of threads.
auditwheel repair --wheel-dir "$out/repaired" --strip \
    --exclude 'libtorch*' --exclude 'libc10*' --exclude 'libgomp*' \
    --exclude 'libcuda*' --exclude 'libcudart*' "$out"/*.whl
python -m pip install -q --no-deps --target "$out/elsewhere" "$out"/repaired/*.whl
cd "$out/elsewhere"
PYTHONPATH=. python -P "$try" .
