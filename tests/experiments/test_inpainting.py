"""experiments/inpainting.py: masks, the memoriser's completion, and the measurement."""

import pytest
import torch

from experiments import inpainting


@pytest.fixture(scope="module")
def measured(lab):
    replacement = {"levels": 3, "steps": 1}
    return inpainting.inpainting(lab, n=4, draws=2, levels=3, replacement=replacement)


def test_completions_are_measured_for_three_masks(measured):
    assert len(measured["masks"]) == 3


@pytest.mark.parametrize("mask", ["upper_half", "centre", "three_in_four"])
def test_five_ways_to_complete_a_digit_are_compared(measured, mask):
    assert len(measured["masks"][mask]["methods"]) == 5


def test_all_numbers_of_inpainting_are_finite(measured, finite):
    assert finite(measured)


SHARES = {"upper_half": 0.5, "centre": 0.25, "three_in_four": 0.75}


@pytest.mark.parametrize("name", SHARES)
def test_a_mask_hides_the_share_it_says(name, generator):
    mask = inpainting.masks(generator, "cpu")[name]
    assert 1 - mask.double().mean().item() == pytest.approx(SHARES[name], abs=0.06)


def test_the_memoriser_completes_a_training_image_by_itself(lab, generator):
    training = lab.digits.train_images[:50]
    known = torch.rand(1, 28, 28, generator=generator) < 0.5
    completed = inpainting.nearest_by_known(training[:5], known, training)
    assert torch.equal(completed, training[:5])


def test_the_memoriser_keeps_what_is_known_of_other_images(lab, generator):
    known = torch.rand(1, 28, 28, generator=generator) < 0.5
    images, training = lab.digits.test_images[:5], lab.digits.train_images[:50]
    completed = inpainting.nearest_by_known(images, known, training)
    assert torch.equal(completed * known, images * known)
