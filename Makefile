# Everything a newcomer needs: `make demo`, `make test`, `make dev`. Each creates .venv by itself.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SPARK_READY := $(VENV)/.ready-spark

# Byte code halves the start-up of every process, so it is written whatever the surrounding shell says.
unexport PYTHONDONTWRITEBYTECODE
export DO_NOT_TRACK := 1

# Killed runs of `make test-faults`, and the seed of the first; a tenth as many orders of batches.
FAULTS ?= 300
FAULT_SEED ?= 0

.PHONY: demo test test-spark test-faults dev lint format lock clean
demo: $(READY)
	$(BIN)/onefold demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m "not spark" tests

# The same models on Apache Spark: needs a Java runtime (17 or later) beside what is installed here, and some 8 GiB of memory.
# CLUSTER=1 has a stand-alone cluster build the later batches, ten minutes more.
test-spark: $(SPARK_READY)
	CLUSTER=$(CLUSTER) $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m spark tests

test-faults: $(READY)
	FAULTS=$(FAULTS) FAULT_SEED=$(FAULT_SEED) $(BIN)/python -m pytest tests/test_faults.py tests/test_batches.py

dev: $(READY)
	$(BIN)/onefold dev

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/onefold check
	$(BIN)/dg check defs

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The locks hold exact versions and hashes for every supported Python, and no index address; the second one what Spark adds.
lock: $(READY)
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
		--extra dev pyproject.toml --output-file requirements.lock
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
		--extra spark --constraint requirements.lock $$(sed -n 's/^\([a-z0-9._-]*\)==.*/--no-emit-package \1/p' requirements.lock) \
		pyproject.toml --output-file requirements-spark.lock

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Onefold needs Python 3.11 or later: make PYTHON=python3.12 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(READY)

$(SPARK_READY): $(READY) requirements-spark.lock
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements-spark.lock
	touch $(SPARK_READY)

clean:
	rm -rf $(VENV) dbt/target dbt/logs
