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
	bench bench-mesh bench-llm bench-memory bench-streams bench-agents bench-trust \
	test-vllm \
	show-gateway show-mesh show-trust lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: install ## install, start everything, write a first email, stay until Ctrl-C (DETACH=1: return)
	@$(BIN)/maily up --write $(BRIEF) $(if $(DETACH),--detach)

test: install-dev ## all tests but the slow ones
	$(BIN)/pytest -q -m "not slow and not vllm"

test-slow: install-dev ## the slow tests
	$(BIN)/pytest -q -m slow

# vLLM pins much of what the runtime has newer, so it lives apart. Without a GPU: its CPU build,
# whose companions of torch it can't load.
VLLM := .cache/vllm

test-vllm: install-dev $(VLLM)/weights/.made ## vLLM through ray.serve.llm, end to end, on CPUs (4 GB of packages)
	$(BIN)/pytest -q -m vllm tests/system/test_vllm.py

$(VLLM)/.installed: tests/vllm/requirements.txt | $(BIN)/python
	$(PYTHON) -m venv $(VLLM)/venv
	$(VLLM)/venv/bin/python -m pip install --quiet "$(TORCH)"
	$(VLLM)/venv/bin/python -m pip install --quiet -r tests/vllm/requirements.txt
	$(VLLM)/venv/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

$(VLLM)/weights/.made: $(VLLM)/.installed tests/vllm/convert.py
	MAILY_STORE=$(CURDIR)/.cache/store $(BIN)/maily models pull
	$(VLLM)/venv/bin/python tests/vllm/convert.py \
	  "$$(find .cache/store -name '*.gguf' | head -1)" $(VLLM)/weights
	@touch $@

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

bench-mesh: install-dev ## coordination: assignments, leases, step overhead, fairness, recovery
	$(BIN)/python -m benchmarks.mesh $(if $(FULL),--full)

bench-llm: install-dev ## the gateway beside LiteLLM's proxy and two routers, same upstream
	$(BIN)/python -m benchmarks.llm $(if $(FULL),--full)

bench-memory: install-dev ## recall and speed beside exact search, pgvector and LanceDB
	$(BIN)/python -m benchmarks.memory $(if $(FULL),--full)

bench-streams: install-dev ## a thousand readers over reconnect storms
	$(BIN)/python -m benchmarks.streams $(if $(FULL),--full)

bench-agents: install-dev ## two hundred briefs: validity, repairs, diversity
	$(BIN)/python -m benchmarks.agents $(if $(FULL),--full)

bench-trust: install-dev ## leaves, proofs, certificates and gas beside pymerkle, OpenTimestamps, DKIM
	$(BIN)/python -m benchmarks.trust $(if $(FULL),--full)

show-gateway: install-dev ## every claim measured on a running instance (FULL=1: full sizes)
	$(BIN)/python -m benchmarks.show.gateway $(if $(FULL),--full)

show-mesh: install-dev ## the mesh in depth, measured on running instances (FULL=1: full sizes)
	$(BIN)/python -m benchmarks.show.mesh $(if $(FULL),--full)

show-trust: install-dev ## certificates, anchors, verifiers, on running instances (FULL=1: full sizes)
	$(BIN)/python -m benchmarks.show.trust $(if $(FULL),--full)

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
