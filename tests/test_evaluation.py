"""The judge against closed forms."""

import numpy as np
import pytest
import torch

import evaluation
import helpers


def test_frechet_distance_of_two_gaussians():
    rng = np.random.default_rng(0)
    n, d = 200_000, 3
    mean, scale = np.array([1.0, -2.0, 0.5]), np.array([1.0, 2.0, 0.5])
    a, b = rng.normal(size=(n, d)), mean + scale * rng.normal(size=(n, d))
    expected = (mean**2).sum() + ((scale - 1) ** 2).sum()  # diagonal covariances commute
    assert evaluation.frechet_distance(a, b) == pytest.approx(expected, rel=0.02)
    assert evaluation.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert evaluation.frechet_distance(a, b) == pytest.approx(evaluation.frechet_distance(b, a), rel=1e-6)


def test_frechet_distance_of_correlated_gaussians():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(200_000, 2)), rng.normal(size=(200_000, 2)) @ np.array([[1.0, 0.0], [0.8, 0.6]]).T
    # B has eigenvalues 1.8 and 0.2, A is the identity
    expected = (np.sqrt(1.8) - 1) ** 2 + (np.sqrt(0.2) - 1) ** 2
    assert evaluation.frechet_distance(a, b) == pytest.approx(expected, rel=0.03)


def test_frechet_distance_agrees_with_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(500, 20)), rng.normal(size=(400, 20)) @ rng.normal(size=(20, 20)) + 1
    moments = [torch.tensor(m) for x in (a, b) for m in (x.mean(0), np.cov(x, rowvar=False))]
    assert evaluation.frechet_distance(a, b) == pytest.approx(fid._compute_fid(*moments).item(), rel=1e-6)


def test_precision_and_recall_of_known_sets(generator):
    a = torch.randn(300, 4, generator=generator)
    assert evaluation.precision_recall(a, a) == (1, 1)
    assert evaluation.precision_recall(a, a + 100) == (0, 0)
    both = torch.cat([a, a + 100])  # real digits in two clusters, generated ones in the first only
    assert evaluation.precision_recall(both, a) == (1, 0.5)
    assert evaluation.precision_recall(a, both) == (0.5, 1)


def test_precision_and_recall_against_brute_force(generator):
    real, generated = torch.randn(60, 3, generator=generator), 0.5 + torch.randn(70, 3, generator=generator)

    def share(points, others):
        radii = [sorted(((o - q) ** 2).sum().sqrt().item() for q in others)[3] for o in others]  # [0] is itself
        inside = [any(((p - o) ** 2).sum().sqrt().item() <= r for o, r in zip(others, radii, strict=True)) for p in points]
        return sum(inside) / len(points)

    expected = share(generated, real), share(real, generated)
    assert evaluation.precision_recall(real, generated) == pytest.approx(expected)


def test_nearest_neighbours_find_the_copy(generator):
    training = torch.rand(50, 1, 28, 28, generator=generator)
    copies = training[[7, 3]].clone()
    copies[1, 0, 0, 0] += 0.5
    distance, index = evaluation.nearest_neighbours(copies, training)
    assert index.tolist() == [7, 3] and distance.tolist() == pytest.approx([0, 0.5], abs=1e-2)


@pytest.mark.parametrize(("sigma", "decibel"), [(0.1, 20.0), (0.25, 12.04), (0.5, 6.02)])
def test_psnr_of_known_noise(sigma, decibel, generator):
    clean = torch.rand(500, 1, 28, 28, generator=generator)
    noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
    assert evaluation.psnr(noisy, clean) == pytest.approx(decibel, abs=0.05)


def test_shift_moves_without_loss(generator):
    images = torch.zeros(200, 1, 28, 28)
    images[:, 0, 14, 14] = 1
    moved = evaluation.shift(images, 2, generator)
    assert torch.equal(moved.sum((1, 2, 3)), torch.ones(200))
    y, x = moved[:, 0].flatten(1).argmax(1) // 28 - 14, moved[:, 0].flatten(1).argmax(1) % 28 - 14
    assert set(y.tolist()) == set(x.tolist()) == {-2, -1, 0, 1, 2}


def test_judgement_counts_shares(generator):
    judge = evaluation.load_classifier("cpu")
    images = torch.rand(200, 1, 28, 28, generator=generator)
    real = torch.randn(300, 128, generator=generator)
    judgement = evaluation.judge_samples(judge, images, real)
    assert 0 <= judgement["rarest_digit"] <= 0.1 <= judgement["commonest_digit"] <= 1
    assert "Frechet distance" in evaluation.judgement_line(judgement)


def test_pixel_quality_of_known_errors(generator):
    clean = torch.rand(2, 1, 28, 28, generator=generator)
    assert evaluation.pixel_quality(clean, clean)["ssim"] == pytest.approx(1)
    shifted = clean + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    quality = evaluation.pixel_quality(shifted, clean)
    assert quality["psnr_each"] == pytest.approx((20 + 40) / 2, abs=1e-2)
    assert quality["psnr"] == pytest.approx(-10 * np.log10((0.01 + 0.0001) / 2), abs=1e-2)  # pooled: the worse one rules


def test_ssim_of_two_flat_images_is_its_luminance_term():
    a, b, c1 = 0.3, 0.6, 0.01**2
    flat = torch.full((1, 1, 28, 28), a), torch.full((1, 1, 28, 28), b)
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    assert evaluation.pixel_quality(*flat)["ssim"] == pytest.approx(expected, rel=1e-4)


def test_auroc_of_known_cases(generator):
    n, d = 20_000, 1.0
    inside, outside = torch.randn(n, generator=generator), d + torch.randn(n, generator=generator)
    expected = torch.special.ndtr(torch.tensor(d / 2**0.5)).item()
    standard_error = (1 / 12 / n * 2) ** 0.5  # an upper bound for equal sets (Birnbaum & Klose 1957)
    assert evaluation.auroc(inside, outside) == pytest.approx(expected, abs=5 * standard_error)
    assert evaluation.auroc(inside, inside) == 0.5
    assert evaluation.auroc(torch.zeros(5), torch.ones(7)) == 1 and evaluation.auroc(torch.ones(5), torch.zeros(7)) == 0


def test_peak_memory_counts_what_was_used():
    before = helpers.peak_memory()
    block = torch.ones(100, 10**6)  # 0.4 GB, all of it written
    after = helpers.peak_memory()
    del block
    if before["RAM"] is not None:
        assert max(0.4, before["RAM"]) <= after["RAM"] < 100  # in GB, not MB


def test_the_judge_draws_nothing_from_the_run_it_is_loaded_in():
    before = torch.manual_seed(0).get_state()
    judge = evaluation.load_classifier("cpu")
    assert torch.equal(torch.get_rng_state(), before) and not judge.training


def test_a_judge_of_another_shape_is_refused(tmp_path):
    helpers.save_atomically({"kind": "classifier", "weights": {"other": torch.zeros(1)}}, tmp_path / "classifier.pt")
    with pytest.raises(ValueError, match="does not fit the classifier"):
        evaluation.load_classifier("cpu", tmp_path)


def test_precision_is_of_the_samples_and_recall_of_the_real(monkeypatch, generator):
    one = torch.randn(50, 128, generator=generator)
    samples, real = torch.cat([one, one + 1e-3]), torch.cat([one, one + 100])  # half of the real are far from any sample
    certain = torch.eye(10, dtype=torch.double)[torch.arange(100) % 10]
    certain[:30] = 0.1 + 0.6 * certain[:30]  # 70 % sure
    monkeypatch.setattr(evaluation, "features_and_probabilities", lambda classifier, images: (samples, certain))
    judged = evaluation.judge_samples(None, samples, real)
    assert judged["precision"] == 1 and judged["recall"] == 0.5
    assert judged["share_confident"] == pytest.approx(0.7)


def test_a_missing_judge_is_told_with_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"judges samples: put .*checkpoints/ here, or train one"):
        evaluation.load_classifier("cpu", tmp_path)
