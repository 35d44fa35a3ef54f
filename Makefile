# Everything a user or CI does, as targets; `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Where the default index would bring torch with CUDA: make install TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
TORCH ?= torch==2.13.0
# The environment is made anew when what goes into it changes, and only then; else nothing is fetched.
READY := $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt 2>/dev/null | cksum | cut -d' ' -f1)

.PHONY: help install demo up test test-fast screenshots ledger-model bench bench-quick bench-engine bench-ledger bench-scheduler bench-stages bench-peers bench-overload bench-streams bench-bounds models-report compatibility chaos hostile lint audit format clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(READY) ## Make the environment (.venv) with everything, development tools included

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Bushel needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12")'
	@echo "Setting up $(VENV): about 360 MB are downloaded the first time (see README, 'What is downloaded')."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	rm -f $(VENV)/.ready-*
	touch $@

demo: install ## Translate the example files with the starter model, from nothing to the printed result
	$(BIN)/python examples/demo.py

up: install ## Run the one-machine stack in the foreground (Ctrl-C stops it)
	$(BIN)/bushel up

test: install ## Run the whole test suite, fast parts first (JOBS=n processes, two unless told)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(or $(JOBS),2) --dist loadfile --no-loadscope-reorder tests/unit tests/db tests/model tests/api tests/engines tests/training tests/cli tests/stack tests/browser tests/conformance

test-fast: install ## Run the tests that start no stack
	$(BIN)/pytest tests/unit tests/db tests/api

ledger-model: install ## Try 2,000 random interleavings of everybody on the ledger (about 15 minutes; EXAMPLES=n SEED=n)
	$(BIN)/python -m tests.model.run $(if $(EXAMPLES),--examples $(EXAMPLES)) $(if $(SEED),--seed $(SEED))

screenshots: install ## Take the pictures of the dashboard in docs/images anew (needs chromium; about 3 minutes)
	$(BIN)/python -m tests.browser.screenshots

bench: bench-engine bench-ledger bench-scheduler bench-stages bench-peers ## Measure everything of docs/performance.md that is kept there by scripts (each under 10 minutes)

bench-quick: install ## Has something become slower? Small benchmarks beside those that were kept (about 2 minutes; ARGS=--keep keeps them)
	$(BIN)/python -m benchmarks.quick $(ARGS)

bench-engine: install ## Measure a model through the service beside transformers and CTranslate2 (about 8 minutes; ARGS=--help)
	$(BIN)/python -m benchmarks.engine $(ARGS)

bench-ledger: install ## Measure ingest, recording, download and memory, without a model (about 8 minutes; ARGS=--help)
	$(BIN)/python -m benchmarks.ledger $(ARGS)

bench-scheduler: install ## Measure who gets the device, and when (about 6 minutes; ARGS=--help)
	$(BIN)/python -m benchmarks.scheduler $(ARGS)

bench-stages: install ## Measure where the time of a job goes, stage by stage (about 1 minute; ARGS=--help)
	$(BIN)/python -m benchmarks.stages $(ARGS)

bench-peers: install .venv-peers/.ready ## Measure the service beside LibreTranslate, Celery and Triton (about 6 minutes; ARGS=--help)
	$(BIN)/python -m benchmarks.peers $(ARGS)

# Triton's Python backend brings its own interpreter of the same version and reads the standard library of the one that
# runs it: 3.11.7 has one that it cannot run, 3.11.2 and Ubuntu's work. Debian's has no pip, hence ours.
PEERS_PYTHON ?= $(firstword $(wildcard /usr/bin/python3.11) $(PYTHON))
.venv-peers/.ready: benchmarks/peers-requirements.txt | install
	@echo "Setting up .venv-peers: about 400 MB are downloaded."
	test -x .venv-peers/bin/python || $(PEERS_PYTHON) -m venv --without-pip .venv-peers
	$(BIN)/pip --python .venv-peers/bin/python install --quiet --disable-pip-version-check --requirement benchmarks/peers-requirements.txt
	touch $@

bench-overload: install ## Measure what slow clients cost the others (about 4 minutes)
	$(BIN)/python -m benchmarks.overload

bench-streams: install ## Measure what 200 event streams cost the others (about 2 minutes; ARGS="--lines 1000000")
	$(BIN)/python -m benchmarks.streams $(ARGS)

bench-bounds: install ## Measure whether memory stays bounded, whatever is sent (about 15 minutes)
	$(BIN)/python -m benchmarks.bounds

models-report: install ## Measure the models that come with Bushel; write docs/models.md and their cards (DATA=folder)
	@test -n "$(DATA)" || { echo "Say where the data are: make models-report DATA=folder (docs/models.md says which)"; exit 2; }
	$(BIN)/python -m training.publishing.publish --data "$(DATA)" $(if $(MODELS),--models $(MODELS))

compatibility: install ## Run every SDK version against a real server and write docs/compatibility.md anew
	BUSHEL_WRITE_COMPATIBILITY=1 $(BIN)/pytest tests/conformance

chaos: install ## Kill, freeze, starve and confuse the service, and count what it cost (about 40 minutes; ARGS=--quick)
	$(BIN)/python -m chaos $(ARGS)

hostile: install ## Send 10,000 hostile requests and files, and count what they got (about 10 minutes; ARGS="--requests 2000")
	$(BIN)/python -m tests.hostile.campaign $(ARGS)

lint: install ## Check style, types and the arrows between packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# pip-audit asks PyPI; where there is no network: make audit AUDIT=--offline-ok
AUDIT ?=
audit: install .venv-audit/.ready ## Look for vulnerabilities, licences, secrets and risky code; reports in audit/
	$(BIN)/python deploy/audit/audit.py --environment $(VENV) --tools .venv-audit $(AUDIT)

.venv-audit/.ready: deploy/audit/tools.txt
	test -x .venv-audit/bin/python || $(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check --requirement deploy/audit/tools.txt
	touch $@

format: install ## Put the code into the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment and what runs left behind (not .bushel, where your jobs are)
	rm -rf $(VENV) .venv-sdks .venv-audit .venv-peers audit demo-results .pytest_cache .mypy_cache .ruff_cache *.egg-info
