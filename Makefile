# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
# uv is used where it is installed; else a private copy is put into .uv-bootstrap.
SHELL := /bin/bash
.DELETE_ON_ERROR:

UV := $(shell command -v uv 2>/dev/null || echo .uv-bootstrap/bin/uv)
RUN := $(UV) run --no-sync
STAMP := .venv/.softeq-synced

.PHONY: demo test test-slow check bench wheel clean

demo: $(STAMP)
	$(RUN) softeq run modified-inertia --preset smoke --jobs 2 --out runs/demo
	$(RUN) softeq table modified-inertia --out runs/demo
	$(RUN) softeq plot modified-inertia --out runs/demo

test: $(STAMP)
	$(RUN) python -m pytest -q -n 2

test-slow: $(STAMP)
	$(RUN) python -m pytest -q -n 2 --run-slow

check: $(STAMP)
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports

bench: $(STAMP)
	$(RUN) python -m benchmarks

wheel: $(STAMP)
	$(UV) build --wheel

# `uv sync` installs the project itself in editable form, with what the tests and the comparisons need.
$(STAMP): pyproject.toml | $(filter .uv-bootstrap/%,$(UV))
	$(UV) sync --quiet --extra e3nn --extra escnn --extra audit --extra images --extra tabular --extra molecules --extra experiments --extra dev
	@touch $@

.uv-bootstrap/bin/uv:
	python3 -m venv .uv-bootstrap
	.uv-bootstrap/bin/python -m pip install --quiet --disable-pip-version-check uv

clean:
	rm -rf .venv .uv-bootstrap runs dist
