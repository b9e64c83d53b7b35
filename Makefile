# make demo   train a baseline and a TST run on this machine's CPU and compare them
# make test   every test
# make bench  what superposition costs against Megatron's own code, on an idle machine
# make setup  the environment alone, into .venv (about 5 GB, once)
# make lint   ruff and mypy
# make lock   pin the dependencies again, from pyproject.toml

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

# Any Python brings pip; the one for training comes from .python-version.
BOOTSTRAP_PYTHON ?= python3
VENV := .venv
PYTHON := $(VENV)/bin/python
# Written last: a set-up that was cut off is made again.
READY := $(VENV)/.ready
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

CORPUS ?=
STEPS ?=
OUT ?=
DEMO_FLAGS ?=
BENCH_FLAGS ?=

.PHONY: demo test bench setup lint format lock clean

demo: $(READY)
	$(VENV)/bin/tst-megatron demo $(if $(OUT),--out '$(OUT)') $(if $(CORPUS),--corpus '$(CORPUS)') $(if $(STEPS),--steps $(STEPS)) $(DEMO_FLAGS)

test: $(READY)
	$(PYTHON) -m pytest $(TEST_FLAGS)

bench: $(READY)
	$(PYTHON) -m benchmarks $(if $(OUT),--out '$(OUT)') $(BENCH_FLAGS)

setup: $(READY)

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(READY)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(READY): requirements/dev.txt pyproject.toml .python-version | $(UV)
	$(UV) venv --quiet --allow-existing --python "$$(cat .python-version)" $(VENV)
	$(UV) pip sync --quiet --python $(PYTHON) --require-hashes requirements/dev.txt
	$(UV) pip install --quiet --python $(PYTHON) --no-deps --no-build-isolation --editable .
	touch $@

.uv/bin/uv: requirements/uv.txt
	$(BOOTSTRAP_PYTHON) -m pip install --quiet --target .uv --require-hashes --requirement requirements/uv.txt
	touch $@

lock: | $(UV)
	$(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url \
		--constraint requirements/pins.in pyproject.toml --output-file requirements/run.txt
	$(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url \
		--constraint requirements/pins.in --extra dev pyproject.toml --output-file requirements/dev.txt
	echo 'uv' | $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url \
		--no-header - --output-file requirements/uv.txt

clean:
	rm -rf $(VENV) .uv .mypy_cache .ruff_cache .pytest_cache
