"""EnergyNetwork and ScoreNetwork: shapes, the untrained score, what the score depends on."""

import pytest
import torch
from torch import nn

import helpers
from dgm.checks import PIXEL_MEAN, PIXEL_STD

IMAGES = torch.zeros(2, 1, 28, 28)


def test_energy_network_gives_one_energy_per_image(generator):
    images = torch.rand(5, 1, 28, 28, generator=generator)
    assert helpers.EnergyNetwork(8)(images).shape == (5,)


def test_energies_are_float32(generator):
    images = torch.rand(5, 1, 28, 28, generator=generator)
    assert helpers.EnergyNetwork(8)(images).dtype == torch.float32


@pytest.mark.parametrize("wrong", [IMAGES[0], IMAGES.double(), IMAGES[..., :14]])
def test_energy_network_refuses_what_are_no_images(wrong):
    with pytest.raises(ValueError, match="images must"):
        helpers.EnergyNetwork(8)(wrong)


def test_untrained_score_network_is_the_score_of_a_gaussian(generator):
    x = torch.randn(6, 1, 28, 28, generator=generator)
    sigma = torch.tensor([1e-3, 0.01, 0.1, 1.0, 10.0, 50.0])
    variance = (PIXEL_STD**2 + sigma**2).view(-1, 1, 1, 1)
    found = helpers.ScoreNetwork(8, 16).score(x, sigma)
    assert torch.allclose(found, -(x - PIXEL_MEAN) / variance, rtol=1e-4)


@pytest.fixture
def network(generator):
    """A score network away from its start, where F = 0."""
    model = helpers.ScoreNetwork(8, 16)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return model


@pytest.fixture
def x(network, generator):
    return torch.randn(2, 1, 28, 28, generator=generator)


def test_score_with_a_label_is_not_the_one_without(network, x):
    assert not torch.allclose(network.score(x, 0.5), network.score(x, 0.5, [1, 1]))


def test_score_depends_on_the_label(network, x):
    assert not torch.allclose(network.score(x, 0.5, [1, 1]), network.score(x, 0.5, [2, 2]))


def test_score_depends_on_sigma(network, x):
    assert not torch.allclose(network.score(x, 0.5), network.score(x, 0.4))


def test_no_label_marks_an_image_without_label(network, x):
    hidden = torch.tensor([network.NO_LABEL] * 2)
    assert torch.equal(network.score(x, 0.5), network(x, 0.5, hidden))


def test_denoising_is_tweedies_formula(network, x):
    one = network.score(x, 0.5, [1, 1])
    assert torch.allclose(network.denoise(x, 0.5, [1, 1]), x + 0.25 * one)


@pytest.mark.parametrize(
    ("images", "sigma", "labels", "message"),
    [
        (IMAGES[:, 0], 1.0, None, "x must"),
        (IMAGES.double(), 1.0, None, "x must"),
        (IMAGES, 0.0, None, "sigma must"),
        (IMAGES, 1.0, [3], "labels"),
        (IMAGES, 1.0, [3, 11], "labels"),
    ],
)
def test_score_refuses_what_does_not_fit(images, sigma, labels, message):
    with pytest.raises(ValueError, match=message):
        helpers.ScoreNetwork(8, 16).score(images, sigma, labels)
