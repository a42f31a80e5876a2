# Each target works alone on a machine that has Python 3.11 or newer. `make` lists them.
PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/gradient_norm_regressor.yaml
WORKERS ?= 3
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup fit test coverage lint bench ui

help:       ## list the targets
	@grep -E '^[a-z]+: .*##' Makefile | sed -E 's/:.*##/\t/'

setup: $(VENV)/.installed  ## make .venv with the exact versions that CI proved

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "got $$($(PYTHON) --version), expected Python 3.11 or newer; write: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

fit: setup  ## train on real data, test the best checkpoint, measure its curvature, record the run (CONFIG=configs/....yaml)
	$(BIN)/gradgrad fit -c $(CONFIG)
	$(BIN)/gradgrad spectrum -c $(CONFIG) --ckpt_path best

# One computing thread for each worker; a file's tests stay together, so that it makes what they share once.
test: setup  ## pass the tests (WORKERS=3 processes; some of them wait)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST)

coverage:  ## the tests once more, half as long again, with the lines that none reaches
	$(MAKE) test PYTEST="--cov --cov-report=term:skip-covered"

lint: setup  ## ruff, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## measure ratios (tests/benchmarks)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	@# --no-deps: what it needs is in the extra; its backpack, which only one experimental module imports, asks for torchvision.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps curvlinops-for-pytorch
	$(BIN)/python -m pytest tests/benchmarks -s --override-ini addopts="--strict-markers" --benchmark-columns=min,median,max,rounds

ui: setup  ## open the MLflow UI on this project's runs
	$(BIN)/gradgrad ui
