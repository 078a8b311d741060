"""experiments/score_samples.py: samples, training on them, guidance and seeds, on a few digits."""

import pytest

from experiments import score_samples

# ------------------------------------------------------------------------------------- samples


@pytest.fixture(scope="module")
def measured(lab):
    options = {"n_training": 40, "epochs": 40, "levels": 3, "n_annealed": 10}
    return score_samples.score_samples(lab, **options)


def test_as_many_samples_are_evaluated_as_the_laboratory_allows(measured):
    assert measured["n"] == 20


def test_a_classifier_is_trained_on_more_samples_than_are_evaluated(measured):
    assert measured["train_on_generated"]["n"] == 40


def test_fewer_samples_are_drawn_by_annealed_langevin_dynamics(measured):
    assert measured["annealed"]["n"] == 10


def test_samples_are_drawn_with_guidance_without_and_without_labels(measured):
    kinds = ["conditional", "conditional_no_guidance", "without_labels"]
    assert list(measured["samples"]) == kinds


def test_label_accuracy_is_measured_for_each_digit(measured):
    found = measured["samples"]["conditional_no_guidance"]["label_accuracy_by_digit"]
    assert len(found) == 10


def test_label_accuracy_is_the_mean_of_that_of_the_digits(measured):
    found = measured["samples"]["conditional"]
    mean = sum(found["label_accuracy_by_digit"]) / 10
    assert found["label_accuracy"] == pytest.approx(mean)


def test_samples_without_labels_have_no_label_accuracy(measured):
    assert "label_accuracy" not in measured["samples"]["without_labels"]


def test_all_numbers_of_the_samples_are_finite(measured, finite):
    assert finite(measured)


# ---------------------------------------------------------------------------- training on them


@pytest.fixture(scope="module")
def on_all_real_digits(lab):
    data = lab.digits.train_images, lab.digits.train_labels
    return score_samples.train_on_generated(lab, *data, 1, seed=0)


def test_as_many_real_digits_are_all_there_are(on_all_real_digits):
    assert on_all_real_digits["n"] == 1_500


def test_all_real_digits_are_what_the_classifier_was_trained_on(on_all_real_digits):
    found = on_all_real_digits
    assert found["as_many_real"] == found["classifier_on_all_real"]


# ------------------------------------------------------------------------------------ guidance


@pytest.fixture(scope="module")
def weights(lab):
    return score_samples.guidance(lab, n=20, weights=(0.0, 2.0), levels=3)


def test_each_weight_of_guidance_is_measured(weights):
    assert list(weights["weights"]) == ["0.0", "2.0"]


def test_samples_depend_on_the_weight_of_guidance(weights):
    without, strong = weights["weights"].values()
    assert without["frechet_distance"] != strong["frechet_distance"]


def test_all_numbers_of_guidance_are_finite(weights, finite):
    assert finite(weights)


# --------------------------------------------------------------------------------------- seeds


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    root = tmp_path_factory.mktemp("score-seeds")
    return {"seeds": (1, 2), "updates": 3, "n": 10, "width": 8, "levels": 3, "root": root}


@pytest.fixture(scope="module")
def seeds(lab, options):
    return score_samples.score_seeds(lab, **options)


@pytest.fixture
def distances(seeds):
    return [run["frechet_distance"] for run in seeds["runs"].values()]


def test_each_seed_has_a_run(seeds):
    assert list(seeds["runs"]) == ["1", "2"]


def test_each_seed_trains_another_network(distances):
    assert distances[0] != distances[1]


def test_the_mean_over_seeds_is_that_of_their_runs(seeds, distances):
    mean = seeds["summary"]["frechet_distance"]["mean"]
    assert mean == pytest.approx(sum(distances) / 2)


def test_the_standard_deviation_over_seeds_is_that_of_their_runs(seeds, distances):
    deviation = seeds["summary"]["frechet_distance"]["std"]
    assert deviation == pytest.approx(abs(distances[0] - distances[1]) / 2**0.5)


def test_all_numbers_of_the_seeds_are_finite(seeds, finite):
    assert finite(seeds)


def test_a_seed_that_was_measured_is_kept(lab, options, seeds, monkeypatch):
    monkeypatch.setattr(score_samples, "train_quick_score", None)  # whoever trains now, fails
    assert score_samples.score_seeds(lab, **options)["runs"] == seeds["runs"]


def test_a_measured_seed_keeps_its_minutes(lab, options, seeds):
    assert score_samples.score_seeds(lab, **options) == seeds
