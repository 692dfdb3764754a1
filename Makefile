# Maily Mesh. `make run` on a fresh machine needs Python 3.11 and make, nothing else.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
BRIEF ?= mesh/agents/samples/spring_sale.json
SOURCES := mesh actors serve_apps cluster tests benchmarks

# torch comes first and alone: pip takes the CPU build for this Python, and its companions differ
# from platform to platform, so the lock file leaves them out.
TORCH := $(shell sed -n 's/^  "\(torch==[^"]*\)",$$/\1/p' pyproject.toml)

.DEFAULT_GOAL := help
.PHONY: help run test test-slow install install-dev fetch up down lint format types imports \
	bench show-gateway lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: install ## install, start everything, write a first email, stay until Ctrl-C (DETACH=1: return)
	@$(BIN)/maily up --write $(BRIEF) $(if $(DETACH),--detach)

test: install-dev ## all tests but the slow ones
	$(BIN)/pytest -q -m "not slow"

test-slow: install-dev ## the slow tests
	$(BIN)/pytest -q -m slow

install: $(VENV)/.installed ## the virtual environment with the runtime

install-dev: $(VENV)/.installed-dev ## … and with the tools for tests and checks

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) is not here: install Python 3.11, or say which: make PYTHON=/path/to/python3.11"; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)

# A stamp is made only when everything before it succeeded, so a broken install begins again.
$(VENV)/.installed: $(BIN)/python requirements.lock pyproject.toml
	@echo "Installing (a few minutes the first time) …"
	$(PIP) install "$(TORCH)"
	$(PIP) install --require-hashes --no-deps -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	$(PIP) install --require-hashes --no-deps -r requirements-dev.lock
	@touch $@

fetch: install ## the model files and the EVM node, checked against their sums
	$(BIN)/maily models pull

up: install ## start and leave running
	$(BIN)/maily up --detach

down: install ## stop everything
	$(BIN)/maily down

lint: install-dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install-dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install-dev ## mypy --strict
	$(BIN)/mypy

imports: install-dev ## the layers: cluster over serve_apps over actors over mesh
	$(BIN)/lint-imports

bench: install-dev ## the gateway beside llama.cpp's own server: JSON and a table
	$(BIN)/python -m benchmarks.gateway $(if $(FULL),--full)

show-gateway: install-dev ## every claim measured on a running instance (FULL=1: full sizes)
	$(BIN)/python -m benchmarks.show.gateway $(if $(FULL),--full)

# Everything but torch and its companions, with hashes; no index and no host is written down.
COMPILE := CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --generate-hashes \
	--strip-extras --unsafe-package torch --build-deps-for editable \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host

lock: install-dev ## resolve the lock files anew
	$(COMPILE) --upgrade --output-file requirements.lock pyproject.toml
	cp requirements.lock requirements-dev.lock  # the same versions in both
	$(COMPILE) --extra dev --output-file requirements-dev.lock pyproject.toml
	@# torch is missing on purpose (see above): the warning about it would only puzzle
	@sed -i '/^# WARNING/,$$d' requirements.lock requirements-dev.lock

clean: ## the virtual environment and caches; your data stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
