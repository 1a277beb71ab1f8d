# Every target builds the environment it needs, once per lock file.
.DEFAULT_GOAL := help
.PHONY: help demo test check lock clean

PYTHON ?=
WORKERS ?= 2
WORKDIR ?= runs/demo
export PYTHON

VENV := .venv/bin
COMPILE := $(VENV)/uv pip compile setup.py --quiet --universal \
  --python-version 3.11 --generate-hashes --no-header --no-annotate \
  --no-emit-index-url --no-emit-find-links

help:  ## print this text
	@sed -n 's/^\([a-z]*\):.*## /  make \1: /p' $(MAKEFILE_LIST)

demo:  ## images to report in $(WORKDIR), within 10 minutes on 2 CPU cores
	@./environment.sh runtime
	$(VENV)/python -m varjax demo --workdir $(WORKDIR)

test:  ## the test suite on the CPU, WORKERS processes (default 2)
	@./environment.sh test
	JAX_PLATFORMS=cpu $(VENV)/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

check:  ## formatting, lint, types, lock files
	@./environment.sh test
	$(VENV)/ruff format --check .
	$(VENV)/ruff check .
	$(VENV)/pyright --pythonpath $(VENV)/python
	@! grep -n '://' requirements*.lock || \
	  { echo 'lock files must not name an address' >&2; exit 1; }

lock:  ## resolve setup.py again into the hashed lock files
	@./environment.sh test
	$(COMPILE) --upgrade --extra build -o requirements.lock
	$(COMPILE) --upgrade --extra build --extra test --extra dev \
	  --constraint requirements.lock -o requirements-test.lock

clean:  ## remove the environment and caches, never runs/
	rm -rf .venv build dist varjax.egg-info .pytest_cache .ruff_cache \
	  .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
