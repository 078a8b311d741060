"""experiments/denoising.py: denoisers and posterior samples, against closed forms."""

import math

import numpy as np
import pytest
import torch

from dgm.checks import IMAGE_SHAPE
from experiments import denoising

# ------------------------------------------------------------------------------------ denoisers


@pytest.fixture(scope="module")
def measured(lab):
    return denoising.denoising(lab, n=4)


def test_ten_denoisers_are_measured(measured):
    assert len(measured["methods"]) == 10


def test_each_denoiser_is_measured_at_four_noise_levels(measured):
    assert all(len(levels) == 4 for levels in measured["methods"].values())


def test_noise_alone_has_the_psnr_of_its_size(measured):
    found = measured["methods"]["noisy"]["0.5"]["psnr"]
    assert found == pytest.approx(20 * math.log10(2), abs=0.3)


def test_all_numbers_of_denoising_are_finite(measured, finite):
    assert finite(measured)


def test_a_fitted_gaussian_gives_the_posterior_mean_in_closed_form(generator):
    class Gaussian:
        location_ = np.full(784, 0.25)
        covariance_ = np.diag(np.linspace(0.01, 1, 784))

    noisy = torch.rand(3, *IMAGE_SHAPE, generator=generator)
    variance = torch.linspace(0.01, 1, 784)
    shrink = (variance / (variance + 0.25)).view(IMAGE_SHAPE)
    found = denoising.gaussian_posterior_mean(noisy, 0.5, Gaussian())
    assert torch.allclose(found, 0.25 + (noisy - 0.25) * shrink, atol=1e-5)


def test_the_memoriser_weighs_the_training_images_by_bayes_rule(generator):
    training = torch.rand(5, *IMAGE_SHAPE, generator=generator)
    noisy, sigma = torch.rand(2, *IMAGE_SHAPE, generator=generator), 5.0
    for y, mean in zip(noisy, denoising.kernel_posterior_mean(noisy, sigma, training), strict=True):
        distances = [float(((y - x) ** 2).sum()) for x in training]
        weights = np.array([math.exp(-d / (2 * sigma**2)) for d in distances])
        weights /= weights.sum()
        expected = sum(w * x for w, x in zip(weights, training, strict=True))
        assert torch.allclose(mean, expected.float(), atol=1e-5)


def test_with_little_noise_the_memoriser_gives_the_nearest_training_image(generator):
    training = torch.rand(5, *IMAGE_SHAPE, generator=generator)
    nearest = denoising.kernel_posterior_mean(training + 0.01, 0.05, training)
    assert torch.allclose(nearest, training, atol=1e-5)


def test_tuning_takes_the_best_setting():
    clean = torch.full((3, *IMAGE_SHAPE), 0.5)
    choices = [(lambda x, scale: scale * x, {"scale": scale}) for scale in (0.2, 1.0, 2.0)]
    assert denoising.tune(choices, clean / 2, clean)[1] == {"scale": 2.0}


# ---------------------------------------------------------------------------- posterior samples

M, TAU = 0.4, 0.3
BIAS = 0.016  # relative, of the variance of samples, by 100 levels


class Exact:
    """The exact score of images from N(M, TAU^2)."""

    def __call__(self, x, sigma, labels=None):
        return -(x - M) / (TAU**2 + sigma**2)

    def denoise(self, x, sigma):
        return x + sigma**2 * self(x, sigma)


@pytest.fixture(scope="module")
def exact(lab):
    """What posterior samples measure where the score is exact."""
    generator = torch.Generator().manual_seed(0)
    images = M + TAU * torch.randn(60, *IMAGE_SHAPE, generator=generator)
    gaussian = lab._replace(digits=lab.digits._replace(test_images=images), max_samples=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denoising, "load_pretrained", lambda *_: (Exact(), {}))
        return denoising.posterior(gaussian, most_samples=4, sigmas=(0.5,))["sigmas"]["0.5"]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_mean_of_k_posterior_samples_errs_by_one_and_1_over_k_times_as_much(exact, k):
    found = exact["ratios"][str(k)]
    tolerance = 5 * found["standard_error"] + BIAS / k
    assert found["ratio"] == pytest.approx(1 + 1 / k, abs=tolerance)


def test_one_posterior_sample_is_3_db_worse_than_the_posterior_mean(exact):
    assert exact["one_sample_against_tweedie_db"] == pytest.approx(-3.01, abs=0.1)


def test_the_mean_of_all_posterior_samples_errs_as_much_as_the_posterior_mean(exact):
    found = exact["mean_of_all_against_tweedie"]
    assert found["ratio"] == pytest.approx(1, abs=5 * found["standard_error"] + BIAS)


def test_the_variance_of_posterior_samples_is_the_error_of_their_mean(exact):
    found = exact["variance_over_error_of_the_mean"]
    assert found["ratio"] == pytest.approx(1, abs=5 * found["standard_error"] + BIAS)


@pytest.fixture(scope="module")
def posterior(lab):
    return denoising.posterior(lab, n=4, most_samples=2, levels=5, sigmas=(0.5,))


def test_posterior_samples_are_compared_with_theory(posterior):
    assert posterior["sigmas"]["0.5"]["ratios"]["2"]["theory"] == 1.5


def test_all_numbers_of_posterior_samples_are_finite(posterior, finite):
    assert finite(posterior)


@pytest.fixture(scope="module")
def ratios():
    """Ratios of two means, 2 in truth, each of 400 pairs."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        b = rng.exponential(size=400)
        a = 2 * b + rng.normal(size=400)
        found.append(denoising.ratio_of_means(torch.tensor(a), torch.tensor(b)))
    return found


def test_a_ratio_of_means_is_right_on_average(ratios):
    assert np.mean([r["ratio"] for r in ratios]) == pytest.approx(2, abs=0.02)


def test_the_standard_error_of_a_ratio_is_its_spread(ratios):
    spread = np.std([r["ratio"] for r in ratios])
    assert spread == pytest.approx(np.mean([r["standard_error"] for r in ratios]), rel=0.2)
