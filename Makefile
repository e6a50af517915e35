# Everything runs in .venv, which the first target makes; only python >= 3.11, make and git are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Processes of `make test`: each test takes one thread.
TEST_PROCESSES ?= 2
STAMP := $(VENV)/.installed

.PHONY: install demo test test-slow test-browser check format bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "labelwise needs Python 3.11 or newer; set PYTHON=python3.12, say"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: install
	$(BIN)/labelwise demo

test: install
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES)

test-slow: install
	$(BIN)/python -m pytest -m slow

test-browser: install
	$(BIN)/python -m pytest -m browser tests/browser

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install
	$(BIN)/labelwise bench digits --out benchmarks/digits
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/audit.py --suite digits
	$(BIN)/python benchmarks/diagnosis.py
	$(BIN)/python benchmarks/scanmix.py
	$(BIN)/python benchmarks/cluster_heads.py
	$(BIN)/python benchmarks/neighbours.py

clean:
	rm -rf $(VENV) build dist runs
