# Everything lives inside the clone: .venv (tools), .cache (wheels, environment that trains), .demo (make demo).

PYTHON ?= python3
BIN := .venv/bin
RELEASE := 3.3.0

.PHONY: test quick test-long new-patch lint runtime lowest versions demo picture wheels training-env audit-env old-env spark-env rehearsals-env audit fingerprints catalog matrix journeys rehearsals spark upstream upstream-tests saved-models same-bits next-release commits bench clean

quick: .venv/ready  ## the tests that need no wheels, no torch and no network, as a bare `pytest` does
	$(BIN)/python -m pytest

test: lint wheels lowest training-env runtime  ## everything that CI runs: all tests but those of the targets below
	@echo "== tests"
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "not long" --ignore=tests/runtime

test-long: wheels training-env  ## tests marked `long`: every release, and a fault at every operation; `make test` runs a sample
	$(BIN)/python -m pytest -n 2 --dist worksteal -m long --ignore=tests/runtime --ignore=tests/journeys

new-patch:  ## the skeleton of a patch and of its test: ID=tft-unused-gate, GROUP=multi-process for other than layers
	@PYTHONPATH=. $(PYTHON) scripts/new_patch.py $(ID) $(if $(GROUP),--group $(GROUP))

lint: .venv/ready
	@echo "== ruff, mypy"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

runtime: .venv/ready training-env  ## the runtime modules: types, and tests in the interpreter that runs them
	@echo "== runtime modules"
	$(BIN)/mypy --strict --python-executable .cache/training/bin/python patches/runtime/*.py
	.cache/training/bin/python -m pytest tests/runtime --cov=patches.runtime --cov-report=term-missing --cov-fail-under=90

lowest: wheels  ## the quick tests with the lowest dependencies that are admitted
	PYTHONPATH=. $(BIN)/python scripts/versions.py --lowest

versions: wheels  ## docs/results/versions.md: the quick tests on every Python that is found, with the lowest and the newest
	PYTHONPATH=. $(BIN)/python scripts/versions.py

demo:  ## the main job on a real neuralforecast 1.7.4, in an environment of its own
	@PYTHON="$(PYTHON)" bash scripts/demo.sh

picture:  ## docs/demo.svg, rehearse.svg: the main job and a rehearsal as they look on a terminal
	@PYTHON="$(PYTHON)" bash scripts/demo.sh picture

wheels: .venv/ready  ## the released wheels of neuralforecast, downloaded once
	@echo "== released wheels of neuralforecast"
	@$(BIN)/python scripts/releases.py

training-env: .cache/training/ready
audit-env: .cache/audit/ready
old-env: .cache/old/ready
spark-env: .cache/spark/ready
rehearsals-env: .cache/rehearsals/ready

.cache/audit/ready: scripts/training-env.txt
.cache/old/ready: PYTHON = $(OLD_PYTHON)
.cache/spark/ready: scripts/training-env.txt
.cache/rehearsals/ready: scripts/training-env.txt
.cache/%/ready: scripts/%-env.txt
	@sed -n 's/^#/==/p' $< && echo "== (some minutes, once)"
	rm -rf .cache/$*
	$(PYTHON) -m venv .cache/$*
	.cache/$*/bin/python -m pip install --disable-pip-version-check -r $<
	touch $@

.venv/ready: pyproject.toml
	@echo "== tools for development"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[dev]'
	touch $@

fingerprints: .venv/ready  ## patches/fingerprints.json from the released wheels
	$(BIN)/python scripts/fingerprints.py

catalog: .venv/ready  ## docs/results/catalog.md from the patches, and the rows of matrix.md
	PYTHONPATH=. $(BIN)/python scripts/catalog_page.py
	PYTHONPATH=. $(BIN)/python scripts/matrix.py --page

# OLD_PYTHON: an interpreter of Python 3.10; without it the releases up to 1.4.0 are not run
OLD := $(if $(OLD_PYTHON),--old-python .cache/old/bin/python)
matrix: audit-env wheels $(if $(OLD_PYTHON),old-env)  ## docs/results/matrix.md: the proof of every release; models.md, matrix.svg: its models
	PYTHONPATH=. $(BIN)/python scripts/matrix.py --python .cache/audit/bin/python $(OLD)
	PYTHONPATH=. $(BIN)/python scripts/audit_matrix.py --python .cache/audit/bin/python $(OLD)
	PYTHONPATH=. $(BIN)/python scripts/journeys.py --python .cache/audit/bin/python $(OLD)
	PYTHONPATH=. $(BIN)/python scripts/models_page.py

journeys: training-env wheels $(if $(OLD_PYTHON),old-env)  ## scripts of users by every launcher, on more releases than `make test`
	$(if $(OLD_PYTHON),NFPATCH_OLD_PYTHON=$(CURDIR)/.cache/old/bin/python) $(BIN)/python -m pytest tests/journeys

rehearsals: rehearsals-env wheels  ## docs/results/rehearsals.md: scripts as users write them, rehearsed released and patched
	PYTHONPATH=. $(BIN)/python scripts/rehearsals.py

spark: spark-env wheels  ## the proof on Spark in local mode, of one release of each kind; it takes a Java
	NFPATCH_SPARK_PYTHON=$(CURDIR)/.cache/spark/bin/python $(BIN)/python -m pytest tests/journeys/test_spark.py

upstream: spark-env wheels  ## the reproduction of every text in docs/upstream, run on the newest release; two take a Java
	PYTHONPATH=. $(BIN)/python scripts/upstream.py --python .cache/spark/bin/python

# An environment that sees the packages of .cache/training, and has what upstream's tests import
UPSTREAM := .cache/upstream-tests
PRINT_SITE := import site; print(site.getsitepackages()[0])
upstream-tests: training-env wheels  ## upstream's own tests, released and patched: CLONE=DIR, a clone of Nixtla/neuralforecast
	rm -rf $(UPSTREAM)
	.cache/training/bin/python -m venv $(UPSTREAM)
	.cache/training/bin/python -c "$(PRINT_SITE)" > "$$($(UPSTREAM)/bin/python -c '$(PRINT_SITE)')/training.pth"
	$(UPSTREAM)/bin/python -m pip install --disable-pip-version-check --quiet gitpython s3fs polars matplotlib hyperopt captum
	$(UPSTREAM)/bin/python -m pip download --quiet --no-deps --no-binary neuralforecast --dest $(UPSTREAM) neuralforecast==$(RELEASE)
	PYTHONPATH=. $(BIN)/python scripts/upstream_tests.py --python $(UPSTREAM)/bin/python --clone $(CLONE) --sdist $(UPSTREAM)/neuralforecast-$(RELEASE).tar.gz

audit: audit-env .venv/ready  ## every model of one release, RELEASE, also those that need more packages
	rm -rf .cache/audited && mkdir -p .cache/audited
	.cache/audit/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --target .cache/audited neuralforecast==$(RELEASE)
	$(BIN)/nfpatch audit --python .cache/audit/bin/python --site-packages .cache/audited

saved-models: training-env wheels  ## docs/results/saved-models.md: real models, migrated
	PYTHONPATH=. $(BIN)/python scripts/saved_models.py

same-bits: training-env wheels  ## docs/results/same-bits.md: each model in one process, released and patched, bit for bit
	PYTHONPATH=. $(BIN)/python scripts/same_bits.py

next-release: wheels  ## docs/results/next-release.md: what fits a release that is not known yet
	PYTHONPATH=. $(BIN)/python scripts/next_release.py

commits: wheels  ## docs/results/commits.md: what fits installs from git; CLONE=DIR, a clone of Nixtla/neuralforecast
	PYTHONPATH=. $(BIN)/python scripts/commits.py $(CLONE)

bench: training-env .venv/ready  ## speed, side by side with other tools
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/commands.py --env .cache/training

clean:
	rm -rf .venv .cache .demo
