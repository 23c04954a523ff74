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
# Where the lowest versions of all dependencies have wheels.
LOWEST_PYTHON ?= python3.11

BIN    := $(VENV)/bin
GRAFT  := $(BIN)/graft
STAMP  := $(VENV)/.installed
LOWEST := build/lowest
# One worker more than there are cores, because tests wait for commands that they start. In the order of the folders: otherwise the files of few and long tests come last, and one core waits for the other.
WORKERS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )))
PYTEST := -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: configs help setup demo test test-fast test-lowest coverage faults lint wheel docs bench example-pack clean check preprocess train-source collect-filters fit-priors infer evaluate report run predict export

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

demo: $(STAMP) ## the whole method on a synthetic cohort, 18 minutes of processor time on two cores of a Xeon; then open the report
	$(GRAFT) run configs/demo.yaml $(ARGS)

test: $(STAMP) ## all tests
	$(BIN)/python $(PYTEST) $(ARGS)

test-fast: $(STAMP) ## tests that are not marked slow
	$(BIN)/python $(PYTEST) -m "not slow" $(ARGS)

# torch stays the version of TORCH: wheels of its lowest version without CUDA are not in every index.
test-lowest: $(STAMP) ## fast tests with the lowest versions that pyproject.toml allows, but torch as in TORCH
	rm -rf $(LOWEST)
	$(LOWEST_PYTHON) -m venv $(LOWEST)
	$(BIN)/python .ci/lowest_versions.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet $(TORCH_ARGS) '$(TORCH)'
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt --editable '.[dev]'
	$(LOWEST)/bin/python $(PYTEST) -m "not slow" $(ARGS)

coverage: $(STAMP) ## all tests, and which lines none of them reaches, in worker processes and commands too
	$(BIN)/python $(PYTEST) --cov --cov-report=term:skip-covered --timeout 900 $(ARGS)

faults: $(STAMP) ## 45 rounds, 100 kills at random moments, a full disk in every stage, jobs of a real SLURM (long)
	GRAFT_FAULTS=all $(BIN)/python -m pytest tests/faults tests/cluster tests/pipeline/test_backends.py --timeout 1200 $(ARGS)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(STAMP) ## build a wheel, and try it in an empty environment outside the clone
	rm -rf dist build/lib build/bdist.*
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	.ci/try_wheel $(PYTHON) dist/*.whl $(TORCH_ARGS) '$(TORCH)'

docs: $(STAMP) ## the documentation as a site, in build/site
	$(BIN)/python -m mkdocs build --strict

bench: $(STAMP) ## speed and memory, each against a peer in the same run
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

check preprocess train-source collect-filters fit-priors infer evaluate report run: $(STAMP) ## one stage, or all (run)
	$(GRAFT) $@ $(CONFIG) $(ARGS)

predict: $(STAMP) ## segment new scans: MODEL=FOLDER INPUT="FILE FOLDER" OUTPUT=FOLDER
	$(GRAFT) $@ $(MODEL) $(INPUT) --output $(OUTPUT) $(ARGS)

export: $(STAMP) ## a trained model as a MONAI bundle: MODEL=FOLDER OUTPUT=FOLDER
	$(GRAFT) $@ $(MODEL) --output $(OUTPUT) $(ARGS)

configs: $(STAMP) ## plan configs/planned again, from the scans in ../shared/real
	xargs -L 1 $(GRAFT) init --force < configs/planned/commands.txt

# The target of the demo plays no part in it: as few of its scans as a study can have.
EXAMPLE := configs/demo.yaml --workspace build/example-pack --set datasets.tumour.synthetic.cases=2 \
	--set "target={dataset: tumour, pool: 1, test: 1}" --set "target_training={arms: [dwp], sizes: [1]}"

example-pack: $(STAMP) ## a small source pack, build/example.pack, from the synthetic MS cohort of the demo (some minutes)
	for stage in check preprocess train-source collect-filters fit-priors; do $(GRAFT) $$stage $(EXAMPLE) $(ARGS) || exit 1; done
	$(GRAFT) pack build/example-pack --output build/example.pack --force --title "MS lesions in synthetic FLAIR" \
	  --license "Apache-2.0"

clean: ## remove workspaces and caches, keep the environment
	rm -rf workspaces build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
