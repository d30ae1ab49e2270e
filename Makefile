# Everything a developer or CI runs. Each target sets up what it needs in $(VENV).
PYTHON ?= python3
VENV ?= .venv
OUT ?= out/demo
FILE ?= bench/results/gpu.json
BUDGET ?= 540
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := pyproject.toml setup.py constraints.txt $(wildcard csrc/*)

.PHONY: demo test lint docs bench bench-tiny gpu clean

## demo: train nano on all 24 task-levels, measure, and write the report
demo: $(VENV)/.demo
	$(BIN)/geomfast sweep $(OUT) --preset smoke
	$(BIN)/geomfast report $(OUT)

## test: the whole test suite; one thread a process, or the processes get in each other's way
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder \
	  -p no:benchmark

## lint: ruff and pyright
lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

## docs: the documentation site, in out/site; any warning fails
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

## bench: full sizes, then the guard against the committed ratios
bench: $(VENV)/.dev
	GEOMFAST_BENCH=full $(BIN)/python -m pytest bench --results out/bench.json
	$(BIN)/python bench/guard.py out/bench.json bench/results/baseline.json

## bench-tiny: every benchmark runs once, at sizes that say nothing about speed
bench-tiny: $(VENV)/.dev
	$(BIN)/python -m pytest bench

## gpu: build, test and benchmark on this machine's GPU within BUDGET seconds; writes one JSON
gpu:
	$(PYTHON) bench/gpu.py $(FILE) --budget $(BUDGET)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(SOURCES) | $(VENV)/bin/python
	$(PIP) install -q -c constraints.txt -e ".[report]"
	touch $@

$(VENV)/.dev: $(SOURCES) | $(VENV)/bin/python
	$(PIP) install -q -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build out *.egg-info geomfast/*.so
