# taskmon: `make` lists what can be done. Everything runs in .venv, which is made when it is missing.

VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# What has been installed: what running takes, and what developing takes as well.
RUN := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
LIVE := tests/live
# Processes that run tests: more than there are processors, for live tests mostly wait.
WORKERS ?= 8

# Options from the environment must not leave out tests unnoticed.
PYTEST := PYTEST_ADDOPTS= PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help demo venv flower services test test-unit test-newest test-lowest coverage lint format lock upgrade bench build clean

help: ## Show this list
	@echo "taskmon, a monitor for Celery clusters"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(RUN) ## Try taskmon: a broker, a worker, sample tasks and taskmon watching them
	@$(BIN)/taskmon demo

venv: $(DEV) ## Make .venv with taskmon, editable, and its development tools

$(RUN): requirements/run.txt pyproject.toml scripts/make-venv.sh scripts/install-locked.sh
	@PYTHON="$(PYTHON)" scripts/make-venv.sh $(VENV) requirements/run.txt
	@touch $@

$(DEV): requirements/dev.txt pyproject.toml scripts/make-venv.sh scripts/install-locked.sh
	@PYTHON="$(PYTHON)" scripts/make-venv.sh $(VENV) requirements/dev.txt
	@touch $(RUN) $@

# A PYTHON that is named replaces that of an environment made with another.
VERSION := -c 'import sys; print(sys.version)'
ifneq ($(origin PYTHON),file)
ifneq ($(shell $(BIN)/python $(VERSION) 2>/dev/null),$(shell $(PYTHON) $(VERSION)))
$(RUN) $(DEV): removed
.PHONY: removed
removed:
	@rm -rf $(VENV)
endif
endif

flower: venv ## Make .venv-flower with Flower in it, which taskmon is compared with
	@PYTHON="$(abspath $(BIN))/python" scripts/make-flower.sh .venv-flower || echo "Without Flower: see above." >&2

services: ## Install the servers the live tests start (as root, by apt)
	@scripts/install-services.sh

# Each process of pytest-xdist imports all tests, all at once: they are compiled before, beside the checks.
test: services venv flower ## Run every check and every test, those against real brokers too
	@$(PYTEST) --collect-only --quiet >/dev/null & $(MAKE) --no-print-directory lint && wait
	$(PYTEST) -n $(WORKERS) --dist=loadgroup

test-unit: venv ## Run the tests that need no broker
	$(PYTEST) --ignore=$(LIVE)

test-newest: venv ## The same with the newest versions that pyproject.toml allows
	@scripts/test-resolved.sh $(VENV) highest .venv-newest

test-lowest: venv ## The same with the lowest versions that pyproject.toml allows
	@scripts/test-resolved.sh $(VENV) lowest-direct .venv-lowest

coverage: services venv flower ## Run every test and show which branches none takes
	$(PYTEST) -n $(WORKERS) --dist=loadgroup --cov --cov-fail-under=95

lint: venv ## Check style, types and layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv ## Put the code into its usual shape
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: venv ## Bring the lock files in requirements/ up to pyproject.toml
	@scripts/lock.sh $(BIN)/uv

upgrade: venv ## Lock the newest versions that pyproject.toml allows
	@scripts/lock.sh $(BIN)/uv --upgrade

bench: venv ## Measure; one table a benchmark
	$(BIN)/python -m benchmarks

build: venv ## Build the wheel and the source package into dist/
	$(BIN)/python -m build --no-isolation

clean: ## Remove the virtual environments, build results and caches
	rm -rf $(VENV) .venv-flower .venv-newest .venv-lowest dist build *.egg-info .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
