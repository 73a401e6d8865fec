# `make demo` and `make test` set up .venv themselves. PROFILE=cpu or PROFILE=gpu overrides what setup detects.
SHELL := /usr/bin/env bash
PYTHON := .venv/bin/python
# pytest-xdist's workers. Two, or half of the cores: each imports torch, and a vLLM engine keeps a core of its own busy.
TEST_WORKERS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((cores > 4 ? cores / 2 : 2)))
VERY_LONG ?= 1/1
DEMO_OUTPUT ?= runs/demo
# A model that has learned to think needs more tokens to reach its answer.
DEMO_BENCHMARK := --benchmark chisafetybench-sample --limit 32 --set generation.max_tokens=256
# Tests that run in parallel, as they need no Ray and no engine.
UNIT_FOLDERS := tests/unit tests/attacks
BENCH_OUTPUT ?= bench-results
BENCH_CORPUS ?= bench-results/corpus

# Jobs and tests start many processes of Python, each of which would compile this package, and rewrite the tests, anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup relock shell demo test-fast test test-long test-all scale-check lint format bench bench-generation bench-corpus \
    bench-training bench-serve bench-campaign bench-calibration bench-attacks bench-smoke gpu-check audit clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install the locked versions into .venv (quick when nothing changed)
	@bash cluster/local/setup.sh $(PROFILE)

relock: setup ## Update all lock files to the newest versions and list the changes; KEEP=1 changes only what no longer fits
	@bash cluster/local/lock.sh $(if $(KEEP),--keep)

shell: setup ## Open bash with safe-r1 and python of .venv on the PATH
	@exec bash --rcfile cluster/local/bashrc -i

demo: setup ## Evaluate a small real model, build a corpus, fine-tune, evaluate again and compare; output in runs/demo
	@echo "demo 1/5: evaluate the model (the first report, in two to three minutes)"
	@$(PYTHON) ray_jobs/evaluate.py --variant demo --output $(DEMO_OUTPUT) $(DEMO_BENCHMARK)
	@echo "demo 2/5: build a corpus. Then: fine-tune, evaluate again, compare; five to eight minutes on two cores"
	@$(PYTHON) ray_jobs/build_corpus.py --recipe seeds --output $(DEMO_OUTPUT)/corpus
	@echo "demo 3/5: fine-tune for six steps"
	@$(PYTHON) ray_jobs/finetune.py --variant demo --corpus $(DEMO_OUTPUT)/corpus --output $(DEMO_OUTPUT)/finetuned \
	    --max-steps 6 --set pack.seq_len=1024 --set global_batch_size=2 --set optimizer.lr=1e-4 --set save.every=3 \
	    --set save.max_validation=2 --set parallel.activation_checkpointing=false
	@echo "demo 4/5: evaluate the fine-tuned model"
	@$(PYTHON) ray_jobs/evaluate.py --variant $(DEMO_OUTPUT)/finetuned/main/demo/demo-safe --output $(DEMO_OUTPUT) \
	    $(DEMO_BENCHMARK)
	@echo "demo 5/5: compare"
	@.venv/bin/safe-r1 compare $(DEMO_OUTPUT)/main --baseline demo --output $(DEMO_OUTPUT)/comparison
	@find $(DEMO_OUTPUT) -name report.html -exec printf 'Report: %s\n' {} \;

test-fast: setup ## Fast unit tests, in parallel: about a minute
	@$(PYTHON) -m pytest $(UNIT_FOLDERS) -m "not slow and not very_long" -n $(TEST_WORKERS) --dist worksteal

UNIT_TESTS := $(PYTHON) -m pytest $(UNIT_FOLDERS) -m "not very_long" -n $(TEST_WORKERS) --dist worksteal
# Integration tests run one after the other, as each has a Ray or an engine of its own, and half of the time they wait for a process. The
# unit tests fill that time: at the lowest priority, as Ray's workers have a low one too. Their output follows at the end.
define run_tests
	@bash cluster/local/browser.sh
	@log=$$(mktemp); nice -n 19 $(UNIT_TESTS) > "$$log" 2>&1 & unit=$$!; \
	    trap 'kill $$unit 2>/dev/null; rm -f "$$log"' EXIT; status=0; \
	    $(PYTHON) -m pytest tests $(UNIT_FOLDERS:%=--ignore %) --durations 30 $(1) || status=$$?; \
	    wait $$unit || status=$$?; cat "$$log"; exit $$status
endef

test: setup ## Unit and integration tests with real Ray, vLLM and a browser, without the very long ones
	$(call run_tests,-m "not very_long")

test-long: setup ## The very long tests: processes and nodes killed in the middle of jobs, the deployed service
	@bash cluster/local/browser.sh
	@$(PYTHON) -m pytest tests -m very_long

scale-check: setup ## A training step of each model at its planned number of GPUs, simulated, against the plan; minutes, no GPU
	@$(PYTHON) -m tests.scale.train_step

# In one run, engines and services that both kinds of tests look at are started once.
test-all: setup ## All tests; VERY_LONG=2/3 runs the second third of the files with very long ones
	$(call run_tests,--very-long $(VERY_LONG))

lint: setup ## Check style, formatting and types
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@if git grep -n -I -E '# *fmt: *(skip|off)' -- '*.py'; then echo "lint: no formatter exceptions" >&2; exit 1; fi
	@.venv/bin/pyright

format: setup ## Format the code and apply ruff's safe fixes
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

bench: bench-generation bench-corpus bench-training bench-serve bench-campaign bench-calibration bench-attacks ## Run all benchmarks; results as JSON in bench-results

bench-generation: setup ## Generation throughput against bare vLLM and lm-evaluation-harness
	@$(PYTHON) -m tests.bench.run --output $(BENCH_OUTPUT)

bench-corpus: setup ## Corpus job: rows/s and memory; near-duplicate removal against datatrove
	@$(PYTHON) -m tests.bench.corpus --output $(BENCH_OUTPUT)

bench-training: setup ## Full fine-tuning against TRL's SFTTrainer: tokens/s and memory; builds BENCH_CORPUS if missing
	@[ -f $(BENCH_CORPUS)/_SUCCESS ] || $(PYTHON) ray_jobs/build_corpus.py --recipe seeds --output $(BENCH_CORPUS)
	@$(PYTHON) -m tests.bench.train --corpus $(BENCH_CORPUS) --output $(BENCH_OUTPUT)

bench-serve: setup ## Service: evaluation against bare vLLM, judging, overload with killed processes
	@$(PYTHON) -m tests.bench.serve --output $(BENCH_OUTPUT)

bench-campaign: setup ## Scheduling of a campaign of 14 jobs on an autoscaled cluster of 1, 2, 4, 8 nodes on this machine
	@$(PYTHON) -m tests.bench.campaign --output $(BENCH_OUTPUT)

bench-calibration: setup ## Coverage of rates that 120 labels correct, by simulation
	@$(PYTHON) -m tests.bench.calibration --output $(BENCH_OUTPUT)

bench-attacks: setup ## Seconds in which 10,000 questions are written by all attacks, on one core
	@$(PYTHON) -m tests.bench.attacks --output $(BENCH_OUTPUT)

bench-smoke: setup ## Run each benchmark at its smallest size, as a test; results in a temporary folder
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && for name in run corpus train serve campaign calibration attacks gpu_check; do \
	    echo "bench-smoke: $$name" && $(PYTHON) -m tests.bench.$$name --smoke --output "$$folder" || exit 1; \
	done

# Without setup, which needs the network: in an image, python is the one that has the packages.
GPU_CHECK_PYTHON ?= $(if $(wildcard $(PYTHON)),$(PYTHON),python3)
gpu-check: ## Check one machine with a GPU in at most ten minutes; ONLY="attention training" runs some parts
	@$(GPU_CHECK_PYTHON) -m tests.bench.gpu_check --output $(BENCH_OUTPUT) $(if $(ONLY),--only $(ONLY))

AUDIT_OUTPUT ?= audit-results
audit: setup ## Bill of materials of each image, and known vulnerabilities of all that is locked; in audit-results
	@bash cluster/local/audit.sh $(AUDIT_OUTPUT)

clean: ## Remove caches and build leftovers; keeps .venv, runs and results
	@rm -rf .cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	@find . -path ./.venv -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
