# Every target does the set-up it needs: a virtual environment in .venv, brought up to date when pyproject.toml changes.
# pip's own variables pass through: with PIP_INDEX_URL or PIP_EXTRA_INDEX_URL on an index of CPU builds the
# environment has no CUDA libraries and is several GB smaller.

VENV ?= .venv
PYTHON ?= python3
WORKERS ?= 2
# One thread per test worker: two workers with two threads each wait for each other on two cores. Each gets whole
# files, as far as possible, and one that is done takes of the other's rest.
PYTEST = OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal
READY = $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

demo: $(READY) ## train, sample, score and compare three encodings on made-up pictures, in minutes
	$(VENV)/bin/python scripts/demo.py

test: $(READY) ## the tests that take seconds
	$(PYTEST) -m "not slow"

test-all: $(READY) ## every test
	$(PYTEST)

lint: $(READY) ## ruff, mypy and the layers of imports
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

clean: ## remove the virtual environment and the tools' caches, not the runs
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find var_pe scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "var_pe needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
			"name another one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -e ".[dev,offline,dense,export,explain,robust,video]"
	@touch $@
