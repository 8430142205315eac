# Two commands on a fresh clone: `make demo`, `make test`. Everything lives in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := packages/core packages/models-ssd packages/models-yolod packages/datasets packages/deploy-stm32 cli
STAMP := $(VENV)/.installed

.PHONY: demo test wheels lint types layers docs release-check bench clean

demo: $(STAMP)
	$(BIN)/stdet demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q $(PYTEST_ARGS)

wheels: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q tests/packaging

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports

docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs

release-check: $(STAMP)
	$(BIN)/python release_check.py

bench: $(STAMP)
	for script in startup data_tools data_pipeline train_step simota evaluation; do $(BIN)/python benchmarks/$$script.py || exit 1; done

$(STAMP): constraints.txt requirements-dev.txt $(PACKAGES:%=%/pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt pip hatchling editables
	$(BIN)/python -m pip install -q -c constraints.txt torch torchvision
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation $(patsubst %,-e %,$(filter-out cli,$(PACKAGES))) -e 'cli[all]' -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV)
