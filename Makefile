# One line each; the README gives the same commands for Windows.
PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: setup setup-dev demo test lint bench tiny

setup:      ; @$(PYTHON) -m envcheck install --venv .venv
setup-dev:  ; @$(PYTHON) -m envcheck install --venv .venv --dev
demo: setup ; @$(RUN) -m envcheck --no-smoke && $(RUN) -m kit.train --config examples/identity.toml
lint: setup-dev ; @$(RUN) -m ruff check && $(RUN) -m ruff format --check
test: lint  ; @$(RUN) -m pytest
bench: setup ; @$(RUN) -m benchmarks
tiny: setup ; @$(RUN) -m scripts.build_tiny --data $(DATA)
