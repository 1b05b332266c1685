# `make` alone lists what can be made. The environment is .venv; pip runs only when pyproject.toml
# or constraints.txt changed, so that everything else works without a network.

.DEFAULT_GOAL := help
.PHONY: help bench test test-gpu check format clean

ARGS ?=
PYTEST_ARGS ?=
VENV := .venv
PY := $(VENV)/bin/python
WORKERS := -n logical --maxprocesses 8 --dist worksteal

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

bench: $(VENV)/installed-bench ## measure and write the report (ARGS="run --help" shows what can be asked)
	@status=0; $(PY) run_bench.py $(ARGS) || status=$$?; \
	report=$$(ls -t runs/*/report.html 2>/dev/null | head -n 1); \
	if [ -n "$$report" ]; then echo "Report: $(CURDIR)/$$report"; fi; \
	exit $$status

test: $(VENV)/installed-dev ## run every test that needs no GPU (PYTEST_ARGS="-k combiner" narrows)
	$(PY) -m pytest -m "not gpu" $(WORKERS) $(PYTEST_ARGS)

test-gpu: $(VENV)/installed-dev ## run the tests that need a GPU
	$(PY) -m pytest -m gpu $(PYTEST_ARGS)

check: $(VENV)/installed-dev ## what CI runs: format, lint, types, tests
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	@$(MAKE) --no-print-directory test

format: $(VENV)/installed-dev ## format the code and mend what the linter can
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

clean: ## remove caches and build leftovers (runs/ and .venv stay)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# A torch that the user's Python has already is borrowed: a .pth line puts its site-packages behind
# the environment's own. (--system-site-packages would miss it where that Python is itself a venv.)
# The old setuptools that Python 3.11 adds would hide the one that torch needs.
$(PY):
	@for python in python3 python3.13 python3.12 python3.11; do \
	  $$python -c 'import ensurepip, sys; assert sys.version_info >= (3, 11)' 2>/dev/null || continue; \
	  echo "Creating $(VENV) with $$($$python --version)"; \
	  $$python -m venv $(VENV) || exit 1; \
	  if theirs=$$($$python -c '$(FIND_TORCH)' 2>/dev/null); then \
	    echo "Borrowing the torch in $$theirs"; \
	    $(PY) -m pip uninstall --quiet --yes setuptools 2>/dev/null; \
	    echo "$$theirs" >"$$($(PY) -c '$(FIND_OURS)')/borrowed.pth"; \
	  fi; \
	  exit; \
	done; \
	echo "attnbench needs Python 3.11 or newer with venv; python3 is $$(python3 --version 2>&1)" >&2; \
	exit 1

FIND_TORCH := import pathlib, torch; assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11); print(pathlib.Path(torch.__file__).parents[1])
FIND_OURS := import sysconfig; print(sysconfig.get_path("purelib"))

# Beside a borrowed torch everything keeps the version it has, and only what is missing is installed:
# where nothing is, pip needs no network.
$(VENV)/installed-bench: EXTRAS :=
$(VENV)/installed-dev: EXTRAS := dev
$(VENV)/installed-%: pyproject.toml constraints.txt | $(PY)
	@if ls $(VENV)/lib/python*/site-packages/borrowed.pth >/dev/null 2>&1; \
	  then $(PY) -c '$(LIST_DEPENDENCIES)' $(EXTRAS) | $(PIP_INSTALL) -r /dev/stdin; \
	  else $(PIP_INSTALL) -c constraints.txt -e ".$(EXTRAS:%=[%])"; \
	fi || { \
	  echo "pip could not install. Without installing, 'python3 run_bench.py' runs from this folder" >&2; \
	  echo "where python3 has the dependencies that pyproject.toml lists." >&2; \
	  exit 1; }
	@touch $(VENV)/installed-bench $@

PIP_INSTALL := $(PY) -m pip install --disable-pip-version-check
LIST_DEPENDENCIES := import pathlib, sys, tomllib; \
  project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]; \
  extras = [project["optional-dependencies"][name] for name in sys.argv[1:]]; \
  print(*project["dependencies"], *sum(extras, []), sep="\n")
