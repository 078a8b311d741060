"""Checks of what public functions are given: what passes, and what the messages say."""

import math

import pytest
import torch

from dgm import checks

IMAGES = torch.zeros(4, 1, 28, 28)


def test_noisy_images_may_leave_the_range():
    checks.check_images(IMAGES + 1.5)


def test_clean_images_may_not_leave_the_range():
    with pytest.raises(ValueError, match=r"\[0, 1\].*1\.2"):
        checks.check_clean_images(IMAGES + 1.2)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_clean_images_may_be_black_or_white(value):
    checks.check_clean_images(IMAGES + value)


@pytest.mark.parametrize("wrong", [IMAGES[0], IMAGES[:, :, :14]])
def test_images_have_one_shape(wrong):
    with pytest.raises(ValueError, match=r"images must have shape \[B, 1, 28, 28\], not"):
        checks.check_images(wrong)


@pytest.mark.parametrize("wrong", [[[0.0]], None])
def test_images_are_a_tensor(wrong):
    with pytest.raises(TypeError, match="images must be a torch tensor, not"):
        checks.check_images(wrong)


def test_bytes_are_to_be_divided():
    with pytest.raises(ValueError, match=r"float32, not torch\.uint8: call \.float\(\) / 255"):
        checks.check_images(IMAGES.to(torch.uint8))


def test_other_numbers_are_to_be_turned_into_float32():
    with pytest.raises(ValueError, match=r"float32, not torch\.float64: call \.float\(\)"):
        checks.check_images(IMAGES.double())


def test_labels_come_back_as_int64():
    assert checks.check_labels([0, 9]).dtype == torch.int64


def test_ten_marks_a_hidden_label():
    assert checks.check_labels([10]).tolist() == [checks.NO_LABEL]


def test_where_no_label_may_be_hidden_ten_is_refused():
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.9, but they span 10\.\.10"):
        checks.check_labels([10], hidden=False)


@pytest.mark.parametrize("labels", [[11], [-1]])
def test_labels_lie_in_0_to_9(labels):
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.9"):
        checks.check_labels(labels)


@pytest.mark.parametrize("labels", [[0.5], [[1]], [True]])
def test_labels_are_whole_numbers(labels):
    with pytest.raises(ValueError, match="labels must be a 1-D tensor of whole numbers"):
        checks.check_labels(labels)


def test_labels_are_as_many_as_images():
    with pytest.raises(ValueError, match="length 4, one per image, not 3"):
        checks.check_labels([1, 2, 3], 4)


def test_sigmas_come_back_as_float32():
    assert checks.check_sigmas([2, 1]).dtype == torch.float32


@pytest.mark.parametrize("sigmas", [[1.0, 0.0], [1.0, -1.0], [math.nan], [math.inf]])
def test_sigmas_are_positive_and_finite(sigmas):
    with pytest.raises(ValueError, match="sigmas must be positive and finite"):
        checks.check_sigmas(sigmas)


@pytest.mark.parametrize("sigmas", [[], [[1.0]], 1.0])
def test_sigmas_are_one_row(sigmas):
    with pytest.raises(ValueError, match="sigmas must be a 1-D tensor of noise levels"):
        checks.check_sigmas(sigmas)


@pytest.mark.parametrize("sigmas", [[0.1, 1.0], [1.0, 1.0]])
def test_sigmas_descend(sigmas):
    with pytest.raises(ValueError, match="sigmas must descend"):
        checks.check_sigmas(sigmas)


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28), (4, 1, 28, 28), (1, 28), ()])
def test_a_mask_that_broadcasts_fits(shape):
    checks.check_mask(torch.ones(shape, dtype=torch.bool), IMAGES)


@pytest.mark.parametrize("shape", [(14, 28), (3, 1, 28, 28), (1, 4, 1, 28, 28)])
def test_a_mask_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="known must fit images of shape"):
        checks.check_mask(torch.ones(shape, dtype=torch.bool), IMAGES)


def test_a_mask_of_numbers_is_refused():
    with pytest.raises(ValueError, match="known must be a boolean mask"):
        checks.check_mask(torch.ones(28, 28), IMAGES)


def test_no_snapshots_are_an_empty_list():
    assert checks.check_snapshots(None, 4) == []


def test_snapshots_may_be_first_and_last():
    assert checks.check_snapshots(range(0, 5, 4), 4) == [0, 4]


@pytest.mark.parametrize("snapshots", [[3, 0], [1, 1], [], [5], [-1]])
def test_snapshots_ascend_within_the_chain(snapshots):
    with pytest.raises(ValueError, match=r"step numbers in 0\.\.4, each once, in ascending order"):
        checks.check_snapshots(snapshots, 4)


def test_a_finite_chain_comes_back():
    assert checks.check_finite(IMAGES, "The chain") is IMAGES


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_chain_is_named(value):
    with pytest.raises(FloatingPointError, match=r"The chain diverged.*smaller step"):
        checks.check_finite(IMAGES + value, "The chain")
