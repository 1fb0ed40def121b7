# The two commands of the README, and those of a developer. `make` alone lists them.
PYTHON ?= python3
DATA ?= $(or $(MMM4REC_DATA),data)
BIN := .venv/bin
OPEN_CLIP := .venv-open-clip

.PHONY: help setup demo ui test soak openclip screenshots check format docs lock clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

# Stamped by the files that decide what is installed, so a second make installs nothing.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: .venv/installed ## make .venv and install everything

demo: setup ## write the sample catalogue and run the whole job on it
	@$(BIN)/mmm4rec sample --data $(DATA)
	@$(BIN)/mmm4rec run --data $(DATA)
	@$(BIN)/mmm4rec report --data $(DATA)

ui: setup ## Dagster's UI on 127.0.0.1 over the same data
	@$(BIN)/mmm4rec ui --data $(DATA)

test: setup ## run the tests
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadgroup --no-loadscope-reorder

soak: setup ## run the full-size campaigns
	$(BIN)/python -m pytest -m soak

openclip: setup ## run the encoders' tests with open_clip, in an environment laid over .venv
	test -x $(OPEN_CLIP)/bin/python || $(BIN)/python -m venv $(OPEN_CLIP)
	$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
		> $$($(OPEN_CLIP)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/parent.pth
	@# Without their dependencies: torchvision's would be a torch with CUDA.
	$(OPEN_CLIP)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		torchvision==0.28.0 open-clip-torch==3.3.0 timm==1.0.31 ftfy==6.3.1 wcwidth==0.9.4
	$(OPEN_CLIP)/bin/python -m pytest tests/features/test_encoders_contract.py tests/features/test_encoders_open_clip.py

screenshots: setup ## take the README's pictures of the UI, over the demo's data
	MMM4REC_SCREENSHOTS=docs/images $(BIN)/python -m pytest -m "soak or not soak" tests/pipelines/test_ui.py

check: setup ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## write the data dictionary from the declarations
	$(BIN)/python -m pipelines.dictionary > docs/data_dictionary.md

lock: ## take the versions installed now as constraints
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean: ## remove the environment and the data folder
	rm -rf .venv $(OPEN_CLIP) $(DATA)
