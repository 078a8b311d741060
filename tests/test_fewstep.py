"""The noise levels' rules against published numbers; the samplers on a mixture of two Gaussians, whose score is known."""

import functools
import itertools
import math

import pytest
import torch

import helpers
import samplers

SHARES, MEANS, SPREAD = torch.tensor([0.7, 0.3], dtype=torch.float64), torch.tensor([-1.0, 2.0], dtype=torch.float64), 0.3
SOLVERS = {"heun": samplers.heun, "dpm_solver": samplers.dpm_solver}
SAMPLERS = {**SOLVERS, "heun with churn": functools.partial(samplers.heun, churn=40.0),
            "consistent": samplers.consistent_annealed, "predictor_corrector": samplers.predictor_corrector}  # fmt: skip
LEVELS = {"consistent": 400, "predictor_corrector": 400}  # first order: more levels for the same accuracy


def mixture_score(x, sigma, labels=None):
    """Of a one-dimensional mixture, x [B, 1]."""
    variance = SPREAD**2 + sigma.double() ** 2
    log_p = SHARES.log() - (x - MEANS).square() / (2 * variance)
    return (log_p.softmax(1) * (MEANS - x)).sum(1, keepdim=True) / variance


def test_the_corrector_takes_a_step_of_the_size_asked_for(generator):
    seen = []

    def score(x, sigma, labels):
        seen.append(x.clone())
        return torch.ones_like(x)  # as long as the noise: |1| = |z| = 28 on average

    snr, n = 0.16, 500 * 784
    samplers.predictor_corrector(score, None, torch.tensor([2.0, 1.0]), n=500, snr=snr, guidance=1, generator=generator)
    _, before, after = seen  # predictor's slope, corrector's slope, the last denoising
    step, epsilon = after - before, 2 * snr**2
    assert step.mean().item() == pytest.approx(epsilon, abs=5 * math.sqrt(2 * epsilon / n))
    assert step.var().item() == pytest.approx(2 * epsilon, rel=5 * math.sqrt(2 / n) + 2e-3)  # |z| is 28 but for a thousandth


def test_noise_levels_are_those_of_song_and_ermon_2020():
    ratio = samplers.level_ratio(784)
    assert ratio == pytest.approx(1.0820, abs=5e-5) and samplers.level_overlap(ratio, 784) == pytest.approx(0.5)
    for first, levels in ((10.0, 88.7), (15.0, 93.8), (20.0, 97.5)):
        assert samplers.number_of_levels(first, 0.01, ratio) == pytest.approx(levels, abs=0.06)
    published = 5_000 ** (1 / 231)  # CIFAR-10: 232 levels from 50 to 0.01
    assert samplers.level_overlap(published, 3 * 32 * 32) == pytest.approx(0.5, abs=0.07)
    assert helpers.annealed_step(helpers.geometric_sigmas(15.0, 0.01, 94), 5) == pytest.approx(1.111e-5, rel=3e-3)
    assert helpers.annealed_step(helpers.geometric_sigmas(50.0, 0.01, 232), 5) == pytest.approx(6.2e-6, rel=5e-3)


def test_largest_distance_does_not_depend_on_the_blocks(generator):
    images = torch.rand(50, 1, 28, 28, generator=generator)
    expected = max((a - b).norm().item() for a, b in itertools.combinations(images, 2))
    assert samplers.largest_distance(images, 7) == pytest.approx(expected, rel=1e-5)
    assert samplers.largest_distance(torch.eye(3).view(3, 1, 1, 3)) == pytest.approx(math.sqrt(2))


def test_consistent_annealed_sampling_is_consistent(generator):
    """Towards a single point each level has exactly its noise, whatever eta; with eta 1 nothing random is added."""
    sigmas, n = helpers.geometric_sigmas(2.0, 0.5, 6), 50_000
    start = 2 * torch.randn(n, 1, generator=generator)

    def score(x, sigma, labels=None):
        return -x / sigma**2

    def before_the_last_step(x, sigma, labels=None):
        seen.append(x)
        return score(x, sigma)

    for eta in (1.0, 1.5, 3.0):
        seen = []
        samplers.consistent_annealed(before_the_last_step, None, sigmas, eta=eta, start=start, generator=generator)
        for x, sigma in zip(seen, sigmas, strict=True):
            assert abs(x.std() / sigma - 1) < 5 / math.sqrt(2 * n)
    with pytest.raises(ValueError, match="eta"):
        samplers.consistent_annealed(score, None, sigmas, eta=0.9, start=start)


@pytest.mark.parametrize("name", SAMPLERS)
def test_recovers_a_mixture(name, generator):
    n = 20_000
    start = 20 * torch.randn(n, 1, dtype=torch.float64, generator=generator)
    x = SAMPLERS[name](mixture_score, None, samplers.karras_sigmas(20.0, 0.005, LEVELS.get(name, 60)), start=start,
                       **({} if name in SOLVERS else {"generator": generator}))[:, 0]  # fmt: skip
    first = x < 0.5
    assert abs(first.double().mean() - 0.7) < 5 * math.sqrt(0.7 * 0.3 / n) + 0.01  # the start's mean is off by 1/20
    for part, mean in ((x[first], -1.0), (x[~first], 2.0)):
        assert abs(part.mean() - mean) < 5 * SPREAD / math.sqrt(len(part)) + 0.005
        assert abs(part.std() / SPREAD - 1) < 5 / math.sqrt(2 * len(part)) + 0.02


@pytest.mark.parametrize("name", SOLVERS)
def test_converges_in_second_order(name, generator):
    """For one Gaussian the ODE keeps x / sqrt(tau^2 + sigma^2) as it is; halving the steps quarters the error."""
    tau, start = 0.5, torch.tensor([[1.0], [-2.0]], dtype=torch.float64)

    def score(x, sigma, labels=None):
        return -x / (tau**2 + sigma.double() ** 2)

    errors = []
    for levels in (33, 65, 129):
        sigmas = samplers.karras_sigmas(2.0, 0.2, levels)
        last = sigmas[-1].double()
        exact_at_last = start * torch.sqrt((tau**2 + last**2) / (tau**2 + sigmas[0].double() ** 2))
        exact = exact_at_last + last**2 * score(exact_at_last, last)  # the last step is Tweedie's in every case
        errors.append((SOLVERS[name](score, None, sigmas, start=start) - exact).abs().max().item())
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(1.8 < order < 2.3 for order in orders), (errors, orders)


@pytest.mark.parametrize(("name", "evaluations"), [
    ("heun", 13), ("dpm_solver", 7), ("heun with churn", 13), ("consistent", 7), ("predictor_corrector", 13)])  # fmt: skip
def test_number_of_evaluations_and_the_network(name, evaluations, generator):
    calls = []

    def counting(x, sigma, labels):
        calls.append(len(x))
        return -x / (1 + sigma**2)

    labels = torch.arange(10)
    x = SAMPLERS[name](counting, labels, samplers.karras_sigmas(levels=7), guidance=1, generator=generator)
    assert x.shape == (10, 1, 28, 28) and calls == [10] * evaluations
    calls.clear()
    SAMPLERS[name](counting, labels, samplers.karras_sigmas(levels=7), generator=generator)
    assert calls == [20] * evaluations  # guidance: both scores in one call


@pytest.mark.parametrize("name", SAMPLERS)
def test_refuses_what_it_cannot_use(name):
    model = helpers.ScoreNetwork(width=8)
    with pytest.raises(ValueError, match="descend"):
        SAMPLERS[name](model, torch.tensor([1]), [0.1, 1.0])
    with pytest.raises(ValueError, match="0..9"):
        SAMPLERS[name](model, torch.tensor([10]), [1.0, 0.1])
    with pytest.raises(ValueError, match="say how many"):
        SAMPLERS[name](model, None, [1.0, 0.1])
    with pytest.raises(FloatingPointError, match="diverged"):
        SAMPLERS[name](lambda x, sigma, labels: x / 0, None, [1.0, 0.1], n=1)


def test_likelihood_of_a_gaussian_with_784_dimensions(generator):
    """Within 0.01 bits a dimension, although the deviations span a factor of 30."""
    deviation = torch.logspace(-2, -0.5, 784, dtype=torch.float64).view(1, 28, 28)
    sigmas = samplers.geometric_sigmas(20.0, 0.001, 60)

    def score(x, sigma, labels=None):
        return -(x - helpers.PIXEL_MEAN) / (deviation**2 + sigma**2)

    x = helpers.PIXEL_MEAN + deviation * torch.randn(8, 1, 28, 28, dtype=torch.float64, generator=generator)
    variance = deviation**2 + float(sigmas[-1]) ** 2
    exact = (-(x - helpers.PIXEL_MEAN) ** 2 / (2 * variance) - (2 * math.pi * variance).log() / 2).flatten(1).sum(1)
    found = samplers.log_likelihood(score, x, sigmas=sigmas, generator=generator)
    bits = samplers.bits_per_dimension(found) - samplers.bits_per_dimension(exact)
    assert bits.abs().max() < 0.01
    assert samplers.bits_per_dimension(torch.tensor(0.0)) == 8  # the uniform density on [0, 1] says nothing


def test_hutchinsons_estimate_of_the_divergence_is_right_on_average(generator):
    """A score with a Jacobian that is not diagonal: one path's estimate scatters, the mean of many does not."""
    matrix = torch.eye(4, dtype=torch.float64) + 0.3 * torch.ones(4, 4, dtype=torch.float64)
    covariance = torch.linalg.inv(matrix) / 10

    def score(x, sigma, labels=None):
        return -(x.flatten(1) @ torch.linalg.inv(covariance + sigma**2 * torch.eye(4))).view_as(x)

    n, last = 400, 0.01
    x = torch.ones(n, 1, 2, 2, dtype=torch.float64) * 0.1
    found = samplers.log_likelihood(score, x, sigmas=samplers.karras_sigmas(20.0, last, 120), generator=generator)
    normal = torch.distributions.MultivariateNormal(torch.zeros(4, dtype=torch.float64), covariance + last**2 * torch.eye(4))
    error = found.std() / math.sqrt(n)
    assert 0 < error < 0.1 and abs(found.mean() - normal.log_prob(x[0].flatten())) < 5 * error + 0.02


def test_latent_leads_back_to_the_image(generator):
    sigmas = samplers.karras_sigmas(20.0, 0.005, 100)
    x = torch.where(torch.rand(200, 1, dtype=torch.float64, generator=generator) < 0.7, -1.0, 2.0)
    x = x + SPREAD * torch.randn(200, 1, dtype=torch.float64, generator=generator)
    latent = samplers.to_latent(mixture_score, None, sigmas, x)
    assert abs(latent.std() / 20 - 1) < 0.3  # as wide as the noise
    back = samplers.heun(mixture_score, None, sigmas, start=latent)
    assert (back - x).abs().max() < 0.02


def test_great_circle_keeps_the_length(generator):
    a, b = torch.randn(2, 5, 1, 28, 28, generator=generator)
    assert torch.allclose(samplers.spherical(a, b, 0.0), a, atol=1e-5)
    assert torch.allclose(samplers.spherical(a, b, 1.0), b, atol=1e-5)
    middle = samplers.spherical(a, b, 0.5).flatten(1).norm(dim=1)
    assert torch.allclose(middle, (a.flatten(1).norm(dim=1) + b.flatten(1).norm(dim=1)) / 2, rtol=0.01)


def test_inpainting_samples_what_is_missing_given_what_is_known(generator):
    """Two correlated Gaussian pixels: given the first, the second is N(correlation x, 1 - correlation^2)."""
    correlation, n = 0.8, 10_000
    covariance = torch.tensor([[1.0, correlation], [correlation, 1.0]])

    def score(x, sigma, labels=None):
        return -x @ torch.linalg.inv(covariance + sigma**2 * torch.eye(2))

    images, known = torch.tensor([[1.5, 99.0]]).repeat(n, 1), torch.tensor([True, False])
    sigmas = helpers.geometric_sigmas(10.0, 0.05, 60)
    spread = math.sqrt(1 - correlation**2)
    for x in (samplers.inpaint_by_replacement(score, None, sigmas, images, known, steps=100, generator=generator),
              samplers.inpaint(score, None, sigmas, images, known, spread=1.0, generator=generator)):  # fmt: skip
        assert x[:, 0].eq(1.5).all()
        assert abs(x[:, 1].mean() / (1.5 * correlation) - 1) < 5 * spread / math.sqrt(n) + 0.05  # see the docstring
        assert abs(x[:, 1].std() / spread - 1) < 5 / math.sqrt(2 * n) + 0.03
    for mask in (torch.ones(3, dtype=torch.bool), torch.ones(2)):
        with pytest.raises(ValueError, match="mask"):
            samplers.inpaint(score, None, [1.0, 0.1], images, mask)
