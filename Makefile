# `make demo` and `make test` need only Python 3.11 (or newer) and git; the first run creates .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
CONSTRAINTS := constraints.txt
BIN := $(VENV)/bin
# What users install, for the audit.
USERS := .venv-users
# What is installed in the environment: torch; what the demo needs; what everything needs.
TORCH_READY := $(VENV)/.torch-ready
DEMO_READY := $(VENV)/.demo-ready
READY := $(VENV)/.ready
CUDA_NOTE = ; with CUDA's libraries, where pip chooses that build of torch, several GB more
# Modules are compiled when they are first imported: most are not.
PIP_INSTALL = $(BIN)/python -m pip install --progress-bar on --no-compile --constraint $(CONSTRAINTS)

# The demo reads its settings from the environment, so that quotes and dollar signs in them need no escaping.
demo: export BGE_DEMO_DOCS = $(value DOCS)
demo: export BGE_DEMO_QUESTION = $(value Q)
demo: export BGE_DEMO_MODEL = $(value MODEL)
demo: export BGE_DEMO_RERANKER = $(value RERANKER)

.PHONY: setup demo test test-oldest test-cuda test-browser setup-engines test-engines pytest lint format bench bench-peers docs check-wheel audit
.DELETE_ON_ERROR:

setup: $(READY)

# Install torch first, by its exact pin: any other requirement may download gigabytes of CUDA libraries.
$(TORCH_READY): $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is required; choose one with make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) "$$(grep '^torch==' $(CONSTRAINTS))"
	@touch $@

$(DEMO_READY): pyproject.toml $(CONSTRAINTS)
	@echo "==> setting up $(VENV) for the demo, once: 82 packages, about 340 MB to download, 1.2 GB on disk$(CUDA_NOTE)"
	@$(MAKE) --no-print-directory $(TORCH_READY)
	$(PIP_INSTALL) --editable '.[demo]'
	@touch $@

$(READY): pyproject.toml $(CONSTRAINTS)
	@echo "==> setting up $(VENV), once: about 300 packages, 2.7 GB on disk$(CUDA_NOTE)"
	@$(MAKE) --no-print-directory $(TORCH_READY)
	$(PIP_INSTALL) --editable '.[dev,docs]'
	@touch $(DEMO_READY) $@

demo: $(DEMO_READY)
	@$(BIN)/python -m bge_integrations.demo

test: lint pytest

# Two processes, because most tests wait for an import, and one thread in each, so that they don't wait for each other;
# the tests of a file share a process and the models it loads.
pytest: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# The same tests with the oldest supported versions, in a separate environment.
test-oldest:
	$(MAKE) pytest VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

# The tests of a GPU; they skip without one.
test-cuda: $(READY)
	BGE_TEST_CUDA=1 $(BIN)/python -m pytest -m cuda -n 0

# The server's page in headless Chromium; they skip without it.
test-browser: $(READY)
	$(BIN)/python -m pytest -m browser -n 0

# The tests on Ray, Spark (which needs Java 17) and Daft, in a layer over the environment: they need several hundred MB
# that other tests don't, and Daft needs other versions of two packages.
ENGINES := .venv-engines
ENGINES_READY := $(ENGINES)/.ready
PACKAGES_OF = $$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

setup-engines: $(ENGINES_READY)

$(ENGINES_READY): $(READY) constraints-engines.txt
	@echo "==> setting up $(ENGINES), once: 24 packages, about 630 MB to download, 1.1 GB on disk"
	$(BIN)/python -m venv --without-pip $(ENGINES)
	echo "import site; site.addsitedir('$(call PACKAGES_OF,$(abspath $(VENV)))')" > $(call PACKAGES_OF,$(ENGINES))/layer.pth
	$(BIN)/python -m pip --python $(ENGINES)/bin/python install --progress-bar on --no-compile --no-deps --requirement constraints-engines.txt
	@touch $@

test-engines: $(ENGINES_READY)
	$(ENGINES)/bin/python -m pytest -n 0 tests/engines

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

# Separate environments for the peers that conflict with ours; `make bench` skips the missing ones.
bench-peers: .bench-envs/onnx/.ready .bench-envs/openvino/.ready .bench-envs/infinity/.ready

# OpenVINO's adapter installs a torchvision that CPU torch cannot import; only image models need it.
.bench-envs/%/.ready: benchmarks/peers/%.txt
	$(PYTHON) -m venv .bench-envs/$*
	.bench-envs/$*/bin/python -m pip install --progress-bar on "$$(grep '^torch==' $<)"
	.bench-envs/$*/bin/python -m pip install --progress-bar on --requirement $<
	.bench-envs/$*/bin/python -m pip uninstall --yes torchvision
	@touch $@

docs: $(READY)
	$(BIN)/mkdocs build --strict

# Known vulnerabilities and unwanted licences in what users install, and a list of it (CycloneDX); needs pipx.
audit: $(USERS)/.ready
	pipx run pip-audit --path $(USERS)/lib/python3.*/site-packages
	pipx run pip-licenses --python $(USERS)/bin/python --from mixed --partial-match --fail-on "GPL;General Public;SSPL;UNKNOWN"
	pipx run --spec cyclonedx-bom cyclonedx-py environment --pyproject pyproject.toml --mc-type library \
		--output-file sbom.json $(USERS)/bin/python

$(USERS)/.ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(USERS)
	$(USERS)/bin/python -m pip install "$$(grep '^torch==' $(CONSTRAINTS))"
	$(USERS)/bin/python -m pip install --constraint $(CONSTRAINTS) '.[all,train,mteb]'
	@touch $@

# Install the wheel into an empty environment, and run it outside the clone.
check-wheel: $(READY)
	$(BIN)/python scripts/check_wheel.py
