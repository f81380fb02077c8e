# `make demo` and `make test` are all a fresh machine needs: Python 3.11, a C compiler, 8 GB of disk.
# With BENCH_SIZE=smallest a bench only shows that it still runs.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3.11
LOCK ?= envs/cpu.txt
CONFIG ?= config/config.yaml
UV := 0.13.9
COMPILE := --quiet --python-version 3.11 --no-annotate --no-header --generate-hashes
# Torch without CUDA is to be had from PyTorch's own index; the other packages' hashes are in the locks.
TORCH_INDEX := $(if $(findstring cpu,$(LOCK)),--retries 1 --extra-index-url https://download.pytorch.org/whl/cpu)
TINY := tiny-qwen-s tiny-qwen-m tiny-llama-m tiny-qwen3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv
export PYTHONUTF8 := 1

.PHONY: help demo test plan check-gpu check-compiled check-sizes check-architectures campaign faults attack real bench-generate bench-plugin bench-agreement bench-page bench-quantize bench-rotate bench-learning bench-slurm \
	env check lock retrain lint format docs clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

demo: env ## run the default study and print its accuracy table
	@snakemake --cores all --quiet host rules
	@python -m scripts.report.show results/report/default

test: env ## run the tests
	@pytest

plan: env ## jobs, GPU hours and disk of a study: make plan CONFIG=config/paper.yaml
	@python -m scripts.run.plan $(CONFIG)

check-gpu: env ## what works on this GPU node: every kind of scheme quantized and served (at most ten minutes)
	@python -m tests.node

check-compiled: env ## the same on the CPU, compiled by Inductor (about a quarter of an hour)
	@python -m tests.node --device cpu

check-sizes: env ## a layer of each of the paper's widths through its quantizers and vLLM, on the CPU (hours)
	@python -m tests.sizes $(MODELS)

check-architectures: env ## every quantizer on a random model of each architecture that it knows, beside vLLM (half an hour)
	@WHOLE_TABLE=1 pytest -n 0 tests/test_architectures.py -k vllm_computes

faults: env ## disturb the tiny study in every way, count what is lost and repeated (half an hour)
	@pytest tests/test_faults.py tests/test_slurm.py -m "" --numprocesses 1

campaign: env ## every test, with those that are too long for each run (hours)
	@pytest -m ""

real: env ## a model that others made (SmolLM2-135M, 93 MB) through one scheme of every quantizer (about a quarter of an hour)
	@python -m tests.real

attack: env ## the tests that attack, as root (if we are) and as an ordinary user: tried, held, failed (half an hour)
	@python -m tests.attack

bench-generate: env ## measure generating, the store and planning side by side with the bare thing (about 20 minutes)
	@for part in generate store simulate plan; do python -m tests.bench.$$part; done

bench-plugin: env ## measure how fast vLLM serves through the plugin, beside full precision
	@python -m tests.bench.plugin

bench-slurm: env ## measure what a Slurm of one node adds to a study's time (about 5 minutes)
	@python -m tests.bench.slurm

bench-agreement: env ## KL of each scheme on the tiny reasoners; vLLM on one and two ranks beside the quantizers' own models
	@python -m tests.bench.agreement

bench-page: env ## measure making and opening the page of a study of 100,000 samples (about a minute)
	@python -m tests.bench.page

bench-quantize: env ## measure time and memory of each quantizer, and our GPTQ core beside GPTQModel
	@python -m tests.bench.quantize

bench-rotate: env ## measure QuaRot's rotation of a layer of 32B width beside dense products (about 5 minutes)
	@python -m tests.bench.rotate

bench-learning: env ## measure the memory that FlatQuant takes to learn, beside its estimate
	@python -m tests.bench.learning

env: check .venv/installed ## install the locked packages into .venv

check:
	@PYTHON=$(PYTHON) bash envs/check.sh

.venv/installed: $(LOCK) | check
	@echo "installing the packages of $(LOCK) into .venv (some minutes the first time)"
	$(PYTHON) -m venv .venv
	pip install --quiet --no-deps --require-hashes --requirement envs/uv.txt
	pip install --quiet --no-deps $(TORCH_INDEX) $$(grep -o '^torch==[^ ]*' $(LOCK))
	uv pip install --quiet --no-deps --compile-bytecode --require-hashes --requirement $(LOCK)
	touch $@

lock: env ## compile the locks in envs/ anew
	uv pip compile $(COMPILE) envs/cpu.in --override envs/overrides.in --override envs/overrides-cpu.in \
		--output-file envs/cpu.txt
	uv pip compile $(COMPILE) envs/cuda.in --override envs/overrides.in --output-file envs/cuda.txt
	echo "uv==$(UV)" | uv pip compile $(COMPILE) - --output-file envs/uv.txt

retrain: env ## train the tiny reasoners from nothing (about 40 minutes) into resources/models/
	snakemake --cores all --config retrain=True -- $(TINY:%=results/models/%/manifest.json)
	for model in $(TINY); do cp results/models/$$model/checkpoint/{model.safetensors,recipe.json} resources/models/$$model/; done

lint: env ## ruff and snakefmt, without changing a file (snakemake --lint is a test)
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules

format: env ## format Python and Snakemake files
	ruff check --fix .
	ruff format .
	snakefmt Snakefile rules

docs: env ## write config/README.md and scripts/report/README.md from the schemas
	python -m scripts.run.describe

clean: ## remove everything made (not the environment)
	rm -rf results .snakemake
