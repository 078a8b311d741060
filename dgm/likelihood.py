"""Log-likelihood of images by the probability-flow ODE of a score."""

import itertools
import math

import torch

from dgm.checks import (
    IMAGE_SHAPE,
    PIXEL_MEAN,
    PIXEL_STD,
    check_at_least,
    check_count,
    check_finite,
    check_floats,
    check_number,
    check_values,
)
from dgm.progress import progress_bar
from dgm.samplers import begin_sampling, geometric_sigmas


def flow_and_divergence(score, x, sigma, labels, signs):
    """Return -sigma score and Hutchinson's estimate of -sigma^2 times its divergence [B]."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        s = score(leaf, sigma, labels)
        products = []
        for v in signs:
            gradient = torch.autograd.grad(s, leaf, v, retain_graph=True)[0]
            products.append(gradient.mul(v).flatten(1).sum(1))
    return -sigma * s.detach(), -(sigma**2) * sum(products) / len(products)


def gaussian_log_density(x, sigma):
    """Return log N(x; PIXEL_MEAN, PIXEL_STD^2 + sigma^2), [B]."""
    variance = sigma**2 + PIXEL_STD**2
    square = (x - PIXEL_MEAN).square().flatten(1).sum(1)
    return -square / (2 * variance) - x[0].numel() / 2 * torch.log(2 * math.pi * variance)


@torch.no_grad()
def log_likelihood(model, x, labels=None, *, sigmas=None, probes=1, generator=None, progress=False):
    """Return log p(x) in nats, [B], by the probability-flow ODE (Song et al. 2021, appendix D.2).

    p is the density at the smallest of `sigmas` (descending; by default 60 levels from 20 to 0.001
    in geometric progression). At the largest, p is taken to be Gaussian. d log p / d ln sigma is
    sigma^2 times the divergence of the score, estimated with `probes` random sign vectors per
    path (Hutchinson 1989). The path is computed by Heun's method and log p by the trapezoid rule
    in ln sigma, with two evaluations and their gradients per level. Raises the errors of the
    samplers.
    """
    check_floats(x, "x")
    if tuple(x.shape[1:]) == IMAGE_SHAPE:
        check_values(x, "x")
    check_count(probes, "probes")
    sigmas = geometric_sigmas(20.0, 0.001, 60) if sigmas is None else sigmas
    score, labels, sigmas, x = begin_sampling(model, labels, sigmas, None, x, 1, generator)
    check_at_least(sigmas, 2, "the number of sigmas")
    signs = []
    for _ in range(probes):
        signs.append(torch.empty_like(x).bernoulli_(generator=generator).mul_(2).sub_(1))
    up, gained = sigmas.flip(0), torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for low, high in progress_bar(list(itertools.pairwise(up)), "Likelihood", progress):
        step = high - low
        here, growth = flow_and_divergence(score, x, low, labels, signs)
        ahead, growth_ahead = flow_and_divergence(score, x + step * here, high, labels, signs)
        x = x + step * (here + ahead) / 2
        gained = gained + torch.log(high / low) * (growth + growth_ahead) / 2
    return check_finite(gaussian_log_density(x, up[-1]) + gained, "The likelihood's ODE")


def bits_per_dimension(log_p, dimensions=784, levels=256):
    """Return the bits per pixel for images of `levels` grey values.

    log_p is the log-likelihood in nats of the uniformly dequantised image on [0, 1].
    """
    check_number(dimensions, "dimensions", above=0)
    check_number(levels, "levels", above=1)
    return math.log2(levels) - log_p / (dimensions * math.log(2))
