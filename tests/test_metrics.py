"""Evaluation metrics against closed forms and brute force; loading of the classifier."""

import numpy as np
import pytest
import torch

from dgm import metrics, runs

# -------------------------------------------------------------------------- Fréchet distance

MEAN, SCALE = np.array([1.0, -2.0, 0.5]), np.array([1.0, 2.0, 0.5])


@pytest.fixture(scope="module")
def gaussians():
    rng = np.random.default_rng(0)
    n, d = 200_000, 3
    return rng.normal(size=(n, d)), MEAN + SCALE * rng.normal(size=(n, d))


def test_frechet_distance_of_two_gaussians(gaussians):
    expected = (MEAN**2).sum() + ((SCALE - 1) ** 2).sum()  # diagonal covariances commute
    assert metrics.frechet_distance(*gaussians) == pytest.approx(expected, rel=0.02)


def test_frechet_distance_of_a_set_to_itself_is_zero(gaussians):
    a, _ = gaussians
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_is_symmetric(gaussians):
    a, b = gaussians
    there, back = metrics.frechet_distance(a, b), metrics.frechet_distance(b, a)
    assert there == pytest.approx(back, rel=1e-6)


def test_frechet_distance_of_correlated_gaussians():
    rng = np.random.default_rng(1)
    root = np.array([[1.0, 0.0], [0.8, 0.6]])
    a, b = rng.normal(size=(200_000, 2)), rng.normal(size=(200_000, 2)) @ root.T
    # B has eigenvalues 1.8 and 0.2, A is the identity
    expected = (np.sqrt(1.8) - 1) ** 2 + (np.sqrt(0.2) - 1) ** 2
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=0.03)


def test_frechet_distance_agrees_with_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(500, 20)), rng.normal(size=(400, 20)) @ rng.normal(size=(20, 20)) + 1
    moments = [torch.tensor(m) for x in (a, b) for m in (x.mean(0), np.cov(x, rowvar=False))]
    expected = fid._compute_fid(*moments).item()
    assert metrics.frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


# ------------------------------------------------------------------------ precision and recall


@pytest.fixture
def cluster(generator):
    return torch.randn(300, 4, generator=generator)


def test_a_set_covers_itself(cluster):
    assert metrics.precision_recall(cluster, cluster) == (1, 1)


def test_sets_far_apart_do_not_cover_each_other(cluster):
    assert metrics.precision_recall(cluster, cluster + 100) == (0, 0)


def test_one_cluster_of_two_has_half_the_recall(cluster):
    both = torch.cat([cluster, cluster + 100])
    assert metrics.precision_recall(real=both, generated=cluster) == (1, 0.5)


def test_one_cluster_too_many_has_half_the_precision(cluster):
    both = torch.cat([cluster, cluster + 100])
    assert metrics.precision_recall(real=cluster, generated=both) == (0.5, 1)


def test_precision_and_recall_against_brute_force(generator):
    real = torch.randn(60, 3, generator=generator)
    generated = 0.5 + torch.randn(70, 3, generator=generator)

    def distance(p, q):
        return ((p - q) ** 2).sum().sqrt().item()

    def share(points, others):
        radii = [sorted(distance(o, q) for q in others)[3] for o in others]  # [0] is itself
        balls = list(zip(others, radii, strict=True))
        inside = [any(distance(p, o) <= radius for o, radius in balls) for p in points]
        return sum(inside) / len(points)

    expected = share(generated, real), share(real, generated)
    assert metrics.precision_recall(real, generated) == pytest.approx(expected)


# --------------------------------------------------------------------------------- all at once


@pytest.fixture
def found(monkeypatch, generator):
    """Metrics with half of the real features far from any sample, and 70 % confident samples."""
    one = torch.randn(50, 128, generator=generator)
    samples, real = torch.cat([one, one + 1e-3]), torch.cat([one, one + 100])
    probabilities = torch.eye(10, dtype=torch.double)[torch.arange(100) % 10]
    probabilities[:30] = 0.1 + 0.6 * probabilities[:30]  # 70 % sure
    monkeypatch.setattr(metrics, "classifier_outputs", lambda *_: (samples, probabilities))
    return metrics.evaluate_samples(None, samples, real)


def test_precision_is_of_the_samples(found):
    assert found["precision"] == 1


def test_recall_is_of_the_real(found):
    assert found["recall"] == 0.5


def test_confident_samples_have_a_probability_above_nine_in_ten(found):
    assert found["share_confident"] == pytest.approx(0.7)


@pytest.mark.parametrize("digit", ["rarest_digit", "commonest_digit"])
def test_shares_of_digits_drawn_in_turn_are_equal(digit, found):
    assert found[digit] == pytest.approx(0.1)


def test_metrics_are_summed_up_in_one_line(found):
    line = metrics.summary_line({**found, "n": 500, "frechet_distance": 12.34})
    assert line == (
        "Fréchet distance    12.3, precision 1.00, recall 0.50,  70% confident, "
        "rarest digit 10.0%, most frequent 10.0%"
    )


@pytest.fixture(scope="module")
def of_noise():
    """Metrics of uniform noise by the committed classifier."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(200, 1, 28, 28, generator=generator)
    real = torch.randn(300, 128, generator=generator)
    return metrics.evaluate_samples(metrics.load_classifier("cpu"), images, real)


def test_the_rarest_digit_has_at_most_a_tenth(of_noise):
    assert 0 <= of_noise["rarest_digit"] <= 0.1


def test_the_commonest_digit_has_at_least_a_tenth(of_noise):
    assert 0.1 <= of_noise["commonest_digit"] <= 1


def test_metrics_name_the_number_of_samples(of_noise):
    assert of_noise["n"] == 200


def test_the_summary_of_few_samples_leaves_out_the_distance(of_noise):
    assert metrics.summary_line(of_noise).startswith("precision")


# ------------------------------------------------------------------------------------- pixels


@pytest.fixture
def neighbours(generator):
    """(distances, indices) of two copies, the second with one pixel changed by a half."""
    training = torch.rand(50, 1, 28, 28, generator=generator)
    copies = training[[7, 3]].clone()
    copies[1, 0, 0, 0] += 0.5
    return metrics.nearest_neighbours(copies, training)


def test_nearest_neighbours_find_the_copy(neighbours):
    assert neighbours[1].tolist() == [7, 3]


def test_nearest_neighbours_tell_the_distance(neighbours):
    assert neighbours[0].tolist() == pytest.approx([0, 0.5], abs=1e-2)


@pytest.mark.parametrize(("sigma", "decibel"), [(0.1, 20.0), (0.25, 12.04), (0.5, 6.02)])
def test_psnr_of_known_noise(sigma, decibel, generator):
    clean = torch.rand(500, 1, 28, 28, generator=generator)
    noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
    assert metrics.psnr(noisy, clean) == pytest.approx(decibel, abs=0.05)


@pytest.fixture
def quality(generator):
    """Of two images, one off by 0.1 (20 dB), the other by 0.01 (40 dB)."""
    clean = torch.rand(2, 1, 28, 28, generator=generator)
    return metrics.pixel_quality(clean + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1), clean)


def test_psnr_of_each_image_is_averaged_in_decibel(quality):
    assert quality["psnr_each"] == pytest.approx((20 + 40) / 2, abs=1e-2)


def test_psnr_of_the_pooled_error_is_ruled_by_the_worse_image(quality):
    assert quality["psnr"] == pytest.approx(-10 * np.log10((0.01 + 0.0001) / 2), abs=1e-2)


def test_ssim_of_an_image_with_itself_is_one(generator):
    clean = torch.rand(2, 1, 28, 28, generator=generator)
    assert metrics.pixel_quality(clean, clean)["ssim"] == pytest.approx(1)


def test_ssim_of_two_flat_images_is_its_luminance_term():
    a, b, c1 = 0.3, 0.6, 0.01**2
    flat = torch.full((1, 1, 28, 28), a), torch.full((1, 1, 28, 28), b)
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    assert metrics.pixel_quality(*flat)["ssim"] == pytest.approx(expected, rel=1e-4)


def test_auroc_of_two_gaussians(generator):
    n, d = 20_000, 1.0
    inside = torch.randn(n, generator=generator)
    outside = d + torch.randn(n, generator=generator)
    expected = torch.special.ndtr(torch.tensor(d / 2**0.5)).item()
    # an upper bound of the standard error for equal sets (Birnbaum & Klose 1957)
    error = (1 / 12 / n * 2) ** 0.5
    assert metrics.auroc(inside, outside) == pytest.approx(expected, abs=5 * error)


def test_auroc_of_a_set_against_itself_is_a_half(generator):
    inside = torch.randn(20_000, generator=generator)
    assert metrics.auroc(inside, inside) == 0.5


def test_auroc_of_scores_all_higher_outside_is_one():
    assert metrics.auroc(torch.zeros(5), torch.ones(7)) == 1


def test_auroc_of_scores_all_lower_outside_is_zero():
    assert metrics.auroc(torch.ones(5), torch.zeros(7)) == 0


# ------------------------------------------------------------------------- loading a classifier


def test_loading_the_classifier_draws_nothing_from_the_run():
    before = torch.manual_seed(0).get_state()
    metrics.load_classifier("cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_classifier_is_loaded_in_evaluation_mode():
    assert not metrics.load_classifier("cpu").training


def test_a_classifier_of_another_shape_is_refused(tmp_path):
    contents = {"kind": "classifier", "weights": {"other": torch.zeros(1)}}
    runs.save_atomically(contents, tmp_path / "classifier.pt")
    with pytest.raises(ValueError, match="does not fit the DigitClassifier"):
        metrics.load_classifier("cpu", tmp_path)


def test_a_missing_classifier_is_told_with_what_to_do(tmp_path):
    message = r"evaluates samples: put .*checkpoints/ here, or train one"
    with pytest.raises(FileNotFoundError, match=message):
        metrics.load_classifier("cpu", tmp_path)
