# PaperLab. `make help` lists the commands.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
# Only torch itself is looked up here; without it Linux would get several gigabytes of CUDA packages.
TORCH_INDEX := https://download.pytorch.org/whl/cpu
PIP := $(BIN)/python -m pip --disable-pip-version-check
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
# One BLAS and OpenMP thread a process: the processes run in parallel, and float sums do not depend on the machine.
TEST := OMP_NUM_THREADS=1 PAPERLAB_STRICT=1 $(BIN)/python -m pytest -n $(CORES) $(if $(PAPER),--paper=$(PAPER)) $(if $(CHANGED),--changed)

.DEFAULT_GOAL := help
.PHONY: help lab test check-all test-browser pictures lint format sync bench clean

help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

lab: $(VENV)/.lab ## open JupyterLab on the index (ARGS="--no-browser --port 8890" passes through)
	@$(BIN)/paperlab lab $(ARGS)

test: $(VENV)/.test ## all tests but the browser's; PAPER=id for one unit, CHANGED=1 for units changed since the last push
	@$(TEST) --dist loadscope tests; tests=$$?; \
	$(TEST) -p tests.plugins.notebooks --nbval-lax --nbval-current-env --nbval-cell-timeout=60 --dist loadscope notebooks; \
	notebooks=$$?; [ $$tests -eq 0 ] && [ $$notebooks -eq 0 ]

check-all: $(VENV)/.test ## every claim on ten seeds, every state of every explorer, every notebook
	@$(BIN)/paperlab check --all --seeds 0:10
	@$(MAKE) --no-print-directory test TEST='$(TEST) --every-state'

test-browser: $(VENV)/.test ## JupyterLab in headless Chromium
	@PAPERLAB_STRICT=1 $(BIN)/python -m pytest -m browser tests/browser

pictures: $(VENV)/.test ## photograph the explorers for README, in the running JupyterLab
	@PAPERLAB_PICTURES=1 $(BIN)/python -m pytest -m browser tests/browser -k own_data

lint: $(VENV)/.test ## style, formatting and the normal form of the notebooks
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/paperlab sync --check

format: $(VENV)/.test ## rewrite files in the house style
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

sync: $(VENV)/.lab ## rewrite what is generated: title cells, "Where next", index, previews
	@$(BIN)/paperlab sync

bench: $(VENV)/.test ## timings, as ratios measured in one run
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/benchmarks -s --benchmarks

clean: ## remove the environment and caches
	rm -rf $(VENV) .ruff_cache .hypothesis

# Debian splits venv from Python: it is installed when that is possible without asking, and named when it is not.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "PaperLab needs Python 3.11 or newer; set PYTHON=")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || apt-get install -y python3-venv 2>/dev/null \
		|| sudo -n apt-get install -y python3-venv 2>/dev/null \
		|| { echo 'Python has no venv here; run: sudo apt-get install python3-venv'; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(PIP) install --quiet --no-deps --constraint constraints.txt --extra-index-url $(TORCH_INDEX) torch
	@touch $@

$(VENV)/.lab: pyproject.toml constraints.txt $(wildcard paperlab/jupyter/*) $(VENV)/.torch
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.lab
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@
