"""experiments/floors.py: blocks of real training images, and their distances."""

from types import SimpleNamespace

import pytest
import torch

from experiments import floors


@pytest.fixture(scope="module")
def blocks(lab):
    """The blocks of 20 images that are evaluated: three as drawn, then three class-balanced."""
    seen = []

    def evaluate(images):
        seen.append(images)
        return {"frechet_distance": 1.0}

    spy = SimpleNamespace(digits=lab.digits, max_samples=20, evaluate=evaluate)
    floors.floors(spy, sizes=(20,), blocks=3)
    assert len(seen) == 6
    return seen


def test_blocks_as_drawn_are_the_training_images_in_their_order(blocks, lab):
    images = lab.digits.train_images
    for i, block in enumerate(blocks[:3]):
        assert torch.equal(block, images[20 * i : 20 * (i + 1)])


def test_class_balanced_blocks_hold_each_digit_equally_often(blocks, lab):
    images_and_labels = zip(lab.digits.train_images, lab.digits.train_labels, strict=True)
    labels = {image.sum().item(): label for image, label in images_and_labels}
    for block in blocks[3:]:
        found = torch.tensor([labels[image.sum().item()] for image in block])
        assert torch.bincount(found, minlength=10).tolist() == [2] * 10


def test_no_image_is_in_two_class_balanced_blocks(blocks):
    assert len({image.numpy().tobytes() for block in blocks[3:] for image in block}) == 60


@pytest.fixture(scope="module")
def measured(lab):
    bigger = lab._replace(max_samples=100)
    return floors.floors(bigger, sizes=(50, 100, 1_000), blocks=3)["sizes"]


def test_floors_are_measured_up_to_as_many_samples_as_the_laboratory_allows(measured):
    assert list(measured) == ["50", "100"]


def test_the_floor_of_more_images_is_lower_but_not_zero(measured):
    few, many = (measured[n]["as_drawn"]["mean"] for n in ("50", "100"))
    assert few > many > 0


def test_a_floor_says_how_many_blocks_it_is_of(measured):
    assert measured["100"]["class_balanced"]["blocks"] == 3


def test_the_floor_of_a_number_of_samples_is_found_in_all_results(measured):
    results = {"floors": {"sizes": measured}}
    assert floors.floor_of(results, 50, "class_balanced") == measured["50"]["class_balanced"]


def test_the_floor_is_of_images_as_drawn_unless_asked_otherwise(measured):
    assert floors.floor_of({"floors": {"sizes": measured}}, 50) == measured["50"]["as_drawn"]
