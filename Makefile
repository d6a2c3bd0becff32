# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test docs docs-open bench wheel lint types clean

demo: $(VENV)/.installed  ## train every kind of model on real digits into demo/
	$(BIN)/probgen demo --out demo

test: $(VENV)/.installed  ## run the tests
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

docs: $(VENV)/.docs  ## build the site: every chapter is run, every link looked at
	rm -rf docs/_build
	$(BIN)/python -m sphinx -W --keep-going -E -q -j 2 docs docs/_build/html
	$(BIN)/python docs/check_site.py

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

docs-open:  ## show it
	$(BIN)/python -m webbrowser -t file://$(CURDIR)/docs/_build/html/index.html

bench: $(VENV)/.installed  ## installs the peers too, measures beside them; one table, in half an hour
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m benchmarks $(BENCH)

wheel: $(VENV)/.installed  ## build dist/, install it into an empty environment, train five steps there
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build
	rm -rf dist build
	$(BIN)/python -m build
	$(BIN)/python tests/wheel.py dist

lint: $(VENV)/.installed  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed  ## types
	$(BIN)/mypy

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "probgen needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1): make PYTHON=python3.12 …" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (about two minutes, torch is large) …"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:  ## remove what make made
	rm -rf $(VENV) demo build dist *.egg-info docs/_build docs/api docs/commands.md
