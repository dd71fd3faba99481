# SPDX-License-Identifier: Apache-2.0
# make test and make demo do all their own set-up on a machine with Python 3.10 or newer:
# .ci/setup.sh tells how. `make test PYTHON=python3.12` chooses the interpreter of the .venv.

PYTHON ?=
BIN := .venv/bin
READY := .venv/.ready
INPUTS := .ci/setup.sh $(wildcard .ci/*.txt) constraints.txt package.xml pyproject.toml setup.cfg setup.py \
	$(wildcard lidar_kd/sparse/engines/native/*.[ch] lidar_kd/sparse/engines/native/*.py)

# ROS finds what pip installed only here.
export AMENT_PREFIX_PATH := $(CURDIR)/.venv$(if $(AMENT_PREFIX_PATH),:$(AMENT_PREFIX_PATH))

# What everything in .venv must hash to, for every Python and machine; torch.txt is kept by hand.
LOCK := uv pip compile -q --universal --python-version 3.10 --generate-hashes --no-annotate \
	--custom-compile-command 'make lock' -c constraints.txt --no-emit-package torch

# In processes one more than there are cores, for tests wait for nodes, but no more than four.
PYTEST := $(BIN)/python -m pytest -q -n $$(($$(nproc) + 1)) --maxprocesses 4 --dist loadgroup

.PHONY: test demo docs lint ruff format bench gpu lock clean

# Beside mypy, which takes one core; what Python compiles is kept, also where it is told not to,
# or each of the commands that tests start compiles it again.
test: export PYTHONDONTWRITEBYTECODE :=
test: ruff
	@$(BIN)/mypy >.venv/.types 2>&1 & checking=$$!; \
	$(PYTEST); tested=$$?; \
	wait $$checking; typed=$$?; cat .venv/.types; exit $$((tested | typed))

# SCANS=PATH: scans of yours, a folder of them or a bag, in place of the simulated drive.
demo: $(READY)
	$(BIN)/python training/demo.py $(if $(SCANS),--own '$(SCANS)' --out runs/demo-own)

lint: ruff
	$(BIN)/mypy

ruff: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The site, in site/; a broken link is an error.
docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(READY)
	$(BIN)/python training/bench.py engine

# What only a machine with a GPU can show, in some ten minutes: the tests, then the figures; then
# the search for faster tiles, after which the figures can be taken again.
gpu: $(READY)
	$(BIN)/python -m pytest -q -m cuda
	@if command -v compute-sanitizer >/dev/null; then \
		compute-sanitizer --error-exitcode 1 $(BIN)/python -m pytest -q -m cuda test/lidar_kd/models; \
	else echo 'compute-sanitizer is not here: it comes with the CUDA toolkit'; fi
	$(BIN)/python training/bench.py gpu --scans 4 --repeats 2 --json runs/gpu.json
	$(BIN)/python -m lidar_kd.cli.tune

# After a change of constraints.txt or setup.py; needs uv.
lock:
	$(LOCK) --extra train --extra test setup.py .ci/tools.in -o .ci/lock.txt
	$(LOCK) --extra ros setup.py -o .ci/lock-ros.txt

# The set-up runs again when what it installs from has changed.
$(READY): $(INPUTS)
	PYTHON='$(PYTHON)' .ci/setup.sh
	touch $@

.venv/.docs: $(READY)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt mkdocs-material
	touch $@

clean:
	rm -rf build dist install site log *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -f lidar_kd/sparse/engines/native/_kernels* $(READY) .venv/.docs
	find lidar_kd training test -name __pycache__ -prune -exec rm -rf {} +
