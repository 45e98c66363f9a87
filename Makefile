# The two commands of a newcomer: `make demo` and `make test`. Needs make and Python >= 3.11, nothing else.
# `make lint` (ruff, pyright) and `make test-system` (every case of the long batteries) are what CI runs beside them.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
CONFIG ?= experiments/demo.py
WORKDIR ?= runs/demo

.PHONY: demo test test-system lint clean
.DEFAULT_GOAL := demo

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 with venv found; install one or say PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/scaling plan --config=$(CONFIG) --workdir=$(WORKDIR)
	$(BIN)/scaling run --config=$(CONFIG) --workdir=$(WORKDIR)
	$(BIN)/scaling fit $(WORKDIR)
	$(BIN)/scaling predict $(WORKDIR)
	$(BIN)/scaling report $(WORKDIR)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not system" -n 2 --dist loadfile

# Three at once on two cores: much of it waits for schedulers, leases and nodes.
test-system: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m system -n 3 --dist loadfile

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
