# Everything happens in this checkout: environment in .venv, caches in .cache, results in build.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help venv demo up test check bench services gen gen-check lock format mutation clean

# The first of these that really runs and has a wheel of every pin (3.14 lacks one); `make PYTHON=…` takes another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1 && { echo $$p; break; }; done)
VENV   := .venv
BIN    := $(VENV)/bin
ROOMS  := agentkeys_core agentkeys_runtime signer broker worker device certs demo
export PIP_CACHE_DIR := $(CURDIR)/.cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# pip asks rustc for its version; a rustup proxy would write into HOME to answer.
export RUSTUP_HOME := $(CURDIR)/.cache/rustup
export RUFF_CACHE_DIR := $(CURDIR)/.cache/ruff
export MYPY_CACHE_DIR := $(CURDIR)/.cache/mypy
export PYTHONDONTWRITEBYTECODE :=

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

venv: $(VENV)/.ready ## make the environment (the other targets do it by themselves)

$(VENV)/.ready: requirements/dev.lock requirements/source.lock pyproject.toml tools/preflight.py
	@test -n "$(PYTHON)" || { echo "make: no python3 found; install Python 3.11, 3.12 or 3.13 (Debian, Ubuntu: apt install python3 python3-venv)" >&2; exit 1; }
	@$(PYTHON) tools/preflight.py
	@echo "making $(VENV) with $$($(PYTHON) --version); pinned packages, kept in this folder"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --only-binary :all: --require-hashes --requirement requirements/dev.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --require-hashes --requirement requirements/source.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --no-index --editable .
	@touch $@

demo: $(VENV)/.ready ## the whole system on loopback: the main job, then every attack (CREDENTIAL=path for your own)
	@$(BIN)/python -m demo $(if $(CREDENTIAL),--credential "$(CREDENTIAL)")

up: $(VENV)/.ready ## start the stack, leave it running, print how to use it
	@$(BIN)/python -m demo up

test: $(VENV)/.ready ## all tests
	@mkdir -p build/tmp
	TMPDIR=$(CURDIR)/build/tmp $(BIN)/python -m pytest --basetemp=build/pytest -n 2 --dist loadfile $(ARGS)

check: $(VENV)/.ready ## lint, types, import rules, generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(ROOMS) tests tools
	$(BIN)/lint-imports --cache-dir .cache/import_linter
	$(BIN)/python tools/generate.py --check
	$(BIN)/python tools/check_tree.py

services: $(VENV)/.ready ## install the real servers and foreign clients that some tests run against (needs go, npm and cargo)
	@$(BIN)/python tools/services.py $(ARGS)

bench: $(VENV)/.ready ## measure each figure of docs/bench.md as a ratio of this very run; writes build/bench.json
	@$(BIN)/python -m tests.perf.bench

gen: $(VENV)/.ready ## regenerate gen/ from protos/
	$(BIN)/python tools/generate.py

mutation: $(VENV)/.ready ## take each security check out in turn and see its test go red
	@$(BIN)/python tools/mutation.py $(ARGS)

format: $(VENV)/.ready ## format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lock: $(VENV)/.ready ## pin requirements/*.lock anew from pyproject.toml (needs uv)
	tools/lock.sh

clean: ## remove everything that make made
	rm -rf $(VENV) .cache build .hypothesis .coverage
