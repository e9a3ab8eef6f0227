PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test clean

# Digits with a tenth of the labels corrupted: train, forget the wrong labels, retrain for comparison, report.
demo: $(VENV)/.installed
	$(BIN)/python train_constrained_unlearning.py --config_file configs/quickstart.yaml

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=600 contrastive_classifiers.ipynb

clean:
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The stamps make a repeated call skip the installation until a requirements file changes.
$(VENV)/.installed: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements.txt requirements-cluster.txt requirements-dev.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
