"""experiments/quick.py: the seeds of the quick recipes, on a few digits."""

import pytest

from experiments import quick
from experiments.training import Recipe

SMALL = Recipe(updates=3, width=4, batch_size=8, langevin_steps=2, buffer_size=50)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    energies = {"EBM": {"before": (SMALL, 1), "now": (SMALL._replace(updates=2), 2)}}
    return {
        "n": 20,
        "energies": energies,
        "score": {"updates": 2, "guidance": 1.7},
        "width": 8,
        "root": tmp_path_factory.mktemp("quick"),
    }


@pytest.fixture(scope="module")
def found(lab, options):
    return quick.quick_seeds(lab, **options)


def test_each_version_of_a_recipe_has_its_seeds(found):
    assert [list(run["seeds"]) for run in found["runs"]["EBM"].values()] == [["1"], ["1", "2"]]


def test_versions_differ_in_their_updates(found):
    assert [run["updates"] for run in found["runs"]["EBM"].values()] == [3, 2]


def test_the_best_length_has_the_smallest_distance(found):
    run = found["runs"]["EBM"]["now"]
    lengths = [one["frechet_distance"] for one in run["seeds"]["1"].values()]
    assert run["best"]["1"]["frechet_distance"] == min(lengths)


def test_the_mean_is_that_of_the_best_lengths(found):
    run = found["runs"]["EBM"]["now"]
    distances = [one["frechet_distance"] for one in run["best"].values()]
    assert run["summary"]["frechet_distance"]["mean"] == pytest.approx(sum(distances) / 2)


def test_the_score_network_has_a_label_accuracy(found):
    now = found["runs"]["score-based-model"]["now"]
    assert 0 <= now["summary"]["label_accuracy"]["mean"] <= 1


def test_all_numbers_of_the_quick_recipes_are_finite(found, finite):
    assert finite(found)


def test_a_measured_recipe_is_not_trained_again(lab, options, found, monkeypatch):
    monkeypatch.setattr(quick, "train_energy", None)
    monkeypatch.setattr(quick, "train_quick_score", None)
    assert quick.quick_seeds(lab, **options) == found
