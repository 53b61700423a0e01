# `make` lists the targets. CI runs `check`.
PYTHON := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help install serve check lint types imports test gate-versions wheel-versions soak quick bench bench-short audit lock clean
unexport PYTHONDONTWRITEBYTECODE  # as in scripts/test.sh

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

install: ## Create .venv for development
	@bash -c 'source scripts/environment.sh && make_environment requirements-test.lock'

serve: ## Start RefServer with its sample library
	scripts/serve.sh

check: install lint types imports test ## Everything that CI runs

lint: ## ruff: style, bugs, security
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types: ## mypy, strict
	$(PYTHON) -m mypy

imports: ## The import contracts of pyproject.toml
	.venv/bin/lint-imports

test: ## The whole suite, with coverage of the engine
	scripts/test.sh

quick: install ## The tests not marked slow, in less than two minutes on two idle cores
	$(PYTHON) -m pytest -m "not slow" -q -n $$(($$(nproc) < 4 ? $$(nproc) + 1 : 4)) --dist loadfile

soak: install ## Backups under writers and random kills, four times as long as in the suite
	$(PYTHON) -m pytest -q --soak 4 tests/capture/test_cut.py tests/capture/test_pin.py tests/control/test_faults_chaos.py

gate-versions: install ## The documented use of the gate with chromadb 1.0 to 1.5, each installed from the package index
	$(PYTHON) -m tests.restore.gate_versions

wheel-versions: install ## The wheel with each Python from 3.11 that is installed here, and with each extra
	$(PYTHON) -m tests.packaging.wheel_versions

bench: ## Measure against the installed peers (long)
	$(PYTHON) -m benchmarks

bench-short: ## The same with a twentieth of the data, in about a minute
	$(PYTHON) -m benchmarks --short

audit: install ## List known vulnerabilities of the locked dependencies
	$(PYTHON) -m pip_audit --strict --require-hashes --disable-pip -r requirements.lock

lock: install ## Resolve the dependencies into the lock files
	$(PYTHON) -m uv pip compile -q pyproject.toml --extra refserver --universal --python-version 3.11 --generate-hashes \
	  --no-header -o requirements.lock
	$(PYTHON) -m uv pip compile -q pyproject.toml --extra refserver --extra test --extra hosts --extra audit -c requirements.lock --universal \
	  --python-version 3.11 --generate-hashes --no-header -o requirements-test.lock

clean: ## Remove everything that can be rebuilt; keeps the data in var/
	rm -rf .venv build dist *.egg-info .coverage .coverage.* htmlcov .mypy_cache .ruff_cache .pytest_cache .hypothesis
