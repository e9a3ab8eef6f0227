PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The oldest versions that requirements.txt allows.
LOWEST := .venv-lowest
# Short tests that together use every library.
LOWEST_TESTS := \
	tests/scripts/test_traces.py \
	tests/scripts/test_weight_files.py \
	tests/unit/helper_functions/test_config.py \
	tests/unit/data/test_data_datasets.py \
	tests/unit/data/test_data_imagefolder.py \
	tests/unit/evaluation/test_eval_attacks.py \
	tests/training/test_unlearn.py \
	tests/unit/models/test_models.py \
	tests/unit/optimizer/test_optimizers.py \
	tests/unit/optimizer/test_solver.py
PYTEST := -m pytest -n auto --maxprocesses 4
# A file stays in one worker, so that the runs that its tests share are made once; in the order given, long files first.
BY_FILE := --dist loadfile --no-loadscope-reorder
# pypi, or osv where PyPI's advisories cannot be reached.
AUDIT_SERVICE ?= pypi

.PHONY: demo check test test-robustness test-lowest audit clean

# Digits with a tenth of the labels corrupted: train, forget the wrong labels, retrain for comparison, report.
demo: $(VENV)/.installed
	$(BIN)/python train_constrained_unlearning.py --config_file configs/quickstart.yaml

check test test-robustness test-lowest: export OMP_NUM_THREADS := 1
# Processes that compile beside a test take longer to start than they save.
check test test-robustness test-lowest: export TORCHINDUCTOR_COMPILE_THREADS := 1

# Style, layers and unit tests; a worker takes neighbouring ones, so that what they share is made once.
check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python $(PYTEST) --dist worksteal tests/unit

# That, whole runs of every method, the scripts as processes, the benchmarks and the notebook.
test: check
	$(BIN)/python $(PYTEST) $(BY_FILE) tests/benchmarks tests/training tests/scripts
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=600 contrastive_classifiers.ipynb

# Hostile files, fuzzing, kills, full disks, NaN.
test-robustness: $(VENV)/.installed-dev
	$(BIN)/python $(PYTEST) $(BY_FILE) tests/robustness

# The same code with the oldest libraries that requirements.txt allows, on a Python that they have wheels for: 3.11, 3.12.
test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python $(PYTEST) $(LOWEST_TESTS)

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

$(VENV)/.installed-dev: requirements.txt requirements-cluster.txt requirements-models.txt requirements-dev.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

$(LOWEST)/.installed: requirements.txt
	$(PYTHON) -m venv $(LOWEST)
	sed -E 's/>=([0-9]+\.[0-9]+)$$/==\1.*/; s/>=([0-9]+\.[0-9]+\.[0-9]+)$$/==\1/' requirements.txt > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -r $(LOWEST)/lowest.txt \
		pytest pytest-xdist hypothesis scipy
	touch $@
