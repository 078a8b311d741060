"""README's first figure, drawn with the committed weights: `python tools/hero.py`. Fixed seed, the first chains of it."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import helpers

STEPS = [0, 10, 20, 60, 200, 350, 500]
LEVELS = [0, 10, 13, 15, 17, 21, 30]  # noise levels done


def energy_frames(n, seed=7):
    """n chains of EBM-BestPractice.ipynb's energy after STEPS steps from noise, [7, n, 1, 28, 28]."""
    model, _ = helpers.load_pretrained("EBM-BestPractice", "cpu")
    generator = helpers.seed_everything(seed, "cpu")
    start = torch.rand(n, *helpers.IMAGE_SHAPE, generator=generator)
    return helpers.langevin_dynamics(model, start, STEPS[-1], snapshots=STEPS, generator=generator)[1]


def score_frames(labels, sigmas, seed=7):
    """What annealed Langevin dynamics has made of noise after LEVELS levels, each image stretched to [0, 1]."""
    model, _ = helpers.load_pretrained("score-based-model", "cpu")
    generator = helpers.seed_everything(seed, "cpu")
    frames = helpers.annealed_langevin_dynamics(model, labels, sigmas, steps=8, snapshots=LEVELS, generator=generator)[1]
    low, high = frames.amin((-3, -2, -1), keepdim=True), frames.amax((-3, -2, -1), keepdim=True)
    return (frames - low) / (high - low)


def draw(energy, score, sigmas):
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.9))
    sides = ((energy, r"energy:  $x \leftarrow x - \epsilon\,\nabla E(x) + noise \cdot z$", [str(k) for k in STEPS], "step"),
             (score, r"score:  $x \leftarrow x + \alpha\,s(x, y, \sigma) + \sqrt{2\alpha}\,z$",
              ["start", *(f"{sigmas[k - 1]:.2g}" for k in LEVELS[1:])], "noise level $\\sigma$"))  # fmt: skip
    for ax, (frames, title, ticks, name) in zip(axes, sides, strict=True):
        helpers.show_images(ax, frames.transpose(0, 1).flatten(0, 1), columns=len(frames), title=title)
        ax.set_xticks([29 * i + 14.5 for i in range(len(frames))], ticks)
        ax.tick_params(axis="x", length=0)
        ax.set_xlabel(name)
    figure.tight_layout(pad=0.4, w_pad=1.5)
    return figure


if __name__ == "__main__":
    sigmas = helpers.geometric_sigmas()
    figure = draw(energy_frames(5), score_frames(torch.arange(5), sigmas), sigmas)
    figure.savefig(Path("assets") / "hero.png", dpi=150, bbox_inches="tight", facecolor="white")
