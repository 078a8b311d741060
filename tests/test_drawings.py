"""Drawings of the app as images."""

import numpy as np
import pytest
import torch

from dgm.drawings import erased_digit, painted, sketched_digit


def drawing(ink, background=None):
    """Return what the editor gives when `ink` [H, W] is painted, in opacities of 0..255."""
    layer = np.zeros((*ink.shape, 4), np.uint8)
    layer[..., 3] = ink
    return {"background": background, "layers": [layer], "composite": None}


def bar(rows, columns):
    ink = np.zeros((280, 280), np.uint8)
    ink[rows, columns] = 255
    return ink


EMPTY = [None, {}, {"layers": []}, drawing(bar(slice(0), slice(0)))]


@pytest.mark.parametrize("empty", EMPTY, ids=["none", "no keys", "no layers", "blank layer"])
def test_an_empty_drawing_is_no_digit(empty):
    assert painted(empty) is None
    assert sketched_digit(empty) is None
    assert erased_digit(empty) == (None, None)


@pytest.mark.parametrize("corner", [0, 90, 180])
def test_a_sketch_is_fitted_into_20_pixels_around_the_middle_wherever_it_is_drawn(corner):
    place = slice(corner, corner + 100)
    image = sketched_digit(drawing(bar(place, slice(corner, corner + 50))))
    lit = image[0, 0].nonzero()
    assert image.shape == (1, 1, 28, 28) and image.dtype == torch.float32
    assert image.max() == 1
    assert lit.amin(0).tolist() == [4, 9] and lit.amax(0).tolist() == [23, 18]


def test_the_centre_of_mass_is_in_the_middle():
    ink = bar(slice(100, 200), slice(100, 110))
    ink[190:200, 100:160] = 255  # an L, heavy at its foot
    image = sketched_digit(drawing(ink))[0, 0]
    for axis in (0, 1):
        centre = (image.sum(1 - axis) * torch.arange(28)).sum() / image.sum()
        assert abs(centre - 13.5) <= 0.5


def test_a_heavy_end_does_not_push_a_sketch_out_of_the_image():
    ink = bar(slice(0, 280), slice(0, 2))
    ink[278:] = 255
    assert sketched_digit(drawing(ink)).shape == (1, 1, 28, 28)


def test_a_pixel_is_lost_where_a_quarter_of_it_is_painted_over():
    background = np.full((280, 280, 3), 51, np.uint8)
    ink = bar(slice(0, 15), slice(0, 280))  # one row of pixels, and half of the next
    ink[20:22] = 255  # a fifth of the third
    image, known = erased_digit(drawing(ink, background))
    torch.testing.assert_close(image, torch.full((1, 1, 28, 28), 0.2))
    assert known.dtype == torch.bool
    assert known.all(dim=3).flatten().tolist() == [False, False] + [True] * 26


def test_without_a_background_there_is_nothing_to_complete():
    assert erased_digit(drawing(bar(slice(9), slice(9)))) == (None, None)
