# Every target installs what it needs first (tests/setup) and may be run again at any time.
.DEFAULT_GOAL := help
.SUFFIXES:
PY := .venv/bin/python
# Reports, caches and build results go to build/; nothing else in the checkout is written, but for __pycache__.
SOURCES := logistics catalogue fuse madpp cli tests

# Some environments forbid Python to keep what it compiled: every test process and every command that a test starts would
# compile all of it anew (collecting the tests: 12 s instead of 4).
export PYTHONDONTWRITEBYTECODE :=

# Tests have servers, buckets, folders and schemas of their own, so as many run at once as there are processors, four at
# most; whoever is done takes over half of what another has still to do.
PROCESSES := $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))
BESIDE := -n $(PROCESSES) --dist worksteal

.PHONY: help setup compiled demo test check format bench faults clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install system packages and .venv, only what is missing
	@tests/setup

demo: setup ## the road on real data, narrated, under two minutes
	@$(PY) tests/demo/demo.py

test: check ## everything: check, then real servers, a sample of faults, slow tests: a quarter of an hour on two cores
	$(PY) -m pytest $(BESIDE) -m "service or fault or slow"

check: setup ## format, lint, types, import contract, unit tests: five minutes on two cores
	$(PY) -m ruff format --check $(SOURCES)
	$(PY) -m ruff check $(SOURCES)
	$(PY) -m mypy
	.venv/bin/lint-imports --cache-dir build/cache/imports
	$(PY) -m pytest $(BESIDE) -m "not service and not fault and not slow"

format: setup ## rewrite the sources in our format, apply safe fixes
	$(PY) -m ruff check --fix-only $(SOURCES)
	$(PY) -m ruff format $(SOURCES)

bench: setup compiled ## every bench, reduced, beside its peers; results in build/bench/
	$(PY) tests/bench/run.py --reduced

bench-%: setup compiled ## one bench at full size: bench-transfer, …
	$(PY) tests/bench/run.py --only $*

# As an installed package is: some environments forbid Python to keep what it compiled.
compiled:
	@$(PY) -m compileall -q $(filter-out tests,$(SOURCES))

faults: setup ## every kill and fault, a new seed each time (repeat one with DLS_SEED=N)
	DLS_FAULTS=full $(PY) -m pytest -m fault -o faulthandler_timeout=30000

clean: ## remove what the other targets made, the .venv included
	rm -rf .venv build dist
	find $(SOURCES) -name __pycache__ -prune -exec rm -rf {} +
