# Each target does all the setup it needs; the work is in scripts/. `make help` explains them.
SHELL := /bin/sh
DEVICE ?= cpu
DATAFLOW ?= dataflow.yml
.DEFAULT_GOAL := help
.PHONY: help setup build run test lint bench wheel clean distclean

help: ## this text
	@echo 'usage: make TARGET [DEVICE=cpu|cuda] [DATAFLOW=file.yml] [DIFFLOW_CACHE=folder] [DIFFLOW_DATA_DIR=folder]'
	@echo
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14
	@echo
	@echo '  DEVICE            libtorch without CUDA (cpu, the default) or with it (cuda)'
	@echo '  DATAFLOW          what `make run` runs; data/experiments/ has more'
	@echo '  DIFFLOW_CACHE     where libtorch, the dora CLI and cargo'"'"'s target directory go; default: .difflow here'
	@echo '  DIFFLOW_DATA_DIR  real data for the tests and experiments that want some'

setup: ## fetch libtorch and the dora CLI, check compilers; nothing needs root
	@DEVICE='$(DEVICE)' scripts/setup.sh

build: setup ## compile everything into bin/
	@scripts/build.sh

run: build ## run DATAFLOW: an AR model becomes a diffusion model and writes text
	@scripts/run.sh '$(DATAFLOW)'

test: build ## all tests, whole dataflows among them
	@scripts/test.sh

lint: setup ## formatting and clippy, warnings are errors
	@scripts/cargo.sh fmt --all --check
	@scripts/cargo.sh clippy --release --workspace --all-targets --locked -- -D warnings

bench: build ## measure the hot paths; training, sampling, evaluation against a peer (DIFFLOW_BENCH_DIR, DIFFLOW_PYTHON)
	@scripts/bench.sh
	@scripts/bench-sampling.sh
	@scripts/bench-eval.sh

wheel: build ## a wheel in dist/, to install difflow where there is no compiler
	@python3 scripts/wheel.py

clean: ## remove bin/, dist/, dora's logs and this checkout's own target directory; never runs/
	@scripts/clean.sh

distclean: ## clean, and remove libtorch and the dora CLI (a shared cache stays)
	@scripts/clean.sh all
