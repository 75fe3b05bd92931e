# Every target sets up what it needs: a virtual environment in .venv, once.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1

.PHONY: wheel simulate dashboard test quick check docs bench setup generate format constraints clean

simulate: setup  ## run the embedded federation: digits, 8 nodes
	$(BIN)/fedstill simulate $(ARGS)

dashboard: setup  ## a web page of the runs in runs/, until interrupted; ARGS="--port 0" and the like
	mkdir -p runs
	$(BIN)/fedstill dashboard $(ARGS)

test: setup  ## run the tests; ARGS="-k name" selects
	$(BIN)/python -m pytest -n $${PYTEST_WORKERS:-2} --dist loadgroup -m "not deployment" $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m pytest -n 2 --dist loadgroup -m deployment tests/e2e tests/chaos)

quick: setup  ## the tests that one runs while working: nothing slow, no Ray, browser, deployment or killed process
	$(BIN)/python -m pytest -q -n $${PYTEST_WORKERS:-2} --dist loadgroup -m "not slow and not heavy and not deployment" $(ARGS)

docs: setup  ## the site of the documents, in site/
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html -d build/docs docs site

check: setup  ## format, lint, types, import contracts, protos, documents
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/python -m pytest -q tests/test_generated.py tests/test_documents.py tests/docs/test_site.py

bench: setup  ## every benchmark, one after the other
	for name in wire grid; do $(BIN)/python -m benchmarks.$$name || exit 1; done

generate: setup  ## write generated code, Flower's run configuration, the schemas and the reference pages
	$(BIN)/python protos/generate.py
	$(BIN)/python -m fedstill.server.generate
	$(BIN)/python -m fedstill.server.metrics
	$(BIN)/python -m docs.writers
	$(BIN)/python deploy/grafana/build.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

constraints:  ## resolve the versions anew, in a fresh environment
	rm -rf .venv-constraints && $(PYTHON) -m venv .venv-constraints
	.venv-constraints/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 -e ".[dev]"
	{ echo "# Versions that were tested together; regenerate with: make constraints"; \
	  .venv-constraints/bin/python -m pip freeze --exclude-editable | sed 's/+cpu//'; } > constraints.txt
	rm -rf .venv-constraints

wheel: setup  ## dist/device/: the wheel that devices install, without the coordinator's code
	$(BIN)/python deploy/device/device_wheel.py dist/device

clean:  ## remove the environment, caches and generated runs
	rm -rf $(VENV) .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info build dist site
