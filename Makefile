# Each target is a line that a person could type; `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
CLI := $(VENV)/bin/prunetune
RESULTS ?= results
REPEATS ?= 1
WORKERS ?= 2
REAL = $(if $(DATA),--data $(DATA))
.DEFAULT_GOAL := help
TABLES := main weakly transfer time ablation-path ablation-masking ablation-sampler ablation-gamma v1-depths v1-paradigms instruction v1-llm
.PHONY: help run run-text demo-grid test test-slow test-data test-slurm test-cluster test-gpu drill lint status report collect tables figures wandb real paper baselines study bench bench-scale bench-cluster backbones parity docs

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | awk -F'|' '{printf "make %-11s %s\n", $$1, $$2}'

$(VENV)/.base: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed, this is %d.%d; pass PYTHON=<path>" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV); torch alone is several GB, so this can take some minutes"
	$(PY) -m pip install --quiet -c constraints.txt -e . && touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PY) -m pip install --quiet -c constraints.txt -e '.[dev,instruct]' && touch $@

run: $(VENV)/.base  ## demo on embedded data, end to end, offline
	$(CLI) grid experiment=demo 'methods=[herding,dlc,dlc_topk,random]' 'ratios=[0.1,0.3,0.5]' 'seeds=[0,1,2]' results_dir=$(RESULTS)
	$(CLI) report --results $(RESULTS) --dataset textures

$(VENV)/.instruct: $(VENV)/.base
	$(PY) -m pip install --quiet -c constraints.txt -e '.[instruct]' && touch $@

run-text: $(VENV)/.instruct  ## a text run end to end, offline: embedded corpus, a tiny random model, a few questions
	HF_HUB_OFFLINE=1 $(CLI) instruct corpus=embedded llm=tiny text_scorer=dlc sampler=flexrand ratio=0.5 \
		sft=released evaluation.tasks_folder=tests/instruct/tasks 'evaluation.tasks=[everyday]' 'evaluation.num_fewshot=[0,2]' \
		held_out=0.1 results_dir=$(RESULTS)

demo-grid: RESULTS = results/demo
demo-grid: $(VENV)/.base  ## grids on embedded data, offline, and from them every table and figure of the paper; long
	$(CLI) grid sweep=demo results_dir=$(RESULTS)
	$(CLI) grid sweep=demo_transfer results_dir=$(RESULTS)
	$(CLI) grid sweep=demo_weakly results_dir=$(RESULTS)
	$(CLI) analyse --results $(RESULTS)
	$(CLI) tables --allow-dirty --results $(RESULTS) --out $(RESULTS)/tables
	$(CLI) figures --allow-dirty --results $(RESULTS) --out $(RESULTS)/figures

test: $(VENV)/.dev  ## default tests, the notebook, and data tests where PRUNETUNE_REAL_DATA is set
	$(PY) -m pytest --nbmake tests docs/prune_your_images.ipynb -m 'not slow and not slurm and not cluster' -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=20 --budget 9

test-slow: $(VENV)/.dev  ## the long tests, half an hour
	$(PY) -m pytest -m 'slow and not gpu and not slurm and not cluster' -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=20

test-data: $(VENV)/.dev  ## tests on real images and weights below PRUNETUNE_REAL_DATA
	$(PY) -m pytest -m data

test-slurm: $(VENV)/.dev  ## grids on a real one-node Slurm, installed where apt can, skipped elsewhere
	sh tests/slurm/install.sh
	$(PY) -m pytest -m slurm

$(VENV)/.cluster: $(VENV)/.dev
	$(PY) -m pip install --quiet -c constraints.txt -e '.[dev,instruct,cluster,cluster-tests]' && touch $@

test-cluster: $(VENV)/.cluster  ## tests on Ray, two workers on this machine, and a local S3 server
	$(PY) -m pytest -m cluster

test-gpu: $(VENV)/.dev  ## tests that need a CUDA device
	$(PY) -m pytest -m gpu

drill: $(VENV)/.dev  ## kills, full disks, damaged stores and hostile inputs, a table of the outcomes in results/drill; up to an hour
	$(PY) -m scripts.drill --workers $(WORKERS)

lint: $(VENV)/.dev  ## ruff check and format check, the layers of the package, and the types of the public names
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/lint-imports && $(VENV)/bin/mypy

status: $(VENV)/.base  ## what is done, failed and missing of SWEEP=<preset>, with ARGS='<the command's overrides>'
	@test -n "$(SWEEP)" || { echo "error: pass SWEEP=<preset>, one of:" $(basename $(notdir $(wildcard configs/sweep/*.yaml))); exit 2; }
	$(CLI) status $(SWEEP) $(ARGS) --results $(RESULTS)

collect: $(VENV)/.base  ## every finished run as one row of results/results.csv
	$(CLI) collect --results $(RESULTS)

report: $(VENV)/.base  ## table, curves, easiest and hardest images of the finished runs
	$(CLI) report --results $(RESULTS)

$(TABLES:%=table-%): table-%: $(VENV)/.base
	$(CLI) tables $(subst -,_,$*) --results $(RESULTS)

tables: $(VENV)/.base  ## every table of the paper that has runs, beside the published numbers; table-main and so on: one
	$(CLI) tables --results $(RESULTS) --out $(RESULTS)/tables

figures: $(VENV)/.base  ## analyses and every figure of the paper that has runs
	$(CLI) analyse --results $(RESULTS)
	$(CLI) figures --results $(RESULTS) --out $(RESULTS)/figures

wandb: $(VENV)/.base  ## the tables and figures as one report run on W&B
	$(CLI) wandb-report --results $(RESULTS)

real: $(VENV)/.base  ## the main job on real images: DATA=<folder with data/ and weights/>
	$(PY) -m scripts.reproduce.real_run --data $(DATA) --results $(RESULTS)

paper: $(VENV)/.base  ## the paper's comparisons on real images: DATA=<folder with data/ and weights/>; hours
	$(PY) -m scripts.reproduce.paper_run --data $(DATA) --results $(RESULTS)

baselines: $(VENV)/.base  ## every method on real images: DATA=<folder with data/ and weights/>
	$(PY) -m scripts.reproduce.baselines_run --data $(DATA) --results $(RESULTS)

$(VENV)/.study: $(VENV)/.base
	$(PY) -m pip install --quiet -c constraints.txt -e '.[study]' && touch $@

study: $(VENV)/.study  ## which method for which data: DATA=<folder with data/ and weights/>, ARGS='--hours 2'; hours
	@test -n "$(DATA)" || { echo "error: pass DATA=<folder with data/ and weights/>"; exit 2; }
	$(PY) -m scripts.reproduce.study --data $(DATA) --results $(RESULTS) --out $(RESULTS)/study $(ARGS)
	$(PY) -m scripts.reproduce.study_report --out $(RESULTS)/study --figures $(RESULTS)/figures

bench: $(VENV)/.base  ## speed as ratios against named alternatives; DATA=<folder with data/ and weights/>, REPEATS=<n>
	$(PY) -m scripts.bench.dlc $(REAL) --images 400 --repeats $(REPEATS)
	$(PY) -m scripts.bench.selection $(REAL) --images 400 --repeats $(REPEATS)
	$(PY) -m scripts.bench.growth --repeats $(REPEATS)
	$(PY) -m scripts.bench.probe_grid $(REAL) --repeats $(REPEATS) --views 8 1
	$(PY) -m scripts.bench.finetune $(REAL) --repeats $(REPEATS)
	$(PY) -m scripts.bench.verification $(REAL) --repeats $(REPEATS)
	$(PY) -m scripts.bench.own_images $(REAL) --images 500 --repeats $(REPEATS)

bench-scale: $(VENV)/.base  ## time and memory of scorers and samplers up to a million images; hours
	$(PY) -m scripts.bench.scale

bench-cluster: $(VENV)/.cluster  ## the cluster engine against the engine in process: WORK=<folder with 24 GB>; hours
	@test -n "$(WORK)" || { echo "error: pass WORK=<folder with 24 GB of room>"; exit 2; }
	$(PY) -m scripts.bench.cluster --work $(WORK)

backbones: $(VENV)/.base  ## try one network of every family of timm: results/backbones.csv; half an hour
	$(PY) -m scripts.survey.backbones

$(VENV)/.parity: $(VENV)/.base
	$(PY) -m pip install --quiet -c constraints.txt -e '.[parity]' && touch $@

parity: $(VENV)/.parity  ## our methods against the code of their authors: PEERS=<folder of checkouts, named in docs/parity.md>
	@test -n "$(PEERS)" || { echo "error: pass PEERS=<folder of checkouts>; docs/parity.md names them"; exit 2; }
	$(PY) -m scripts.parity.peers --peers $(PEERS)

$(VENV)/.docs: $(VENV)/.dev
	$(PY) -m pip install --quiet -c constraints.txt -e '.[dev,instruct,docs]' && touch $@

docs: $(VENV)/.docs  ## the pages of docs/ as site/index.html, and the tests that run their commands and follow their links
	$(PY) -m scripts.assets.run_diagram
	$(PY) -m scripts.assets.doc_pages
	$(VENV)/bin/mkdocs build
	$(PY) -m pytest tests/test_docs.py
