# Every command of the project. `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup run test check format sabotage bench-rtt lock clean
ARGS ?=

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Make .venv with every extra from requirements.lock (needs Python >= 3.11)
	@tools/setup

run: setup ## Try it here, without root: broker, collector and this machine's own probe (ARGS="…" passes options)
	@exec .venv/bin/banua-lab demo $(ARGS)

test: setup ## Every test: unit, real servers, as nobody, sabotage (installs the Debian packages it needs)
	@tools/run-tests

check: setup ## Lint, format, types, import layers, the allowed skips
	@tools/run-checks

format: setup ## Format the code and apply the safe lint fixes
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

sabotage: setup ## Break the code on purpose, one patch at a time: the tests must notice (ARGS="name…" picks patches)
	@.venv/bin/python tools/sabotage.py $(ARGS)

bench-rtt: setup ## Error of round trips against the link emulator's log, beside fping's (root; ARGS="--rounds 5"; 2: a goal is missed)
	@.venv/bin/python -m tools.bench_rtt $(ARGS)

lock: ## Resolve pyproject.toml into requirements.lock (ARGS=--upgrade renews the pins)
	@tools/lock $(ARGS)

clean: ## Remove what the commands made
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	@find wire probe collector lab tests tools -name __pycache__ -prune -exec rm -rf {} +
