"""Training of the energy over noise levels, and of a score network with the same budget."""

from pathlib import Path

import torch

from dgm import runs
from dgm.device import seed_everything
from dgm.noise_energy import NoiseEnergy
from experiments.training import conditional_loss, train_score
from helpers import ScoreNetwork

NAME = "noise-energy"  # of the committed weights
SETTINGS = {
    "updates": 5_000,
    "batch_size": 64,
    "learning_rate": 2e-3,
    "ema_decay": 0.999,
    "hide_label": 0.25,
}


def train_noise_energy(digits, path, seed=1, width=32, energy=True, **changed):
    """Train a NoiseEnergy by denoising score matching; return its averaged trunk.

    With energy=False, the same U-Net is trained in the same way as a plain score network.
    """
    device = digits.train_images.device
    generator = seed_everything(seed, device)
    trunk = ScoreNetwork(width).to(device)
    model = NoiseEnergy(trunk) if energy else trunk
    settings = {**SETTINGS, **changed, "width": width, "seed": seed, "energy": energy}
    settings["data"] = digits.name
    loss = conditional_loss(model, settings, generator)
    average, _ = train_score(model, loss, digits, settings, path, generator, lines=30)
    return average.trunk if energy else average


def noise_energy(lab):
    """Train the committed NoiseEnergy and write its trunk to checkpoints/."""
    torch.set_num_threads(1)  # like the training of the other models
    run = runs.Run(NAME, "full", False, True, Path("runs/experiments"))  # to checkpoints/
    trunk = train_noise_energy(lab.digits, run.checkpoint)
    record = runs.save_pretrained(run, trunk)
    minutes = f"{record['minutes']:.1f} minutes on {record['hardware']}"
    print(f"{record['updates']:,} updates in {minutes}")
