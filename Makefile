# Everything lives inside the clone: .venv (tools), .cache (wheels, environment that trains), .demo (make demo).

PYTHON ?= python3
BIN := .venv/bin
TRAINING := .cache/training

.PHONY: test lint demo wheels training-env fingerprints matrix bench clean

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

.venv/ready: pyproject.toml
	@echo "== tools for development"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e '.[dev]'
	touch $@

fingerprints: .venv/ready  ## patches/fingerprints.json from the released wheels
	$(BIN)/python scripts/fingerprints.py

# OLD_PYTHON: an interpreter with Lightning 1.6.5, for the releases up to 1.4.0
matrix: training-env wheels  ## docs/matrix.md: the proof for every release that needs a patch
	PYTHONPATH=. $(BIN)/python scripts/matrix.py $(if $(OLD_PYTHON),--old-python $(OLD_PYTHON))

bench: training-env .venv/ready  ## speed, side by side with other tools
	$(BIN)/python benchmarks/commands.py --env $(TRAINING)

clean:
	rm -rf .venv .cache .demo
