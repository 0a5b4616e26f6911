# Two commands do everything on a fresh machine: `make demo` and `make test`. Both make .venv first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

OLDEST := .venv-oldest
DOCS := .venv-docs

.PHONY: demo test test-oldest lint docs clean

demo: $(INSTALLED)
	$(BIN)/python examples/quickstart.py

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2

test-oldest: $(OLDEST)/installed
	$(OLDEST)/bin/python -m pytest -n 2 -W ignore::DeprecationWarning

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DOCS)/installed
	$(DOCS)/bin/mkdocs build --strict

clean:
	rm -rf .venv $(OLDEST) $(DOCS) build dist site *.egg-info

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

# Without tfap and TensorFlow: the API reference is read from the source.
$(DOCS)/installed: docs/requirements.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --upgrade pip
	$(DOCS)/bin/python -m pip install --quiet --requirement docs/requirements.txt
	touch $@
