"""Training of the digit classifier: its shifted digits, and a short training."""

import pytest
import torch

from dgm import metrics
from dgm.data import uci_digits
from experiments.classifier import shift, train_classifier


@pytest.fixture(scope="module")
def shifted():
    """200 images of one white pixel in the middle, each moved by at most two pixels."""
    images = torch.zeros(200, 1, 28, 28)
    images[:, 0, 14, 14] = 1
    return shift(images, 2, torch.Generator().manual_seed(0))


def test_shifting_loses_nothing(shifted):
    assert torch.equal(shifted.sum((1, 2, 3)), torch.ones(200))


def test_images_are_shifted_down_and_up_by_every_distance(shifted):
    rows = shifted[:, 0].flatten(1).argmax(1) // 28 - 14
    assert set(rows.tolist()) == {-2, -1, 0, 1, 2}


def test_images_are_shifted_sideways_by_every_distance(shifted):
    columns = shifted[:, 0].flatten(1).argmax(1) % 28 - 14
    assert set(columns.tolist()) == {-2, -1, 0, 1, 2}


def test_each_image_is_shifted_by_itself(shifted):
    places = shifted[:, 0].flatten(1).argmax(1)
    assert len(places.unique()) == 25


@pytest.fixture(scope="module")
def trained():
    """A classifier after one epoch on 1,500 UCI digits."""
    digits, generator = uci_digits(), torch.manual_seed(0)
    data = digits.train_images, digits.train_labels
    return train_classifier(*data, epochs=1, batch_size=64, generator=generator), digits


def test_a_short_training_learns_the_digits(trained):
    model, digits = trained
    assert metrics.accuracy(model, digits.test_images, digits.test_labels) > 0.8


def test_a_trained_classifier_is_in_evaluation_mode(trained):
    assert not trained[0].training
