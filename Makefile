# Every command of the project. `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup run test check format sabotage bench bench-peers bench-rtt soak lock clean
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

bench: setup ## Every bench of our own in turn: wire, ingest, probe, outbox (2: a goal is missed)
	@tools/get-influxd >/dev/null
	@status=0; for bench in wire ingest "ingest --rows-a-batch 10" "ingest --backlog" probe outbox; do \
	  .venv/bin/banua-lab bench $$bench || status=$$?; echo; \
	done; exit $$status

bench-peers: setup ## CPU a row of our collector beside Telegraf's, into the same InfluxDB (2: a goal is missed)
	@tools/get-influxd >/dev/null
	@tools/get-telegraf >/dev/null
	@.venv/bin/banua-lab bench peers $(ARGS)

bench-rtt: setup ## Error of round trips against the link emulator's log, beside fping's (root; ARGS="--rounds 5"; 2: a goal is missed)
	@.venv/bin/python -m tools.bench_rtt $(ARGS)

soak: setup ## Random kills of every part for an hour, compared with the truth (ARGS="--minutes 10 --seed 7"; 1: something differs)
	@.venv/bin/python -m tools.soak $(ARGS)

lock: ## Resolve pyproject.toml into requirements.lock (ARGS=--upgrade renews the pins)
	@tools/lock $(ARGS)

clean: ## Remove what the commands made
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	@find wire probe collector lab tests tools -name __pycache__ -prune -exec rm -rf {} +
