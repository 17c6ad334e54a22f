# Needs Python 3.11 or newer, make, and a package index. Everything else goes to .venv.
PYTHON ?= python3
AIRFLOW ?= 2.11.2
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help env demo test torture bench lint build compat lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

env: $(INSTALLED)  ## install the locked versions and this checkout into .venv

# uv is fast but reads no pip configuration: it is told pip's index, and where it fails all the same, pip does the work.
$(INSTALLED): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed. If there is one: make PYTHON=python3.12")'
	@echo "Installing into .venv ..."
	@$(PYTHON) -m venv .venv
	@index=$$($(BIN)/pip config get global.index-url 2>/dev/null); index=$${PIP_INDEX_URL:-$$index}; \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; fi; \
	{ $(BIN)/pip install -q uv && $(BIN)/uv pip install -q -p $(BIN)/python -r requirements-dev.txt; } \
	|| $(BIN)/pip install -q -r requirements-dev.txt
	@$(BIN)/pip install -q --no-build-isolation --no-deps -e .
	@touch $@

demo: env  ## show it: 200 people, two runs, no customer twice
	@$(BIN)/python demo/run.py

test: lint  ## everything that CI checks
	$(BIN)/pytest

torture: env  ## hours of killed processes and simulated histories, with fresh seeds
	$(BIN)/python -m tests.simulation --mutants
	$(BIN)/python -m tests.simulation --histories 1000000
	cd tests && ../$(BIN)/python -m crash.torture --kills 500

BENCH := .venv/bench

bench: $(BENCH)/.installed  ## measure it beside others, 20 minutes: docs/benchmarks.md; QUICK=1: small, 3 minutes
	@$(BENCH)/bin/python -m benchmarks $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

$(BENCH)/.installed: $(INSTALLED) benchmarks/requirements.txt
	@echo "Installing what is measured into $(BENCH) ..."
	@$(BIN)/uv venv -q --clear -p $(BIN)/python $(BENCH)
	@$(BIN)/uv pip install -q --compile-bytecode -p $(BENCH)/bin/python -r requirements-dev.txt -r benchmarks/requirements.txt
	@$(BIN)/uv pip install -q -p $(BENCH)/bin/python --no-build-isolation --no-deps -e .
	@touch $@

lint: env  ## style and types
	$(BIN)/ruff check -q
	$(BIN)/ruff format -q --check
	$(BIN)/mypy

build: env  ## the wheel and the sdist, in dist/
	@rm -rf dist
	$(BIN)/python -m build --no-isolation

compat: build  ## the wheel beside another Airflow: make compat AIRFLOW=2.11.2
	$(BIN)/uv venv -q --clear -p $(BIN)/python .venv/airflow-$(AIRFLOW)
	$(BIN)/uv pip install -q -p .venv/airflow-$(AIRFLOW) apache-airflow==$(AIRFLOW) apache-airflow-providers-sqlite pytest \
	  "$$(echo dist/*.whl)[sandbox]"
	.venv/airflow-$(AIRFLOW)/bin/pytest tests/acceptance/test_provider_metadata.py tests/acceptance/test_examples.py \
	  tests/acceptance/test_readme.py

lock: env  ## renew requirements-dev.txt from pyproject.toml
	$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --no-annotate --custom-compile-command "make lock" \
	  --extra sandbox --group dev pyproject.toml -o requirements-dev.txt

clean:  ## remove what was built or run, but not .venv
	rm -rf .demo .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
