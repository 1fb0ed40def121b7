# The commands of the README, and the commands for developers. `make` without a target lists them.
PYTHON ?= python3
DATA ?= $(or $(MMM4REC_DATA),data)
BIN := .venv/bin
PIP := $(BIN)/python -m pip
QUIETLY := --quiet --disable-pip-version-check --no-compile
# Containers often set this variable. With it, each of the hundreds of Python processes that the tests start would
# compile all of its imports again (nine seconds of processor time instead of three).
unexport PYTHONDONTWRITEBYTECODE
OPEN_CLIP := .venv-open-clip
RECBOLE := .venv-recbole
TRITON := .venv-triton
RAY := .venv-ray
OLDEST_DUCKDB := .duckdb-oldest
PARALLEL := --dist loadgroup --no-loadscope-reorder
# test-all uses one worker more than there are cores, because long tests wait for servers and daemons.
WORKERS := $(shell getconf _NPROCESSORS_ONLN)
ONE_MORE := $(shell expr $(WORKERS) + 1)

.PHONY: help setup demo ui test test-all soak openclip recbole triton ray gpu olddb screenshots check format docs lock clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

# A stamp file that depends on the files that list the packages, so a second `make` installs nothing. pip compiles
# nothing (--no-compile): compiling all packages takes longer than installing them, and Python compiles its imports.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install $(QUIETLY) -c constraints.txt torch
	$(PIP) install $(QUIETLY) -c constraints.txt -e '.[dev]'
	@touch $@

# A second virtual environment that can import everything in .venv and has additional packages. Those are installed
# without their dependencies, because torchvision and RecBole would install a torch with CUDA.
define laid_over
	test -x $(1)/bin/python || $(BIN)/python -m venv $(1)
	$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
		> $$($(1)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/parent.pth
	$(1)/bin/python -m pip install $(QUIETLY) --no-deps $(2)
endef

setup: .venv/installed ## create .venv and install everything

demo: setup ## write the sample catalogue and run the whole job on it
	@$(BIN)/mmm4rec sample --data $(DATA)
	@$(BIN)/mmm4rec run --data $(DATA)
	@$(BIN)/mmm4rec report --data $(DATA)

ui: setup ## start Dagster's UI on 127.0.0.1 over the same data
	@$(BIN)/mmm4rec ui --data $(DATA)

test: setup ## run the tests except the long ones, in minutes; the last lines say what was left out
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 $(PARALLEL) -m "not long and not soak"

test-all: setup ## run all tests except the full-size campaigns
	$(BIN)/python -m pytest -n $(ONE_MORE) --maxprocesses 5 $(PARALLEL)

soak: setup ## run the full-size campaigns; those on Ray need `make ray` first
	$(BIN)/python -m pytest -m soak
	test ! -x $(RAY)/bin/python || $(RAY)/bin/python -m pytest -m soak tests/ray

openclip: setup ## run the encoder tests with open_clip, in an additional environment on top of .venv
	$(call laid_over,$(OPEN_CLIP),torchvision==0.28.0 open-clip-torch==3.3.0 timm==1.0.31 ftfy==6.3.1 wcwidth==0.9.4)
	$(OPEN_CLIP)/bin/python -m pytest tests/features/test_encoders_contract.py tests/features/test_encoders_open_clip.py

recbole: setup ## compare GRU4Rec and SASRec with RecBole's, in an additional environment on top of .venv
	$(call laid_over,$(RECBOLE),recbole==1.2.1 pandas==2.3.3 colorlog==6.10.1 colorama==0.4.6 texttable==1.7.2 \
		thop==0.1.1.post2209072238 tensorboard==2.21.0 tensorboard-data-server==0.7.2 markdown==3.11.3 \
		werkzeug==3.1.9 absl-py==2.5.1 psutil==7.2.2 plotly==7.1.0)
	$(RECBOLE)/bin/python -m pytest tests/benchmarks/test_recbole.py

triton: setup ## test the Triton kernels in Triton's interpreter, in an additional environment on top of .venv
	$(call laid_over,$(TRITON),triton==3.9.0)
	$(TRITON)/bin/python -m pytest tests/mmm4rec/test_triton*.py

# With the extra `ray`, pip would also exchange packages of .venv for versions that Ray's dashboard prefers.
ray: setup ## run steps on a Ray cluster of two nodes on loopback, in an additional environment on top of .venv
	$(call laid_over,$(RAY),ray==2.60.0 dagster-ray==0.4.8 pandas==2.3.3 aiohttp-cors==0.8.1 colorful==0.5.8 distlib==0.4.4 \
		google-api-core==2.44.0 google-auth==2.63.0 googleapis-common-protos==1.76.0 msgpack==1.2.4 opencensus==0.11.4 \
		opencensus-context==0.1.3 opentelemetry-api==1.45.2 opentelemetry-exporter-prometheus==0.66b2 \
		opentelemetry-proto==1.45.2 opentelemetry-sdk==1.45.2 opentelemetry-semantic-conventions==0.66b2 \
		prometheus-client==0.26.0 proto-plus==1.29.0 py-spy==0.4.3 pyasn1==0.6.5 pyasn1-modules==0.4.2 \
		python-discovery==1.9.6 smart-open==9.0.2 tenacity==9.2.1 virtualenv==21.15.11)
	$(RAY)/bin/python -m pytest tests/ray

gpu: setup ## on a machine with a GPU: test the model and the encoders there, and print what it reaches
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 12 $(PARALLEL) -m "not long and not soak" tests/mmm4rec tests/features
	$(BIN)/python -m benchmarks.gpu

olddb: setup ## test that the oldest supported DuckDB, installed in a separate folder, opens the catalogue
	$(PIP) install $(QUIETLY) --no-deps --upgrade --target $(OLDEST_DUCKDB) duckdb==1.2.0
	$(BIN)/python -m pytest tests/warehouse/test_oldest.py

screenshots: setup ## take the README's screenshots of the UI with the demo's data
	MMM4REC_SCREENSHOTS=docs/images $(BIN)/python -m pytest -m "soak or not soak" --timeout 1800 tests/pipelines/test_ui.py

check: setup ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## write the data dictionary from the declarations, and draw the diagram of the imports
	$(BIN)/python -m pipelines.dictionary > docs/data_dictionary.md
	$(BIN)/python docs/draw_architecture.py

lock: ## write the versions that are installed now to constraints.txt
	$(PIP) freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean: ## remove the environment and the data folder
	rm -rf .venv $(OPEN_CLIP) $(RECBOLE) $(TRITON) $(RAY) $(OLDEST_DUCKDB) $(DATA)
