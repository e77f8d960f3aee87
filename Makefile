# One command each; what they need is set up first, and again only when it changed.
#
#   make demo    train, defend, attack and report on real data
#   make test    all tests, against the installed package
#   make bench   the fused search against plain PyTorch; fails where its ratios fell below those in
#                benchmarks/results/. To make new ones the baseline, copy build/cpu.* there and run
#                benchmarks/readme_times.py
#   make lint    ruff, mypy, clang-format
#   make docs    the documentation's pages, in build/site
#   make dist    an sdist, a wheel from it, repaired for manylinux, installed elsewhere and tried there
#   make check-native the kernels fuzzed, under sanitizers, and on an emulated ARM processor
#   make check-op     the op under AddressSanitizer and UndefinedBehaviorSanitizer
#   make gpu-check    on a machine with a GPU: its tests, compute-sanitizer, and the benchmark there
#   make resources    what the compiled CUDA kernels take: no spills, registers, shared memory
#
# AEPPT_BUILD=auto|cpu|cuda chooses what is built; see setup.py.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := $(shell find csrc aeppt_ext python -type f ! -name '*.so' ! -path '*__pycache__*')
NATIVE := $(shell find csrc -type f)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test bench lint format docs dist resources check-native check-op gpu-check setup

demo: setup
	$(BIN)/aeppt demo

# From tests/, so that the installed package is imported and not the source tree. Two files of tests
# at a time, each on one thread: most tests are too small for more.
PYTEST := OMP_NUM_THREADS=1 ../$(BIN)/pytest -c ../pyproject.toml --rootdir .. -n 2 --dist loadfile
test: setup
	cd tests && $(PYTEST) -m "not slow" .
	cd tests && $(PYTEST) -m slow .

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

# Strict: a link or an anchor that leads nowhere is an error, and so is a script from elsewhere. From
# docs/, so that the installed package is described.
docs: setup
	cd docs && ../$(BIN)/typer aeppt.cli.main utils docs --name aeppt --title "Command line" \
		--output reference/command-line.md > /dev/null
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	! grep -rlE '<(script|img|iframe)[^>]* src="?https?:|<link[^>]* rel="?stylesheet[^>]*https?:' build/site

dist: .venv/requirements
	PATH="$(abspath $(BIN)):$$PATH" AEPPT_BUILD=cpu tools/build_wheel.sh build/dist

# Of every kernel the figures of its last compilation count: the log grows, like build/temp.
resources: setup
	$(BIN)/python tests/check_kernel_resources.py build/install.log

# The kernels without torch, on any bytes as input (tests/native): threads under ThreadSanitizer, those
# of a CPU and those of the emulated CUDA kernels, NEON on an emulated processor, and a minute of
# libFuzzer under Address- and UndefinedBehaviorSanitizer. What it needs of Debian is in .ci/run.
CLANG_FLAGS := -Wno-unknown-pragmas -Wno-pass-failed
NATIVE_FLAGS := -std=c++20 -O2 -g1 -pthread -fopenmp-simd -ffp-contract=off -Wall -Icsrc/include
VARIANTS := $(basename $(notdir $(wildcard csrc/cpu/*.cpp)))
FUZZ_SECONDS ?= 60
SANITIZE := -fno-sanitize-recover=undefined -fsanitize=address,undefined

check-native: build/native/threads build/native/races build/native/neon build/native/fuzz
	build/native/threads 2000
	build/native/races 30
	qemu-aarch64 build/native/neon 2000
	build/native/fuzz -max_total_time=$(FUZZ_SECONDS) -max_len=64 -print_final_stats=1

SEARCHES := tests/native/fuzz_search.cpp tests/native/run_search.cpp
build/native/threads: $(NATIVE) $(wildcard tests/native/*)
	mkdir -p $(@D)
	g++ $(NATIVE_FLAGS) -fsanitize=thread $(SEARCHES) csrc/cpu/*.cpp -o $@

# clang's ThreadSanitizer has fibers that take little memory.
EMULATED := $(addprefix csrc/cpu/,variant_emulated.cpp release_emulated.cpp release_baseline.cpp)
build/native/races: $(NATIVE) $(wildcard tests/native/*)
	mkdir -p $(@D)
	clang++ $(NATIVE_FLAGS) $(CLANG_FLAGS) -O1 -fsanitize=thread -DAEPPT_WATCHED tests/native/fuzz_search.cpp \
		tests/native/races.cpp $(EMULATED) -o $@

build/native/neon: $(NATIVE) $(wildcard tests/native/*)
	mkdir -p $(@D)
	aarch64-linux-gnu-g++ $(NATIVE_FLAGS) -static $(SEARCHES) csrc/cpu/*.cpp -o $@

# clang knows no GCC target pragma: each variant gets its instruction set on the command line.
FLAGS_variant_avx2 := -mavx2 -mfma
FLAGS_variant_avx512 := $(FLAGS_variant_avx2) -mavx512f -mavx512bw -mavx512dq -mavx512vl
FLAGS_variant_avx512_bf16 := $(FLAGS_variant_avx512) -mavx512bf16
FLAGS_variant_amx := $(FLAGS_variant_avx512_bf16) -mamx-tile -mamx-bf16
FLAGS_variant_amx_emulated := $(FLAGS_variant_amx)
FLAGS_release_avx2 := $(FLAGS_variant_avx2)
FLAGS_release_avx512 := $(FLAGS_variant_avx512)
build/native/fuzz: $(VARIANTS:%=build/native/%.o) tests/native/fuzz_search.cpp
	clang++ $(NATIVE_FLAGS) $(SANITIZE),fuzzer $^ -o $@

build/native/%.o: csrc/cpu/%.cpp $(NATIVE)
	mkdir -p $(@D)
	clang++ $(NATIVE_FLAGS) $(CLANG_FLAGS) -O1 $(SANITIZE),fuzzer-no-link $(FLAGS_$*) -c $< -o $@

# The op with torch under the same two: the fastest instruction set, and those below.
check-op: .venv/requirements
	CFLAGS="$(SANITIZE) -g1" LDFLAGS="$(SANITIZE)" AEPPT_BUILD=cpu $(BIN)/python setup.py -q \
		build_ext --build-lib build/sanitized --build-temp build/sanitized-temp
	cp aeppt_ext/*.py build/sanitized/aeppt_ext/
	for isa in "" baseline avx2 avx512; do \
		AEPPT_ISA=$$isa ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=build/sanitized \
		LD_PRELOAD="$$(for name in asan ubsan stdc++; do gcc -print-file-name=lib$$name.so; done | tr "\n" " ")" \
		$(BIN)/python -P tests/try_kernel.py cpu || exit 1; \
	done

# With the Python at hand, which brings its torch and what the tests need.
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
