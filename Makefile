# What a person does with a fresh clone. Each target makes what it needs first; all that is required
# is Python 3.11 or newer. Written for GNU make 3.81 and newer.

.DEFAULT_GOAL := help
.PHONY: help setup setup-local demo dev test check simulate bench fuzz lock wheel clean
MAKEFLAGS += --no-print-directory
# More arguments for the program behind a target: make test ARGS="tests/core -x"
ARGS ?=
BENCH ?=
TARGET ?=
TIME ?= 60
# Where the queue is in end-to-end tests: sqlite or postgresql.
STORE ?= sqlite
export STORE
# What make simulate runs: SEEDS seeds from FIRST on; or SEED=7, with TRACE=1 all that happens in it; or TEETH=1; or CRASHES=1.
SEEDS ?= 100
FIRST ?= 0
SEED ?=
TRACE ?=
TEETH ?=
CRASHES ?=
PYTHON ?=
export PYTHON

bin := .venv/bin
# What runs on a machine, with the Python of its image.
on_the_machine := $(addprefix daemon/dstackd/,runner protocol.py launch_document.py artifact_manifest.py)
bash_scripts = .ci/run $$(find daemon -name '*.bash' -o -name '*.sh')

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

setup: ## Make .venv with everything that tests and checks need (about a minute, once)
	@sh requirements/install.sh dev

setup-local:
	@sh requirements/install.sh local

demo: setup-local ## Watch real jobs go through their whole life on a cloud on this machine
	@$(bin)/dstackd demo $(ARGS)

dev: setup-local ## Run the daemon against a cloud on this machine, until Ctrl-C
	@$(bin)/dstackd dev $(ARGS)

test: setup ## Run the tests: make test ARGS="tests/core -x"
	@$(bin)/python -m pytest $(ARGS)

check: setup ## Formatting, lint, types, import contracts, the runner's Python version, shell syntax
	@$(bin)/ruff format --check --quiet . || { echo "mend with: $(bin)/ruff format ." >&2; exit 1; }
	@$(bin)/ruff check --quiet .
	@$(bin)/mypy
	@$(bin)/lint-imports --no-logo
	@$(bin)/vermin --quiet --no-tips --violations --target=3.9- $(on_the_machine)
	@for script in requirements/*.sh; do sh -n $$script || exit 1; done
	@for script in $(bash_scripts); do bash -n $$script || exit 1; done
	@! command -v shellcheck >/dev/null || shellcheck requirements/*.sh $(bash_scripts)

simulate: setup ## Run the daemon in hostile worlds: make simulate SEEDS=1000, or SEED=7 TRACE=1, TEETH=1, CRASHES=1
	@PYTHONPATH=.:daemon $(bin)/python -m tests.simulation --first $(FIRST) --seeds $(SEEDS) \
		$(if $(SEED),--seed $(SEED)) $(if $(TRACE),--trace) $(if $(TEETH),--teeth) $(if $(CRASHES),--crashes) $(ARGS)

bench: setup ## Run one benchmark, JSON lines on stdout: make bench BENCH=name (without a name: list them)
	@$(bin)/python -m tests.benchmarks $(BENCH) $(ARGS)

fuzz: setup ## Fuzz one target for TIME seconds: make fuzz TARGET=spec_json TIME=60 (without one: list them)
	@$(bin)/python -m tests.fuzz $(TARGET) $(TIME)

lock: ## Write requirements/*.txt anew from pyproject.toml (needs uv)
	@sh requirements/lock.sh $(ARGS)

wheel: setup-local ## Build dist/dstackd-*.whl
	@$(bin)/python -m hatchling build --target wheel

clean: ## Remove what tools left behind; .venv stays (rm -rf .venv to start over)
	@rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .venv.lock
	@find daemon migrations tests -name __pycache__ -type d -prune -exec rm -rf {} +
