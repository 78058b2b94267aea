# Everything a newcomer needs. `make demo` and `make test` do all the set-up they need by themselves.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
MAKEFLAGS += --no-print-directory

.PHONY: help setup demo app test test-all faults lint format types audit docs bench gpu gpu-tests gpu-bench clean check-tools converter

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(VENV)/.setup converter ## virtual environment, packages and llama.cpp's converter

demo: setup ## the whole road on the embedded starter model
	$(BIN)/python -m core demo $(ARGS)

app: setup ## the page on http://127.0.0.1:7860
	$(BIN)/python app.py $(ARGS)

test: $(VENV)/.setup-dev converter ## the quick tests
	$(BIN)/python -m pytest -n logical --dist loadfile $(ARGS)

test-all: $(VENV)/.setup-dev converter ## the quick tests, then those with real models, processes and a real browser
	$(BIN)/python -m pytest -m "not gpu and not faults" $(ARGS)

faults: $(VENV)/.setup-dev ## kill, fill and damage on purpose, hundreds of times; prints the counts
	$(BIN)/python -m pytest -m faults tests/faults $(ARGS)

lint: $(VENV)/.setup-dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.setup-dev ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.setup-dev ## pyright, strict on core
	$(BIN)/pyright

audit: $(VENV)/.setup-dev ## known vulnerabilities of packages (asks the network; not with ARGS=--offline), risky calls, secrets
	$(BIN)/python -m tests.audit $(ARGS)

docs: $(VENV)/.setup-dev ## write the generated tables of the README anew
	$(BIN)/python -m core.docs

bench: $(VENV)/.setup-dev converter ## every benchmark that needs no GPU; each prints a table and one line of JSON
	@for file in $(filter-out %_gpu.py,$(wildcard benchmarks/bench_*.py)); do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

gpu: gpu-tests gpu-bench ## what needs a GPU: its tests, then its benchmarks

gpu-tests: $(VENV)/.setup-dev ## real training on a GPU under every method and distribution
	$(BIN)/python -m pytest -m gpu -n 4 tests/gpu $(ARGS)

# One run of everything first; then the speeds again, for medians.
gpu-bench: $(VENV)/.setup-dev ## speeds and memory on a GPU; every result is kept at once, and begun again it measures what is missing
	@failed=0; for part in "bench_train_gpu" "bench_estimate" "bench_estimate --part probe" "bench_train_gpu --runs 3"; do \
		echo "== $$part"; $(BIN)/python -m benchmarks.$$part --resume --save || failed=1; \
	done; exit $$failed

clean: ## remove caches and build leftovers; the environment and the workspace stay
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print | xargs rm -rf

check-tools:
	@missing=""; for tool in $(PYTHON) cc c++; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	if [ -n "$$missing" ]; then \
		echo "Missing:$$missing. On Debian or Ubuntu: apt-get install python3-venv $$(grep -v '^#' packages.txt | tr '\n' ' ')" >&2; exit 1; \
	fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; set PYTHON=python3.12." >&2; exit 1; }

$(VENV)/bin/python:
	@$(MAKE) check-tools
	$(PYTHON) -m venv $(VENV)

# Stamps: pip runs again only when a requirements file has changed.
$(VENV)/.setup: requirements.txt | $(VENV)/bin/python
	$(PIP) install --quiet "pip>=24"
	$(PIP) install -r requirements.txt
	@touch $@

$(VENV)/.setup-dev: requirements-dev.txt $(VENV)/.setup
	$(PIP) install -r requirements-dev.txt
	@touch $@

converter: $(VENV)/.setup
	@$(BIN)/python -c 'from core.export.converter import converter_dir; converter_dir()'
