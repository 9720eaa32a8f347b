# Everything a person or CI runs. `make` alone lists it. Needs Python 3.11, nothing else: tools come from the lock files.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
LOCAL := PYTHONPATH=include $(BIN)/python -m imunizacao_local
# Options of `make up`, for example: make up ARGS="--docs-per-day 2000 --port-airflow 8090"
ARGS ?=
DAY ?=
TESTS ?=

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- environment: made once, and again when a lock changes -----------------------------------------------------------

$(BIN)/python:
	@for python in $${PYTHON:-} python3.11 python3 python; do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
	        echo "Making $(VENV) with $$("$$python" --version)"; \
	        exec "$$python" -m venv $(VENV); \
	    fi; \
	done; \
	echo "Python 3.11 was not found (the lock files were resolved for it)." >&2; \
	echo "Install it, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
	exit 1

# uv is ten times faster; without it (no wheel, no network to it) pip installs the same lock.
define install
	@$(BIN)/python -c 'import sys; sys.exit("$(VENV) holds Python %d.%d, 3.11 is needed: remove it and run make again" % sys.version_info[:2] if sys.version_info[:2] != (3, 11) else 0)'
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) \
	    || echo "uv could not be installed: using pip" >&2
	@echo "Installing $(1)"
	@if test -x $(BIN)/uv; then \
	    $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -r $(1); \
	else \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(1); \
	fi
endef

$(VENV)/.runtime-installed: requirements.txt | $(BIN)/python
	$(call install,requirements.txt)
	@touch $@

$(VENV)/.dev-installed: requirements-dev.txt $(VENV)/.runtime-installed
	$(call install,requirements-dev.txt)
	@touch $@

.PHONY: setup
setup: $(VENV)/.dev-installed ## Make .venv with the locked packages

.PHONY: lock
lock: $(VENV)/.runtime-installed ## Resolve requirements*.in into requirements*.txt
	@for name in requirements requirements-dev; do \
	    header=$$(head -n 1 $$name.txt); \
	    $(BIN)/uv pip compile --quiet --python-version 3.11 --no-header --no-annotate $$name.in > $$name.txt.new; \
	    { echo "$$header"; cat $$name.txt.new; } > $$name.txt; \
	    rm $$name.txt.new; \
	done

# --- quality ---------------------------------------------------------------------------------------------------------

.PHONY: format
format: setup ## Format Python in place
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

# Two runs at once, the second of three processes: tests against real servers wait for most of their time. Those with a real Airflow stay apart,
# because Airflow reads its settings once, when it is imported. Their output follows the other, also when the whole is broken off.
define run_all_tests
	@log=$$(mktemp); trap 'cat "$$log"; rm -f "$$log"' EXIT; \
	$(BIN)/python -m pytest -p no:cacheprovider tests/dags > "$$log" 2>&1 & dags=$$!; \
	status=0; \
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --ignore=tests/dags || status=1; \
	wait $$dags || status=1; \
	exit $$status
endef

.PHONY: check
check: setup ## All that CI checks; changes no file of the project
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict include tests/mirror
	PYTHONPATH=include $(BIN)/lint-imports
	$(BIN)/python -m tests.lint_sql
	$(call run_all_tests)

.PHONY: test
test: setup ## Run the tests (some of them: make test TESTS=tests/unit)
	$(if $(TESTS),$(BIN)/python -m pytest $(TESTS),$(call run_all_tests))

.PHONY: test-slow
test-slow: setup ## Run the tests that CI cannot afford (about half an hour)
	$(BIN)/python -m pytest -m slow

.PHONY: test-dags
test-dags: setup ## Run only the tests of the DAG files
	$(BIN)/python -m pytest tests/dags

.PHONY: soak
soak: setup ## Extract through random faults (SEEDS=1-5000), then publish in random schedules (SCHEDULES=200 SEED=1)
	$(if $(SCHEDULES),,PYTHONPATH=include $(BIN)/python -m tests.faults $(if $(SEEDS),--seeds $(SEEDS)) $(ARGS))
	$(if $(SEEDS),,PYTHONPATH=include $(BIN)/python -m tests.protocol $(if $(SCHEDULES),--schedules $(SCHEDULES)) $(if $(SEED),--seed $(SEED)))

.PHONY: bench
bench: setup ## Measure the stages; writes docs/benchmarks.md
	PYTHONPATH=include $(BIN)/python -m tests.benchmarks $(ARGS)

.PHONY: docs
docs: setup ## Write the generated pages again
	PYTHONPATH=include $(BIN)/python -m imunizacao.contract > docs/dados/dicionario.md.new
	@mv docs/dados/dicionario.md.new docs/dados/dicionario.md
	PYTHONPATH=include $(BIN)/python -m imunizacao.validate.rule_table > docs/dados/regras.md.new
	@mv docs/dados/regras.md.new docs/dados/regras.md
	PYTHONPATH=include $(BIN)/python -m imunizacao_airflow.dags_page > docs/dags.md.new
	@mv docs/dags.md.new docs/dags.md

# --- running it ------------------------------------------------------------------------------------------------------

.PHONY: up
up: $(VENV)/.runtime-installed ## Start everything on this machine and publish yesterday (or DAY=2026-03-14)
	@$(LOCAL) up $(if $(DAY),--day $(DAY)) $(ARGS)

.PHONY: down
down: $(VENV)/.runtime-installed ## Stop everything; data stays
	@$(LOCAL) down

.PHONY: status
status: $(VENV)/.runtime-installed ## Show what runs
	@$(LOCAL) status

.PHONY: reset
reset: $(VENV)/.runtime-installed ## Stop everything and delete all data (YES=1)
	@$(LOCAL) reset $(if $(YES),--yes)

.PHONY: env
env: $(VENV)/.runtime-installed ## Print the settings for a shell: eval "$(make -s env)"
	@$(LOCAL) env

.PHONY: day
day: $(VENV)/.runtime-installed ## Publish DAY=2026-03-14 without Airflow
	@$(LOCAL) up --no-airflow $(ARGS)
	@settings="$$($(LOCAL) env)" && eval "$$settings" && $(BIN)/python -m imunizacao run-day $(DAY)

.PHONY: mirror
mirror: $(VENV)/.runtime-installed ## Run only the mirror simulator, in the foreground (ARGS="--port 8090 --scenario ...")
	@PYTHONPATH=include $(BIN)/python -m tests.mirror serve $(ARGS)
