# codetune. `make help` lists the targets; every one but `clean` makes .venv first where it is missing.
PYTHON ?= python3
BIN := .venv/bin
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"
SWEEP ?= train.lora.rank=8,16
PORT ?= 5000
# Columns that `make compare` leaves out: all but what was set and what came out
HIDDEN := ^(?!Experiment|params.yaml:(?!defaults)|(.*:)?(pass_at_1|p|validation_loss_kept)$$)
# A worker takes whole files, in order; one that dies is a failure at once
WORKERS := -n auto --dist loadfile --no-loadscope-reorder --max-worker-restart 0
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-gpu repro sweep compare ui lint dag lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/installed ## make .venv and install requirements.lock

.venv/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}: make PYTHON=python3.11 ...")'
	@$(PYTHON) -m venv .venv
	@echo "installing requirements.lock into .venv: 3 to 5 minutes"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.lock
	@touch $@

demo: setup ## run the whole pipeline, then print what came out (up to an hour on 2 cores)
	$(RUN) dvc repro
	@$(RUN) python -m stages.report.summary

test: setup ## run all tests (about 20 minutes on 2 cores); PYTEST_ARGS=-n0: in one process
	$(RUN) python -m pytest $(WORKERS) $(PYTEST_ARGS)

test-fast: setup ## run the quick tests of every room (2 to 3 minutes on 2 cores)
	$(RUN) python -m pytest $(WORKERS) -m "not slow" $(PYTEST_ARGS)

test-gpu: setup ## run the tests for a machine with a CUDA GPU (at most 10 minutes on one)
	$(RUN) python -m pytest -n0 -m gpu -rs --durations=10 $(PYTEST_ARGS) tests/gpu

repro: setup ## rerun what changed
	$(RUN) dvc repro

sweep: setup ## a Hydra multirun, one DVC experiment a point: make sweep SWEEP='train.lora.rank=4,8,16'
	$(RUN) python -m stages.sweep -m $(SWEEP)

compare: setup ## the experiments side by side, best first; COMPARE=-A: those of all commits
	@$(RUN) dvc exp show --md --only-changed --drop '$(HIDDEN)' \
	    --sort-by reports/evaluate/tuned.json:pass_at_1 --sort-order desc $(COMPARE)

ui: setup ## print a link to the runs and serve the MLflow UI on the embedded store: make ui PORT=5000
	@$(RUN) python -m stages.track.view $(PORT)
	@$(RUN) MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1 --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port $(PORT)

lint: setup ## ruff, mypy, no credentials in git
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/credentials.py

dag: setup ## draw the stages
	$(RUN) dvc dag

lock: setup ## resolve pyproject.toml into requirements.lock, without any registry's address
	$(BIN)/pip-compile --quiet --strip-extras --extra dev --no-emit-index-url --no-emit-find-links \
	    --no-emit-trusted-host --output-file requirements.lock pyproject.toml
	sed -i 's/^\(torch==[0-9.]*\)+cpu$$/\1/' requirements.lock # a local build's suffix would shut out CUDA builds

clean: ## remove scratch files, not artifacts, caches of DVC or .venv
	rm -rf .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find stages tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
