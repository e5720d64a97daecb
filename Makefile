# make sweep: run a first sweep. make test: run the tests. make slow: run their slow variants.
# make faults: inject failures into sweeps. make chaos: run one sweep under many failures
# (FAILURES=50 SEED=0), and compare it with an undisturbed one.
# make browser: open the report and MLflow of a sweep in Chromium. make check: linters and the site.
# make docs: build the site in site/. make reference: generate docs/reference/ from the code.
# make format: apply ruff's fixes. Each target creates .venv first if it is missing.
# The tests start many processes, which share the compiled bytecode.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: install sweep test test-without-ray test-with-ray slow faults chaos browser check format docs reference

install: $(STAMP)

$(STAMP): constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

sweep: $(STAMP)
	$(BIN)/python run.py sweep

# Both parts run side by side, because each waits for its processes. The tests with Ray have the
# higher priority, and their output is printed when they have ended.
test: $(STAMP)
	@$(MAKE) --no-print-directory --keep-going --jobs 2 test-without-ray test-with-ray

test-without-ray: $(STAMP)
	OMP_NUM_THREADS=1 nice $(BIN)/python -m pytest -m "not ray and not faults and not browser and not slow" -n auto --maxprocesses 4 --dist worksteal

test-with-ray: $(STAMP)
	@log=$$(mktemp) && { $(BIN)/python -m pytest tests/on_ray -m "ray and not slow" > $$log 2>&1; \
		code=$$?; echo; cat $$log; rm $$log; exit $$code; }

slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

faults: $(STAMP)
	$(BIN)/python -m pytest -m faults -s

chaos: $(STAMP)
	$(BIN)/python tests/faults/chaos.py --failures $(or $(FAILURES),50) --seed $(or $(SEED),0)

browser: $(STAMP)
	$(BIN)/python -m pytest -m browser -rs

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

reference: $(STAMP)
	$(BIN)/python -m scripts.reference

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
