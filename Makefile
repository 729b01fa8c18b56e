# The few verbs of this project. `make quickstart` runs the main job, `make test` the tests; both set up what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help dev quickstart test test-fast lint bench docs requirements parts clean

help: ## what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(VENV)/.ready: requirements/dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

dev: $(VENV)/.ready ## a virtual environment with everything

quickstart: $(VENV)/.ready ## the whole job on real input: lock, build, sign, verify, install, evidence
	$(BIN)/python examples/quickstart/run.py

test: $(VENV)/.ready parts lint ## every test, with the real parts (installs Debian packages where root on Debian)
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered

test-fast: $(VENV)/.ready ## only the tests that need neither a real part nor the package index
	$(BIN)/python -m pytest -m 'not parts and not network'

lint: $(VENV)/.ready ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.ready parts ## the table of docs/benchmarks.md, measured here
	$(BIN)/python benchmarks/run.py

docs: $(VENV)/.ready ## write docs/commands.md from the commands' own help
	$(BIN)/python docs/generate.py

requirements: $(VENV)/.ready ## pin requirements/dev.txt anew
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --quiet --custom-compile-command 'make requirements' --output-file requirements/dev.txt --upgrade

parts: ## Debian's registry, engine and tools for the tests
	./tests/parts/install.sh

clean: ## everything made here
	rm -rf $(VENV) quickstart build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
