"""experiments/out_of_distribution.py: other images, and telling them from test digits."""

import pytest
import torch

from dgm.checks import IMAGE_SHAPE, check_clean_images
from experiments import out_of_distribution


@pytest.fixture(scope="module")
def measured(lab):
    return out_of_distribution.out_of_distribution(lab)


def test_a_data_set_that_cannot_be_had_is_named_with_the_reason(measured):
    assert measured["left_out"] == ["Fashion-MNIST (no network in a test)"]


def test_training_digits_and_eight_other_data_sets_are_compared(measured):
    assert len(measured["auroc"]) == 9


def test_energies_are_compared_with_two_baselines(measured):
    keys = {"energy_replay_buffer", "energy_no_buffer", "mean_pixel", "gaussian", "n"}
    assert set(measured["auroc"]["constant_grey"]) == keys


def test_the_energy_tells_uniform_noise_from_digits(measured):
    assert measured["auroc"]["uniform_noise"]["energy_replay_buffer"] > 0.9


def test_all_numbers_of_other_images_are_finite(measured, finite):
    assert finite(measured)


def test_every_image_is_in_the_histogram_of_energies(measured):
    for shares in measured["histogram"]["shares"].values():
        assert sum(shares) == pytest.approx(1)


@pytest.fixture(scope="module")
def shuffled():
    """(images, the same with shuffled patches)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, *IMAGE_SHAPE, generator=generator)
    return images, out_of_distribution.shuffled_patches(images, generator)


def test_shuffled_patches_are_in_another_order(shuffled):
    images, other = shuffled
    assert not torch.equal(other, images)


def test_shuffled_patches_keep_the_patches(shuffled):
    def patches(x):
        squares = x.unfold(1, 7, 7).unfold(2, 7, 7).reshape(16, 7, 7)
        return {tuple(square.flatten().tolist()) for square in squares}

    assert all(patches(a) == patches(b) for a, b in zip(*shuffled, strict=True))


OTHERS = (
    "uniform_noise",
    "constant_grey",
    "photograph_patches",
    "inverted_digits",
    "flipped_digits",
    "turned_digits",
    "shuffled_digits",
    "uci_digits",
)


@pytest.fixture(scope="module")
def others(lab):
    return out_of_distribution.unlike_digits(lab.digits.test_images, 12, seed=0)[0]


def test_the_other_data_sets_are_these(others):
    assert tuple(others) == OTHERS


@pytest.mark.parametrize("name", OTHERS)
def test_there_are_as_many_images_unlike_digits_as_asked_for(others, name):
    assert len(others[name]) == 12


@pytest.mark.parametrize("name", OTHERS)
def test_images_unlike_digits_are_images_of_the_same_kind(others, name):
    check_clean_images(others[name])
