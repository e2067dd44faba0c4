PYTHON ?= python3
READY := .venv/ready

help: ## list the commands
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

demo: $(READY) ## make clips of a few prompts with the model that ships: out/demo.mp4, .gif and .png
	.venv/bin/kinema demo --out out

test: $(READY) ## run the tests that need neither minutes nor a GPU
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadfile

check: $(READY) ## lint, formatting, types and the direction of imports
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/pyright
	.venv/bin/lint-imports --no-cache --no-logo

clean: ## remove the environment, builds and caches; runs/ and out/ stay
	rm -rf .venv dist .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11); import ensurepip, venv' 2>/dev/null || { echo >&2 \
	    '$(PYTHON) is not Python 3.11 or newer with venv: install python3-venv, or try make PYTHON=python3.12'; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -c constraints.txt -e ".[dev]"
	@touch $@

.PHONY: help demo test check clean
