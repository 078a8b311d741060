# make run    train the three notebooks from scratch and look at the digits (about 20 minutes on two cores)
# make demo   the same with the committed weights, no training (about 3 minutes on two cores)
# make test   the tests
# make report the two reports as PDF, from their sources in report/ and the results in assets/
# Each sets up .venv first. PRESET=smoke|quick|full chooses another size; MNIST_ROOT=folder another place for the data.

PYTHON ?= python3
PRESET ?= auto
BIN = .venv/bin
NOTEBOOKS = EBM EBM-BestPractice score-based-model
EXECUTE = $(BIN)/papermill --no-progress-bar --log-output

.PHONY: setup run demo publish evaluate stability ablation break-away tutorial bench bench-quality tables report test clean

setup: .venv/installed

.venv/installed: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

run: setup
	mkdir -p runs/notebooks
	@for name in $(NOTEBOOKS); do \
		PYTHONUNBUFFERED=1 $(EXECUTE) -p preset $(PRESET) $$name.ipynb runs/notebooks/unfinished.ipynb || exit 1; \
		mv runs/notebooks/unfinished.ipynb runs/notebooks/$$name.ipynb; done
	@echo "Done. Open the executed notebooks in runs/notebooks/, or look at the figures named above."

demo: setup
	mkdir -p runs/notebooks
	@for name in $(NOTEBOOKS); do \
		$(EXECUTE) -p preset $(PRESET) -p pretrained True $$name.ipynb runs/notebooks/unfinished.ipynb || exit 1; \
		mv runs/notebooks/unfinished.ipynb runs/notebooks/$$name-demo.ipynb; done
	@echo "Done. Open the executed notebooks, runs/notebooks/*-demo.ipynb, or look at the figures named above."

# Re-executes the committed notebooks in place with the committed weights and rewrites assets/, README's first figure too.
publish: setup
	PUBLISH=1 TQDM_DISABLE=1 $(BIN)/jupyter nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.timeout=-1 --ExecutePreprocessor.record_timing=False \
		--ExecutePreprocessor.store_widget_state=False $(NOTEBOOKS:%=%.ipynb)
	$(BIN)/python tools/shrink_notebooks.py $(NOTEBOOKS:%=%.ipynb)
	$(BIN)/python tools/hero.py

# Measures the committed weights anew, says how far each number lies from the committed one, re-executes the notebooks that
# plot from the results, and writes README's tables. `make stability`, `ablation`, `break-away` and `tutorial` are studies that train.
evaluate: setup
	rm -rf runs/committed && mkdir -p runs/committed && (git archive HEAD assets/results || tar -c assets/results) | tar -x -C runs/committed
	$(BIN)/python studies.py
	$(MAKE) publish
	$(BIN)/python tables.py
	$(BIN)/python studies.py --against runs/committed/assets/results

stability ablation break-away tutorial: setup
	$(BIN)/python studies.py $@

# Speed against the peers, side by side (a few minutes).
bench: setup
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python tables.py

# Distance against minutes of training, three recipes one after another (about 40 minutes).
bench-quality: setup
	$(BIN)/python benchmarks/quality.py
	$(BIN)/python tables.py

# Keeps what the last quick runs measured beside the full runs' results, and writes README's tables from both.
tables: setup
	mkdir -p assets/results/quick
	[ ! -d runs/quick/assets/results ] || cp runs/quick/assets/results/*.json assets/results/quick/
	$(BIN)/python tables.py

# Persion-Report.pdf and Report.pdf; a section on each result that is there.
report: setup
	$(BIN)/python report/build.py

test: setup
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

clean:
	rm -rf runs .pytest_cache .ruff_cache
