"""experiments/ablation.py: one change at a time at equal cost, and older chains, on few updates."""

import numpy as np
import pytest

from dgm.runs import load_checkpoint
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


# ---------------------------------------------------------------------------------- older chains


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("older-chains")


@pytest.fixture(scope="module")
def older(lab, root):
    small = SMALLER._replace(updates=4, width=8, batch_size=8, buffer_size=50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "BEST", small)
        return ablation.older_chains(lab, n=20, lengths=(2, 5), root=root)


@pytest.fixture
def settings(older, root):
    return load_checkpoint(root / "older-chains.pt", "run")["settings"]


def test_half_of_each_batch_is_old_chains(settings):
    assert settings["old_share"] == 0.5


def test_the_settings_of_both_buffers_are_kept_with_the_run(settings):
    assert {"redraw", "old_share"} <= set(settings)


@pytest.mark.parametrize("name", ["half_old", "quarter_old"])
def test_older_chains_and_the_committed_ones_are_evaluated_at_every_length(older, name):
    assert list(older["chains"][name]) == ["2", "5"]


def test_older_chains_get_another_distance_than_the_committed_ones(older):
    found = {name: chains["5"]["frechet_distance"] for name, chains in older["chains"].items()}
    assert found["half_old"] != found["quarter_old"]


def test_all_numbers_of_older_chains_are_finite(older, finite):
    assert finite(older)
