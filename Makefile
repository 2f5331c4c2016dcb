# Everything happens in .venv; delete it to begin anew.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2

.PHONY: demo test test-all lint format docs bench clean

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'patchclamp needs Python 3.11 or newer')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: .venv/ready  ## Fetch SmolLM2 and run the study of the README; leaves out/demo
	$(BIN)/patchclamp study activation-addition --out out/demo
	@echo "See out/demo/report.html"

test: .venv/ready  ## Everything but the slow suites
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not hub"

test-all: .venv/ready  ## The slow suites too
	PATCHCLAMP_TESTS=full $(BIN)/python -m pytest -n $(WORKERS) -m "not hub"

lint: .venv/ready  ## Style, types, and the direction of imports
	$(BIN)/ruff check src tests examples benchmarks docs
	$(BIN)/ruff format --check src tests examples benchmarks docs
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/ready
	$(BIN)/ruff check --fix src tests examples benchmarks docs
	$(BIN)/ruff format src tests examples benchmarks docs

docs: .venv/ready  ## HTML in docs/_build/html, notebooks in docs/notebooks
	mkdir -p docs/notebooks
	for script in examples/*.py; do $(BIN)/jupytext --quiet --to ipynb -o docs/notebooks/$$(basename $$script .py).ipynb $$script || exit 1; done
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

bench: .venv/ready  ## Timings against other libraries, in an environment of their own
	$(BIN)/python benchmarks/run_all.py

clean:
	rm -rf .venv out docs/_build docs/notebooks
