# Everything a person types. `make demo` and `make test` install what they need into .venv first.

PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN = .venv/bin
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo test test-long check lint bench bench-text bench-images bench-serve commands constraints stop clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Genloom needs Python 3.11 or later; $(PYTHON) is older. Type make PYTHON=python3.11 …"; exit 2; }
	@echo "Installing into .venv; this takes a few minutes the first time."
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: .venv/installed ## real data to a served model: prepare, train, evaluate, promote, serve, ask
	@$(BIN)/genloom demo

stop: .venv/installed ## end the server that make demo left running
	@$(BIN)/genloom serve --stop

test: .venv/installed ## the test suite (bundled data only), without what takes minutes a test: make test-long
	@$(BIN)/pytest --numprocesses 2 --dist loadscope

test-long: .venv/installed ## the tests that take minutes
	@$(BIN)/pytest -m long

lint: .venv/installed ## ruff and the type checker
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

check: lint test ## what must pass before a change lands

bench: .venv/installed ## the benchmarks of speed, NAME=… picks some; GENLOOM_MIRROR may name a folder that holds MNIST
	@$(BIN)/python -m tests.benchmarks bench $(NAME)

bench-text: .venv/installed ## text: quality and speed beside transformers; GENLOOM_MIRROR names the folder of the data
	@$(BIN)/python -m tests.benchmarks bench-text $(NAME)

bench-images: .venv/installed ## every family of pictures, ten minutes each; FAMILY=… picks families or runs; rows are reused
	@$(BIN)/python -m tests.benchmarks bench-images $(FAMILY)

bench-serve: .venv/installed ## serving: speed beside LitServe, deaths, overload, mixed load; NAME=… picks some, NAME=hour is long
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,bench]'
	@$(BIN)/python -m tests.benchmarks bench-serve $(NAME)

commands: .venv/installed ## write docs/commands.md anew, after a verb or an option has changed
	@$(BIN)/python -m flows.commands.page > docs/commands.md

constraints: ## refresh the pins to the newest versions that pyproject.toml allows (torch stays at TORCH)
	@rm -rf .venv-new && $(PYTHON) -m venv .venv-new
	@.venv-new/bin/pip install --quiet --disable-pip-version-check $(TORCH) --editable '.[dev,bench]'
	@{ echo "# Every package of .venv, pinned; refresh with: make constraints"; \
		.venv-new/bin/pip freeze --exclude-editable | sed -E 's/\+cpu$$//'; } > constraints.txt
	@rm -rf .venv-new

clean: ## remove .venv, prepared data and all local state
	@if [ -x $(BIN)/genloom ]; then $(BIN)/genloom serve --stop || true; fi
	rm -rf .venv .venv-new .genloom data out
