# make parity   set up .venv, then does every exported file still compute what its model computes?
# make test     set up .venv, then the project's own tests
# make lint     ruff, formatting, types, and which room imports which
# make nightly  what takes long: whole conformance suite, every frame, fault power
# make strangers  the suite on public architectures and files that nobody here has seen: an hour or two
# make tools    the toolchains litert and coreai, 3 GB; ARGS names others
# make locks    the locks of all toolchains again, by uv
# make schemas  the JSON schema of records again, after a field of one changed
# make pictures the README's two pictures again, after a whole make parity that passed
# make site     the documentation site in build/site, in an environment of its own; fails on a warning
# make package  wheel and sdist in dist, tried in fresh environments
# make clean    remove .venv, reports and build leftovers (the artefact cache in your home stays)
# Pass options on with ARGS: make parity ARGS="-k skin --parity-rebuild"

PYTHON ?= $(shell command -v python3.11 || command -v python3.13 || command -v python3.12 || command -v python3.10 || command -v python3)
PY := .venv/bin/python
READY := .venv/.ready
WORKERS ?= auto
ARGS ?=

.PHONY: parity test lint clean nightly strangers setup tools locks schemas conformance pictures pythons site package
.DEFAULT_GOAL := parity

parity: $(READY)
	@mkdir -p reports
	$(PY) -m pytest -m parity tests/parity -n $(WORKERS) --dist worksteal --junitxml=reports/junit.xml $(ARGS)

test: $(READY)
	$(PY) -m pytest -m "not parity and not nightly" -n $(WORKERS) --dist worksteal $(ARGS)

nightly: $(READY)
	$(PY) -m pytest -m nightly $(ARGS)
	$(PY) -m tests.conformance --whole
	$(PY) -m tests.pythons
	$(PY) -m pytest -m parity tests/parity --parity-profile nightly --parity-power -n $(WORKERS) --dist worksteal
	$(MAKE) strangers ARGS=

# Runs that were stopped go on; delete build/strangers/work to begin again. Held-back ones only when a release is judged.
STRANGERS := build/strangers
strangers: $(READY)
	$(PY) -m research.strangers environment $(STRANGERS)
	$(PY) -m research.strangers run --environment $(STRANGERS) --work $(STRANGERS)/work --out $(STRANGERS)/lines.jsonl $(ARGS)
	$(PY) -m research.strangers files --environment $(STRANGERS) --work $(STRANGERS)/work --out $(STRANGERS)/files.jsonl
	$(PY) -m research.strangers table $(STRANGERS)/lines.jsonl $(STRANGERS)/files.jsonl

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports

# On every Python from 3.10 to 3.13 that is here: the core without torch or converters, and beside what users have.
pythons: $(READY)
	$(PY) -m tests.pythons $(ARGS)

# The README's two pictures: of the last whole run that passed, and of parity demo.
pictures: $(READY)
	$(PY) docs/pictures.py

# The generator lies in an environment of its own: it would move packages that converters pin.
SITE := build/site-env
site: $(SITE)/.ready
	$(SITE)/bin/python docs/site.py build/pages
	NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --strict

$(SITE)/.ready: docs/requirements.txt
	"$(PYTHON)" -m venv $(SITE)
	$(SITE)/bin/python -m pip install --quiet --requirement docs/requirements.txt
	@touch $@

package:
	"$(PYTHON)" .ci/package.py

conformance: $(READY)
	$(PY) -m tests.conformance $(ARGS)

setup: $(READY)

# Converters' environments of their own, in the user's cache folder. What the cells of this repository need is in .venv,
# or was made with it where its Python is not 3.11.
tools: $(READY)
	.venv/bin/parity tools install $(or $(ARGS),litert coreai)

# The locks of the toolchains again, from the sources beside them. How torch's CPU build is found: .ci/locks.py.
locks:
	"$(PYTHON)" .ci/locks.py $(ARGS)

# Held to the dataclasses by a test.
schemas: $(READY)
	$(PY) .ci/schemas.py

$(READY): pyproject.toml constraints.txt $(wildcard constraints/*.txt)
	@test -n "$(PYTHON)" || { echo "error: make needs Python 3.10 to 3.13: set PYTHON=path/to/python3.11"; exit 1; }
	"$(PYTHON)" .ci/setup.py
	@touch $(READY)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find reports -mindepth 1 ! -name baseline.json ! -name .gitkeep -delete
