"""experiments/stability.py: statistics of known energy gaps, and both experiments end to end."""

import numpy as np
import pytest

from experiments import stability
from experiments.training import SMALLER

SIDES = ["replay_buffer", "no_buffer"]

# ------------------------------------------------------------------------------------ statistics

N = 2_000
WAVE = 0.2 * np.sin(2 * np.pi * np.arange(N) / 100)  # period 100
NOISE = np.random.default_rng(0).normal(size=N)


def statistics_of(gap):
    return stability.gap_statistics({"e_plus": np.zeros(N), "e_minus": gap})


def test_the_gap_is_the_energy_of_samples_less_that_of_data():
    history = {"e_plus": [1.0, 2.0], "e_minus": [4.0, 1.0]}
    assert stability.gap_of(history).tolist() == [3.0, -1.0]


def test_the_spread_of_a_wave_is_its_height_over_the_root_of_2():
    assert statistics_of(WAVE)["gap_std"] == pytest.approx(0.2 / 2**0.5, rel=1e-3)


def test_a_wave_is_its_own_opposite_half_a_period_later():
    found = statistics_of(WAVE)["gap_autocorrelation"]["50"]
    assert found == pytest.approx(-1, abs=0.01)


def test_noise_has_no_autocorrelation():
    assert abs(statistics_of(NOISE)["gap_autocorrelation"]["1"]) < 5 / 1_000**0.5


def test_a_small_wave_has_not_diverged():
    assert not statistics_of(WAVE)["diverged"]


def test_noise_about_zero_has_not_diverged():
    assert not statistics_of(NOISE)["diverged"]


def test_a_gap_that_grows_beyond_1_has_diverged():
    assert statistics_of(np.linspace(0, 3, N))["diverged"]


def test_a_peak_at_the_start_is_no_divergence():
    start_up = np.where(np.arange(N) < 200, 4.0, 0.0) + WAVE / 10  # every run's: a peak, then peace
    assert not statistics_of(start_up)["diverged"]


# ------------------------------------------------------------------------------------- stability


@pytest.fixture(scope="module")
def measured(lab, one_process, tmp_path_factory):
    root = tmp_path_factory.mktemp("stability")
    return stability.stability(lab, updates=6, n=8, seeds=(1, 2), root=root)


@pytest.mark.parametrize("side", SIDES)
def test_the_mean_distance_of_a_side_is_that_of_its_runs(measured, side):
    runs = measured[side]["runs"]
    expected = np.mean([run["chains"]["60"]["frechet_distance"] for run in runs])
    found = measured[side]["summary"]["frechet_distance"]["60"]["mean"]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("side", SIDES)
def test_a_side_has_one_run_for_each_seed(measured, side):
    assert [run["seed"] for run in measured[side]["runs"]] == [1, 2]


@pytest.mark.parametrize("side", SIDES)
def test_the_runs_of_a_side_all_have_a_buffer_or_all_none(measured, side):
    buffered = {run["buffered"] for run in measured[side]["runs"]}
    assert buffered == {side == "replay_buffer"}


@pytest.mark.parametrize("side", SIDES)
def test_two_seeds_train_differently(measured, side):
    first, second = measured[side]["runs"]
    assert first["curves"]["gap"] != second["curves"]["gap"]


@pytest.mark.parametrize("side", SIDES)
def test_the_minutes_of_a_training_are_told(measured, side):
    assert measured[side]["runs"][0]["training_minutes"] > 0


# ------------------------------------------------------------------------------------ break-away


@pytest.fixture(scope="module")
def break_away(lab, tmp_path_factory):
    small = {"width": 8, "batch_size": 8, "buffer_size": 50, "old_size": 20}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stability, "BEST", SMALLER._replace(**small))
        return stability.break_away(lab, updates=4, n=8, root=tmp_path_factory.mktemp("break-away"))


BOTH = ["samples_squared_too", "data_squared_only"]


def test_the_gap_of_a_run_is_shown_from_start_to_end(break_away):
    shown = break_away["gap"]["samples_squared_too"]
    assert len(shown) == 4 // break_away["window"]


def test_chains_of_both_runs_are_followed(break_away):
    assert list(break_away["from_noise"]) == BOTH


@pytest.mark.parametrize("name", BOTH)
def test_chains_are_followed_from_noise(break_away, name):
    assert list(break_away["from_noise"][name]) == ["0", "5", "20", "100"]


@pytest.mark.parametrize("name", BOTH)
def test_the_mean_pixel_of_noise_is_half(break_away, name):
    assert 0.45 < break_away["from_noise"][name]["0"]["mean_pixel"] < 0.55


def test_all_numbers_of_the_break_away_are_finite(break_away, finite):
    assert finite(break_away)
