"""Posterior sampling, inpainting and interpolation on Gaussians and mixtures that are known.

Bounds are five standard errors unless they say otherwise.
"""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch

import helpers
from dgm import inverse, samplers
from dgm.checks import IMAGE_SHAPE

# ------------------------------------------------------------------------ posterior sampling


@pytest.fixture(scope="module")
def posterior():
    """Prior N(m, tau^2), y = x + sigma n: the posterior is Gaussian.

    `weight` and `variance` are the sampler's own, by recursion:
    x - m = weight (y - m) + noise of this variance.
    """
    m, tau, sigma, levels = 0.3, 0.4, 0.5, 100
    generator = torch.Generator().manual_seed(0)
    shape = (200, *IMAGE_SHAPE)
    clean = m + tau * torch.randn(shape, generator=generator)
    noisy = clean + sigma * torch.randn(shape, generator=generator)

    def score(x, s, labels):
        return -(x - m) / (tau**2 + s**2)

    samples = inverse.posterior_sampling(score, noisy, sigma, levels=levels, generator=generator)

    weight, variance = 1.0, 0.0
    s = samplers.geometric_sigmas(sigma, 0.01, levels).double()
    for i, j in itertools.pairwise(s):
        shrink = 1 - (i**2 - j**2) / (tau**2 + i**2)
        weight, variance = weight * shrink, variance * shrink**2 + (i**2 - j**2) * j / i
    shrink = 1 - s[-1] ** 2 / (tau**2 + s[-1] ** 2)
    weight, variance = float(weight * shrink), float(variance * shrink**2)
    exact_weight = tau**2 / (tau**2 + sigma**2)
    exact_variance = exact_weight * sigma**2
    bias = (weight - exact_weight) ** 2 * (tau**2 + sigma**2)
    return SimpleNamespace(
        clean=clean,
        offset=noisy - m,
        samples=samples,
        tweedie=m + exact_weight * (noisy - m),
        residual=samples - m - weight * (noisy - m),
        weight=weight,
        variance=variance,
        exact_weight=exact_weight,
        exact_variance=exact_variance,
        error_ratio=(exact_variance + variance + bias) / exact_variance,
    )


def test_the_samplers_own_weight_is_nearly_that_of_the_posterior(posterior):
    assert posterior.weight == pytest.approx(posterior.exact_weight, rel=0.01)


def test_the_samplers_own_variance_is_nearly_that_of_the_posterior(posterior):
    assert posterior.variance == pytest.approx(posterior.exact_variance, rel=0.02)


def test_posterior_samples_have_the_mean_of_the_recursion(posterior):
    residual = posterior.residual
    assert abs(residual.mean()) < 5 * (posterior.variance / residual.numel()) ** 0.5


def test_posterior_samples_weigh_the_noisy_image_as_the_recursion_does(posterior):
    """The regression of the residual on the noisy image has no gradient left."""
    squares = posterior.offset.square().sum()
    weight = (posterior.residual * posterior.offset).sum() / squares
    assert abs(weight) < 5 * (posterior.variance / squares) ** 0.5


def test_posterior_samples_have_the_variance_of_the_recursion(posterior):
    residual, variance = posterior.residual, posterior.variance
    assert abs(residual.var() - variance) < 5 * variance * (2 / residual.numel()) ** 0.5


def test_posterior_samples_have_the_error_of_the_recursion(posterior):
    tweedie = (posterior.tweedie - posterior.clean).square().mean()
    error = (posterior.samples - posterior.clean).square().mean()
    assert error / tweedie == pytest.approx(posterior.error_ratio, rel=0.02)


def test_the_error_of_a_posterior_sample_is_twice_tweedies(posterior):
    assert posterior.error_ratio == pytest.approx(2, rel=0.01)


@pytest.fixture
def noisy(generator):
    return torch.rand(2, *IMAGE_SHAPE, generator=generator)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return helpers.ScoreNetwork(width=8)


def test_posterior_sampling_refuses_a_sigma_at_the_last_level(model, noisy):
    with pytest.raises(ValueError, match="sigma must be finite and greater than 0.01"):
        inverse.posterior_sampling(model, noisy, 0.01)


def test_posterior_sampling_refuses_what_are_no_images(model, noisy):
    with pytest.raises(ValueError, match="noisy must have shape"):
        inverse.posterior_sampling(model, noisy[0], 0.5)


def test_posterior_sampling_refuses_labels_above_nine(model, noisy):
    with pytest.raises(ValueError, match="labels"):
        inverse.posterior_sampling(model, noisy, 0.5, [1, 12])


def test_posterior_samples_come_without_gradients(model, noisy, generator):
    x = inverse.posterior_sampling(model, noisy, 0.5, [1, 2], levels=3, generator=generator)
    assert not x.requires_grad


# -------------------------------------------------------------------------------- inpainting

CORRELATION = 0.8
SPREAD = math.sqrt(1 - CORRELATION**2)


def pair_score(x, sigma, labels=None):
    """Of two correlated Gaussian pixels: given x_1, x_2 is N(correlation x_1, spread^2)."""
    covariance = torch.tensor([[1.0, CORRELATION], [CORRELATION, 1.0]])
    return -x @ torch.linalg.inv(covariance + sigma**2 * torch.eye(2))


INPAINTING = {
    "by replacement": lambda *arguments, **options: inverse.inpaint_by_replacement(
        *arguments, steps=100, **options
    ),
    "by guidance": lambda *arguments, **options: inverse.inpaint(*arguments, spread=1.0, **options),
}


@pytest.fixture(scope="module", params=INPAINTING)
def completed(request):
    """10,000 pairs whose first pixel is known to be 1.5."""
    images, known = torch.tensor([[1.5, 99.0]]).repeat(10_000, 1), torch.tensor([True, False])
    sigmas, generator = samplers.geometric_sigmas(10.0, 0.05, 60), torch.Generator().manual_seed(0)
    inpaint = INPAINTING[request.param]
    return inpaint(pair_score, None, sigmas, images, known, generator=generator)


def test_inpainting_keeps_what_is_known(completed):
    assert completed[:, 0].eq(1.5).all()


def test_missing_pixels_have_their_mean_given_the_known(completed):
    error = 5 * SPREAD / math.sqrt(len(completed))
    approximation = 0.05  # see the functions' docstrings
    mean = completed[:, 1].mean()
    assert abs(mean / (1.5 * CORRELATION) - 1) < error + approximation


def test_missing_pixels_have_their_width_given_the_known(completed):
    error = 5 / math.sqrt(2 * len(completed))
    assert abs(completed[:, 1].std() / SPREAD - 1) < error + 0.03


@pytest.mark.parametrize("inpaint", [inverse.inpaint, inverse.inpaint_by_replacement])
@pytest.mark.parametrize("mask", [torch.ones(3, dtype=torch.bool), torch.ones(2)])
def test_masks_that_do_not_fit_are_refused(inpaint, mask):
    with pytest.raises(ValueError, match="mask"):
        inpaint(pair_score, None, [1.0, 0.1], torch.zeros(4, 2), mask)


def test_a_missing_pixel_may_be_anything(generator):
    images, known = torch.tensor([[1.5, math.nan]]), torch.tensor([True, False])
    x = inverse.inpaint(pair_score, None, [1.0, 0.1], images, known, generator=generator)
    assert x.isfinite().all()


# ----------------------------------------------------------------------------- interpolation


@pytest.fixture(scope="module")
def round_trip(mixture):
    """(200 draws of the mixture, their latents, what Heun's method makes of these)."""
    generator = torch.Generator().manual_seed(0)
    options = {"dtype": torch.float64, "generator": generator}
    sigmas = samplers.karras_sigmas(20.0, 0.005, 100)
    x = torch.where(torch.rand(200, 1, **options) < 0.7, -1.0, 2.0)
    x = x + mixture.spread * torch.randn(200, 1, **options)
    latent = inverse.to_latent(mixture.score, None, sigmas, x)
    return x, latent, samplers.heun(mixture.score, None, sigmas, start=latent)


def test_latents_are_as_wide_as_the_noise(round_trip):
    _, latent, _ = round_trip
    assert abs(latent.std() / 20 - 1) < 0.3


def test_a_latent_leads_back_to_the_image(round_trip):
    x, _, back = round_trip
    assert (back - x).abs().max() < 0.02


@pytest.fixture
def ends(generator):
    return torch.randn(2, 5, 1, 28, 28, generator=generator)


@pytest.mark.parametrize("end", [0, 1])
def test_the_great_circle_leads_from_one_end_to_the_other(end, ends):
    assert torch.allclose(inverse.spherical(*ends, float(end)), ends[end], atol=1e-5)


def test_the_great_circle_keeps_the_length(ends):
    middle = inverse.spherical(*ends, 0.5).flatten(1).norm(dim=1)
    lengths = ends.flatten(2).norm(dim=2)
    assert torch.allclose(middle, lengths.mean(0), rtol=0.01)
