"""experiments/likelihood.py: dequantised digits, the network, baselines in closed form."""

import math

import pytest
import torch

from dgm.checks import IMAGE_SHAPE, PIXEL_MEAN, PIXEL_STD
from experiments import likelihood

# --------------------------------------------------------------------------------------- network

GREY = torch.tensor([0.0, 100 / 255, 1.0])


@pytest.fixture(scope="module")
def dequantised():
    """Three grey values, dequantised 10,000 times: k is uniform on [k / 256, (k + 1) / 256)."""
    generator = torch.Generator().manual_seed(0)
    return likelihood.dequantised(GREY.expand(10_000, 3), generator)


def test_dequantised_images_stay_in_their_cells(dequantised):
    cells = torch.tensor([0.0, 100.0, 255.0])
    assert torch.equal((256 * dequantised).floor(), cells.expand(10_000, 3))


def test_dequantised_images_fill_their_cells(dequantised):
    means = (256 * dequantised).frac().mean(0)
    assert torch.allclose(means, torch.tensor(0.5), atol=5 * (1 / 12 / 10_000) ** 0.5)


def test_dequantised_images_lie_between_black_and_white(dequantised):
    assert dequantised.min() >= 0 and dequantised.max() < 1


def test_every_level_has_one_in_each_part(generator):
    sigma = likelihood.every_level(100, generator)
    share = (sigma / 0.001).log() / math.log(20_000)
    assert torch.equal((100 * share).floor(), torch.arange(100.0))


def test_the_network_starts_as_one_gaussian(generator):
    model = likelihood.LikelihoodNetwork(width=8)
    x = torch.rand(2, *IMAGE_SHAPE, generator=generator)
    gaussian = -(x - PIXEL_MEAN) / (0.5**2 + PIXEL_STD**2)
    assert torch.allclose(model(x, 0.5), gaussian, atol=1e-5)


@pytest.fixture(scope="module")
def change_seen():
    """{sigma: how much the network's input changes with half a grey value}."""
    model = likelihood.LikelihoodNetwork(width=8)
    x = torch.rand(2, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(0))
    seen = []
    model.stem.register_forward_hook(lambda _, arguments, output: seen.append(arguments[0].float()))
    changes = {}
    for sigma in (0.0005, 1.0):
        seen.clear()
        for shift in (0.0, 1 / 512):  # half a grey value: the finest wave turns by half a turn
            model(x + shift, sigma)
        changes[sigma] = (seen[1] - seen[0]).abs().max().item()
    return changes


def test_with_little_noise_the_network_sees_half_a_grey_value(change_seen):
    assert change_seen[0.0005] > 0.5


def test_with_much_noise_the_network_does_not_see_half_a_grey_value(change_seen):
    assert change_seen[1.0] < 0.05


# ------------------------------------------------------------------------------------- baselines


@pytest.fixture(scope="module")
def black_and_white():
    """Half black and half white in every pixel, no matter which: one bit each."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(4_000, *IMAGE_SHAPE, generator=generator) < 0.5).float()


@pytest.fixture(scope="module")
def bits(black_and_white):
    return likelihood.bits_of_independent_pixels(black_and_white, black_and_white[:50])


def test_bits_of_independent_pixels_are_given_for_each_image(bits):
    assert len(bits) == 50


def test_bits_of_independent_pixels_are_the_entropy(bits):
    assert torch.tensor(bits).mean() == pytest.approx(1.0, abs=0.1)


def test_bits_of_png_are_more_than_half_of_the_entropy(black_and_white):
    assert min(likelihood.bits_of_png(black_and_white[:3])) > 0.5


def test_bits_of_png_are_fewer_than_those_of_the_pixels(black_and_white):
    assert max(likelihood.bits_of_png(black_and_white[:3])) < 8


# -------------------------------------------------------------------------------- the experiment


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    few = {"updates": 2, "levels": 3, "n_fine": 2, "levels_fine": 4, "width": 8}
    return {**few, "root": tmp_path_factory.mktemp("likelihood")}


@pytest.fixture(scope="module")
def measured(lab, options):
    return likelihood.likelihood(lab, **options)


def test_likelihood_is_of_as_many_digits_as_the_laboratory_allows(measured):
    assert measured["n"] == 20


def test_a_digit_counts_once_in_the_histogram_of_bits(measured):
    assert sum(measured["histogram"]["png"]) <= 20


def test_all_numbers_of_the_likelihood_are_finite(measured, finite):
    assert finite(measured)


def test_the_likelihood_is_the_same_the_second_time(lab, options, measured):
    second = likelihood.likelihood(lab, **options)
    assert second["bits_per_dimension"] == measured["bits_per_dimension"]


def test_measured_bits_are_kept(lab, measured, cache):
    assert len(list(cache.rglob("bits_of_part/*/output.pkl"))) == 1
