"""experiments/laboratory.py: evaluation, statistics of known values, and what is kept."""

from types import SimpleNamespace

import pytest
import torch

from dgm.metrics import classifier_outputs
from experiments import laboratory
from experiments.laboratory import forget, recall

# ---------------------------------------------------------------------------------- laboratory


def test_a_laboratory_allows_no_more_samples_than_there_are_test_images(lab):
    n = len(lab.digits.test_images)
    assert laboratory.open_laboratory(n + 1).max_samples == n


def test_the_floor_is_the_evaluation_of_the_first_training_images(lab):
    assert lab.floor(15) == lab.evaluate(lab.digits.train_images[:15])


def test_the_key_of_a_laboratory_is_the_same_when_it_is_opened_again(lab):
    assert laboratory.open_laboratory(20).key == lab.key


def test_the_key_of_a_laboratory_names_its_data(lab):
    assert lab._replace(digits=lab.digits._replace(name="others")).key != lab.key


def test_the_key_of_a_laboratory_changes_with_the_number_of_samples(lab):
    assert lab._replace(max_samples=21).key != lab.key


def test_the_key_of_a_laboratory_changes_with_the_test_images(lab):
    assert lab._replace(real_features=lab.real_features + 1).key != lab.key


def test_the_key_of_a_laboratory_changes_with_the_classifier(lab):
    assert lab._replace(classifier=torch.nn.Linear(2, 2)).key != lab.key


# ------------------------------------------------------------------------------ class-balanced


def test_class_balanced_labels_are_the_digits_in_turn(lab):
    assert laboratory.class_balanced(lab, 20).tolist() == [*range(10), *range(10)]


def test_class_balanced_labels_are_no_more_than_the_laboratory_allows(lab):
    assert len(laboratory.class_balanced(lab, 1_000)) == lab.max_samples


def test_class_balanced_labels_are_a_multiple_of_ten(lab):
    assert len(laboratory.class_balanced(lab, 19)) == 10


@pytest.fixture(scope="module")
def conditional(lab):
    """Real digits, evaluated as if they had been asked for, but for five, as they look."""
    images = lab.digits.train_images[:20]
    read = classifier_outputs(lab.classifier, images)[1].argmax(1)
    asked = torch.cat([(read[:5] + 1) % 10, read[5:]])
    return laboratory.evaluate_conditional(lab, images, asked)


def test_label_accuracy_counts_images_that_look_as_asked(conditional):
    assert conditional["label_accuracy"] == 15 / 20


def test_conditional_samples_are_evaluated_as_all_are(conditional, lab):
    metrics = {key: value for key, value in conditional.items() if key != "label_accuracy"}
    assert metrics == lab.evaluate(lab.digits.train_images[:20])


def test_samples_in_batches_come_in_the_order_of_their_labels():
    labels = torch.arange(7)
    assert torch.equal(laboratory.in_batches(lambda part: 2 * part, labels, 3), 2 * labels)


def test_no_batch_is_larger_than_asked():
    sizes = []

    def sample(part):
        sizes.append(len(part))
        return part

    laboratory.in_batches(sample, torch.arange(7), 3)
    assert sizes == [3, 3, 1]


# ---------------------------------------------------------------------------------- statistics


def test_the_standard_deviation_is_that_of_a_sample():
    assert laboratory.mean_and_std([0.0, 2.0]) == {"mean": 1.0, "std": pytest.approx(2**0.5)}


def test_one_value_has_no_standard_deviation():
    assert laboratory.mean_and_std([3.0]) == {"mean": 3.0, "std": None}


def test_the_error_of_a_mean_is_that_of_independent_values():
    assert laboratory.mean_and_error([0.0, 2.0]) == {"mean": 1.0, "standard_error": 1.0}


def test_quantiles_of_the_numbers_to_a_hundred_are_their_own_names():
    found = laboratory.quantiles(torch.arange(101.0))
    assert found == pytest.approx({"p01": 1, "p25": 25, "p50": 50, "p75": 75, "p99": 99})


@pytest.fixture(scope="module")
def nearest_of_training_digits(lab):
    return laboratory.nearest_training_digits(lab, lab.digits.train_images[:30])


def test_training_digits_are_at_no_distance_from_themselves(nearest_of_training_digits):
    assert nearest_of_training_digits["samples"]["p99"] < 0.05


def test_training_digits_are_all_closer_than_almost_all_test_digits(nearest_of_training_digits):
    found = nearest_of_training_digits["share_closer_than_1_percent_of_test_digits"]
    assert found == 1


def test_test_digits_are_at_a_distance_from_all_training_digits(nearest_of_training_digits):
    assert nearest_of_training_digits["test_digits"]["p01"] > 0.5


def test_all_distances_are_in_the_histogram(nearest_of_training_digits):
    histogram = nearest_of_training_digits["histogram"]
    assert sum(histogram["samples"]) == sum(histogram["test_digits"]) == 30


def test_the_nearest_training_digit_is_that_of_the_clamped_image(lab):
    black = torch.full((2, 1, 28, 28), -1.0)
    found = laboratory.nearest_training_digits(lab, black)["samples"]["p50"]
    norms = lab.digits.train_images.flatten(1).norm(dim=1)
    assert found == pytest.approx(norms.min().item(), abs=0.01)


# --------------------------------------------------------------------------------------- cache

CALLS = []


def doubled(key, lab, number):
    CALLS.append(number)
    return {"x": 2 * number}


def doubled_meanwhile(key, lab, number):
    """Keep another part while this one is under way, as a second process might."""
    recall(doubled, lab, number + 1)
    return doubled(key, lab, number)


def interrupted(key, lab, number):
    CALLS.append(number)
    if len(CALLS) == 1:
        raise KeyboardInterrupt
    return number


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The calls of the parts above, with an empty cache."""
    monkeypatch.setattr(laboratory, "CACHE", tmp_path / "cache")
    CALLS.clear()
    return CALLS


@pytest.fixture
def other():
    """A laboratory of which only the key matters."""
    return SimpleNamespace(key=("data", "classifier", 20))


def test_recall_gives_what_the_part_returns(calls, other):
    assert recall(doubled, other, 3)[0] == {"x": 6}


def test_recall_calls_a_part_once(calls, other):
    recall(doubled, other, 3)
    recall(doubled, other, 3)
    assert calls == [3]


def test_recall_gives_the_same_the_second_time(calls, other):
    assert recall(doubled, other, 3) == recall(doubled, other, 3)


def test_recall_tells_the_seconds_of_the_first_time(calls, other):
    assert recall(doubled, other, 3)[1] > 0


def test_recall_calls_a_part_again_for_another_argument(calls, other):
    recall(doubled, other, 3)
    recall(doubled, other, 4)
    assert calls == [3, 4]


def test_recall_calls_a_part_again_for_another_laboratory(calls, other):
    recall(doubled, other, 3)
    recall(doubled, SimpleNamespace(key=("data", "classifier", 21)), 3)
    assert calls == [3, 3]


def test_recall_looks_at_the_key_of_a_laboratory_and_not_at_the_laboratory(calls, other):
    recall(doubled, other, 3)
    recall(doubled, SimpleNamespace(key=other.key, unhashable=lambda: None), 3)
    assert calls == [3]


def test_a_part_kept_meanwhile_is_not_lost(calls, other):
    recall(doubled_meanwhile, other, 3)
    recall(doubled, other, 4)
    assert calls == [4, 3]


def test_a_part_that_was_interrupted_is_not_kept(calls, other):
    with pytest.raises(KeyboardInterrupt):
        recall(interrupted, other, 3)
    assert recall(interrupted, other, 3)[0] == 3


def test_a_forgotten_part_is_called_again(calls, other):
    recall(doubled, other, 3)
    forget()
    recall(doubled, other, 3)
    assert calls == [3, 3]


def test_nothing_can_be_forgotten_twice(calls):
    forget()
    forget()
    assert not laboratory.CACHE.exists()
