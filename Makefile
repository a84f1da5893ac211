# Everything there is to do here, by name; `make` alone lists it.
#
# A machine needs Python 3.11 or newer and make. All else comes from the lock files, through
# whichever package index the machine is set up for.

.DEFAULT_GOAL := help
SHELL := /bin/sh
.DELETE_ON_ERROR:

# The first Python that is new enough; `make PYTHON=/path/to/python run` chooses another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
# A uv on the PATH if there is one, else our own in .uv/.
UV := $(or $(shell command -v uv 2>/dev/null),.uv/bin/uv)
# Every process here is Python: without compiled modules each start of the exchange costs seconds.
unexport PYTHONDONTWRITEBYTECODE
UV_ENV := VIRTUAL_ENV=$(VENV) UV_NO_PROGRESS=1
COMPILE := $(UV) pip compile pyproject.toml --group web --group core --universal --generate-hashes \
	--no-header --no-annotate --python-version 3.11 --quiet

# The development environment holds all that running needs, so where there is one it serves for both.
RUN_ENV := $(or $(wildcard $(VENV)/.dev),$(VENV)/.run)

ARGS ?=
# Tests wait for their servers about a third of the time: one process more than there are cores.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(len(os.sched_getaffinity(0)) + 1)')
# Where the engine finds its compiled core, if one could be made.
COMPILED := env TIDEBOOK_ENGINE_CORE_DIR=$(CURDIR)/.build/core

.PHONY: help run test check bench lock gen web core dev clean \
	check-locks check-style check-types check-imports check-proto check-gen check-web

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(RUN_ENV) web core ## start the whole exchange; Ctrl-C stops it (ARGS="--data-dir DIR" and so on)
	@exec $(COMPILED) $(BIN)/tidebook up $(ARGS)

test: dev ## every test, with real servers, in parallel (ARGS="tests/engine -k fees" for some)
	@$(BIN)/python tools/build_web.py build
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

check: check-locks check-style check-types check-imports check-gen check-proto check-web ## all checks but the tests

bench: dev core ## the benchmarks
	$(COMPILED) $(BIN)/tidebook bench $(ARGS)

dev: $(VENV)/.dev ## the environment with all development tools, in .venv

web: $(RUN_ENV) ## the web page, if its sources changed
	@$(BIN)/python tools/build_web.py build

core: $(RUN_ENV) ## the engine's core compiled, if its sources changed and there is a C compiler
	@$(BIN)/python tools/build_core.py .build/core

gen: dev ## Python and TypeScript code of the contracts in proto/
	$(BIN)/python tools/gen.py
	@$(BIN)/python tools/build_web.py gen

lock: | $(UV) ## take newer packages into the lock files
	$(COMPILE) --upgrade -o locks/run.txt
	$(COMPILE) --upgrade --group dev -c locks/run.txt -o locks/dev.txt

clean: ## remove what was built, but neither data nor environments
	rm -rf .build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache web/dist
	find . -name __pycache__ -not -path './$(VENV)/*' -not -path './.uv/*' -prune -exec rm -rf {} +

check-locks: dev | $(UV) ## the lock files are those of pyproject.toml
	$(BIN)/python tools/check_locks.py $(UV)

check-style: dev ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-types: dev ## mypy, strict
	$(BIN)/mypy kernel mesh services gateway ops tools tests examples bench

check-imports: dev ## who may import whom
	$(BIN)/lint-imports

check-gen: dev ## gen/ is what proto/ gives
	$(BIN)/python tools/gen.py --check
	@$(BIN)/python tools/build_web.py check-gen

check-proto: dev ## buf: lint, format, no breaking change against main
	$(BIN)/python tools/check_proto.py

check-web: dev ## the page: types and lint
	@$(BIN)/python tools/build_web.py check

# Files that say from which lock file the environment was made.
$(VENV)/.dev: locks/dev.txt pyproject.toml | $(UV) $(VENV)/bin/python
	@echo "Installing the development environment"
	@$(UV_ENV) $(UV) pip sync --quiet --require-hashes --compile-bytecode locks/dev.txt
	@$(UV_ENV) $(UV) pip install --quiet --no-deps -e .
	@touch $@

$(VENV)/.run: locks/run.txt pyproject.toml | $(UV) $(VENV)/bin/python
	@echo "Installing Tidebook's environment (once)"
	@$(UV_ENV) $(UV) pip sync --quiet --require-hashes --compile-bytecode locks/run.txt
	@$(UV_ENV) $(UV) pip install --quiet --no-deps -e .
	@touch $@

$(VENV)/bin/python: | $(UV)
	@test -n "$(PYTHON)" || { echo "Tidebook needs Python 3.11 or newer; there is none on the PATH"; exit 1; }
	@$(UV) venv --quiet --allow-existing --python "$$(command -v $(PYTHON))" $(VENV)

.uv/bin/uv:
	@test -n "$(PYTHON)" || { echo "Tidebook needs Python 3.11 or newer; there is none on the PATH"; exit 1; }
	@echo "Installing the installer (once)"
	@$(PYTHON) -m venv .uv || { echo "Python's venv module is missing (on Debian: apt-get install python3-venv)"; exit 1; }
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'
