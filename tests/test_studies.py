"""The studies: their pieces against known answers, and each of them end to end on a few UCI digits."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import helpers
import studies


@pytest.fixture(scope="module")
def lab():
    """A laboratory with the UCI digits and 20 images a number."""
    patch = pytest.MonkeyPatch()
    patch.setattr(helpers, "load_mnist", lambda *args, **kwargs: helpers.uci_digits())
    patch.setattr(studies, "fashion_mnist", lambda n: (None, "no network in a test"))
    yield studies.laboratory(most=20)
    patch.undo()


def test_floors_are_of_training_images_that_never_meet_and_balanced_where_they_say_so(lab):
    seen = []
    labels = {image.sum().item(): label for image, label in zip(*lab.digits[:2], strict=True)}
    images = lab.digits.train_images
    spy = SimpleNamespace(digits=lab.digits, most=20, judge=lambda x: seen.append(x) or {"frechet_distance": 1.0})
    studies.floors(spy, sizes=(20,), blocks=3)
    plain, balanced = seen[:3], seen[3:]
    assert all(torch.equal(block, images[20 * i : 20 * (i + 1)]) for i, block in enumerate(plain))
    for block in balanced:
        counts = torch.bincount(torch.tensor([labels[image.sum().item()] for image in block]), minlength=10)
        assert counts.tolist() == [2] * 10
    assert len({image.numpy().tobytes() for block in balanced for image in block}) == 60


def test_what_was_measured_of_the_same_weights_may_be_kept(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "ENERGIES", {"tutorial settings": "EBM-tutorial-settings"})
    first = studies.chains(lab, lengths=(2, 4), later=())
    (tmp_path / "chains.json").write_text(json.dumps(first))
    monkeypatch.setattr(helpers, "langevin_dynamics", None)  # whoever samples now, fails
    assert studies.chains(lab._replace(kept=tmp_path), lengths=(2, 4), later=())["energies"] == first["energies"]
    other = {**first, "energies": {"tutorial settings": {**first["energies"]["tutorial settings"], "what": "other weights"}}}
    (tmp_path / "chains.json").write_text(json.dumps(other))
    with pytest.raises(TypeError):
        studies.chains(lab._replace(kept=tmp_path), lengths=(2, 4), later=())


def numbers_are_finite(result):
    values = [value for _, value in studies.leaves(json.loads(json.dumps(result)))]
    return len(values) > 5 and all(math.isfinite(value) for value in values)


def test_chains_are_judged_at_every_length(lab):
    result = studies.chains(lab, lengths=(2, 4), later=(6,))
    assert list(result["energies"]) == ["replay buffer", "no buffer", "tutorial settings"]
    for energy in result["energies"].values():
        assert list(energy["many"]) == ["2", "4"] and list(energy["few"]) == ["2", "4", "6"]
        assert sum(energy["nearest"]["histogram"]["samples"]) <= energy["nearest"]["n"] == 20
    assert numbers_are_finite(result)


def test_score_samples_are_judged_and_trained_on(lab):
    result = studies.score_samples(lab, n_training=40, epochs=40, levels=3, n_annealed=10)
    assert result["n"] == 20 and result["train_on_generated"]["n"] == 40 and result["annealed"]["n"] == 10
    assert len(result["samples"]["conditional, no guidance"]["labels_right_by_digit"]) == 10
    assert len(result["samples"]) == 3 and "labels_right" not in result["samples"]["without labels"]
    assert numbers_are_finite(result)


def test_all_real_digits_are_what_the_judge_was_trained_on(lab):
    real = studies.train_on_generated(lab, lab.digits.train_images, lab.digits.train_labels, 1, seed=0)
    assert real["n"] == 1_500 and real["as_many_real"] == real["classifier_on_all_real"]


def test_denoising_measures_every_method_at_every_level(lab):
    result = studies.denoising(lab, n=4)
    assert len(result["methods"]) == 10 and all(len(levels) == 4 for levels in result["methods"].values())
    assert result["methods"]["noisy"]["0.5"]["psnr"] == pytest.approx(20 * math.log10(2), abs=0.3)
    assert numbers_are_finite(result)


def test_floors_are_of_real_images_in_blocks(lab):
    result = studies.floors(lab._replace(most=100), sizes=(50, 100, 1_000), blocks=3)
    assert list(result["sizes"]) == ["50", "100"]
    assert result["sizes"]["50"]["as they come"]["mean"] > result["sizes"]["100"]["as they come"]["mean"] > 0
    assert result["sizes"]["100"]["each digit equally often"]["blocks"] == 3


def test_posterior_finds_the_law_where_the_score_is_exact(lab, monkeypatch, generator):
    """Images from N(m, tau^2): a sample errs twice as much as Tweedie, the mean of K (1 + 1/K) times, of all as much."""
    m, tau = 0.4, 0.3

    class Exact:
        def __call__(self, x, sigma, labels=None):
            return -(x - m) / (tau**2 + sigma**2)

        def denoise(self, x, sigma):
            return x + sigma**2 * self(x, sigma)

    images = m + tau * torch.randn(60, *helpers.IMAGE_SHAPE, generator=generator)
    monkeypatch.setattr(helpers, "load_pretrained", lambda *_: (Exact(), {}))
    gaussian_lab = lab._replace(digits=lab.digits._replace(test_images=images), most=60)
    level = studies.posterior(gaussian_lab, most_samples=4, sigmas=(0.5,))["sigmas"]["0.5"]
    for k in range(1, 5):
        ratio = level["ratios"][str(k)]
        assert ratio["ratio"] == pytest.approx(1 + 1 / k, abs=5 * ratio["standard_error"] + 0.016 / k)  # 1.6 % of variance
    assert level["one_sample_against_tweedie_dB"] == pytest.approx(-3.01, abs=0.1)
    for key in ("mean_of_all_against_tweedie", "variance_over_error_of_the_mean"):
        assert level[key]["ratio"] == pytest.approx(1, abs=5 * level[key]["standard_error"] + 0.016)


def test_ratio_of_means_and_its_standard_error():
    rng = np.random.default_rng(0)
    draws = [(b := rng.exponential(size=400), 2 * b + rng.normal(size=400)) for _ in range(300)]
    ratios = [studies.ratio_of_means(torch.tensor(a), torch.tensor(b)) for b, a in draws]
    assert np.mean([r["ratio"] for r in ratios]) == pytest.approx(2, abs=0.02)
    assert np.std([r["ratio"] for r in ratios]) == pytest.approx(np.mean([r["standard_error"] for r in ratios]), rel=0.2)


def test_gaussian_posterior_mean_is_the_closed_form(generator):
    class Gaussian:
        location_ = np.full(784, 0.25)
        covariance_ = np.diag(np.linspace(0.01, 1, 784))

    noisy = torch.rand(3, *helpers.IMAGE_SHAPE, generator=generator)
    shrink = torch.linspace(0.01, 1, 784) / (torch.linspace(0.01, 1, 784) + 0.25)
    expected = 0.25 + (noisy - 0.25) * shrink.view(helpers.IMAGE_SHAPE)
    assert torch.allclose(studies.gaussian_posterior_mean(noisy, 0.5, Gaussian()), expected, atol=1e-5)


def test_posterior_compares_with_theory(lab):
    result = studies.posterior(lab, n=4, most_samples=2, levels=5, sigmas=(0.5,))
    assert result["sigmas"]["0.5"]["ratios"]["2"]["theory"] == 1.5 and numbers_are_finite(result)


def test_out_of_distribution_has_every_row_and_both_baselines(lab):
    result = studies.out_of_distribution(lab)
    assert result["left_out"] == ["Fashion-MNIST (no network in a test)"]
    assert len(result["auroc"]) == 9 and "mean pixel" in result["auroc"]["constant grey"]
    assert result["auroc"]["uniform noise"]["energy, replay buffer"] > 0.9
    assert numbers_are_finite(result)


@pytest.fixture
def one_process(monkeypatch):
    class OneProcess:
        def __init__(self, *_):
            pass

        __enter__, __exit__ = (lambda self: self), (lambda self, *_: None)
        map = staticmethod(map)

    monkeypatch.setattr(studies, "ProcessPoolExecutor", OneProcess)
    monkeypatch.setattr(studies.os, "environ", dict(studies.os.environ))


def test_stability_trains_both_sides_and_sums_them_up(lab, tmp_path, one_process):
    report = studies.stability(lab, updates=6, n=8, seeds=(1, 2), root=tmp_path)
    for side in ("replay buffer", "no buffer"):
        first, second = report[side]["runs"]
        expected = np.mean([run["chains"]["60"]["frechet_distance"] for run in (first, second)])
        assert report[side]["summary"]["frechet_distance"]["60"]["mean"] == pytest.approx(expected)
        assert first["buffered"] == second["buffered"] == (side == "replay buffer")
        assert first["curves"]["gap"] != second["curves"]["gap"] and first["training_minutes"] > 0


def test_ablation_changes_one_thing_at_equal_cost(lab, tmp_path, one_process, monkeypatch):
    names = ["the recipe", "no buffer", "batches of 128", "40 steps an update"]
    monkeypatch.setattr(studies, "ABLATION", {name: studies.ABLATION[name] for name in names})
    report = studies.ablation(lab, evaluations=5_120, n=4, seeds=(1,), root=tmp_path)
    assert [(run["name"], run["updates"]) for run in report["runs"]] == list(zip(names, (4, 4, 2, 2), strict=True))
    assert report["changed"]["no buffer"] == {"buffer_size": "0"}
    distances = [run["chains"]["1000"]["frechet_distance"] for run in report["runs"]]
    assert np.isfinite(distances).all() and len(set(distances)) == 4


def test_break_away_shows_both_runs_and_where_their_chains_go(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "BEST", studies.SMALLER._replace(width=8, batch_size=8, buffer_size=50, old_size=20))
    report = studies.break_away(lab, updates=4, n=8, root=tmp_path)
    assert len(report["gap"]["samples' energy squared too"]) == 4 // report["window"]
    for steps in report["from_noise"].values():
        assert list(steps) == ["0", "5", "20", "100"] and 0.45 < steps["0"]["mean_pixel"] < 0.55
    assert numbers_are_finite(report)


def test_older_chains_are_judged_beside_the_committed_ones(lab, tmp_path, monkeypatch):
    small = studies.SMALLER._replace(updates=4, width=8, batch_size=8, buffer_size=50)
    monkeypatch.setattr(studies, "BEST", small)
    report = studies.older_chains(lab, n=20, lengths=(2, 5), root=tmp_path)
    kept = helpers.load_checkpoint(tmp_path / "older-chains.pt", "run")
    assert kept["settings"]["old_share"] == 0.5 and {"redraw", "old_share"} <= set(kept["settings"])
    first, second = report["chains"].values()
    assert list(first) == list(second) == ["2", "5"] and numbers_are_finite(report)
    assert first["5"]["frechet_distance"] != second["5"]["frechet_distance"]


def test_gap_statistics_of_known_series():
    zeros = np.zeros(2_000)
    wave = {"e_plus": zeros, "e_minus": 0.2 * np.sin(2 * np.pi * np.arange(2_000) / 100)}  # period 100
    statistics = studies.gap_statistics(wave)
    assert statistics["gap_std"] == pytest.approx(0.2 / 2**0.5, rel=1e-3) and not statistics["diverged"]
    assert statistics["gap_autocorrelation"]["50"] == pytest.approx(-1, abs=0.01)
    noise = {"e_plus": zeros, "e_minus": np.random.default_rng(0).normal(size=2_000)}
    statistics = studies.gap_statistics(noise)
    assert abs(statistics["gap_autocorrelation"]["1"]) < 5 / 1_000**0.5 and not statistics["diverged"]
    assert studies.gap_statistics({"e_plus": zeros, "e_minus": np.linspace(0, 3, 2_000)})["diverged"]
    start_up = np.where(np.arange(2_000) < 200, 4.0, 0.0) + wave["e_minus"] / 10  # every run's: a peak, then peace
    assert not studies.gap_statistics({"e_plus": zeros, "e_minus": start_up})["diverged"]


def test_mean_over_the_training_set_is_bayes_rule(generator):
    training, noisy = torch.rand(5, 1, 28, 28, generator=generator), torch.rand(2, 1, 28, 28, generator=generator)
    sigma = 5.0
    for y, mean in zip(noisy, studies.kernel_posterior_mean(noisy, sigma, training), strict=True):
        weights = np.array([math.exp(-float(((y - x) ** 2).sum()) / (2 * sigma**2)) for x in training])
        expected = sum(w * x for w, x in zip(weights / weights.sum(), training, strict=True))
        assert torch.allclose(mean, expected.float(), atol=1e-5)
    nearest = studies.kernel_posterior_mean(training + 0.01, 0.05, training)
    assert torch.allclose(nearest, training, atol=1e-5)


def test_tuning_takes_the_best_setting():
    clean = torch.full((3, 1, 28, 28), 0.5)
    choices = [(lambda x, scale: scale * x, {"scale": scale}) for scale in (0.2, 1.0, 2.0)]
    assert studies.tune(choices, clean / 2, clean)[1] == {"scale": 2.0}


def test_shuffled_patches_keep_the_patches(generator):
    images = torch.rand(3, 1, 28, 28, generator=generator)
    shuffled = studies.shuffled_patches(images, generator)

    def patches(x):
        return {tuple(p.flatten().tolist()) for p in x.unfold(1, 7, 7).unfold(2, 7, 7).reshape(16, 7, 7)}

    assert not torch.equal(shuffled, images)
    assert all(patches(a) == patches(b) for a, b in zip(shuffled, images, strict=True))


def test_images_unlike_digits_are_images_of_the_same_kind(lab):
    for name, images in studies.unlike_digits(lab.digits.test_images, 12, seed=0)[0].items():
        assert len(images) == 12, name
        helpers.check_images(images, clean=True)


def test_a_new_result_is_compared_with_the_committed_one(tmp_path, capsys):
    studies.write_result("posterior", 60, {"a": 1.0, "b": [2.0, 3.0]}, tmp_path)
    assert capsys.readouterr().out == f"posterior: {tmp_path / 'posterior.json'}, after 1.0 minutes\n"
    studies.write_result("posterior", 60, {"a": 1.0, "b": [2.0, 3.3]}, tmp_path)
    printed = capsys.readouterr().out
    assert "4 numbers, 3 identical" in printed and "/b/1: committed 3, now 3.3 (9.09%)" in printed


@pytest.mark.parametrize("arguments", [[], ["posterior"], ["posterior", "stability"]])
def test_other_data_never_reach_the_committed_results(arguments, lab, monkeypatch):
    monkeypatch.setattr("sys.argv", ["studies.py", *arguments])
    with pytest.raises(SystemExit, match="on MNIST"):
        studies.main()


@pytest.mark.parametrize("arguments", [["posterior", "--most", "20"], ["tutorial", "--folder", "elsewhere"]])
def test_small_or_foreign_measurements_need_a_folder_of_their_own(arguments, lab, monkeypatch):
    monkeypatch.setattr("sys.argv", ["studies.py", *arguments])
    with pytest.raises(SystemExit, match="name another --folder"):
        studies.main()


def test_an_unknown_study_is_named(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["studies.py", "chain"])
    with pytest.raises(SystemExit):
        studies.main()
    assert "there is no study chain" in capsys.readouterr().err


def test_against_compares_what_both_folders_hold(tmp_path, monkeypatch, capsys):
    for folder, value in (("old", 2.0), ("new", 1.0)):
        studies.write_result("a", 60, {"x": value}, tmp_path / folder)
    studies.write_result("b", 60, {"x": 1.0}, tmp_path / "new")
    monkeypatch.setattr("sys.argv", ["studies.py", "--against", str(tmp_path / "old"), "--folder", str(tmp_path / "new")])
    capsys.readouterr()
    studies.main()
    printed = capsys.readouterr().out
    assert "a: 2 numbers, 1 identical" in printed and "/x: committed 2, now 1 (50.00%)" in printed and "b:" not in printed
