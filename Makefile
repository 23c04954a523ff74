# Every target is a thin call of `graft` or of a well-known tool; `make help` lists them.

PYTHON ?= python3
VENV   ?= .venv
CONFIG ?= configs/demo.yaml
ARGS   ?=
MODEL  ?=
INPUT  ?=
OUTPUT ?=
# A CPU build is enough. Where the plain package brings CUDA, name the index of CPU builds: TORCH_ARGS="--index-url URL".
TORCH      ?= torch==2.13.0
TORCH_ARGS ?=

BIN    := $(VENV)/bin
GRAFT  := $(BIN)/graft
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test faults lint bench clean check preprocess train-source collect-filters fit-priors infer evaluate report run predict export

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z][a-zA-Z -]*:.*## / {printf "  %-46s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Stages take CONFIG=configs/NAME.yaml and ARGS=\"--set a.b=c --jobs 2\"."

setup: $(STAMP) ## make $(VENV) and install everything into it

# torch first and alone: later packages then find it and do not fetch a build of several gigabytes.
$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install --quiet $(TORCH_ARGS) '$(TORCH)'
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(STAMP) ## the whole method on a synthetic cohort, about 20 minutes of processor time; then open the report
	$(GRAFT) run configs/demo.yaml $(ARGS)

# In the order of the folders: otherwise the files of few and long tests come last, and one core waits for the other.
test: $(STAMP) ## all tests
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

faults: $(STAMP) ## 100 kills at random moments, a full disk in every stage (an hour or two)
	GRAFT_FAULTS=all $(BIN)/python -m pytest tests/faults --timeout 1200 $(ARGS)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP) ## speed and memory, each against a peer in the same run
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

check preprocess train-source collect-filters fit-priors infer evaluate report run: $(STAMP) ## one stage, or all (run)
	$(GRAFT) $@ $(CONFIG) $(ARGS)

predict: $(STAMP) ## segment new scans: MODEL=FOLDER INPUT="FILE FOLDER" OUTPUT=FOLDER
	$(GRAFT) $@ $(MODEL) $(INPUT) --output $(OUTPUT) $(ARGS)

export: $(STAMP) ## a trained model as a MONAI bundle: MODEL=FOLDER OUTPUT=FOLDER
	$(GRAFT) $@ $(MODEL) --output $(OUTPUT) $(ARGS)

clean: ## remove workspaces and caches, keep the environment
	rm -rf workspaces build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
