# One line each; the README gives the same commands for Windows.
PYTHON ?= python3
RUN := .venv/bin/python
TESTS := $(RUN) -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

.PHONY: setup setup-dev demo lab lint light check test prove notebooks bench gpu tiny

setup:      ; @$(PYTHON) -m envcheck install --venv .venv
setup-dev:  ; @$(PYTHON) -m envcheck install --venv .venv --dev
demo: setup ; @$(RUN) -m envcheck --no-smoke && $(RUN) -m kit.train --config examples/identity.toml
lab:        ; @$(PYTHON) -m envcheck install --venv .venv --notebooks && .venv/bin/jupyter lab notebooks
lint: setup-dev ; @$(RUN) -m ruff check && $(RUN) -m ruff format --check && $(RUN) -m mypy
light: setup-dev ; @$(TESTS) -m "not torch"
check:      ; @$(MAKE) --no-print-directory --jobs=2 lint light
test: check ; @$(TESTS) -m torch && $(RUN) -m notebooks --check
over-%:     ; @$(PYTHON) -m envcheck install --$* --venv .venv-$* --dev; .venv-$*/bin/python $(wordlist 2,99,$(TESTS)) -m torch
prove: test ; @$(RUN) -m benchmarks
notebooks: setup-dev ; @$(RUN) -m notebooks
bench: setup ; @$(RUN) -m benchmarks
gpu: setup-dev ; @$(RUN) -m benchmarks.gpu $(ARGS)
tiny: setup ; @$(RUN) -m scripts.build_tiny --data $(DATA)
