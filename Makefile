# make env        the environment .venv, as requirements.lock says
# make test       the test suite             (PYTEST_ARGS="-k hopper" picks tests)
# make slurm      the scale `test` on a Slurm cluster of two nodes on this machine, as root; apt installs Slurm
# make faults     damage, hostile files, full disks and the like, all that tests/faults has; counts in docs/reliability.md
# make reproduce  everything, and a report   (SCALE=test, demo, learning, laptop or paper)
# make plan       what a scale will cost     (SCALE=paper CORES=64 GPUS=8)
# make report     the report on the results there are so far, in one page; missing ones are named
# make bench      speed, as ratios to plain implementations in the same run; the tables of docs/performance.md
# make readme     the README's figures and numbers, from a finished demo (SCALE=learning or tuning: of its page)
# make lint, make format                     checks and formatting of Python and Snakemake files
# make lock       requirements.lock anew, after a pin changed in pyproject.toml

SCALE ?= demo
CORES ?= $(shell nproc)
GPUS ?= 1
PYTEST_ARGS ?= -n 2 --dist loadgroup
IS_PYTHON_311 := import sys; sys.exit(sys.version_info[:2] != (3, 11))
PYTHON ?= $(shell for p in python3.11 python3; do $$p -c '$(IS_PYTHON_311)' 2>/dev/null && echo $$p && break; done)

BIN := .venv/bin
# The rules call plain `python`.
WITH_PATH := PATH="$(CURDIR)/$(BIN):$$PATH"
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: env test slurm faults reproduce report plan bench readme lint format lock
.DEFAULT_GOAL := env

env: .venv/.stamp

# torch goes first: where a CPU build lies ready pip takes it, elsewhere the build for the newest CUDA.
.venv/.stamp: requirements.lock
	@$(or $(PYTHON),false) -c '$(IS_PYTHON_311)' 2>/dev/null || \
		{ echo "error: no Python 3.11 found; install python3.11 or name one: make env PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -qq --constraint requirements.lock torch
	$(BIN)/pip install -qq --requirement requirements.lock
	@touch $@

test: env
	$(WITH_PATH) OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

slurm: env
	@command -v slurmctld munged >/dev/null || tests/slurm/install
	$(WITH_PATH) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/slurm -rs --whole-scale

faults: env
	$(WITH_PATH) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults --reliability docs/reliability.md

reproduce: env
	$(WITH_PATH) $(BIN)/snakemake --cores all --config scale=$(SCALE)
	@$(MAKE) --no-print-directory report

report: env
	$(WITH_PATH) $(BIN)/snakemake --cores all --config scale=$(SCALE) partial=true
	$(WITH_PATH) $(BIN)/snakemake --config scale=$(SCALE) partial=true --report results/$(SCALE)/report.html

plan: env
	@$(BIN)/python -m workflows.plan --scale $(SCALE) --cores $(CORES) --gpus $(GPUS)

bench: env
	$(BIN)/python -m benchmarks

readme: env
	$(BIN)/python -m workflows.readme --scale $(SCALE)

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflows
	$(WITH_PATH) $(BIN)/snakemake --lint

format: env
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflows

DIRECT_PINS := import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*p["dependencies"], *p["optional-dependencies"]["dev"], sep="\n")

# Local version suffixes (+cpu) and the CUDA libraries that torch brings are left out: they depend on the machine.
lock:
	rm -rf .venv/lock
	$(PYTHON) -m venv .venv/lock
	$(PYTHON) -c '$(DIRECT_PINS)' > .venv/lock/pins.txt
	.venv/lock/bin/pip install -qq $$(grep '^torch==' .venv/lock/pins.txt)
	.venv/lock/bin/pip install -qq --requirement .venv/lock/pins.txt
	.venv/lock/bin/pip freeze --all --exclude pip | sed 's/+.*//' | grep -vE '^(nvidia|cuda|triton)' \
		| LC_ALL=C sort -f > .venv/lock/requirements.txt
	{ grep '^#' requirements.lock; cat .venv/lock/requirements.txt; } > .venv/lock/requirements.lock
	mv .venv/lock/requirements.lock requirements.lock
	rm -rf .venv/lock
