# make run    train the three notebooks from scratch and look at the digits (about 14 minutes on two cores)
# make demo   the same with the committed weights, no training (less than two minutes on two idle cores)
# make app    try the models in a browser (APP="--share", APP="--host 0.0.0.0 --port 8000": see app.py --help)
# make test   the tests; those of the app's page need Chromium (REQUIRE_BROWSER=1 fails where it is missing)
# make report the two reports as PDF, from their sources in report/ and the results in assets/
# Each sets up .venv first. PRESET=smoke|quick|full chooses another size; MNIST_ROOT=folder another place for the data.

PYTHON ?= python3
PRESET ?= auto
BIN = .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -r
NOTEBOOKS = EBM EBM-BestPractice score-based-model
EXTRAS = extras/what-else-a-score-can-do extras/energy-meets-score
ALL = $(NOTEBOOKS:%=%.ipynb) $(EXTRAS:%=%.ipynb)
EXPERIMENTS = $(BIN)/python -m experiments
RUNNER = $(BIN)/python -m dgm.runner --preset $(PRESET)

.PHONY: basics setup run demo app publish evaluate stability ablation break-away tutorial bench bench-quality tables report test clean

# What run and demo need; the app adds gradio, everything else the packages of requirements-dev.txt.
basics: .venv/basics
setup: .venv/installed

.venv/basics: requirements.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) $<
	touch $@

.venv/app: requirements-app.txt .venv/basics
	$(INSTALL) $<
	touch $@

.venv/installed: requirements-dev.txt .venv/app
	$(INSTALL) $<
	touch $@

run: basics
	@$(RUNNER) $(NOTEBOOKS:%=%.ipynb)

demo: basics
	@$(RUNNER) --pretrained $(NOTEBOOKS:%=%.ipynb)

# Serves the app on this machine only, until Ctrl-C; it needs neither a network nor MNIST.
app: .venv/app
	@$(BIN)/python app.py $(APP)

# Re-executes the committed notebooks in place with the committed weights and rewrites assets/, all figures too.
publish: setup
	PUBLISH=1 TQDM_DISABLE=1 $(BIN)/jupyter nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.timeout=-1 --ExecutePreprocessor.record_timing=False \
		--ExecutePreprocessor.store_widget_state=False $(ALL)
	$(BIN)/python tools/shrink_notebooks.py $(ALL)
	$(EXPERIMENTS) hero

# Measures the committed weights anew, says how far each number lies from the committed one, redraws the figures,
# re-executes the notebooks and writes the tables. `python -m experiments --list` names all experiments.
evaluate: setup
	rm -rf runs/committed && mkdir -p runs/committed && (git archive HEAD assets/results || tar -c assets/results) | tar -x -C runs/committed
	$(EXPERIMENTS) --fresh
	$(MAKE) publish
	$(EXPERIMENTS) tables
	$(EXPERIMENTS) --against runs/committed/assets/results

stability ablation break-away tutorial: setup
	$(EXPERIMENTS) $@

# Speed against the peers, side by side (about ten minutes).
bench: setup
	$(EXPERIMENTS) benchmarks tables

# Distance against minutes of training, three recipes one after another (about 40 minutes).
bench-quality: setup
	$(EXPERIMENTS) time-to-quality tables

# Keeps what the last quick runs measured beside the full runs' results, and writes the tables from both.
tables: setup
	$(EXPERIMENTS) tables

# Persion-Report.pdf and Report.pdf; a section on each result that is there.
report: setup
	$(BIN)/python report/build.py

test: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

clean:
	rm -rf runs .pytest_cache .ruff_cache
