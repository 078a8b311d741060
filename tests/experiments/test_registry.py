"""experiments/registry.py: every experiment by name, and every figure from committed results."""

import matplotlib.pyplot as plt
import pytest

from experiments.registry import EVALUATION, EXPERIMENTS
from experiments.results import FIGURES, RESULTS, read_results

NOTEBOOKS = {path.stem for path in FIGURES.parent.glob("*.ipynb")}
DRAWS = [(name, function) for name, found in EXPERIMENTS.items() for function in found.draws]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_a_text(name):
    assert len(EXPERIMENTS[name].about) > 10


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_measured(name):
    assert callable(EXPERIMENTS[name].measure)


def test_no_two_experiments_have_the_same_text():
    assert len({experiment.about for experiment in EXPERIMENTS.values()}) == len(EXPERIMENTS)


@pytest.mark.parametrize("name", EVALUATION)
def test_evaluation_measures_committed_weights_and_trains_nothing(name):
    assert not EXPERIMENTS[name].trains


def experiment_of(name):
    """Return the name of the experiment a result is of: "benchmarks-amx" is of benchmarks."""
    return name if name in EXPERIMENTS else name.split("-")[0]


@pytest.mark.parametrize("name", sorted(path.stem for path in RESULTS.glob("*.json")))
def test_every_committed_result_belongs_to_an_experiment_or_a_notebook(name):
    assert name in NOTEBOOKS or experiment_of(name) in EXPERIMENTS


@pytest.mark.parametrize("name", sorted(path.stem for path in RESULTS.glob("quick/*.json")))
def test_every_quick_result_belongs_to_a_notebook(name):
    assert name in NOTEBOOKS


@pytest.fixture(scope="module")
def committed():
    return read_results()


@pytest.fixture(scope="module", params=DRAWS, ids=lambda draw: draw[1].__name__)
def drawn(request, committed, tmp_path_factory):
    """The figures that one function draws from the committed results."""
    folder = tmp_path_factory.mktemp("figures")
    request.param[1](committed, folder)
    return list(folder.iterdir())


def test_a_figure_is_drawn_from_the_committed_results(drawn):
    assert len(drawn) == 1 and drawn[0].stat().st_size > 5_000


def test_a_figure_has_the_name_of_the_committed_one(drawn):
    assert (FIGURES / drawn[0].name).exists()


def test_a_figure_is_closed_once_it_is_drawn(drawn):
    assert plt.get_fignums() == []
