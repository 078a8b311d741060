"""The likelihood of Gaussians whose density is known."""

import math

import pytest
import torch

from dgm import likelihood, samplers
from dgm.checks import PIXEL_MEAN


def test_likelihood_of_a_gaussian_with_784_dimensions(generator):
    """Within 0.01 bits a dimension, although the deviations span a factor of 30."""
    deviation = torch.logspace(-2, -0.5, 784, dtype=torch.float64).view(1, 28, 28)
    sigmas = samplers.geometric_sigmas(20.0, 0.001, 60)

    def score(x, sigma, labels=None):
        return -(x - PIXEL_MEAN) / (deviation**2 + sigma**2)

    noise = torch.randn(8, 1, 28, 28, dtype=torch.float64, generator=generator)
    x = PIXEL_MEAN + deviation * noise
    variance = deviation**2 + float(sigmas[-1]) ** 2
    terms = -((x - PIXEL_MEAN) ** 2) / (2 * variance) - (2 * math.pi * variance).log() / 2
    exact = terms.flatten(1).sum(1)
    found = likelihood.log_likelihood(score, x, sigmas=sigmas, generator=generator)
    bits = likelihood.bits_per_dimension(found) - likelihood.bits_per_dimension(exact)
    assert bits.abs().max() < 0.01


def test_the_uniform_density_costs_eight_bits_per_dimension():
    assert likelihood.bits_per_dimension(torch.tensor(0.0)) == 8


@pytest.fixture(scope="module")
def estimates():
    """(400 estimates of one log density under a score of full Jacobian, that log density)."""
    matrix = torch.eye(4, dtype=torch.float64) + 0.3 * torch.ones(4, 4, dtype=torch.float64)
    covariance = torch.linalg.inv(matrix) / 10
    n, last, generator = 400, 0.01, torch.Generator().manual_seed(0)

    def score(x, sigma, labels=None):
        precision = torch.linalg.inv(covariance + sigma**2 * torch.eye(4))
        return -(x.flatten(1) @ precision).view_as(x)

    x = torch.ones(n, 1, 2, 2, dtype=torch.float64) * 0.1
    sigmas = samplers.karras_sigmas(20.0, last, 120)
    found = likelihood.log_likelihood(score, x, sigmas=sigmas, generator=generator)
    mean, blurred = torch.zeros(4, dtype=torch.float64), covariance + last**2 * torch.eye(4)
    normal = torch.distributions.MultivariateNormal(mean, blurred)
    return found, normal.log_prob(x[0].flatten())


def standard_error(found):
    return found.std() / math.sqrt(len(found))


def test_one_estimate_of_the_divergence_scatters(estimates):
    assert standard_error(estimates[0]) > 0


def test_the_mean_of_the_estimates_is_known_well(estimates):
    assert standard_error(estimates[0]) < 0.1


def test_hutchinsons_estimate_of_the_divergence_is_right_on_average(estimates):
    found, exact = estimates
    assert abs(found.mean() - exact) < 5 * standard_error(found) + 0.02
