# Everything runs in this checkout's own .venv, made on first use. Needs Python 3.11 or later, and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# scikit-learn skips two of its checks without it.
export SCIPY_ARRAY_API = 1

.PHONY: demo test test-all lint bench faults results reliability clean

# The main job on embedded data: 50 labelled digits of 1200, beside the supervised-only network.
demo: $(READY)
	"$(BIN)/laddernet" train digits --labels 50

# Two processes on what may be two cores: threads would wait for each other.
test test-all: export OMP_NUM_THREADS = 1

test: $(READY)
	"$(BIN)/python" -m pytest -n 2 -m "not slow" $(PYTEST_ARGS)

test-all: $(READY)
	"$(BIN)/python" -m pytest -n 2 $(PYTEST_ARGS)

lint: $(READY)
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"

# Milliseconds a training step: written literally, ours, and what it cannot do without.
bench: $(READY)
	"$(BIN)/python" benchmarks/step.py

# Put each known fault into a copy of the source, and see its test fail.
faults: $(READY)
	"$(BIN)/python" tools/faults.py

# The tables of results in docs/results.md and the README, from the files in results/.
results: $(READY)
	"$(BIN)/python" tools/results.py

# The table of docs/reliability.md, from the tests of what can go wrong with a run.
reliability: $(READY)
	"$(BIN)/python" tools/reliability.py

$(READY): pyproject.toml constraints.txt
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "laddernet needs Python 3.11 or later; name one with make PYTHON=...")'
	"$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch "$(READY)"

clean:
	rm -rf "$(VENV)" .mypy_cache .ruff_cache .pytest_cache .hypothesis
