# One command each; what they need is set up first, and again only when it changed.
#
#   make demo    train, defend, attack and report on real data
#   make test    all tests, against the installed package
#   make bench   the fused search against plain PyTorch; fails where its ratios fell below those in
#                benchmarks/results/. To make new ones the baseline, copy build/cpu.* there and run
#                benchmarks/readme_times.py
#   make lint    ruff, mypy, clang-format
#   make dist    build an sdist, install from it elsewhere, and try it there
#   make check-native the CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer
#   make gpu-check    on a machine with a GPU: all tests, compute-sanitizer, and the benchmark there
#   make resources    what the compiled CUDA kernels take: no spills, registers, shared memory
#
# AEPPT_BUILD=auto|cpu|cuda chooses what is built; see setup.py.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := $(shell find csrc aeppt_ext python -type f ! -name '*.so' ! -path '*__pycache__*')
NATIVE := $(shell find csrc -type f)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test bench lint format dist resources check-native gpu-check setup

demo: setup
	$(BIN)/aeppt demo

# From tests/, so that the installed package is imported and not the source tree.
test: setup
	cd tests && ../$(BIN)/pytest -c ../pyproject.toml --rootdir .. -m "not slow" .
	cd tests && ../$(BIN)/pytest -c ../pyproject.toml --rootdir .. -m slow .

bench: setup
	mkdir -p build
	cd benchmarks && ../$(BIN)/pytest -c ../pyproject.toml --rootdir .. --benchmark-only \
		--benchmark-json=../build/bench_search.json -q bench_search.py
	$(BIN)/python benchmarks/ratios.py build/bench_search.json --save build/cpu.json \
		--baseline benchmarks/results/cpu.json

lint: .venv/requirements
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=python:. $(BIN)/mypy -p aeppt -p aeppt_ext
	$(BIN)/clang-format --dry-run --Werror $(NATIVE)

format: .venv/requirements
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(NATIVE)

dist: .venv/requirements
	rm -rf build/sdist build/elsewhere && mkdir -p build/sdist
	$(BIN)/python -m build --sdist --no-isolation --outdir build/sdist .
	AEPPT_BUILD=cpu $(BIN)/pip install -q --no-build-isolation --no-deps --target build/elsewhere \
		build/sdist/*.tar.gz
	cd build/elsewhere && PYTHONPATH=. ../../$(BIN)/python -P ../../tests/try_installation.py .

# Of every kernel the figures of its last compilation count: the log grows, like build/temp.
resources: setup
	$(BIN)/python tests/check_kernel_resources.py build/install.log

# Every instruction set under AddressSanitizer and UndefinedBehaviorSanitizer, in a build of its own.
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined
check-native: .venv/requirements
	CFLAGS="$(SANITIZE) -g1" LDFLAGS="$(SANITIZE)" AEPPT_BUILD=cpu $(BIN)/python setup.py -q \
		build_ext --build-lib build/sanitized --build-temp build/sanitized-temp
	cp aeppt_ext/*.py build/sanitized/aeppt_ext/
	for isa in baseline avx2 avx512; do \
		AEPPT_ISA=$$isa ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=build/sanitized \
		LD_PRELOAD="$$(for name in asan ubsan stdc++; do gcc -print-file-name=lib$$name.so; done | tr "\n" " ")" \
		$(BIN)/python -P tests/try_kernel.py cpu || exit 1; \
	done

# With the Python at hand, which brings its torch.
gpu-check:
	$(PYTHON) benchmarks/gpu_check.py

setup: .venv/package

.venv/requirements: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -r requirements.txt
	touch $@

# build/lib would keep modules that were removed; build/temp only saves compiling again.
.venv/package: .venv/requirements setup.py pyproject.toml $(SOURCES)
	rm -rf build/lib* build/bdist*
	$(BIN)/pip install -q --log build/install.log --no-build-isolation --no-deps --force-reinstall .
	touch $@
