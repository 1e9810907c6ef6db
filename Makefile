# Two commands need nothing but Python >= 3.11:
#   make demo   parse an example photo with the bundled model (runtime only, no torch)
#   make test   install the workshop, then lint, types, arrows and tests
#
# And one needs CMake and a C++ compiler:
#   make native build the accelerator hp_sdk._native, which is used from then on
#
# torch is pinned as torch==2.13.0. Where the package index offers a CPU build of it, pip takes that; the plain index has
# only the CUDA build for Linux (gigabytes). There, name the index of CPU builds:
#   make test PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu

PYTHON ?= $(shell for candidate in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	if command -v $$candidate >/dev/null 2>&1 && \
	   $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then echo $$candidate; break; fi; done)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

PHOTO ?= examples/astronaut.jpg
PYTEST_ARGS ?= -n auto
WITHOUT_NATIVE := $(patsubst %,tests/sdk/test_%.py,parser postprocess preprocess recipe smoothing tta windows)

ifdef PIP_EXTRA_INDEX_URL
export PIP_EXTRA_INDEX_URL
endif

.DEFAULT_GOAL := help
.PHONY: help demo test lint format docs model native clean

help:
	@echo "make demo     parse $(PHOTO) with the bundled model; writes to out/"
	@echo "make test     lint, types, arrows, tests"
	@echo "make native   build the accelerator hp_sdk._native (CMake and a C++ compiler)"
	@echo "make lint     ruff, pyright, import-linter"
	@echo "make format   ruff format and the safe fixes"
	@echo "make docs     the documentation, as pages in site/"
	@echo "make model    train and export the bundled model (hours; HP_DATA names the folder of photos)"
	@echo "make clean    remove $(VENV), out/ and what was built in C++"

demo: $(VENV)/.runtime
	@$(BIN)/hp-parse "$(PHOTO)" --model cihp --output out --save labels,overlay,json

# Several processes: runtimes with thread pools of their own (OpenVINO, torch, ONNX Runtime) stay apart.
# The accelerator is tested where it can be built, and what it replaces in either case.
test: lint
	-$(MAKE) native
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/sdk tests/contract
	HP_NATIVE=0 $(BIN)/python -m pytest $(PYTEST_ARGS) $(WITHOUT_NATIVE)
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/trainer/schnet
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/trainer --ignore=tests/trainer/schnet
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/export tests/e2e
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/gpu
	-cpp_bindings/scripts/get_headers.sh
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/cpp

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

native: $(VENV)/.runtime
	@$(BIN)/python -c "import nanobind" 2>/dev/null || \
		$(PIP) install --quiet --constraint constraints.txt nanobind
	@cpp_bindings/python/build.sh $(BIN)/python

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev
	$(BIN)/mkdocs build

# Interrupted? Call it again: each stage goes on from its last checkpoint.
model: $(VENV)/.dev
	@test -n "$(HP_DATA)" || { \
		echo "make model needs HP_DATA=folder with pascal_person_part/ and ccp/ in it" >&2; exit 2; }
	PATH="$(CURDIR)/$(BIN):$$PATH" HP_DATA="$(HP_DATA)" scripts/train_default.sh

clean:
	rm -rf $(VENV) out cpp_bindings/build* hp_sdk/_native.*

# The environment is one: `test` adds the workshop to what `demo` installed. The stamps make a second call offline.
$(VENV)/.runtime: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the runtime into $(VENV) (about 80 MB, once) ..."
	@$(PIP) install --quiet --constraint constraints.txt --editable ".[cpu]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing runtime and workshop into $(VENV) (torch and friends, once) ..."
	@$(PIP) install --quiet --constraint constraints.txt --editable ".[dev]"
	@# classic TensorRT's bindings (3 MB, cannot run here): the names we use are compared with theirs
	@for version in 10.16.1.11 11.4.0.106; do $(PIP) download --quiet --no-deps --dest $(VENV)/tensorrt-bindings \
		tensorrt-cu13-bindings==$$version || true; done
	@# Triton's schema, without the client's dependencies: what we write is compared with it
	@$(PIP) install --quiet --no-deps tritonclient==2.73.0 || true
	@touch $(VENV)/.runtime $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
		echo "No Python >= 3.11 found; install one, or name it: make PYTHON=/path/to/python3.12 demo" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) could not make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
