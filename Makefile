# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
# uv is used where it is installed; else a private copy is put into .uv-bootstrap.
SHELL := /bin/bash
.DELETE_ON_ERROR:

UV := $(shell command -v uv 2>/dev/null || echo .uv-bootstrap/bin/uv)
RUN := $(UV) run --no-sync
STAMP := .venv/.softeq-synced

.PHONY: demo test test-slow test-core check docs notebooks bench wheel release-check clean

demo: $(STAMP)
	$(RUN) softeq run modified-inertia --preset smoke --variants hard,hard-true,soft,none --workers 2 --out runs/demo
	$(RUN) softeq table modified-inertia --out runs/demo
	$(RUN) softeq plot modified-inertia --out runs/demo

test: $(STAMP)
	$(RUN) python -m pytest -q -n 2

test-slow: $(STAMP)
	$(RUN) python -m pytest -q -n 2 --run-slow

# Without escnn (whose lie-learn has wheels for 3.11 and 3.12 alone): any interpreter, torch and numpy that the project supports.
PYTHON ?= 3.13
TORCH ?= torch
NUMPY ?= numpy>=2
test-core: | $(filter .uv-bootstrap/%,$(UV))
	$(UV) venv --quiet --clear --python $(PYTHON) .venv-core
	$(UV) pip install --quiet --compile-bytecode --python .venv-core/bin/python -e '.[e3nn,audit,images,tabular,phenomena,molecules,experiments,dev]' '$(TORCH)' '$(NUMPY)'
	.venv-core/bin/python -m pytest -q -n 2

check: $(STAMP)
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports

# The site, from docs/ and the docstrings, into site/: open site/index.html.
docs: $(STAMP)
	$(UV) pip install --quiet --python .venv/bin/python 'mkdocs>=1.6' 'mkdocs-material>=9.5' 'mkdocstrings[python]>=0.27'
	$(RUN) mkdocs build --strict --quiet

# Pages of the docs as notebooks, run anew, with what they print and draw.
notebooks: $(STAMP)
	$(UV) pip install --quiet --python .venv/bin/python 'nbclient>=0.10' 'nbformat>=5.10' 'ipykernel>=6.29'
	$(RUN) python notebooks/make.py

bench: $(STAMP)
	$(RUN) python -m benchmarks

wheel: $(STAMP)
	$(UV) build --wheel

# Builds what would be uploaded, and looks at it: the metadata, the contents, and an installation in an environment of its own.
release-check: | $(filter .uv-bootstrap/%,$(UV))
	rm -rf dist .venv-release
	$(UV) build --quiet --out-dir dist
	$(UV) tool run --quiet twine check --strict dist/*.whl dist/*.tar.gz
	$(UV) venv --quiet .venv-release
	$(UV) pip install --quiet --python .venv-release/bin/python dist/*.whl
	cd dist && ../.venv-release/bin/python -c "import softeq; softeq.SoftLinear; print('softeq', softeq.__version__)"
	rm -rf .venv-release

# `uv sync` installs the project itself in editable form, with what the tests and the comparisons need.
# Compiled once for all: without it every process compiles torch anew where Python may not keep bytecode, 4 s instead of 2.
$(STAMP): pyproject.toml | $(filter .uv-bootstrap/%,$(UV))
	$(UV) sync --quiet --compile-bytecode --extra e3nn --extra escnn --extra audit --extra images --extra tabular --extra phenomena --extra qm9 --extra experiments --extra dev
	@touch $@

.uv-bootstrap/bin/uv:
	python3 -m venv .uv-bootstrap
	.uv-bootstrap/bin/python -m pip install --quiet --disable-pip-version-check uv

clean:
	rm -rf .venv .venv-core .venv-release .uv-bootstrap runs dist site
