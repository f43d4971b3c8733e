IS_SUPPORTED := import sys; sys.exit(sys.version_info < (3, 11))
# The first of these that is new enough; name another with `make PYTHON=/path/to/python3 ...`.
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c '$(IS_SUPPORTED)' 2>/dev/null && { echo $$python; exit; }; done; echo python3)
endif

VENV := .venv
PIP_INSTALL = $(VENV)/bin/python -m pip install -qq --disable-pip-version-check --no-input

SEARCH_CONFIG ?= examples/digits/search.yaml
OUTPUT_DIR ?= results/digits
SEARCH_ARGS ?=
# The same examples of property tests each time; `.venv/bin/python -m pytest` draws new ones.
PYTEST_ARGS ?= -n 2 --dist loadfile --hypothesis-profile=ci

.DEFAULT_GOAL := help
.PHONY: help search test lint clean
.DELETE_ON_ERROR:

help:
	@echo "make search  search the digits example; results in $(OUTPUT_DIR)"
	@echo "make test    lint, then the tests but the slow ones (those: PYTEST_ARGS='-m slow')"
	@echo "make lint    ruff and mypy"
	@echo "make clean   remove $(VENV), builds and caches; search results stay"
	@echo
	@echo "The first one makes $(VENV), with Python 3.11 or newer, and installs the project into it."

search: $(VENV)/.installed
	$(VENV)/bin/autosearch search $(SEARCH_CONFIG) --output-dir $(OUTPUT_DIR) $(SEARCH_ARGS)

test: lint
	$(VENV)/bin/python -m pytest -q $(PYTEST_ARGS)

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "error: $(PYTHON): not found. Install Python 3.11 or newer, or name one:" \
			"make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@"$(PYTHON)" -c '$(IS_SUPPORTED)' || { \
		echo "error: $(PYTHON) is $$("$(PYTHON)" --version 2>&1), but autosearch needs Python 3.11" \
			"or newer. Name one: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' || { \
		echo "error: $(PYTHON) cannot make virtual environments. Install its venv module" \
			"(on Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created setup.cfg pyproject.toml
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.created setup.cfg pyproject.toml
	$(PIP_INSTALL) -e '.[test]'
	@touch $@ $(VENV)/.installed
