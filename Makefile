.DEFAULT_GOAL := help
SHELL := /bin/sh
PORT ?= 8000
DATA_DIR ?= var
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3.14 python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

.PHONY: help setup run migrate test check lint bench soak cluster cluster-down lock clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamps hold the checksum of what was installed, so that a pull with other requirements installs them
.venv/run: requirements/run.txt
	@test -n "$(PYTHON)" || { echo "SimpleTrain needs Python 3.11 or newer (with its venv module)."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; echo "The venv module is missing: on Debian, apt install python3-venv."; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/run.txt
	@touch $@

.venv/dev: requirements/dev.txt .venv/run
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/dev.txt
	@touch $@

setup: .venv/dev ## Install everything for development into .venv

run: .venv/run ## Start the portal: make run [PORT=8000] [DATA_DIR=var]
	@PORT='$(PORT)' DATA_DIR='$(subst ','\'',$(DATA_DIR))' exec $(BIN)/flask --app wsgi serve

migrate: .venv/run ## Bring the database up to this version
	@$(BIN)/flask --app wsgi migrate

test: .venv/dev ## Run every test that this machine can run
	@$(BIN)/python -m pytest -n auto

lint: .venv/dev ## Style, types, templates
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy
	@$(BIN)/djlint --quiet --lint app/templates

check: lint test ## All that CI asks

bench: .venv/dev ## Measure the figures of docs/benchmarks.md (a quarter of an hour)
	@$(BIN)/python -m tests.bench

soak: .venv/dev ## The long tests: 100,000 jobs with faults, then kills of real processes (an hour)
	@$(BIN)/python -m tests.soak --jobs 100000
	@$(BIN)/python -m pytest tests/crash -n auto --crash-rounds 20

cluster: .venv/dev ## A real Kubernetes on this machine to play with (as root; compiles once, minutes)
	@$(BIN)/python -m tests.real.cluster build
	@$(BIN)/python -m tests.real.cluster up --gpus 8
	@$(BIN)/python -m tests.real.cluster namespace lab

cluster-down: ## End it
	@$(BIN)/python -m tests.real.cluster down

lock: ## Make requirements/*.txt anew from pyproject.toml (needs uv)
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header -q -o requirements/run.txt
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes --no-header -q -o requirements/dev.txt

clean: ## Remove what was made here, but for the data
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
