"""Training loops of all experiments, for energies and score networks, and their recipes."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from dgm import runs
from dgm.data import minibatches
from dgm.device import seed_everything
from helpers import (
    EnergyNetwork,
    ReplayBuffer,
    ScoreNetwork,
    contrastive_divergence_loss,
    denoising_score_matching_loss,
    edm_weight,
    ema_of,
    langevin_dynamics,
    set_learning_rate,
    training_sigmas,
)

# ------------------------------------------------------------------------------------ energy


class Recipe(NamedTuple):
    """Settings of an energy's training; the defaults are those of EBM.ipynb with one buffer."""

    updates: int = 1_200
    width: int = 32
    batch_size: int = 128
    langevin_steps: int = 20
    step_size: float = 2.5
    chain_noise: float = 0.005
    data_noise: float = 0.015
    learning_rate: float = 3e-4
    decay: float = 1.0  # of the learning rate, per pass over the data
    fall: float = 0.0  # final share of the run with linear decay of the learning rate
    warmup: int = 100
    ema_decay: float = 0.995
    buffer_size: int = 10_000
    redraw: float | tuple = 0.05
    old_size: int = 256  # slots of a second buffer with long-lived chains
    old_redraw: float | tuple = (0.05, 0.001)
    old_share: float = 0.0  # share of a batch from the second buffer; 0 means one buffer
    regularisation: float = 0.1
    regularise_samples: bool = True

    @property
    def chain(self):
        return {"step_size": self.step_size, "noise": self.chain_noise}


# The settings of tutorial 8 of the UvA deep learning course, rescaled from [-1, 1] to [0, 1].
# The tutorial trains for about 28,000 updates, keeps the last 8,192 samples instead of slots,
# clamps the noisy data, adds the chain's noise before the gradient, and selects its best
# checkpoint by validation. The training here differs in these points.
TUTORIAL = Recipe(
    width=16,
    langevin_steps=60,
    chain_noise=0.0025,
    data_noise=0.0025,
    learning_rate=1e-4,
    decay=0.97,
    warmup=1,
    ema_decay=0.0,
    buffer_size=8_192,
)
# First phase of EBM-BestPractice.ipynb's `full` recipe, and its `quick` one with half the width.
BEST = Recipe(
    updates=14_000,
    batch_size=64,
    fall=0.5,
    ema_decay=0.998,
    old_share=0.25,
    regularise_samples=False,
)
# Its second phase, which continues the first: a low rate, and half of each batch are chains that
# started from noisy training digits.
SECOND = BEST._replace(
    updates=2_000,
    learning_rate=5e-5,
    warmup=500,
    fall=0.6,
    ema_decay=0.9994,
    redraw=0.03,
    old_size=192,
    old_redraw=(0.02, 0.0005),
    old_share=0.5,
)
SMALLER = Recipe(width=16, batch_size=64, old_share=0.25, regularise_samples=False)


def buffers_of(recipe, device, generator, chains=None, restart=None):
    """Return {name: (replay buffer, number of images per batch)}.

    The first buffer starts from `chains`, the second one from restart(n); by default from noise.
    """
    if not recipe.buffer_size:
        return {}
    old = round(recipe.old_share * recipe.batch_size)
    options = {"device": device, "generator": generator}
    buffers = {}
    if recipe.batch_size > old:
        buffer = ReplayBuffer(recipe.buffer_size, recipe.redraw, chains, **options)
        buffers["replay_buffer"] = buffer, recipe.batch_size - old
    if old:
        buffer = ReplayBuffer(recipe.old_size, recipe.old_redraw, restart=restart, **options)
        buffers["old_chains"] = buffer, old
    return buffers


def noisy_digits(images, noise, generator):
    """Return restart(n), which draws n training images with added noise, clamped to [0, 1]."""
    options = {"device": images.device, "generator": generator}

    def restart(n):
        x = images[torch.randint(len(images), (n,), **options)]
        return (x + noise * torch.randn(x.shape, **options)).clamp(0, 1)

    return restart


def energy_updates(recipe, digits, path, seed, first=None):
    """Train an energy like the two EBM notebooks; yield (averaged network, history).

    It yields after every update and at the end, and resumes from `path` like runs.training_steps.
    With `first`, the network and record of a finished first phase, it trains the second one.
    """
    images, device = digits.train_images, digits.train_images.device
    generator = seed_everything(seed, device)
    model = EnergyNetwork(recipe.width).to(device)
    if first is None:
        buffers = buffers_of(recipe, device, generator)
    else:
        model.load_state_dict(first[0].state_dict())
        restart = noisy_digits(images, recipe.data_noise, generator)
        buffers = buffers_of(recipe, device, generator, first[1]["chains"], restart)
    shares = [share for _, share in buffers.values()]
    ema = ema_of(model, recipe.ema_decay)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, betas=(0.0, 0.999))
    batches = minibatches(images, digits.train_labels, recipe.batch_size, generator)
    history = {"loss": [], "e_plus": [], "e_minus": []}
    state = {"model": model, "ema": ema, "optimizer": optimizer, "generator": generator}
    state |= {name: buffer for name, (buffer, _) in buffers.items()}
    epoch = len(images) // recipe.batch_size
    settings = {**recipe._asdict(), "seed": seed, "data": digits.name}
    options = {"warmup": recipe.warmup, "fall": recipe.fall}
    chain = {**recipe.chain, "generator": generator, "check": False}  # the loss is checked
    for update in runs.training_steps(recipe.updates, path, settings, history, state):
        peak = recipe.learning_rate * recipe.decay ** (update // epoch)
        set_learning_rate(optimizer, peak, update, recipe.updates, **options)
        x_plus, _ = next(batches)
        noise = torch.randn(x_plus.shape, device=device, generator=generator)
        x_plus = x_plus + recipe.data_noise * noise
        if buffers:
            x_minus = torch.cat([buffer.sample(share) for buffer, share in buffers.values()])
        else:
            x_minus = torch.rand(x_plus.shape, device=device, generator=generator)
        x_minus = langevin_dynamics(model, x_minus, recipe.langevin_steps, **chain)
        if buffers:
            parts = x_minus.split(shares)
            for (buffer, _), part in zip(buffers.values(), parts, strict=True):
                buffer.write_back(part)
        penalty = recipe.regularisation, recipe.regularise_samples
        loss, e_plus, e_minus = contrastive_divergence_loss(model, x_plus, x_minus, *penalty)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        ema.update_parameters(model)
        for name, value in zip(history, (loss, e_plus, e_minus), strict=True):
            history[name].append(value.detach())
        yield ema.module, history
    yield ema.module, history  # also if no updates remained


def train_energy(recipe, digits, path, seed, first=None):
    """Train an energy completely; return (averaged network, history as arrays)."""
    *_, (model, history) = energy_updates(recipe, digits, path, seed, first)
    return model, {name: np.array(values) for name, values in history.items()}


def train_into_checkpoints(lab, name, recipe, first=None, chains=True):
    """Train an energy with one thread; write its weights, and its chains, to checkpoints/."""
    torch.set_num_threads(1)  # like the training of the two EBMs
    run = runs.Run(name, "full", False, True, Path("runs/experiments"))  # to checkpoints/
    model, _ = train_energy(recipe, lab.digits, run.checkpoint, seed=1, first=first)
    state = runs.load_checkpoint(run.checkpoint, "run", lab.device)["state"]
    kept = state["replay_buffer"]["chains"] if chains else None
    record = runs.save_pretrained(run, model, kept, before=first[1] if first else None)
    minutes = f"{record['minutes']:.1f} minutes on {record['hardware']}"
    print(f"{record['updates']:,} updates in {minutes}")


# ------------------------------------------------------------------------------------- score


def as_it_is(value):
    return value


def train_score(
    model,
    loss,
    digits,
    settings,
    path,
    generator,
    *,
    backward=torch.Tensor.backward,
    reduce=as_it_is,
    lines=10,
):
    """Train a score network like score-based-model.ipynb; return (averaged network, losses).

    `loss(x, labels)` is the loss of a batch. `settings` has updates, batch_size, learning_rate
    and ema_decay; with "falling": False the learning rate stays constant. With several processes,
    `backward` replaces loss.backward() and `reduce` averages a loss over them.
    """
    ema = ema_of(model, settings["ema_decay"])
    rate, total = settings["learning_rate"], settings["updates"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.99))
    data = digits.train_images, digits.train_labels
    batches = minibatches(*data, settings["batch_size"], generator)
    state = {"model": model, "ema": ema, "optimizer": optimizer, "generator": generator}
    history = {"loss": []}
    for update in runs.training_steps(total, path, settings, history, state, lines):
        if settings.get("falling", True):
            set_learning_rate(optimizer, rate, update, total)
        value = loss(*next(batches))
        optimizer.zero_grad()
        backward(value)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.update_parameters(model)
        history["loss"].append(reduce(value.detach()))
    return ema.module, history["loss"]


def conditional_loss(model, settings, generator, share=slice(None)):
    """Return loss(x, labels): denoising score matching with a share of the labels hidden.

    `share` is the part of the batch for this process; random numbers are drawn for the whole
    batch. `model` may be wrapped for several processes.
    """

    def loss(x, labels):
        options = {"device": x.device, "generator": generator}
        hidden = torch.rand(len(x), **options) < settings["hide_label"]
        labels = labels.masked_fill(hidden, ScoreNetwork.NO_LABEL)
        sigma = training_sigmas(len(x), **options)
        z = torch.randn(x.shape, **options)
        batch = x[share], sigma[share], labels[share]
        return denoising_score_matching_loss(model, *batch, edm_weight, z=z[share])

    return loss


def train_quick_score(digits, seed, path, updates, width, decay=0.99, falling=True):
    """Train like `quick` in score-based-model.ipynb; return (network, averaged network)."""
    generator = seed_everything(seed, digits.train_images.device)
    model = ScoreNetwork(width=width).to(digits.train_images.device)
    settings = {
        "seed": seed,
        "updates": updates,
        "batch_size": 128,
        "learning_rate": 2e-3,
        "width": width,
        "ema_decay": decay,
        "falling": falling,
        "hide_label": 0.25,
        "data": digits.name,
    }
    loss = conditional_loss(model, settings, generator)
    average, _ = train_score(model, loss, digits, settings, path, generator)
    return model, average
