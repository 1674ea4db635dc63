# taskmon: `make` lists what can be done. Everything runs in .venv, which is made when it is missing.

VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LIVE := tests/live

# Options from the environment must not leave out tests unnoticed.
PYTEST := PYTEST_ADDOPTS= $(BIN)/python -m pytest

.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help demo venv flower services test test-unit lint format bench build clean

help: ## Show this list
	@echo "taskmon, a monitor for Celery clusters"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: venv ## Try taskmon: a broker, a worker, sample tasks and taskmon watching them
	@$(BIN)/taskmon demo

venv: $(STAMP) ## Make .venv with taskmon, editable, and its development tools

$(STAMP): pyproject.toml scripts/make-venv.sh
	@PYTHON="$(PYTHON)" scripts/make-venv.sh $(VENV)
	@touch $@

flower: venv ## Make .venv-flower with Flower in it, which taskmon is compared with
	@PYTHON="$(abspath $(BIN))/python" scripts/make-flower.sh .venv-flower || echo "Without Flower: see above." >&2

services: ## Install the servers the live tests start (as root, by apt)
	@scripts/install-services.sh

test: services venv flower lint ## Run every check and every test, those against real brokers too
	@scripts/run-tests.sh $(VENV)

test-unit: venv ## Run the tests that need no broker
	$(PYTEST) --ignore=$(LIVE)

lint: venv ## Check style, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv ## Put the code into its usual shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: venv ## Measure; one table a benchmark
	$(BIN)/python -m benchmarks

build: venv ## Build the wheel and the source package into dist/
	$(BIN)/python -m build

clean: ## Remove .venv, .venv-flower, build results and caches
	rm -rf $(VENV) .venv-flower dist build *.egg-info .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
