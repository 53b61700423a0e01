# `make` lists the targets. CI runs `check`.
PYTHON := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help install serve check lint types imports test quick bench bench-short audit lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

install: ## Make .venv with all that development needs
	@bash -c 'source scripts/environment.sh && make_environment requirements-test.lock'

serve: ## Start RefServer with its sample library
	scripts/serve.sh

check: install lint types imports test ## All that CI runs

lint: ## ruff: style, bugs, security
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types: ## mypy, strict
	$(PYTHON) -m mypy

imports: ## Who may import whom
	.venv/bin/lint-imports

test: ## The whole suite with coverage
	scripts/test.sh

quick: install ## The suite without its slow part
	$(PYTHON) -m pytest -m "not slow" -q

bench: ## Measure against the installed peers (long)
	$(PYTHON) -m benchmarks

bench-short: ## The same on a twentieth of the data, in about a minute
	$(PYTHON) -m benchmarks --short

audit: install ## Known vulnerabilities of the locked dependencies
	$(PYTHON) -m pip_audit --strict --require-hashes --disable-pip -r requirements.lock

lock: install ## Resolve the dependencies anew into the lock files
	$(PYTHON) -m uv pip compile -q pyproject.toml --universal --python-version 3.11 --generate-hashes \
	  --no-header -o requirements.lock
	$(PYTHON) -m uv pip compile -q pyproject.toml --extra test --extra hosts --extra audit -c requirements.lock --universal \
	  --python-version 3.11 --generate-hashes --no-header -o requirements-test.lock

clean: ## Remove what can be made again; data in var/ stays
	rm -rf .venv build dist *.egg-info .coverage .coverage.* htmlcov .mypy_cache .ruff_cache .pytest_cache .hypothesis
