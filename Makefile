# `make demo` and `make test` need only Python 3.11 (or newer) and git; they make .venv themselves, once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
CONSTRAINTS := constraints.txt
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The demo's settings reach it through the environment, so that quotes and dollar signs in them stay as they are.
export BGE_DEMO_DOCS = $(value DOCS)
export BGE_DEMO_QUESTION = $(value Q)
export BGE_DEMO_MODEL = $(value MODEL)
export BGE_DEMO_RERANKER = $(value RERANKER)

.PHONY: setup demo test test-oldest test-cuda pytest lint format bench bench-peers docs
.DELETE_ON_ERROR:

setup: $(READY)

# torch comes first and by its exact pin: any other request may bring gigabytes of CUDA libraries.
$(READY): pyproject.toml $(CONSTRAINTS)
	@echo "==> setting up $(VENV) (once; a few minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; say which with make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --progress-bar on "$$(grep '^torch==' $(CONSTRAINTS))"
	$(BIN)/python -m pip install --progress-bar on --constraint $(CONSTRAINTS) --editable '.[dev,docs]'
	@touch $@

demo: $(READY)
	@$(BIN)/python -m bge_integrations.demo

test: lint pytest

# Two at a time, since most tests wait for an import; the tests of a file stay together and share what they load.
pytest: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# The same tests with the oldest versions that are supported, in an environment of their own.
test-oldest:
	$(MAKE) pytest VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

# The tests of a GPU; they skip without one.
test-cuda: $(READY)
	BGE_TEST_CUDA=1 $(BIN)/python -m pytest -m cuda -n 0

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python benchmarks/side_by_side.py
	$(BIN)/python benchmarks/adapters.py
	$(BIN)/python benchmarks/index.py

# Environments of their own for the peers that can't share ours; `make bench` skips those that are not there.
bench-peers: .bench-envs/onnx/.ready .bench-envs/openvino/.ready .bench-envs/infinity/.ready

# torchvision comes along with OpenVINO's adapter, in a build that CPU torch can't import; only image models need it.
.bench-envs/%/.ready: benchmarks/peers/%.txt
	$(PYTHON) -m venv .bench-envs/$*
	.bench-envs/$*/bin/python -m pip install --progress-bar on "$$(grep '^torch==' $<)"
	.bench-envs/$*/bin/python -m pip install --progress-bar on --requirement $<
	.bench-envs/$*/bin/python -m pip uninstall --yes torchvision
	@touch $@

docs: $(READY)
	$(BIN)/mkdocs build --strict
