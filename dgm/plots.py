"""Figures: image grids, training curves, animations and the display of stored figures."""

from pathlib import Path

import numpy as np
import torch

from dgm.checks import check_count, check_tensor
from dgm.metrics import psnr


def image_grid(images, columns):
    """Return images [N, 1, 28, 28] as one grid [H, W], row by row, clamped to [0, 1]."""
    from torchvision.utils import make_grid

    check_tensor(images, "images")
    check_count(columns, "columns")
    if images.dim() != 4 or images.shape[1] != 1:
        raise ValueError(
            f"images must have shape [N, 1, H, W], not {list(images.shape)}: "
            "average over the colour channels"
        )
    scale = 255 if images.dtype == torch.uint8 else 1
    images = (images.detach().float().cpu() / scale).clamp(0, 1)
    return make_grid(images, nrow=columns, padding=1, pad_value=0.35)[0]


def show_images(ax, images, columns, title=None):
    """Draw images [N, 1, 28, 28] as one grid, with white strokes on black."""
    ax.imshow(image_grid(images, columns).numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[], title=title)


def plot_history(ax, values, color, label):
    """Plot a training history: raw values faint, running mean over 1/40 of the run bold."""
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not len(values):
        shape = list(values.shape)
        raise ValueError(f"values must be one or more numbers [N], not {shape}: pass a history")
    window = max(len(values) // 40, 1)
    smooth = np.convolve(values, np.ones(window) / window, mode="valid")
    ax.plot(values, color=color, alpha=0.2, linewidth=0.5)
    ax.plot(np.arange(len(smooth)) + window / 2, smooth, color=color, label=label)


def denoising_figure(rows, examples=12):
    """Return a figure with a row of panels for each (sigma, {title: images}).

    The first panel shows the clean images. Each other panel has its PSNR over all images in its
    title and shows the first `examples` of them.
    """
    import matplotlib.pyplot as plt

    columns = len(rows[0][1])
    size = (2.6 * columns, 2.3 * len(rows))
    figure, axes = plt.subplots(len(rows), columns, figsize=size, squeeze=False)
    for line, (sigma, panels) in zip(axes, rows, strict=True):
        clean = next(iter(panels.values()))
        for ax, (title, images) in zip(line, panels.items(), strict=True):
            quality = "" if images is clean else f"\n{psnr(images, clean):.1f} dB"
            show_images(ax, images[:examples], columns=4, title=title + quality)
            ax.title.set_fontsize(10)
        line[0].set_ylabel(f"$\\sigma$ = {sigma}", fontsize=12)
    figure.tight_layout()
    return figure


def save_figure(figure, run, filename, data="MNIST"):
    """Write a figure to the run's figures folder, marked with the data's name if not MNIST."""
    if data != "MNIST":
        note = {"ha": "right", "va": "bottom", "fontsize": 8, "color": "crimson"}
        figure.text(0.995, 0.005, f"data: {data}, not MNIST", **note)
    write_figure(figure, run.figures / filename)


def save_animation(frames, run, filename, columns, milliseconds=90):
    """Write frames [T, N, 1, 28, 28] as a looping GIF whose last frame stays for two seconds."""
    from PIL import Image

    grids = [(255 * image_grid(x, columns)).byte().numpy() for x in frames]
    images = [Image.fromarray(grid).quantize(32) for grid in grids]
    options = {
        "append_images": images[1:],
        "duration": [milliseconds] * (len(images) - 1) + [2000],
        "loop": 0,
        "optimize": True,
    }
    images[0].save(run.figures / filename, save_all=True, **options)


def show_figure(run, filename, data="MNIST"):
    """Display assets/`filename`, a figure of the committed weights drawn by an experiment.

    Prints one line instead in smoke runs, on other data, or if the file is missing.
    """
    from IPython.display import Image, Markdown, display

    path = Path("assets") / filename
    if run.preset == "smoke" or data != "MNIST" or not path.exists():
        print(f"{path} is not shown: it belongs to the committed weights on MNIST.")
        return
    display(Image(path.read_bytes(), format=path.suffix[1:]))
    display(Markdown("*Committed weights, preset full.*"))


def write_figure(figure, path):
    """Write a figure to a file and create its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight", facecolor="white")
