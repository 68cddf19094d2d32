# stepvideo. `make` or `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3))
BIN := .venv/bin
# Set-up is done once for each content of these two files.
STAMP := .venv/.installed-$(shell cat requirements.lock pyproject.toml | sha256sum | cut -c1-16)
# Test processes, one torch thread each: on two cores one of three often waits for processes that it started.
# N=0 runs the tests in one process, which debuggers need.
N ?= 3
ARGS ?=

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

# ---------------------------------------------------------------------------------------------------------------- set up

.PHONY: setup
setup: $(STAMP) ## Make .venv and install what requirements.lock names (does nothing if it is done)

$(STAMP):
	@test -n "$(PYTHON)" || { echo "no python3 found; stepvideo needs Python 3.11 or 3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] < (3, 13) else \
	  f"stepvideo needs Python 3.11 or 3.12, {sys.executable} is {sys.version.split()[0]}; try: make setup PYTHON=python3.11")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  echo "set-up: $$(grep -c '^[a-z]' requirements.lock) Python packages into .venv (2.9 GB, about 2 minutes)"; \
	  $(PYTHON) -m venv --clear .venv; }
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@rm -f .venv/.installed-*
	@touch $@

.PHONY: lock
lock: ## Resolve pyproject.toml anew, in an environment of its own, and write requirements.lock
	@rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/python -m pip install -qq --disable-pip-version-check ".[train,curate,quant,ray,cluster,serve,flows,dev,planned]"
	@.venv-lock/bin/python scripts/lock.py
	@rm -rf .venv-lock

# ------------------------------------------------------------------------------------------------------------------- run

.PHONY: demo
demo: setup ## Set up, then the whole cascade at `micro`: raw videos to an evaluated, distilled model
	@$(BIN)/stepvideo run profile=micro

.PHONY: smoke
smoke: setup ## The whole cascade at its smallest; shows that it runs, not that it learns
	@$(BIN)/stepvideo run profile=smoke

.PHONY: team
team: setup ## A team's servers on this machine: PostgreSQL, S3, MLflow, Prefect, a worker (docs/team.md)
	@scripts/apt.sh
	@$(BIN)/stepvideo team start

.PHONY: team-stop
team-stop: setup ## End them; what they hold stays
	@$(BIN)/stepvideo team stop

.PHONY: ui
ui: setup ## MLflow and Prefect in the browser, on 127.0.0.1, until Ctrl-C
	@scripts/ui.sh

.PHONY: docs
docs: setup ## The documents as a site, in runs/site; broken links and anchors are errors
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet && echo "open runs/site/index.html"

.PHONY: docs-serve
docs-serve: setup ## The same on 127.0.0.1:8009, which follows changes, until Ctrl-C
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --dev-addr 127.0.0.1:8009

# ----------------------------------------------------------------------------------------------------------------- check

.PHONY: test
test: setup ## Set up, then every test but the long ones (all but `soak`)
	@scripts/apt.sh
	@$(BIN)/dvc pull --quiet
	@N=$(N) scripts/tests.sh $(ARGS)

.PHONY: quick
quick: setup ## The tests that take seconds
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(N) --dist loadfile --no-loadscope-reorder -m "not soak and not slow" $(ARGS)

.PHONY: soak
soak: setup ## The long tests: kill loops, statistics; the log goes to benchmarks/
	@scripts/apt.sh
	@log=benchmarks/soak-$$(date -u +%Y-%m-%d).log; \
	{ echo "# $$(date -u +%FT%TZ) commit $$(git rev-parse --short HEAD), $$(nproc) cores"; \
	  $(BIN)/python -m pytest -v -m soak --timeout 7200 $(ARGS); } 2>&1 | sed -u "s#$(CURDIR)#.#g" | tee $$log

.PHONY: bench
bench: setup ## The benchmarks: ratios measured in one run, on a quiet machine; fails when a bar is missed
	@$(BIN)/python benchmarks/model_speed.py --check
	@$(BIN)/python benchmarks/generation_memory.py --check
	@$(BIN)/python benchmarks/balance.py --check
	@$(BIN)/python benchmarks/monitor_overhead.py --check
	@$(BIN)/python benchmarks/dit_step.py --check
	@$(BIN)/python benchmarks/search.py --check
	@$(BIN)/python benchmarks/vae_layout.py
	@$(BIN)/python benchmarks/kmeans.py --check
	@$(BIN)/python benchmarks/tar_shards.py --check
	@$(BIN)/python benchmarks/watermark.py --check
	@$(BIN)/python benchmarks/segmentation.py --check
	@$(BIN)/python benchmarks/curation.py --check
	@$(BIN)/python benchmarks/mind.py --check
	@OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python benchmarks/telemetry.py --check
	@$(BIN)/python benchmarks/telemetry_views.py --check
	@$(BIN)/python benchmarks/pipes.py --check

.PHONY: check
check: setup ## Formatting, lint, types, layers and the rules of the house
	@PRE_COMMIT_HOME=.venv/.pre-commit $(BIN)/pre-commit run --all-files --hook-stage manual

.PHONY: fix
fix: setup ## Let ruff format and mend what it can
	@$(BIN)/ruff check --fix --quiet . && $(BIN)/ruff format .

.PHONY: hooks
hooks: setup ## Run the quick checks at every git commit
	@$(BIN)/pre-commit install
