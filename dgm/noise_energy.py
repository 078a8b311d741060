"""A network that is an energy and a score at every noise level, and Metropolis steps.

Energies belong to noisy densities: p_sigma(x | label) is proportional to exp(-E(x, sigma, label)).
The energy of a product of densities is the sum of their energies, for example
`lambda x, sigma, labels: one(x, sigma, labels) + two(x, sigma, labels)`.
"""

import math
from contextlib import nullcontext
from functools import partial

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dgm import checks
from dgm.checks import PIXEL_MEAN, PIXEL_STD
from dgm.device import fast_math
from dgm.progress import progress_bar
from dgm.samplers import annealed_step, begin_sampling, noise_like

# ------------------------------------------------------------------------------- the network


class NoiseEnergy(nn.Module):
    """An energy E(x, sigma, label) of digits with noise N(0, sigma^2), and its score -grad E.

    With t^2 = sigma^2 + sigma_d^2, u = (x - mean) / t and the U-Net F of a ScoreNetwork,
    E = |u|^2 / 2 - (sigma_d / sigma) <u, F(u, sigma, label)>. Its score is that of Karras et al.
    2022 with grad <u, F> in place of F (inner-product energies: Salimans & Ho 2021). Where F = 0,
    E is the energy of a Gaussian. The model itself, called as model(x, sigma, labels), is the
    score, so that every sampler and loss of a score takes it. Layers run in bfloat16 in training
    only, because Metropolis steps need differences of energies.
    """

    def __init__(self, trunk):
        super().__init__()
        if not hasattr(trunk, "unet"):
            kind = type(trunk).__name__
            raise TypeError(
                f"trunk must be a ScoreNetwork, not {kind}: pass helpers.ScoreNetwork()"
            )
        self.trunk = trunk

    def energy(self, x, sigma, labels=None):
        """Return E [B]. `sigma` is a number or [B], `labels` are [B] in 0..9 or None."""
        checks.check_images(x, "x", next(self.parameters()).device)
        sigma, labels = checks.per_image(sigma, x), checks.label_per_image(labels, x)
        total = torch.sqrt(sigma**2 + PIXEL_STD**2)
        u = (x - PIXEL_MEAN) / total.view(-1, 1, 1, 1)
        precision = fast_math(x.device) if self.training else nullcontext()
        with precision, sdpa_kernel(SDPBackend.MATH):  # the kernel with second derivatives
            f = self.trunk.unet(u, sigma.log(), labels).float()
        return (u * u).flatten(1).sum(1) / 2 - PIXEL_STD / sigma * (u * f).flatten(1).sum(1)

    def forward(self, x, sigma, labels=None):
        """Return the score -grad E, shaped like x; it can be differentiated where x can be."""
        with_graph = torch.is_grad_enabled()
        return value_and_score(lambda y: self.energy(y, sigma, labels), x, with_graph)[1]


def value_and_score(energy, x, with_graph=False):
    """Return E(x) [B] and -grad E(x), by autograd."""
    with torch.inference_mode(False), torch.enable_grad():
        x = x.clone() if x.is_inference() else x
        leaf = x if x.requires_grad and with_graph else x.detach().requires_grad_(True)
        e = energy(leaf)
        checks.check_energy(e, len(x))
        score = -torch.autograd.grad(e.sum(), leaf, create_graph=with_graph)[0]
    return e.detach().flatten(), score


# -------------------------------------------------------------- Metropolis-adjusted Langevin


def per_chain(values, x):
    """Return values [B] with as many dimensions as x [B, ...]."""
    return values.view(-1, *[1] * (x.dim() - 1))


def log_q(y, x, s, h):
    """Return log q(y | x) of a Langevin step with score s, without its constant, [B]."""
    return -(y - x - h * s).square().flatten(1).sum(1) / (4 * h)


@torch.no_grad()
def mala(energy, start, steps, step_size, *, adjust=True, generator=None):
    """Run Metropolis-adjusted Langevin dynamics on an energy (Roberts & Tweedie 1996).

    A step proposes y = x - h grad E(x) + sqrt(2 h) z, where h is step_size, and moves there with
    probability min(1, a), a = p(y) q(x | y) / (p(x) q(y | x)). So the density p, which is
    proportional to exp(-E), is stationary for every h. With adjust=False it always moves, which is
    biased. `energy` maps x [B, ...] to
    energies [B]. Returns x and the share of steps that moved, [B]. Raises ValueError unless the
    start has finite energies, FloatingPointError if a chain diverges.
    """
    check_mala(energy, start, steps, step_size, adjust, generator)
    x, h, moved = start, step_size, torch.zeros(len(start), device=start.device)
    e, s = value_and_score(energy, x)
    check_finite_energy(e)
    for _ in range(steps):
        y = x + h * s + math.sqrt(2 * h) * noise_like(x, generator)
        e_y, s_y = value_and_score(energy, y)
        move = torch.ones_like(moved)
        if adjust:
            log_a = e - e_y + log_q(x, y, s_y, h) - log_q(y, x, s, h)
            u = torch.rand(move.shape, device=x.device, generator=generator)
            move = (u.log() < log_a).to(move)
        here = per_chain(move, x).bool()
        x, s = torch.where(here, y, x), torch.where(here, s_y, s)
        e, moved = torch.where(move.bool(), e_y, e), moved + move
    x = start.clone() if x is start else checks.check_finite(x, "The Langevin chain")
    return x, moved / max(steps, 1)


def check_mala(energy, start, steps, step_size, adjust, generator):
    """Raise TypeError or ValueError for invalid arguments of mala()."""
    checks.check_takes(energy, "x")
    checks.check_floats(start, "start")
    checks.check_count(steps, "steps", low=0)
    checks.check_number(step_size, "step_size", above=0)
    checks.check_flag(adjust, "adjust")
    checks.check_generator(generator)


def check_finite_energy(e):
    """Raise ValueError unless all energies are finite."""
    if not torch.isfinite(e).all():
        raise ValueError(
            "start must have finite energies, but they contain NaN or infinity: "
            "check the samples and the energy"
        )


@torch.no_grad()
def annealed_mala(
    energy,
    labels,
    sigmas,
    start,
    *,
    steps=8,
    epsilon=None,
    adjust=True,
    denoise=True,
    generator=None,
    progress=False,
):
    """Run annealed Langevin dynamics with Metropolis steps at each level (Du et al. 2023).

    `energy(x, sigma, labels)` gives energies [B]; x is `start` [B, ...], of any shape, with noise
    of the first level. Step sizes are those of annealed_langevin_dynamics, which is the same
    algorithm with adjust=False. The last step of `denoise` is Tweedie's formula for one density; in
    a product it is too long. Returns x and the mean acceptance of each level, [L]. Raises
    ValueError for wrong labels or sigmas, FloatingPointError if a chain diverges.
    """
    checks.check_takes(energy, "x, sigma, labels")
    checks.check_count(steps, "steps")
    _, labels, sigmas, x = begin_sampling(energy, labels, sigmas, None, start, 1.0, generator)
    epsilon = annealed_step(sigmas, steps) if epsilon is None else epsilon
    checks.check_number(epsilon, "epsilon", above=0)
    options, rates = {"adjust": adjust, "generator": generator}, []
    for sigma in progress_bar(sigmas, "Annealed Metropolis", progress):
        here = partial(energy, sigma=sigma, labels=labels)
        alpha = float(epsilon * (sigma / sigmas[-1]) ** 2)
        x, moved = mala(here, x, steps, alpha, **options)
        rates.append(moved.mean())
    if denoise:
        x = x + sigmas[-1] ** 2 * value_and_score(here, x)[1]
    return checks.check_finite(x, "Annealed Metropolis sampling"), torch.stack(rates)
