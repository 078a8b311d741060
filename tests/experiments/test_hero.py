"""experiments/hero.py: chains of both models, kept as bytes, and the figure drawn from them."""

import numpy as np
import pytest
import torch

from dgm.checks import IMAGE_SHAPE
from dgm.samplers import geometric_sigmas
from experiments import hero


@pytest.fixture(scope="module")
def short():
    """Chains that are read after 0, 1 and 2 steps or noise levels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hero, "STEPS", [0, 1, 2])
        patch.setattr(hero, "LEVELS", [0, 1, 2])
        yield


@pytest.fixture(scope="module")
def energy(short):
    return hero.energy_frames(3)


@pytest.fixture(scope="module")
def score(short):
    return hero.score_frames(torch.arange(3), geometric_sigmas(levels=2))


def test_chains_of_the_energy_are_read_at_every_length(energy):
    assert energy.shape == (3, 3, *IMAGE_SHAPE)


def test_chains_of_the_score_are_read_at_every_level(score):
    assert score.shape == (3, 3, *IMAGE_SHAPE)


def test_chains_of_the_energy_start_from_noise(energy):
    assert energy[0].mean().item() == pytest.approx(
        0.5, abs=5 * (1 / 12 / energy[0].numel()) ** 0.5
    )


def test_every_image_of_the_score_reaches_from_black_to_white(score):
    assert (score.amin((-3, -2, -1)) == 0).all() and (score.amax((-3, -2, -1)) == 1).all()


def test_the_chains_of_a_seed_are_the_same(energy):
    assert torch.equal(hero.energy_frames(3), energy)


def test_frames_are_kept_to_the_nearest_grey_value():
    frames = torch.tensor([-1.0, 0.0, 100.4 / 255, 1.0, 2.0])
    assert hero.grey_values(frames).tolist() == [0, 0, 100, 255, 255]


@pytest.fixture(scope="module")
def stored(short, tmp_path_factory):
    """The file of samples, of chains that are quick to draw."""
    path = tmp_path_factory.mktemp("hero") / "hero.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hero, "geometric_sigmas", lambda: geometric_sigmas(levels=2))
        hero.hero(path=path)
    return path


@pytest.mark.parametrize("key", ["energy", "score"])
def test_five_chains_of_each_model_are_kept(stored, key):
    assert np.load(stored)[key].shape == (3, 5, *IMAGE_SHAPE)


@pytest.mark.parametrize("key", ["energy", "score"])
def test_chains_are_kept_as_bytes(stored, key):
    assert np.load(stored)[key].dtype == np.uint8


def test_the_figure_is_drawn_from_the_kept_chains(stored, tmp_path):
    hero.draw_hero({}, tmp_path, stored)
    assert (tmp_path / "hero.png").stat().st_size > 5_000
