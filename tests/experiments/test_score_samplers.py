"""experiments/score_samplers.py: costs of samplers, noise levels, averaged weights."""

import pytest
import torch

from dgm.checks import IMAGE_SHAPE
from dgm.samplers import geometric_sigmas
from experiments import laboratory, score_samplers

# ---------------------------------------------------------------------- samplers against cost


@pytest.mark.parametrize("evaluations", [9, 21])
@pytest.mark.parametrize("name", score_samplers.SAMPLERS)
def test_a_sampler_costs_what_it_says(name, evaluations):
    calls = []

    def score(x, sigma, labels=None):
        calls.append(sigma)
        return -x / (1 + sigma**2)

    labels = torch.zeros(2, dtype=torch.long)
    score_samplers.SAMPLERS[name](score, labels, evaluations, guidance=1)
    assert len(calls) == evaluations


@pytest.mark.parametrize("name", score_samplers.SAMPLERS)
def test_a_sampler_gives_an_image_for_each_label(name):
    def score(x, sigma, labels=None):
        return -x / (1 + sigma**2)

    labels = torch.zeros(2, dtype=torch.long)
    x = score_samplers.SAMPLERS[name](score, labels, 9, guidance=1)
    assert x.shape == (2, *IMAGE_SHAPE)


COSTS = {"few": (3,), "many": {"predictor_corrector": (5,)}, "n": 10, "far": float("inf")}


@pytest.fixture(scope="module")
def costs(lab):
    return score_samplers.sampler_costs(lab, **COSTS)


def test_a_sampler_is_measured_at_each_number_of_evaluations(costs):
    assert list(costs["curves"]["heun"]) == ["3"]


def test_a_sampler_with_noise_is_measured_at_many_evaluations_too(costs):
    assert list(costs["curves"]["predictor_corrector"]) == ["3", "5"]


def test_with_few_evaluations_as_many_images_count_as_the_laboratory_allows(costs, lab):
    assert lab.max_samples > 10
    assert {curve["3"]["n"] for curve in costs["curves"].values()} == {lab.max_samples}


def test_with_many_evaluations_fewer_images_count(costs):
    assert costs["curves"]["predictor_corrector"]["5"]["n"] == 10


def test_all_numbers_of_the_samplers_are_finite(costs, finite):
    assert finite({**costs, "far": 0})


def test_every_point_of_the_samplers_is_kept_by_itself(costs, cache):
    kept = list(cache.rglob("sampler_point/*/output.pkl"))
    assert len(kept) == len(score_samplers.SAMPLERS) + 1  # the one with many evaluations


def test_kept_points_are_not_sampled_again(lab, costs, monkeypatch):
    monkeypatch.setattr(score_samplers, "SAMPLERS", dict.fromkeys(score_samplers.SAMPLERS))
    assert score_samplers.sampler_costs(lab, **COSTS) == costs


@pytest.fixture(scope="module")
def far(lab):
    """The same where every distance is far."""
    options = {**COSTS, "many": {}, "far": 0}
    return score_samplers.sampler_costs(lab, **options)["curves"]["heun"]["3"]


def test_where_a_sampler_is_far_off_its_first_images_are_enough(far):
    assert far["n"] == 10


def test_the_first_images_are_the_same_whether_near_or_far(far, costs):
    assert far["first"] == costs["curves"]["heun"]["3"]["first"]


# ---------------------------------------------------------------------------------- noise levels


@pytest.fixture(scope="module")
def levels(lab, tmp_path_factory):
    few = {"notebook": {"sigmas": geometric_sigmas(levels=3), "steps": 1}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laboratory, "CACHE", tmp_path_factory.mktemp("noise-levels"))
        patch.setattr(score_samplers, "noise_level_variants", lambda widest: few)
        yield score_samplers.noise_scales(lab, n=10)


def test_evaluations_are_steps_at_all_levels_and_the_last_denoising(levels):
    assert levels["variants"]["notebook"]["evaluations"] == 4


def test_the_ratio_of_noise_levels_is_that_of_the_rule(levels):
    assert levels["ratio_by_the_rule"] == pytest.approx(1.0820, abs=5e-4)


def test_all_numbers_of_the_noise_levels_are_finite(levels, finite):
    assert finite(levels)


@pytest.fixture(scope="module")
def by_level():
    """Images from N(0, 1): E |sigma s + z|^2 / D = 1 / (1 + sigma^2).

    E |sigma s|^2 / D is the rest of 1.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(200, *IMAGE_SHAPE, generator=generator)
    sigmas = torch.tensor([2.0, 0.5])
    return score_samplers.loss_by_level(lambda x, s: -x / (1 + s**2), images, sigmas, generator)


@pytest.mark.parametrize("sigma", ["2", "0.5"])
def test_the_loss_of_a_perfect_score_is_known(by_level, sigma):
    expected = 1 / (1 + float(sigma) ** 2)
    assert by_level[sigma]["loss"] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("sigma", ["2", "0.5"])
def test_the_size_of_a_perfect_score_is_known(by_level, sigma):
    expected = 1 - 1 / (1 + float(sigma) ** 2)
    assert by_level[sigma]["size"] == pytest.approx(expected, rel=0.02)


# ------------------------------------------------------------------------------ averaged weights


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    return {"updates": 3, "n": 10, "width": 8, "root": tmp_path_factory.mktemp("averaging")}


@pytest.fixture(scope="module")
def averaged(lab, options):
    return score_samplers.averaging(lab, **options)


@pytest.mark.parametrize("rate", ["falling_rate", "constant_rate"])
def test_raw_and_averaged_weights_are_evaluated(averaged, rate):
    assert list(averaged["found"][rate]) == ["raw", "averaged"]


def test_the_learning_rate_falls_in_one_training_and_stays_in_the_other(averaged):
    assert list(averaged["found"]) == ["falling_rate", "constant_rate"]


def test_averaged_weights_give_other_samples_than_raw_ones(averaged):
    found = averaged["found"]["constant_rate"]
    assert found["raw"] != found["averaged"]


def test_averaging_goes_on_from_what_is_there(lab, options, averaged):
    assert score_samplers.averaging(lab, **options) == averaged


def test_all_numbers_of_averaging_are_finite(averaged, finite):
    assert finite(averaged)
