# make train   set up and run the main job        make test      set up and pass the tests
# make lint    ruff and mypy                      make test-all  the slow tests as well
# make docs    the documentation as pages in docs/_build
# make bench   training beside TRL and a plain loop, for hours; ARGS="--only s --rows-share 0.25 --repeats 1" for minutes
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup train test test-all lint format docs bench clean

setup: $(READY)

# torch comes first and alone, so that its exact build is chosen before anything else may ask for another.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hydratune needs Python 3.11 or newer; try: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,dev]"
	touch $@

train: setup
	$(BIN)/hydratune train experiment=contracts

# a process per core with a thread each, and one more, because tests also wait for processes and servers
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses 3 --dist loadfile

# a slow test may take more than the ten minutes after which a fast one counts as hanging
test-all: setup
	$(BIN)/python -m pytest -o faulthandler_timeout=3600

lint: setup
	$(BIN)/ruff check src tests benchmarks docs/conf.py docs/generate.py
	$(BIN)/ruff format --check src tests benchmarks docs/conf.py docs/generate.py
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: setup
	$(BIN)/ruff check --fix src tests benchmarks docs/conf.py docs/generate.py
	$(BIN)/ruff format src tests benchmarks docs/conf.py docs/generate.py

# Warnings are errors, links that lead nowhere among them
docs: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	$(BIN)/python -m sphinx -W --keep-going -n -q docs docs/_build
	@echo "open docs/_build/index.html"

# The constraints keep the torch that is there. Published data: HYDRATUNE_BENCH_DATA=FOLDER
bench: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench]"
	$(BIN)/python benchmarks/training.py $(ARGS)

clean:
	rm -rf .venv build dist docs/_build docs/reference/generated .pytest_cache .mypy_cache .ruff_cache
