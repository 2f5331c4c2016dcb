# Everything happens in .venv; delete it to begin anew.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
# Compiled once, not once in every worker and in every program that a test starts.
unexport PYTHONDONTWRITEBYTECODE
# Tests of one file run in one worker, so that what they share is made once.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: demo test test-pages test-sensitive test-all test-seconds coverage mutations lint format docs bench clean

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'patchclamp needs Python 3.11 or newer')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: .venv/ready  ## Fetch SmolLM2 and run the study of the README; leaves out/demo
	$(BIN)/patchclamp study activation-addition --out out/demo
	@echo "See out/demo/report.html"

test: .venv/ready  ## The short form of the tests: ten minutes on two quiet cores
	$(PYTEST) -m "not slow and not hub and not pages"

test-pages: .venv/ready  ## Every page of the documentation and every example
	$(PYTEST) --dist load -m "pages and not hub and not slow"

# As another processor would compute them: without vector instructions in torch, MKL and oneDNN, and on two threads of one process.
PLAIN := ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=AVX2 MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41 PATCHCLAMP_TEST_THREADS=2
test-sensitive: .venv/ready  ## The tests whose numbers rounding could move, as a plainer processor computes them
	$(PLAIN) $(BIN)/python -m pytest -m "sensitive and not slow and not hub and not pages"

test-all: .venv/ready  ## Everything but what needs the hub, with more examples of each property
	PATCHCLAMP_TESTS=full $(PYTEST) -m "not hub"

test-seconds: .venv/ready  ## Processor seconds by package, into CONTRIBUTING.md
	mkdir -p out
	$(PYTEST) -m "not slow and not hub and not pages" --seconds=out/seconds.json
	$(BIN)/python -m tests.seconds out/seconds.json --write

coverage: .venv/ready  ## Which lines the short form runs, and by which tests
	mkdir -p out
	$(PYTEST) -m "not slow and not hub and not pages" --cov --cov-context=test --cov-report=term --seconds=out/seconds.json

mutations: .venv/ready  ## Break the source in 80 random places, and see which the tests notice (after `make coverage`)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[mutations]"
	$(BIN)/python -m tests.mutations --count 80 --seed 0 --out out/mutations

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
