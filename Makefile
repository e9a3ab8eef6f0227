PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Of requirements.txt the oldest versions that it allows: its one source.
LOWEST := .venv-lowest
# What takes little time and touches every library.
LOWEST_TESTS := tests/scripts/test_config.py tests/unit/test_data_datasets.py tests/unit/test_data_imagefolder.py tests/unit/test_eval_attacks.py \
	tests/robustness/test_hostile_input.py tests/unit/test_methods.py tests/unit/test_models.py tests/unit/test_optimizers.py tests/scripts/test_scripts.py \
	tests/unit/test_solver.py
# pypi, or osv where PyPI's advisories cannot be reached.
AUDIT_SERVICE ?= pypi

.PHONY: demo test test-lowest audit clean

# Digits with a tenth of the labels corrupted: train, forget the wrong labels, retrain for comparison, report.
demo: $(VENV)/.installed
	$(BIN)/python train_constrained_unlearning.py --config_file configs/quickstart.yaml

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbmake --nbmake-timeout=600 contrastive_classifiers.ipynb

# The same code with the oldest libraries that requirements.txt allows, on a Python that they have wheels for: 3.11, 3.12.
test-lowest: $(LOWEST)/.installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n auto --maxprocesses 4 $(LOWEST_TESTS)

# Advisories about what is installed; a package that could not be looked up is a failure (docs/trust.md).
audit: $(VENV)/.installed-dev
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/python -m pip freeze > .venv-audit/installed.txt
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --vulnerability-service $(AUDIT_SERVICE) \
		--requirement .venv-audit/installed.txt

clean:
	rm -rf $(VENV) $(LOWEST) .venv-audit

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The stamps make a repeated call skip the installation until a requirements file changes.
$(VENV)/.installed: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements.txt requirements-cluster.txt requirements-dev.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

$(LOWEST)/.installed: requirements.txt
	$(PYTHON) -m venv $(LOWEST)
	sed -E 's/>=([0-9]+\.[0-9]+)$$/==\1.*/; s/>=([0-9]+\.[0-9]+\.[0-9]+)$$/==\1/' requirements.txt > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -r $(LOWEST)/lowest.txt \
		pytest pytest-xdist hypothesis scipy
	touch $@
