# Bootstraps everything on a machine that has git, make and python3 >= 3.11: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null || echo .tools/uv/bin/uv)
LOCK := $(UV) pip compile --quiet --universal --generate-hashes --python-version 3.11 --extra dev --extra grounding --extra ray --extra sweep --extra docs \
	--custom-compile-command "make lock" pyproject.toml -o requirements.lock

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-lowest lint format docs lock clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(VENV)/.installed  ## install into .venv: emo, lightning and everything they need

demo: setup  ## the whole road on a drawn world, to runs/demo/report.html (five minutes on two cores)
	$(BIN)/emo demo $(ARGS)

test: setup  ## all tests, in one process more than there are cores, as some only wait
	$(BIN)/python -m pytest -n $$($(PYTHON) -c 'import os; print(os.cpu_count() + 1)') --dist worksteal $(ARGS)

test-lowest: $(UV)  ## training, data and inference with the lowest versions that pyproject.toml allows
	$(UV) venv --quiet --clear --python $(PYTHON) .venv-lowest
	$(UV) pip install --quiet --compile-bytecode --resolution lowest-direct --python .venv-lowest --editable '.[dev]'
	.venv-lowest/bin/python -m pytest tests/core tests/data tests/models tests/tasks tests/inference tests/metrics $(ARGS)

lint: setup  ## ruff, codespell, mypy, size of files: what CI and the pre-commit hooks check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	! git grep -nE 'fmt: (skip|off)' -- '*.py'
	$(BIN)/codespell
	# All but the model that the package carries.
	git ls-files -z -- . ':!emo_lightning/models/tiny_base/model.safetensors' | xargs -0 $(BIN)/check-added-large-files --enforce-all --maxkb=700
	$(BIN)/mypy

format: setup  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup  ## the documentation as a site, to site/index.html; no network needed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lock: $(UV)  ## renew requirements.lock from pyproject.toml
	$(LOCK) --upgrade

clean:  ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) .venv-lowest .tools site .pytest_cache .ruff_cache .mypy_cache

# Without bytecode every start of torch, lightning and transformers costs 20 s instead of 8.
$(VENV)/.installed: requirements.lock pyproject.toml setup.py | $(UV)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11; name another one: make setup PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	$(UV) pip sync --quiet --compile-bytecode --require-hashes --python $(VENV) requirements.lock
	$(UV) pip install --quiet --no-deps --no-build-isolation --python $(VENV) --editable .
	@touch $@

# A uv on the PATH needs nothing; else it comes with pip into a folder of the project.
.tools/uv/bin/uv:
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || { echo "error: $(PYTHON) has no pip; install it, or uv" >&2; exit 1; }
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .tools/uv uv
