# Everything that one does with chatd from its checkout. `make` alone says what there is.
# Needs Python 3.11 or newer and the package registries; sets up the rest in .venv by itself.

VENV := .venv
BIN := $(VENV)/bin
# Renewed when what is locked or how chatd is packed has changed; a run with nothing changed does nothing.
READY := $(VENV)/.ready
# The first Python that is new enough; give PYTHON=… for another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
# Passed on to what is run: make serve ARGS="--config other.toml", make test ARGS="-k room", make bench ARGS="--help"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help serve test boot restart check format bench wheel install lock clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(READY) ## set up and run the daemon
	@$(BIN)/chatd serve $(ARGS)

test: $(READY) ## set up and run all tests, with coverage; with ARGS a part of them, without
	@tests/setup_system.sh
	@$(if $(ARGS),$(BIN)/python -m pytest $(ARGS),tests/whole.sh $(BIN)/python)

boot: $(READY) ## as root: boot a real systemd and try chatd in it, then docs/deployment.md on a fresh Debian; minutes
	@tests/setup_system.sh boot
	@$(BIN)/python -m pytest tests/boot.py tests/boot_docs.py $(ARGS)

restart: $(READY) ## as root: measure a restart under load on a real systemd, and draw docs/restart.svg
	@tests/setup_system.sh
	@$(BIN)/python -m pytest tests/boot.py -k restart_under_load
	@$(BIN)/python -m tests.boot_plot

check: $(READY) ## lint, format and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

format: $(READY) ## put the source in its format
	@$(BIN)/ruff check --fix-only
	@$(BIN)/ruff format

bench: $(READY) ## measure chatd beside its peers: a table, JSON and a plot
	@$(BIN)/python -m bench $(ARGS)

wheel: $(READY) ## pack chatd into dist/, with all it needs to run without this checkout
	@$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

install: ## as root: put chatd on this machine, for systemd to run (docs/deployment.md)
	@deploy/install.sh

lock: $(READY) ## renew requirements.lock and deploy/requirements.lock after pyproject.toml changed
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --all-extras \
		--output-file requirements.lock pyproject.toml
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --constraint requirements.lock \
		--output-file deploy/requirements.lock pyproject.toml

clean: ## remove all that was made here, but not chatd-data
	rm -rf $(VENV) .cache dist build bench/results .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || \
		{ echo "chatd needs Python 3.11 or newer: install it, or run make with PYTHON=/path/to/python3." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || \
		{ echo "$(PYTHON) cannot make a virtual environment: install python3-venv." >&2; exit 1; }
	@echo "Setting up $(VENV) from requirements.lock …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
