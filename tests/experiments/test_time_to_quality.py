"""experiments/time_to_quality.py: the clock, the comparison, and what is kept of it."""

import time
from types import SimpleNamespace

import pytest
import torch

from dgm.checks import IMAGE_SHAPE
from dgm.data import Digits
from experiments import laboratory, time_to_quality
from experiments.training import Recipe
from helpers import EnergyNetwork

# ------------------------------------------------------------------------------------- the clock


@pytest.fixture(scope="module")
def clock():
    """(points of a short training, seconds that it took), half a second each evaluation."""

    def slowly(*_, **__):
        time.sleep(0.5)
        return {"best": 1.0}

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(64, *IMAGE_SHAPE, generator=generator)
    labels = torch.zeros(64, dtype=torch.long)
    digits = Digits(images, labels, images, labels, "noise")
    lab = laboratory.Laboratory(digits, None, None, 64)
    recipe = Recipe(width=4, batch_size=2, langevin_steps=1, buffer_size=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time_to_quality, "best_distance", slowly)
        before = time.perf_counter()
        points = list(time_to_quality.on_the_clock(lab, recipe, (1e-9, 2e-9, 3e-9), n=8))
        return points, time.perf_counter() - before


def test_an_evaluation_follows_the_update_at_which_it_is_due(clock):
    points, _ = clock  # each is due after every update
    assert [point["updates"] for point in points] == [1, 2, 3]


def test_the_clock_stands_still_while_samples_are_evaluated(clock):
    points, seconds = clock
    assert seconds > 1.5 + 60 * points[-1]["minutes"]


def test_the_clock_never_goes_back(clock):
    first, second, third = (point["minutes"] for point in clock[0])
    assert first < second < third


# --------------------------------------------------------------------------------- the comparison

TUTORIAL = [{"minutes": 10, "best": 300}, {"minutes": 20, "best": 200}]
OURS = [{"minutes": 1, "best": 400}, {"minutes": 2, "best": 190}, {"minutes": 3, "best": 90}]


def test_time_to_quality_is_that_of_the_best_the_reference_reached():
    expected = {
        "reference_best": 200,
        "reference_minutes": 20,
        "our_minutes": 2,
        "times_sooner": 10,
    }
    assert time_to_quality.time_to({"tutorial": TUTORIAL, "replay_buffer": OURS}) == expected


@pytest.mark.parametrize("key", ["our_minutes", "times_sooner"])
def test_a_quality_that_was_never_reached_has_no_time(key):
    runs = {"tutorial": TUTORIAL, "replay_buffer": OURS[:1]}
    assert time_to_quality.time_to(runs)[key] is None


@pytest.fixture(scope="module")
def best():
    """What one energy gets where each evaluation is the number of images."""

    def evaluate(images):
        return {"frechet_distance": float(len(images))}

    lab = SimpleNamespace(device=torch.device("cpu"), evaluate=evaluate)
    return time_to_quality.best_distance(lab, EnergyNetwork(4), Recipe(), 3, seed=0)


def test_one_chain_is_evaluated_at_three_lengths(best):
    assert best["distances"] == {60: 3.0, 200: 3.0, 500: 3.0}


def test_the_best_of_three_lengths_counts(best):
    assert best["best"] == 3.0


# --------------------------------------------------------------------------------- what is kept

POINT = {"minutes": 1.0, "updates": 9, "best": 300.0, "distances": {60: 300.0}}


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """The recipes that are trained, each for one point, with an empty cache."""
    found = []

    def one_point(lab, recipe, minutes, n):
        found.append(next(k for k, v in time_to_quality.RECIPES.items() if v == recipe))
        yield POINT

    monkeypatch.setattr(laboratory, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(time_to_quality, "on_the_clock", one_point)
    return found


def test_three_recipes_are_trained(trained, lab):
    time_to_quality.time_to_quality(lab)
    assert trained == ["replay_buffer", "no_buffer", "tutorial"]


def test_recipes_that_are_equally_soon_are_equally_soon(trained, lab):
    assert time_to_quality.time_to_quality(lab)["time_to"]["times_sooner"] == 1


def test_no_more_samples_are_drawn_than_the_laboratory_allows(trained, lab):
    assert time_to_quality.time_to_quality(lab)["n"] == 20


def test_a_recipe_that_was_finished_is_kept_where_another_fails(trained, lab, monkeypatch):
    one_point = time_to_quality.on_the_clock

    def only_with_buffer(lab, recipe, minutes, n):
        if recipe.buffer_size == 0:
            raise KeyboardInterrupt
        return one_point(lab, recipe, minutes, n)

    monkeypatch.setattr(time_to_quality, "on_the_clock", only_with_buffer)
    with pytest.raises(KeyboardInterrupt):
        time_to_quality.time_to_quality(lab)
    monkeypatch.setattr(time_to_quality, "on_the_clock", one_point)
    time_to_quality.time_to_quality(lab)
    assert trained == ["replay_buffer", "no_buffer", "tutorial"]


def test_finished_recipes_are_not_trained_again(trained, lab, monkeypatch):
    first = time_to_quality.time_to_quality(lab)
    monkeypatch.setattr(time_to_quality, "on_the_clock", None)  # whoever trains now, fails
    assert time_to_quality.time_to_quality(lab) == first
