"""experiments/ablation.py: one change at a time at equal cost, on few updates."""

import numpy as np
import pytest

from experiments import ablation
from experiments.training import SMALLER, Recipe

NAMES = ("recipe", "no_buffer", "batch_128", "steps_40")


@pytest.fixture(scope="module")
def measured(lab, one_process, tmp_path_factory):
    changes = {name: ablation.CHANGES[name] for name in NAMES}
    root = tmp_path_factory.mktemp("ablation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "CHANGES", changes)
        return ablation.ablation(lab, evaluations=5_120, n=4, seeds=(1,), root=root)


def test_every_change_is_trained(measured):
    assert tuple(run["name"] for run in measured["runs"]) == NAMES


def test_updates_are_as_many_as_cost_the_same(measured):
    assert [run["updates"] for run in measured["runs"]] == [4, 4, 2, 2]


def test_what_was_changed_is_told(measured):
    assert measured["changed"]["no_buffer"] == {"buffer_size": "0"}


@pytest.fixture
def distances(measured):
    return [run["chains"]["1000"]["frechet_distance"] for run in measured["runs"]]


def test_distances_of_all_changes_are_finite(distances):
    assert np.isfinite(distances).all()


def test_every_change_gives_another_distance(distances):
    assert len(set(distances)) == 4


@pytest.mark.parametrize("name", ablation.CHANGES)
def test_a_change_is_of_settings_that_a_recipe_has(name):
    assert set(ablation.CHANGES[name]) <= set(Recipe._fields)


@pytest.mark.parametrize("name", [name for name in ablation.CHANGES if name != "recipe"])
def test_a_change_changes_the_recipe(name):
    assert SMALLER._replace(**ablation.CHANGES[name]) != SMALLER
