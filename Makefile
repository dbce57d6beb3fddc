# make demo        from a fresh clone to a report to open
# make reproduce   every experiment in its quick preset, its claims, one report; goes on where it was
# make test        style, types, tests
# make test-slow   all tests, those of tests/slow.txt too, compiled as users compile
# make fuzz        the long forms of the fuzzers alone; FUZZ=3 draws three times as many problems
# make mutants     small faults, one at a time: do the tests notice? Goes on where it was
# make docs        the documentation, into site/
# make bench       measurements against other libraries, in an environment of their own
# make env         only the environment, .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Modules are compiled when they are first imported: the installation takes half as long.
PIP := -m pip install --quiet --disable-pip-version-check --no-warn-script-location --no-compile
# Where it is set, every process would compile all modules that it imports, for ten seconds.
unexport PYTHONDONTWRITEBYTECODE
LIBRARY := packages/metastep
LABORATORY := packages/metastep-lab
PROJECTS := $(LIBRARY)/pyproject.toml $(LABORATORY)/pyproject.toml constraints.txt
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile
# Most of the time of the tests is compilation: XLA's older code for loops takes two thirds of it, and
# machine code that is not optimised about two thirds of what is left.
FAST_COMPILATION := --xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0
DEMO := runs/demo
REPRODUCE := runs/reproduce

.PHONY: env demo reproduce test test-slow fuzz mutants docs bench format clean

env: .venv/.installed

.venv/.installed: $(PROJECTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "metastep needs Python 3.11 or newer; call make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) --constraint constraints.txt --editable $(LIBRARY) --editable $(LABORATORY)
	touch $@

.venv/.tests-installed: .venv/.installed
	$(BIN)/python $(PIP) --constraint constraints.txt --editable $(LIBRARY) \
	  --editable '$(LABORATORY)[test]'
	touch $@

demo: .venv/.installed
	$(BIN)/metastep run hypercleaning --preset quick --out $(DEMO)/hypercleaning --resume
	$(BIN)/metastep report $(DEMO)/hypercleaning --out $(DEMO)/report.html
	$(BIN)/python examples/write_mislabelled_digits.py $(DEMO)/digits
	$(BIN)/metastep clean $(DEMO)/digits --label digit --out $(DEMO)/cleaned --resume
	@echo "Open $(CURDIR)/$(DEMO)/report.html and $(CURDIR)/$(DEMO)/cleaned/report.html in a browser."

# An experiment compares with cleanlab.
.venv/.reproduce-installed: .venv/.installed
	$(BIN)/python $(PIP) --constraint constraints.txt --editable $(LIBRARY) \
	  --editable '$(LABORATORY)[label-noise]'
	touch $@

# What fails, or a claim that must hold and does not, stops nothing: the end names it, with status 1.
reproduce: .venv/.reproduce-installed
	@names=$$($(BIN)/metastep list --json | $(BIN)/python -c \
	  'import json, sys; print(*(one["name"] for one in json.load(sys.stdin)))') || exit; \
	failed=; made=; \
	for name in $$names; do \
	  out=$(REPRODUCE)/$$name; \
	  $(BIN)/metastep run $$name --preset quick --out $$out --resume; status=$$?; \
	  if [ $$status = 130 ]; then exit 130; fi; \
	  if [ $$status = 0 ]; then $(BIN)/metastep check $$out; status=$$?; fi; \
	  if [ $$status != 0 ]; then failed="$$failed $$name"; fi; \
	  if [ -f $$out/result.json ]; then made="$$made $$out"; fi; \
	done; \
	$(BIN)/metastep report $$made --out $(REPRODUCE)/report.html || exit; \
	echo "Open $(CURDIR)/$(REPRODUCE)/report.html in a browser."; \
	if [ -n "$$failed" ]; then echo "Failed, or a claim that must hold does not:$$failed"; exit 1; fi

test: .venv/.tests-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	XLA_FLAGS="$(FAST_COMPILATION) $$XLA_FLAGS" $(PYTEST)

test-slow: .venv/.tests-installed
	$(PYTEST) -m "slow or not slow"

FUZZ ?= 1
fuzz: .venv/.tests-installed
	METASTEP_FUZZ=$(FUZZ) $(PYTEST) -m slow -k test_many \
	  tests/test_fuzz.py tests/test_fuzz_runs.py tests/metastep/estimators/test_any_problem.py

mutants: .venv/.mutants-installed
	XLA_FLAGS="$(FAST_COMPILATION) $$XLA_FLAGS" $(BIN)/python benchmarks/mutants.py

.venv/.mutants-installed: .venv/.tests-installed
	$(BIN)/python $(PIP) --constraint constraints.txt --editable $(LIBRARY) \
	  --editable '$(LABORATORY)[mutants]'
	touch $@

docs: .venv/.tests-installed
	$(BIN)/mkdocs build --strict

bench: .bench/.installed
	.bench/bin/python benchmarks/run.py hypercleaning
	.bench/bin/python benchmarks/run.py mlp
	.bench/bin/python benchmarks/run.py meta-batch
	.bench/bin/python benchmarks/learned_optimizer.py
	.bench/bin/python benchmarks/mixed_mode.py
	.bench/bin/python benchmarks/eigenpairs.py
	.bench/bin/python benchmarks/gpt2.py

.bench/.installed: $(PROJECTS)
	$(PYTHON) -m venv .bench
	.bench/bin/python $(PIP) --constraint constraints.txt --editable $(LIBRARY) \
	  --editable '$(LABORATORY)[bench]'
	# Without their requirements: pins that nothing meets, a torchvision that does not fit torch.
	.bench/bin/python $(PIP) --no-deps learned_optimization==0.0.1 bergson==2.5.1
	touch $@

format: .venv/.tests-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .bench .mutants runs site .pytest_cache .ruff_cache .hypothesis
