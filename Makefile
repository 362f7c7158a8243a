# Every target sets up what it needs; `make` alone lists them.

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NETS := all_cnn_c,convpool_cnn_c,strided_cnn_c,model_c,all_cnn_c_pooled,all_cnn_b,convpool_cnn_b,strided_cnn_b,model_b,all_cnn_a,convpool_cnn_a,strided_cnn_a,model_a
OLDEST := .venv-oldest
NEWEST := .venv-newest
INSTALL := -m pip install --quiet --disable-pip-version-check
PINNED := --constraint constraints/pinned.txt
MAPPED := adapters cli reference_models
TYPES := build/types/attribkit

.DEFAULT_GOAL := help
.PHONY: help demo test torture mutations lines test-oldest test-newest test-browser test-ray check bench zoo coverage coverage-sample thirdparty captum-tests docs reference-table validation clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP) ## explain the bundled photograph with and without switches: pictures and a page in attribkit-out
	$(BIN)/attribkit explain examples/coffee.jpg --switches own,uniform --layer features.9
	$(BIN)/attribkit explain examples/coffee.jpg --switches own,uniform --format png,html

test: $(STAMP) ## run the tests (WORKERS=2 processes, one thread each)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

torture: $(STAMP) ## what must not happen, tried thousands of times, and a table of it (the tests try a tenth)
	TORTURE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) tests/torture

mutations: $(VENV)/.measured ## what the engine's tests notice when one thing in it is changed: hundreds of changes; can be resumed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mutations.py --workers $(WORKERS)

lines: $(VENV)/.measured ## which lines of the library the tests reach, but for those that torture it or read its docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --ignore tests/torture --ignore tests/project --cov --cov-report=term

test-oldest: $(OLDEST)/.installed ## the same on the oldest torch, torchvision and timm that pyproject.toml admits (TESTS=tests/engine: a part)
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n $(WORKERS) $(TESTS)

test-newest: ## the same on the newest of everything that can be had today
	test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python $(INSTALL) --upgrade --upgrade-strategy eager --editable '.[dev]'
	OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest -n $(WORKERS) $(TESTS)

test-browser: $(STAMP) ## the page in a real browser: chromium, headless
	@$(BIN)/python -c 'import playwright' 2>/dev/null || $(BIN)/python $(INSTALL) $(PINNED) --editable '.[browser]'
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } >/dev/null 2>&1 || $(BIN)/python -m playwright install chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m browser tests/browser

test-ray: $(STAMP) ## a gallery on a local Ray cluster of two nodes, one of which is killed
	@$(BIN)/python -c 'import ray' 2>/dev/null || $(BIN)/python $(INSTALL) $(PINNED) --editable '.[ray]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m ray tests/studies

check: $(STAMP) ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@mkdir -p $(TYPES) && touch $(TYPES)/__init__.py
	@for folder in $(MAPPED); do ln -sfn "$(CURDIR)/$$folder" $(TYPES)/$$folder; done
	$(BIN)/mypy attribkit $(addprefix $(TYPES)/,$(MAPPED)) $(wildcard benchmarks examples)

bench: $(STAMP) ## memory and time of one guided map against plain autograd; time of the command's help
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/look_back.py

coverage: $(STAMP) ## every model of torchvision and timm beside the oracle and Captum; can be resumed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/every_model.py --workers $(WORKERS)

coverage-sample: $(STAMP) ## a tenth of it, drawn by the date
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/every_model.py --workers $(WORKERS) --sample

thirdparty: $(VENV)/.thirdparty ## models of pytorchcv, segmentation-models-pytorch, transformers and monai beside the oracle; can be resumed
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python benchmarks/thirdparty.py --workers $(WORKERS)

captum-tests: $(STAMP) ## Captum's tests with our classes: make captum-tests CAPTUM=path/to/checkout
	$(BIN)/python benchmarks/captum_tests.py $(CAPTUM)

docs: $(VENV)/.docs ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

reference-table: $(STAMP) ## write docs/reference-models.md and the model card from the bundled weights
	$(BIN)/python benchmarks/reference_table.py docs/reference-models.md reference_models/MODELCARD.md

validation: $(STAMP) ## the study on switches, hours: make validation CIFAR=packed file or folder PHOTOS=folder (NETS=names)
	$(BIN)/attribkit validate --data $(CIFAR) --workers $(WORKERS) --out runs/validation/cifar --models $(NETS)
	$(BIN)/attribkit validate --data $(PHOTOS) --workers $(WORKERS) --out runs/validation/photos --models packaged:squeezenet1_1,packaged:efficientnet_lite0
	$(BIN)/python benchmarks/free_pictures.py runs/validation/photos runs/validation/free examples/cat.jpg examples/coffee.jpg benchmarks/rocket.jpg
	$(BIN)/python benchmarks/validation_page.py docs/validation.md runs/validation/cifar runs/validation/free

zoo: $(STAMP) ## every rule on 40 real architectures, with the worst error of each
	OMP_NUM_THREADS=1 $(BIN)/python tests/zoo.py

clean: ## remove what the other targets made, except the environments
	rm -rf attribkit-out build site dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path './.venv*' -prune -o -type d -name __pycache__ -exec rm -rf {} +

# The project's own environment, made once and again when what it is made from changes.
$(STAMP): pyproject.toml constraints/pinned.txt constraints/common.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) $(PINNED) --editable '.[dev]'
	@touch $@

$(VENV)/.docs: $(STAMP)
	$(BIN)/python $(INSTALL) $(PINNED) --editable '.[docs]'
	@touch $@

$(VENV)/.thirdparty: $(STAMP)
	$(BIN)/python $(INSTALL) $(PINNED) --editable '.[thirdparty]'
	@touch $@

$(VENV)/.measured: $(STAMP)
	$(BIN)/python $(INSTALL) $(PINNED) --editable '.[measured]'
	@touch $@

$(OLDEST)/.installed: pyproject.toml constraints/oldest.txt constraints/common.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python $(INSTALL) --constraint constraints/oldest.txt --editable '.[dev]'
	@touch $@
