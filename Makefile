# `make demo` and `make test` do all their own set-up. PROFILE=cpu or PROFILE=gpu overrides what setup finds.
SHELL := /usr/bin/env bash
PYTHON := .venv/bin/python
DEMO_OUTPUT ?= runs/demo
# A model that has learned to think needs room to come to its answer.
DEMO_BENCHMARK := --benchmark chisafetybench-sample --limit 48 --set generation.max_tokens=256
BENCH_OUTPUT ?= bench-results

.DEFAULT_GOAL := help
BENCH_CORPUS ?= bench-results/corpus
.PHONY: help setup demo test test-fast lint format bench bench-generation bench-corpus bench-training bench-serve bench-campaign clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install everything into .venv (quick when nothing changed)
	@bash cluster/local/setup.sh $(PROFILE)

demo: setup ## Evaluate a small real model, build a corpus, fine-tune briefly, evaluate again, compare; in runs/demo
	@$(PYTHON) ray_jobs/evaluate.py --variant demo --output $(DEMO_OUTPUT) $(DEMO_BENCHMARK)
	@$(PYTHON) ray_jobs/build_corpus.py --recipe seeds --output $(DEMO_OUTPUT)/corpus
	@$(PYTHON) ray_jobs/finetune.py --variant demo --corpus $(DEMO_OUTPUT)/corpus --output $(DEMO_OUTPUT)/finetuned \
	    --max-steps 6 --set pack.seq_len=1024 --set global_batch_size=2 --set optimizer.lr=1e-4 --set save.every=3 \
	    --set save.max_validation=2 --set parallel.activation_checkpointing=false
	@$(PYTHON) ray_jobs/evaluate.py --variant $(DEMO_OUTPUT)/finetuned/main/demo/demo-safe --output $(DEMO_OUTPUT) \
	    $(DEMO_BENCHMARK)
	@.venv/bin/safe-r1 compare $(DEMO_OUTPUT)/main --baseline demo --output $(DEMO_OUTPUT)/comparison
	@find $(DEMO_OUTPUT) -name report.html -exec printf 'Report: %s\n' {} \;

test: setup ## All tests, with real Ray, vLLM and a browser
	@bash cluster/local/browser.sh
	@$(PYTHON) -m pytest tests

test-fast: setup ## Unit tests only, under a minute
	@$(PYTHON) -m pytest tests/unit

lint: setup ## Style, formatting and types
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/pyright

format: setup ## Apply the formatting and the safe fixes of lint
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

bench: bench-generation bench-corpus bench-training bench-serve bench-campaign ## All benchmarks; their JSON goes to bench-results

bench-generation: setup ## Throughput against bare vLLM and lm-evaluation-harness
	@$(PYTHON) -m tests.bench.run --output $(BENCH_OUTPUT)

bench-corpus: setup ## The corpus job's rows/s and memory; near-duplicate removal against datatrove
	@$(PYTHON) -m tests.bench.corpus --output $(BENCH_OUTPUT)

bench-training: setup ## Full fine-tuning against TRL's SFTTrainer: tokens/s and memory; BENCH_CORPUS is built where it is missing
	@[ -f $(BENCH_CORPUS)/_SUCCESS ] || $(PYTHON) ray_jobs/build_corpus.py --recipe seeds --output $(BENCH_CORPUS)
	@$(PYTHON) -m tests.bench.train --corpus $(BENCH_CORPUS) --output $(BENCH_OUTPUT)

bench-serve: setup ## The service: evaluation against bare vLLM, judging, overload with killed processes
	@$(PYTHON) -m tests.bench.serve --output $(BENCH_OUTPUT)

bench-campaign: setup ## A campaign of 14 waiting jobs on an autoscaled cluster of 1, 2, 4, 8 nodes on this machine
	@$(PYTHON) -m tests.bench.campaign --output $(BENCH_OUTPUT)

clean: ## Remove caches and build leftovers; keeps .venv, runs and results
	@rm -rf .cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	@find . -path ./.venv -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
