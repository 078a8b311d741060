"""The first figure of README: chains of both models with a fixed seed, not selected."""

import numpy as np
import torch

from dgm import plots
from dgm.checks import IMAGE_SHAPE
from dgm.device import seed_everything
from dgm.samplers import geometric_sigmas
from experiments.results import RESULTS
from helpers import annealed_langevin_dynamics, langevin_dynamics, load_pretrained

STEPS = [0, 10, 20, 60, 200, 500, 1_000]
LEVELS = [0, 10, 13, 15, 17, 21, 30]  # completed noise levels
SAMPLES = RESULTS / "hero.npz"


def grey_values(frames):
    return (255 * frames.clamp(0, 1)).round().byte().numpy()


def energy_frames(n, seed=7):
    """Return n chains of the energy with replay buffer after STEPS steps from noise."""
    model, _ = load_pretrained("EBM-BestPractice", "cpu")
    generator = seed_everything(seed, "cpu")
    start = torch.rand(n, *IMAGE_SHAPE, generator=generator)
    options = {"snapshots": STEPS, "generator": generator}
    return langevin_dynamics(model, start, STEPS[-1], **options)[1]


def score_frames(labels, sigmas, seed=7):
    """Return chains of the score network after LEVELS levels, each image scaled to [0, 1]."""
    model, _ = load_pretrained("score-based-model", "cpu")
    options = {"snapshots": LEVELS, "generator": seed_everything(seed, "cpu")}
    _, frames = annealed_langevin_dynamics(model, labels, sigmas, steps=8, **options)
    low = frames.amin((-3, -2, -1), keepdim=True)
    high = frames.amax((-3, -2, -1), keepdim=True)
    return (frames - low) / (high - low)


def hero(_lab=None, path=SAMPLES):
    """Sample five chains of each model and store them as uint8."""
    frames = {
        "energy": grey_values(energy_frames(5)),
        "score": grey_values(score_frames(torch.arange(5), geometric_sigmas())),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **frames)


def draw_hero(_results, folder, path=SAMPLES):
    """Draw the stored chains of both models side by side."""
    import matplotlib.pyplot as plt

    stored, sigmas = np.load(path), geometric_sigmas()
    levels = ["start", *(f"{sigmas[k - 1]:.2g}" for k in LEVELS[1:])]
    energy = r"energy network:  $x \leftarrow x - \epsilon\,\nabla E(x) + noise \cdot z$"
    score = r"score network:  $x \leftarrow x + \alpha\,s(x, y, \sigma) + \sqrt{2\alpha}\,z$"
    sides = (
        ("energy", energy, [str(k) for k in STEPS], "steps"),
        ("score", score, levels, "noise level $\\sigma$"),
    )
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.9))
    for ax, (key, title, ticks, name) in zip(axes, sides, strict=True):
        frames = torch.from_numpy(stored[key]).float() / 255
        images = frames.transpose(0, 1).flatten(0, 1)
        plots.show_images(ax, images, columns=len(frames), title=title)
        ax.set_xticks([29 * i + 14.5 for i in range(len(frames))], ticks)
        ax.tick_params(axis="x", length=0)
        ax.set_xlabel(name)
    figure.tight_layout(pad=0.4, w_pad=1.5)
    plots.write_figure(figure, folder / "hero.png")
    plt.close(figure)
