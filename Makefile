# Two commands do everything on a fresh machine: `make demo` and `make test`. Both create .venv first.
# `make test-all` runs what `make test` leaves out, many new random examples of the property tests, and the tests on
# JAX.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

OLDEST := .venv-oldest
DOCS := .venv-docs
ON_TORCH := .venv-torch

# What `make test-torch` installs: TORCH="torch==2.13.0" for one release. The index has builds for CPUs alone.
TORCH ?= torch
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# The random examples of `make test-all`: how many, and the seed that repeats them.
EXAMPLES ?= 300
ifndef SEED
SEED := $(shell $(PYTHON) -c 'import random; print(random.randrange(2**32))')
endif

PYTEST := -m pytest -n 2 --dist worksteal

# What JAX has compiled is kept in build/, for both workers and the next time.
WITH_JAX := KERAS_BACKEND=jax JAX_COMPILATION_CACHE_DIR=$(CURDIR)/build/jax
WITH_JAX += JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0

.PHONY: demo test test-all test-jax test-oldest test-torch lint docs clean

demo: $(INSTALLED)
	$(BIN)/python examples/quickstart.py

test: $(INSTALLED)
	$(BIN)/python $(PYTEST) -m "not slow"

test-all: $(INSTALLED)
	@echo "To repeat the random examples: make test-all SEED=$(SEED) EXAMPLES=$(EXAMPLES)"
	TFAP_EXAMPLES=$(EXAMPLES) $(BIN)/python $(PYTEST) -m "slow or hypothesis" --hypothesis-seed=$(SEED)
	$(MAKE) test-jax

test-jax: $(INSTALLED)
	$(WITH_JAX) $(BIN)/python $(PYTEST) -m "not slow"

test-oldest: $(OLDEST)/installed
	$(OLDEST)/bin/python $(PYTEST) -W ignore::DeprecationWarning

test-torch: $(ON_TORCH)/installed
	KERAS_BACKEND=torch OMP_NUM_THREADS=1 $(ON_TORCH)/bin/python $(PYTEST) -m "not slow"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DOCS)/installed
	$(DOCS)/bin/mkdocs build --strict

clean:
	rm -rf .venv $(OLDEST) $(DOCS) $(ON_TORCH) build dist site *.egg-info

$(INSTALLED): setup.py pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[examples,test,lint]'
	touch $@

$(OLDEST)/installed: setup.py tests/oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --upgrade pip
	$(OLDEST)/bin/python -m pip install --quiet --constraint tests/oldest.txt --editable '.[examples,test]'
	touch $@

$(ON_TORCH)/installed: setup.py
	$(PYTHON) -m venv $(ON_TORCH)
	$(ON_TORCH)/bin/python -m pip install --quiet --upgrade pip
	$(ON_TORCH)/bin/python -m pip install --quiet --extra-index-url $(TORCH_INDEX) "$(TORCH)"
	$(ON_TORCH)/bin/python -m pip install --quiet --editable '.[examples,test]'
	touch $@

# Without tfap and TensorFlow: the API reference is read from the source.
$(DOCS)/installed: docs/requirements.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --upgrade pip
	$(DOCS)/bin/python -m pip install --quiet --requirement docs/requirements.txt
	touch $@
