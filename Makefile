# `make demo` and `make test` each work as the only command on a fresh clone: they install first, once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One process per core, each with one thread: tests are many and small.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast lint format docs bench

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no python3.11 or python3 found; set PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or later is wanted; set PYTHON=/path/to/python" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

setup: $(STAMP)  ## Create .venv and install everything at the pinned versions

demo: $(STAMP)  ## Train, compress, verify and run a small network on real data (no download)
	$(BIN)/gossamer demo

test: $(STAMP)  ## Run all tests with branch coverage
	$(PYTEST) --cov --cov-report=term --durations=10

test-fast: $(STAMP)  ## Run the tests that need no long training
	$(PYTEST) -m 'not slow'

lint: $(STAMP)  ## Check style, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## Put the code in the common style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(STAMP)  ## Write the generated parts of docs/ anew
	$(BIN)/python docs/generate.py

bench: $(STAMP)  ## Run all benchmarks; results go to benchmarks/results (takes hours)
	$(BIN)/python benchmarks/coder.py --output benchmarks/results/coder.json
	$(BIN)/python benchmarks/fuzz_artifact.py --output benchmarks/results/fuzz_artifact.json
	$(BIN)/python benchmarks/second_order.py
	$(BIN)/python benchmarks/int8.py lenet5 lenet300
	$(BIN)/python benchmarks/cut_zoo.py
	$(BIN)/python benchmarks/structured.py
	$(BIN)/python benchmarks/hashed.py
	$(BIN)/python benchmarks/clustering.py
	$(BIN)/python benchmarks/vgg16.py
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/speed_int8.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt torch-pruning
	$(BIN)/python benchmarks/torch_pruning.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check zstandard==0.25.0 brotli==1.2.1 pybind11
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps nncodec==2.1.3
	$(BIN)/python -m pip install --quiet --disable-pip-version-check nncf==3.4.0 torchao==0.18.0
	$(BIN)/python benchmarks/quantization.py
	$(BIN)/python benchmarks/speed_peers.py
	$(BIN)/python benchmarks/codecs.py
	$(BIN)/python benchmarks/pack.py
	$(BIN)/python benchmarks/rate_distortion.py
	$(BIN)/python benchmarks/deep_compression.py lenet5 lenet300 char-lstm char-gru
	$(BIN)/python benchmarks/retraining.py lenet5-98 lenet5-100 lenet5-200 lenet300-95 lenet300-80 lenet300-150 lenet300-soft
	$(BIN)/python benchmarks/retraining.py resnet20-half resnet20-quarter
	$(BIN)/python benchmarks/retraining.py char-lstm-90 char-gru-90 char-lstm-half char-gru-half
