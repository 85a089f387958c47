# `make` alone prints the targets.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
ARGS ?=
VIDEOS ?=
OUT ?= logs/gpu
MINUTES ?= 9
TABLES ?= ablation_modules,ablation_window,ablation_token,ablation_aggregation,ablation_stem,kinetics,ssv2

.PHONY: help setup train shipped tables report test test-slow test-slurm test-hosts bench bench-data check-gpu lint audit dist format lock clean

help: ## print the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## make the virtual environment and install the pinned dependencies (once)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0])'
	@echo "Setting up $(VENV) (once; PyTorch is large)"
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

train: $(READY) ## set up, then train the tiny STAT on the built-in motion videos (more: ARGS='t_o=5 seed=1')
	$(PY) src/train.py $(ARGS)

shipped: $(READY) ## train the weights that init=shipped:motion names anew, and write them into the package (docs/shipped.md)
	$(PY) src/train.py logger=off folders.logs=logs/shipped
	$(PY) -m stat_video.weights.shipped.write logs/shipped/default/tiny-motion-T16-stat-seed0-* motion

tables: $(READY) ## run what is missing of Tables 1 to 7 (TABLES=ablation_stem, ARGS='seeds=3', ARGS='plan=true')
	$(PY) src/train.py -m experiment=$(TABLES) $(ARGS)

report: $(READY) ## write logs/report/index.html: the tables, ours beside the paper's
	$(PY) src/report.py $(ARGS)

test: $(READY) ## set up, then run the tests, a file a core
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-slow: $(READY) ## the tests that take minutes
	OMP_NUM_THREADS=1 $(PY) -m pytest -m slow -n auto --dist loadfile

# Descriptors of this shell, such as locks of a job server, are closed: daemons that the tests start would keep them.
test-slurm: $(READY) ## sweeps on a real SLURM on this machine, about 15 minutes (root on Debian; installs SLURM)
	@sh tests/slurm/install.sh
	OMP_NUM_THREADS=1 $(PY) -m pytest -m slurm tests/slurm $(ARGS)

test-hosts: $(READY) ## a run over two hosts, as network namespaces of this machine, minutes (root)
	OMP_NUM_THREADS=1 $(PY) -m pytest -m hosts tests/hosts $(ARGS)

bench: $(READY) ## speed and memory of STAT beside its peers (ONLY='--only forward'); needs pip install -e '.[bench]' for all
	KINETO_LOG_LEVEL=99 PYTHONPATH=src $(PY) benchmarks/model.py $(ONLY)

bench-data: $(READY) ## how fast videos become clips, beside PyTorchVideo (real footage: VIDEOS='folder clip.mp4')
	PYTHONPATH=src $(PY) benchmarks/data.py $(VIDEOS)

check-gpu: $(READY) ## is all right on this GPU, and how fast? (OUT=logs/gpu MINUTES=9, ARGS='--only 1,4'; docs/gpu.md)
	PYTHONPATH=src $(PY) benchmarks/check_gpu.py --out $(OUT) --minutes $(MINUTES) $(ARGS)

lint: $(READY) ## format check, lint, types, floors
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# In an environment of its own, so that the tool's dependencies are not ours. --strict: what can't be looked up fails.
audit: ## look up known vulnerabilities of the pinned dependencies (ARGS='-s osv': in another database)
	@test -x $(VENV)-audit/bin/pip-audit || { $(PYTHON) -m venv $(VENV)-audit && $(VENV)-audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1; }
	$(VENV)-audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip --progress-spinner off $(ARGS)

format: $(READY) ## format and mend what can be mended
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

lock: $(READY) ## write what is installed into constraints.txt
	$(PY) -m pip freeze --exclude-editable > constraints.txt.new
	mv constraints.txt.new constraints.txt

# In environments of their own, as whoever installs the package has. The wheel trains away from this clone.
dist: ## build wheel and sdist, check them, and train from the wheel in a new environment (minutes; PyTorch is large)
	rm -rf dist $(VENV)-dist
	$(PYTHON) -m venv $(VENV)-dist
	$(VENV)-dist/bin/pip install --quiet --disable-pip-version-check build twine
	$(VENV)-dist/bin/python -m build --quiet --outdir dist .
	$(VENV)-dist/bin/twine check --strict dist/*
	$(VENV)-dist/bin/pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	rm -rf build/dist && mkdir -p build/dist
	cd build/dist && $(CURDIR)/$(VENV)-dist/bin/stat-video train scale=tiny T=4 crop=32 recipe.max_steps=2 logger=off \
		data.motion.train_videos=24 data.motion.val_videos=12

clean: ## remove the virtual environment (data and logs stay)
	rm -rf $(VENV) $(VENV)-audit $(VENV)-dist build dist
