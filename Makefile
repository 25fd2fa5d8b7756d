# Everything lives inside the clone: .venv (tools), .cache (wheels, environment that trains), .demo (make demo).

PYTHON ?= python3
BIN := .venv/bin
TRAINING := .cache/training
AUDIT := .cache/audit
RELEASE := 3.3.0

.PHONY: test lint demo picture wheels training-env audit-env audit fingerprints matrix saved-models bench clean

test: lint wheels training-env  ## everything that CI runs
	@echo "== tests"
	$(BIN)/python -m pytest -n 2 --dist loadgroup

lint: .venv/ready
	@echo "== ruff, mypy"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo:  ## the main job on a real neuralforecast 1.7.4, in an environment of its own
	@PYTHON="$(PYTHON)" bash scripts/demo.sh

picture:  ## docs/demo.svg: the main job as it looks on a terminal
	@PYTHON="$(PYTHON)" bash scripts/demo.sh picture

wheels: .venv/ready  ## the released wheels of neuralforecast, downloaded once
	@echo "== released wheels of neuralforecast"
	@$(BIN)/python scripts/releases.py

training-env: $(TRAINING)/ready

$(TRAINING)/ready: scripts/training-env.txt
	@echo "== an environment that trains: neuralforecast 1.7.4, torch 2.13.0 (some minutes, once)"
	rm -rf $(TRAINING)
	$(PYTHON) -m venv $(TRAINING)
	$(TRAINING)/bin/python -m pip install --disable-pip-version-check -r scripts/training-env.txt
	touch $@

audit-env: $(AUDIT)/ready

$(AUDIT)/ready: scripts/audit-env.txt scripts/training-env.txt
	@echo "== the environment that trains, with transformers and xlstm (some minutes, once)"
	rm -rf $(AUDIT)
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --disable-pip-version-check -r scripts/audit-env.txt
	touch $@

.venv/ready: pyproject.toml
	@echo "== tools for development"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[dev]'
	touch $@

fingerprints: .venv/ready  ## patches/fingerprints.json from the released wheels
	$(BIN)/python scripts/fingerprints.py

# OLD_PYTHON: an interpreter with Lightning 1.6.5, for the releases up to 1.4.0
matrix: audit-env wheels  ## docs/matrix.md: the proof of every release; docs/matrix.json, matrix.svg, models.md: its models
	PYTHONPATH=. $(BIN)/python scripts/matrix.py --python $(AUDIT)/bin/python $(if $(OLD_PYTHON),--old-python $(OLD_PYTHON))
	PYTHONPATH=. $(BIN)/python scripts/audit_matrix.py --python $(AUDIT)/bin/python $(if $(OLD_PYTHON),--old-python $(OLD_PYTHON))

audit: audit-env .venv/ready  ## every model of one release, RELEASE, also those that need more packages
	rm -rf .cache/audited && mkdir -p .cache/audited
	$(AUDIT)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --target .cache/audited neuralforecast==$(RELEASE)
	$(BIN)/nfpatch audit --python $(AUDIT)/bin/python --site-packages .cache/audited

saved-models: training-env wheels  ## the table of docs/saved-models.md: real models, migrated
	PYTHONPATH=. $(BIN)/python scripts/saved_models.py

bench: training-env .venv/ready  ## speed, side by side with other tools
	$(BIN)/python benchmarks/commands.py --env $(TRAINING)

clean:
	rm -rf .venv .cache .demo
