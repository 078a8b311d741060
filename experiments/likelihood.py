"""Likelihood of test digits under a score network trained for this purpose."""

import io
import math
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from dgm import plots
from dgm.checks import PIXEL_MEAN, PIXEL_STD
from dgm.device import seed_everything
from dgm.likelihood import bits_per_dimension, log_likelihood
from dgm.samplers import geometric_sigmas
from experiments.laboratory import mean_and_error, recall
from experiments.names import label
from experiments.training import train_score
from helpers import ScoreNetwork, denoising_score_matching_loss

# ------------------------------------------------------------------------------------ network


class LikelihoodNetwork(ScoreNetwork):
    """A score network that resolves single grey values (Fourier features, Kingma et al. 2021).

    Its input includes sines and cosines of each pixel, which fade with the noise like their means:
    E sin(w (x + sigma z)) = exp(-(w sigma)^2 / 2) sin(w x).
    """

    def __init__(self, width=32, embedding=128, frequencies=(16, 64, 128, 256)):
        super().__init__(width, embedding)
        fine = 2 * math.pi * torch.tensor(frequencies, dtype=torch.float32)
        self.register_buffer("fine", fine.view(1, -1, 1, 1))
        channels = 4 * (1 + 2 * len(frequencies))
        self.stem = nn.Conv2d(channels, width, 3, padding=1)

    def unet(self, x, log_sigma, labels):
        sigma = log_sigma.exp().view(-1, 1, 1, 1)
        angles = self.fine * (x * torch.sqrt(sigma**2 + PIXEL_STD**2) + PIXEL_MEAN)
        fade = torch.exp(-((self.fine * sigma) ** 2) / 2)
        waves = [x, fade * angles.sin(), fade * angles.cos()]
        return super().unet(torch.cat(waves, dim=1), log_sigma, labels)


def dequantised(images, generator):
    """Dequantise images of 256 grey values k uniformly: (k + u) / 256."""
    u = torch.rand(images.shape, device=images.device, generator=generator)
    return ((images * 255).round() + u) / 256


def every_level(n, generator, low=0.001, high=20.0, device="cpu"):
    """Draw n noise levels, one in each of n equal parts of the logarithmic scale."""
    u = torch.rand(n, device=device, generator=generator)
    share = (torch.arange(n, device=device) + u) / n
    return low * (high / low) ** share


def train_likelihood(digits, seed, updates, path, batch_size=128, learning_rate=2e-3, width=32):
    """Train the network for the likelihood without labels; return its averaged weights.

    With log-uniform levels and lambda = sigma^2, the loss bounds the likelihood (Song, Durkan,
    Murray & Ermon 2021, theorem 1).
    """
    device = digits.train_images.device
    generator = seed_everything(seed, device)
    model = LikelihoodNetwork(width).to(device)
    settings = {
        "seed": seed,
        "updates": updates,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "width": width,
        "ema_decay": 0.999,
        "data": digits.name,
    }

    def loss(x, labels):
        sigma = every_level(batch_size, generator, device=device)
        x = dequantised(x, generator)
        return denoising_score_matching_loss(model, x, sigma, generator=generator)

    return train_score(model, loss, digits, settings, path, generator)[0]


# ----------------------------------------------------------------------------------- baselines


def bits_of_png(images):
    """Return the bits per pixel of each image as a PNG file, including headers."""
    bits = []
    for image in (images * 255).round().byte().squeeze(1).cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG", optimize=True)
        bits.append(8 * file.tell() / image.size)
    return bits


def bits_of_independent_pixels(train_images, images):
    """Return bits per pixel under independent pixels, from training counts plus one."""
    counts = torch.ones(784, 256, dtype=torch.float64)
    levels = (train_images * 255).round().long().flatten(1).cpu().T
    counts.scatter_add_(1, levels, torch.ones(levels.shape, dtype=torch.float64))
    bits = -(counts / counts.sum(1, keepdim=True)).log2()
    return bits.gather(1, (images * 255).round().long().flatten(1).cpu().T).mean(0).tolist()


# ------------------------------------------------------------------------------ the experiment


def bits_of(model, x, levels, seed):
    """Return the bits per dimension of each image; `seed` is for Hutchinson's estimate."""
    generator = seed_everything(seed, x.device)
    sigmas = geometric_sigmas(20.0, 0.001, levels)
    return bits_per_dimension(log_likelihood(model, x, sigmas=sigmas, generator=generator)).tolist()


def bits_of_part(key, lab, i, seed, updates, levels, width, path):
    """Return the bits per dimension of the i-th 500 test digits under the trained network."""
    model = train_likelihood(lab.digits, seed, updates, path, width=width)
    images = lab.digits.test_images[: lab.max_samples]
    x = dequantised(images, seed_everything(seed, lab.device))
    return bits_of(model, x.split(500)[i], levels, seed + i)


def likelihood(
    lab,
    seed=7,
    updates=6_000,
    levels=30,
    n_fine=200,
    levels_fine=160,
    width=32,
    root="runs/experiments",
):
    """Measure bits per dimension of the uniformly dequantised test digits."""
    path = str(Path(root) / "likelihood.pt")
    model = train_likelihood(lab.digits, seed, updates, path, width=width)
    images = lab.digits.test_images[: lab.max_samples]
    x = dequantised(images, seed_everything(seed, lab.device))
    found = []
    for i in range(len(x.split(500))):
        arguments = i, seed, updates, levels, width, path
        found += recall(bits_of_part, lab, *arguments)[0]
        print(f"{len(found):,} images: {mean_and_error(found)}", flush=True)
    fine, coarse = (
        torch.tensor(bits_of(model, x[:n_fine], k, seed)) for k in (levels_fine, levels)
    )
    result = {
        "score_model": found,
        "independent_pixels": bits_of_independent_pixels(lab.digits.train_images, images),
        "png": bits_of_png(images),
    }
    digit, edges = lab.digits.test_labels[: len(x)].cpu(), torch.linspace(-1, 5, 121)
    histogram = {"edges": edges.tolist()}
    for name, values in result.items():
        values = torch.tensor(values)
        histogram[name] = torch.histogram(values, edges.to(values))[0].long().tolist()
    by_digit = {str(d): torch.tensor(found)[digit == d] for d in digit.unique().tolist()}
    return {
        "seed": seed,
        "n": len(x),
        "updates": updates,
        "levels": levels,
        "probes": 1,
        "parameters": sum(p.numel() for p in model.parameters()),
        "bits_per_dimension": {name: mean_and_error(bits) for name, bits in result.items()},
        "by_digit": {d: bits.mean().item() for d, bits in by_digit.items()},
        "histogram": histogram,
        "coarse_less_fine": {
            "n": len(fine),
            "levels": levels_fine,
            **mean_and_error(coarse - fine),
        },
    }


def draw_likelihood(results, folder):
    """Draw histograms of the bits per pixel of test digits under three models."""
    import matplotlib.pyplot as plt

    measured = results["likelihood"]
    figure, ax = plt.subplots(figsize=(7, 2.8))
    edges = measured["histogram"]["edges"]
    for key, value in measured["bits_per_dimension"].items():
        name = f"{label(key)}: {value['mean']:.3f} ± {value['standard_error']:.3f}"
        ax.stairs(measured["histogram"][key], edges, label=name, linewidth=1.5)
    ax.set(xlim=(0.5, 4), xlabel="bits per pixel")
    ax.set(ylabel=f"number of test digits (of {measured['n']:,})")
    ax.set_title("Bits per pixel of each test digit (legend: mean ± standard error)", fontsize=10)
    ax.legend(fontsize=8)
    plots.write_figure(figure, folder / "sbm_likelihood.png")
    plt.close(figure)
