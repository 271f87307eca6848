# What a person can do here: `make help`.

VENV ?= .venv
CONFIG ?= configs/kuairand_pure.toml
JOB ?= 1x2
PYTEST_ARGS ?=
WORKERS ?= 2

# All packages of the locks have wheels for these.
PYTHONS := 3.11 3.12 3.13
IS_ONE = import sys; sys.exit('%d.%d' % sys.version_info[:2] not in '$(PYTHONS)'.split())
PYTHON ?= $(shell for p in $(PYTHONS:%=python%) python3 python; do \
	if "$$p" -c "$(IS_ONE)" 2>/dev/null; then echo "$$p"; break; fi; done)

# cpu or gpu: which lock is installed.
PLATFORM ?= $(if $(shell nvidia-smi -L 2>/dev/null),gpu,cpu)

# A package index with CPU builds of torch. Without it torch comes from the default index, which may mean 3 GB of CUDA.
TORCH_INDEX ?=

LOCK := requirements/$(PLATFORM).lock
LOCKED := $(VENV)/locked-$(PLATFORM)
INSTALLED := $(VENV)/installed-$(PLATFORM)
DEV := $(VENV)/dev-$(PLATFORM)
# -qq: pip's own lines would bury the steps. Errors are still shown.
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --no-input install -qq
# By file: what the tests of a file share, such as a trained run, is made once.
SHARED = -n $(WORKERS) --dist loadfile --durations=30 --durations-min=5
LINTED := home_dist launchers pipelines benchmarks examples tests requirements docs
LINTED_HERE = $(wildcard $(LINTED))

.DEFAULT_GOAL := help
.PHONY: help install dev train demo docs test test-slow test-all test-slurm guard figures lint format doctor lock clean
.DELETE_ON_ERROR:

help: ## this list
	@echo "Targets:"
	@sed -n 's/^\([a-z-]*\):[^#]*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 14
	@echo "Variables (make train JOB=1x4):"
	@echo "  PYTHON        a Python of $(PYTHONS)  ($(or $(PYTHON),none found))"
	@echo "  PLATFORM      cpu or gpu                 ($(PLATFORM))"
	@echo "  TORCH_INDEX   URL of a package index with CPU builds of torch, which are much smaller"
	@echo "  CONFIG, JOB   what make train runs, on how many nodes x processes  ($(CONFIG), $(JOB))"
	@echo "  PYTEST_ARGS   for make test, for example PYTEST_ARGS='-k reader'"
	@echo "  WORKERS       processes that make test shares the files of tests among; 0: none but pytest's own  ($(WORKERS))"

train: $(INSTALLED) ## install into .venv and train CONFIG on JOB = nodes x processes
	$(VENV)/bin/torchx --log_level WARNING run launchers/components.py:train --config $(CONFIG) -j $(JOB)

demo: $(DEV) ## two days of the sample arrive, are trained on, published and asked for: runs/demo/demo.html
	$(VENV)/bin/python -W ignore benchmarks/demo.py runs/demo

install: $(INSTALLED) ## what a run needs, into .venv

dev: $(DEV) ## what tests and linters need as well

test: $(DEV) ## the fast tests
	$(VENV)/bin/python -m pytest -m "not slow and not slurm" $(SHARED) $(PYTEST_ARGS)

test-slow: $(DEV) ## the slow tests
	$(VENV)/bin/python -m pytest -m "slow and not slurm" $(SHARED) $(PYTEST_ARGS)

test-all: $(DEV) ## all tests but those of test-slurm
	$(VENV)/bin/python -m pytest -m "not slurm" $(SHARED) $(PYTEST_ARGS)

test-slurm: $(DEV) ## the sample's training on a Slurm cluster of two nodes, made for it in namespaces (root, Debian)
	tests/slurm/cluster.sh $(VENV)/bin/python -m pytest -m slurm tests/slurm $(PYTEST_ARGS)

guard: $(DEV) ## the benchmarks' ratios against those recorded: fails when one has fallen by a fifth
	$(VENV)/bin/python benchmarks/guard.py

figures: $(DEV) ## all stored results of benchmarks/ anew, with their tables and pictures: hours
	$(VENV)/bin/python benchmarks/figures.py

docs: $(DEV) ## the documentation as a site, in site/, with what is generated in docs/ written anew
	$(VENV)/bin/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet
	@echo "site/index.html"

lint: $(DEV) ## ruff and mypy
	$(VENV)/bin/ruff check $(LINTED_HERE)
	$(VENV)/bin/ruff format --check $(LINTED_HERE)
	$(VENV)/bin/mypy

format: $(DEV) ## let ruff format and fix
	$(VENV)/bin/ruff format $(LINTED_HERE)
	$(VENV)/bin/ruff check --fix $(LINTED_HERE)

doctor: $(INSTALLED) ## check this machine and the installation
	$(VENV)/bin/home-dist doctor

lock: ## resolve pyproject.toml into requirements/*.lock
	@$(check-python)
	$(PYTHON) requirements/lock.py

clean: ## remove .venv and caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define check-python
if ! "$(PYTHON)" -c "$(IS_ONE)" 2>/dev/null; then \
	echo "home_dist needs a Python of $(PYTHONS); '$(or $(PYTHON),$(PYTHONS:%=python%) python3 python)' is none." >&2; \
	echo "Install one (with venv), or name it: make $(or $(MAKECMDGOALS),train) PYTHON=/path/to/python3.11" >&2; \
	exit 1; fi
endef

define check-platform
case "$(PLATFORM)" in cpu|gpu) ;; *) echo "PLATFORM is cpu or gpu, not '$(PLATFORM)'" >&2; exit 1;; esac
endef

# torch goes first and with its dependencies, because a CUDA build does not import without its nvidia-* packages (gpu.lock
# pins those); all else goes without, because torchrec would bring fbgemm-gpu, which overwrites fbgemm-gpu-cpu.
$(LOCKED): requirements/cpu.lock requirements/gpu.lock
	@$(check-platform)
	@$(check-python)
	@echo "[1/4] a fresh Python environment in $(VENV) ($(PLATFORM); PLATFORM=cpu or gpu to choose)"
	@"$(PYTHON)" -m venv --clear $(VENV)
	@echo "[2/4] torch (the largest part: minutes on a slow line)"
	@$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c requirements/gpu.lock "$$(grep '^torch==' $(LOCK))"
	@echo "[3/4] $$(grep -c '==' $(LOCK)) packages of $(LOCK)"
	@$(PIP) --no-deps -r $(LOCK)
	@touch $@

$(INSTALLED): $(LOCKED) pyproject.toml
	@echo "[4/4] home_dist, and a first import"
	@$(PIP) --no-deps --no-build-isolation -e .
	@$(VENV)/bin/python -W ignore -c "import torchrec, home_dist"
	@touch $@

$(DEV): $(INSTALLED) requirements/dev.lock
	@echo "[dev] $$(grep -c '==' requirements/dev.lock) packages of requirements/dev.lock"
	@$(PIP) --no-deps -r requirements/dev.lock
	@touch $@
