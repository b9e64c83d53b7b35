# make demo   train a baseline and a TST run on this machine's CPU and compare them
# make test   every test but the largest jobs, which make test-all has too
# make test-te  checks of construction with Transformer Engine, in an environment of their own
# make test-trackers  figures in W&B and MLflow, offline, with their packages beside the environment
# make test-torch-floor  what torch decides, with the oldest torch that pyproject.toml allows
# make test-newest  the same, with the newest of every package that pyproject.toml allows today
# make test-wheel  the wheel, checked, in an environment that has nothing else, and the quick demo from it
# make test-upstream MEGATRON=...  another Megatron, a checkout or a version: what has moved, what fails
# make test-gpu  what only a GPU can tell; GPUS=8 for all of it, GPU_FLAGS=--dry-run for none
# make gpu-kit   one file of that, for a machine with a GPU and no network
# make bench  what superposition and routed blocks cost against Megatron's own code, on an idle machine
# make docs   the pages of docs/ as a site, into site/, in an environment of its own
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

# Transformer Engine trains nothing without a GPU; what trains beside it does so on the CPU.
VENV_TE := .venv-te
READY_TE := $(VENV_TE)/.ready
# Where Transformer Engine's compiled PyTorch part lies, which PyPI has as source alone.
WHEELS ?= ../shared/wheels
WHEEL_TE = $(wildcard $(WHEELS)/transformer_engine_torch-2.20.2-cp312-cp312-linux_x86_64.whl)

# The oldest torch that pyproject.toml allows, all else as it is pinned for the newest where torch
# takes it, and the tests of what torch decides: the method, the CPU backend, operations on a GPU that
# is not there, and whole runs.
VENV_FLOOR := .venv-floor
READY_FLOOR := $(VENV_FLOOR)/.ready
TESTS_OF_TORCH = tests/unit/methods tests/unit/trainer/cpu tests/layouts \
	tests/end_to_end/test_ordinary_training.py tests/end_to_end/test_resume.py

# NVIDIA's image has torch, built with its own CUDA: docker/Dockerfile.gpu installs the rest.
OF_THE_IMAGE = grep -oE '^(torch|triton|(cuda|nvidia)-[a-z0-9-]+)==' requirements/run.txt | \
	sed 's/^/--no-emit-package=/; s/==$$//'

# And the newest of everything, as whoever installs the project today gets it: resolved anew each time.
VENV_NEWEST := .venv-newest

# The wheel as whoever installs it gets it, in an environment of its own beside the versions of a file of
# constraints: these, torch's oldest (requirements/floor.txt), or an image's (NGC: /etc/pip/constraint.txt).
WHEEL := .wheel
CONSTRAINTS ?= requirements/run.txt

# W&B and MLflow bring three dozen packages, which no other test needs: a folder of them comes first
# where Python looks.
TRACKERS := .trackers
READY_TRACKERS := $(TRACKERS)/.ready

# Files of tests side by side, on every core; one after the other where TEST_FLAGS chooses some. In the
# order of folders: xdist's own has files of a single long test last, when a core has nothing left to do.
SIDE_BY_SIDE = $(if $(TEST_FLAGS),,--numprocesses logical --maxprocesses 8 --dist loadfile \
	--no-loadscope-reorder)

# The pages as a site need nothing that training needs.
VENV_DOCS := .venv-docs
READY_DOCS := $(VENV_DOCS)/.ready

CORPUS ?=
STEPS ?=
OUT ?=
DEMO_FLAGS ?=
BENCH_FLAGS ?=
GPUS ?= 1
MEGATRON ?=
GPU_FLAGS ?=
KIT_FLAGS ?=

.PHONY: demo test test-all test-te test-trackers test-torch-floor test-newest test-wheel test-upstream test-gpu gpu-kit bench docs setup lint format lock clean

demo: $(READY)
	$(VENV)/bin/tst-megatron demo $(if $(OUT),--out '$(OUT)') $(if $(CORPUS),--corpus '$(CORPUS)') $(if $(STEPS),--steps $(STEPS)) $(DEMO_FLAGS)

test: $(READY)
	$(PYTHON) -m pytest $(SIDE_BY_SIDE) $(TEST_FLAGS)

test-all: $(READY)
	$(PYTHON) -m pytest -m 'large or not large' $(SIDE_BY_SIDE) $(TEST_FLAGS)

test-te: $(READY_TE)
	TST_MEGATRON_NEEDS_TE=1 $(VENV_TE)/bin/python -m pytest -rs tests/layouts $(TEST_FLAGS)

test-trackers: $(READY) $(READY_TRACKERS)
	PYTHONPATH='$(abspath $(TRACKERS))' TST_MEGATRON_NEEDS_TRACKERS=1 $(PYTHON) -m pytest -rs \
		$(or $(TEST_FLAGS),tests/end_to_end/test_trackers.py tests/unit/trainer/test_mlflow_away.py)

test-torch-floor: $(READY_FLOOR)
	$(VENV_FLOOR)/bin/python -m pytest $(or $(TEST_FLAGS),$(TESTS_OF_TORCH) $(SIDE_BY_SIDE))

test-newest: | $(UV)
	$(UV) venv --quiet --allow-existing --python "$$(cat .python-version)" $(VENV_NEWEST)
	$(UV) pip install --quiet --python $(VENV_NEWEST)/bin/python --upgrade --editable '.[dev]'
	$(UV) pip list --quiet --python $(VENV_NEWEST)/bin/python | \
		grep -E '^(megatron-core|numpy|tokenizers|torch|transformers|triton) '
	$(VENV_NEWEST)/bin/python -m pytest $(or $(TEST_FLAGS),$(TESTS_OF_TORCH) \
		tests/end_to_end/test_export.py tests/end_to_end/test_hybrid_twins.py $(SIDE_BY_SIDE))

test-wheel: | $(UV)
	rm -rf $(WHEEL)
	$(UV) venv --quiet --python "$$(cat .python-version)" $(WHEEL)/build
	$(UV) pip sync --quiet --python $(WHEEL)/build/bin/python --require-hashes requirements/release.txt
	$(WHEEL)/build/bin/python -m build --no-isolation --outdir $(WHEEL)/dist
	$(WHEEL)/build/bin/python -m twine check --strict $(WHEEL)/dist/*
	$(UV) venv --quiet --python "$$(cat .python-version)" $(WHEEL)/run
	$(UV) pip install --quiet --python $(WHEEL)/run/bin/python --constraint '$(CONSTRAINTS)' $(WHEEL)/dist/*.whl
	mkdir $(WHEEL)/empty
	cd $(WHEEL)/empty && ../run/bin/tst-megatron demo --quick $(DEMO_FLAGS)

test-upstream: $(READY) | $(UV)
	@test -n '$(MEGATRON)' || { echo "make test-upstream needs MEGATRON=, a checkout of Megatron-LM or a version" >&2; exit 2; }
	$(PYTHON) -m tests.upstream '$(MEGATRON)' --uv $(UV) $(if $(OUT),--out '$(OUT)') $(TEST_FLAGS)

test-gpu: $(READY)
	$(PYTHON) -m tests.gpu --gpus $(GPUS) $(if $(OUT),--out '$(OUT)') $(GPU_FLAGS)

gpu-kit: $(READY) | $(UV)
	$(PYTHON) -m tests.gpu.kit.build --uv $(UV) --wheels '$(WHEELS)' $(if $(OUT),--out '$(OUT)') $(KIT_FLAGS)

bench: $(READY)
	$(PYTHON) -m benchmarks $(if $(OUT),--out '$(OUT)') $(BENCH_FLAGS)

docs: $(READY_DOCS)
	$(VENV_DOCS)/bin/mkdocs build --strict

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

$(READY_TE): requirements/te.txt pyproject.toml .python-version | $(UV)
	@test -n "$(WHEEL_TE)" || { echo "make test-te needs transformer_engine_torch 2.20.2, compiled: give its folder as WHEELS=..., $(WHEELS) has none" >&2; exit 2; }
	$(UV) venv --quiet --allow-existing --python "$$(cat .python-version)" $(VENV_TE)
	$(UV) pip sync --quiet --python $(VENV_TE)/bin/python --require-hashes requirements/te.txt
	$(UV) pip install --quiet --python $(VENV_TE)/bin/python --no-deps "$(WHEEL_TE)"
	$(UV) pip install --quiet --python $(VENV_TE)/bin/python --no-deps --no-build-isolation --editable .
	touch $@

$(READY_TRACKERS): requirements/trackers.txt .python-version | $(READY) $(UV)
	rm -rf $(TRACKERS)
	$(UV) pip install --quiet --python $(PYTHON) --target $(TRACKERS) --require-hashes \
		--requirement requirements/trackers.txt
	touch $@

$(READY_FLOOR): requirements/floor.txt pyproject.toml .python-version | $(UV)
	$(UV) venv --quiet --allow-existing --python "$$(cat .python-version)" $(VENV_FLOOR)
	$(UV) pip sync --quiet --python $(VENV_FLOOR)/bin/python --require-hashes requirements/floor.txt
	$(UV) pip install --quiet --python $(VENV_FLOOR)/bin/python --no-deps --no-build-isolation --editable .
	touch $@

$(READY_DOCS): requirements/docs.txt .python-version | $(UV)
	$(UV) venv --quiet --allow-existing --python "$$(cat .python-version)" $(VENV_DOCS)
	$(UV) pip sync --quiet --python $(VENV_DOCS)/bin/python --require-hashes requirements/docs.txt
	touch $@

.uv/bin/uv: requirements/uv.txt
	$(BOOTSTRAP_PYTHON) -m pip install --quiet --target .uv --require-hashes --requirement requirements/uv.txt
	touch $@

lock: | $(UV)
	$(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url \
		--constraint requirements/pins.in pyproject.toml --output-file requirements/run.txt
	$(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url \
		--constraint requirements/pins.in --extra dev pyproject.toml --output-file requirements/dev.txt
	$(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url \
		--constraint requirements/pins.in --extra dev pyproject.toml requirements/te.in \
		--output-file requirements/te.txt
	cp requirements/dev.txt requirements/floor.txt
	$(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url \
		--constraint requirements/floor.in --extra dev pyproject.toml \
		--output-file requirements/floor.txt
	$(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url \
		--constraint requirements/run.txt $$($(OF_THE_IMAGE)) --no-header --no-annotate \
		pyproject.toml --output-file requirements/gpu.txt
	$(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url \
		--constraint requirements/dev.txt requirements/trackers.in \
		--output-file requirements/trackers.txt
	$(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url \
		requirements/docs.in --output-file requirements/docs.txt
	$(UV) pip compile --quiet --universal --python-version 3.12 --generate-hashes --no-emit-index-url \
		requirements/release.in --output-file requirements/release.txt
	echo 'uv' | $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url \
		--no-header - --output-file requirements/uv.txt

clean:
	rm -rf $(VENV) $(VENV_TE) $(VENV_FLOOR) $(VENV_NEWEST) $(VENV_DOCS) $(TRACKERS) $(WHEEL) site .uv .mypy_cache .ruff_cache .pytest_cache
