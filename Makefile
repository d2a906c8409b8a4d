# Two commands on a machine that has nothing but Python 3.11: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable
SOURCES := pyproject.toml setup.py constraints.txt

.PHONY: demo test lint clean

demo: .venv/demo
	$(BIN)/mica demo --out runs/demo --overwrite

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/demo: $(BIN)/python $(SOURCES)
	$(INSTALL) ".[minilm]"
	touch $@

.venv/dev: $(BIN)/python $(SOURCES)
	$(INSTALL) ".[dev]"
	touch $@

clean:
	rm -rf .venv runs build *.egg-info
