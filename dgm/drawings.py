"""Conversion of drawings in the app to images: sketched digits and partly erased digits.

A drawing is the value of gradio's editor: a dictionary with a background [H, W, 3 or 4] and layers
[H, W, 4], uint8 with opacity as the last channel. It may be None.
"""

import numpy as np
import torch
from PIL import Image, ImageOps
from scipy.ndimage import center_of_mass
from torch.nn.functional import adaptive_avg_pool2d

from dgm.checks import IMAGE_SHAPE


def painted(drawing):
    """Return the opacity of a drawing's strokes [H, W] in 0..255, or None without strokes."""
    opacity = [layer[..., 3] for layer in (drawing or {}).get("layers", ())]
    return np.max(opacity, axis=0) if np.any(opacity) else None


def framed(ink):
    """Return strokes [H, W], uint8, framed like an MNIST digit, [28, 28] in [0, 1].

    They are scaled to fit 20 x 20 pixels, and their centre of mass is moved to the centre.
    """
    ink = Image.fromarray(ink)
    digit = np.asarray(ImageOps.contain(ink.crop(ink.getbbox()), (20, 20)), np.float32) / 255
    pairs = zip(center_of_mass(digit), digit.shape, strict=True)
    first = [int(np.clip(round(13.5 - centre), 0, 28 - size)) for centre, size in pairs]
    rest = np.subtract(28, np.add(first, digit.shape))
    return np.pad(digit, list(zip(first, rest, strict=True)))


def sketched_digit(drawing):
    """Return the strokes as a digit [1, 1, 28, 28], or None for an empty drawing."""
    ink = painted(drawing)
    return None if ink is None else torch.from_numpy(framed(ink))[None, None]


def erased_digit(drawing, share=0.25):
    """Return (image, known), each [1, 1, 28, 28]: the background and the mask of kept pixels.

    A pixel is erased if strokes cover more than `share` of it. Returns (None, None) without a
    background or without strokes.
    """
    hole = painted(drawing)
    if hole is None or drawing.get("background") is None:
        return None, None
    layers = np.stack([drawing["background"][..., 0], hole]).astype(np.float32) / 255
    image, hole = adaptive_avg_pool2d(torch.from_numpy(layers), IMAGE_SHAPE[1:])[:, None, None]
    return image, hole <= share
