# Two commands: `make train` runs the main job, `make test` the tests. Both set up .venv on first use.
PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/phase3.py
BIN := $(VENV)/bin
INPUTS := pyproject.toml requirements/teachers.txt

.PHONY: setup train test check clean

setup: $(VENV)/.run

train: $(VENV)/.run
	$(BIN)/python bin/train --config $(CONFIG)

test: $(VENV)/.development
	$(BIN)/python -m pytest

check: $(VENV)/.development
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run -Werror lattice_jax/native/*.h lattice_jax/*/native/*.[ch]
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV)

$(VENV)/.run: $(INPUTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[evaluation,search]'
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements/teachers.txt
	touch $@

$(VENV)/.development: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --editable '.[evaluation,search,development]'
	touch $@
