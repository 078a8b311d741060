"""Samplers of a score with the signature of helpers.annealed_langevin_dynamics, and the rules for its noise levels.

`model(x, sigma, labels)` is the score; labels [B] in 0..9, or None with `n` or `start` [B, ...]; `sigmas` descend, and a
last step leads from the smallest to zero; `guidance` is the weight of helpers.guided(), which doubles the work. All raise
ValueError for bad labels or sigmas, and FloatingPointError if a sample diverges.
"""

import itertools
import math

import torch
from scipy.optimize import brentq
from scipy.stats import norm

import helpers

# ----------------------------------------------------------------------------------------------- how many noise levels


def largest_distance(images, block=2_000):
    """The largest Euclidean distance between two images: the first noise level by Song & Ermon 2020, technique 1."""
    flat = images.flatten(1)
    return max(torch.cdist(part, flat).max().item() for part in flat.split(block))


def level_overlap(ratio, dimensions):
    """How much of one level's noise another finds likely that is `ratio` times smaller: the mass of radii within three
    deviations (Song & Ermon 2020, section 3.2)."""
    middle = math.sqrt(2 * dimensions) * (ratio - 1)
    return norm.cdf(middle + 3 * ratio) - norm.cdf(middle - 3 * ratio)


def level_ratio(dimensions, overlap=0.5):
    """gamma = sigma_i / sigma_(i+1) at which neighbouring levels overlap by one half (Song & Ermon 2020, technique 2)."""
    return brentq(lambda ratio: level_overlap(ratio, dimensions) - overlap, 1.0, 1.0 + 6 / math.sqrt(2 * dimensions) + 1.0)


def number_of_levels(first, last, ratio):
    """L: how many levels of this ratio lead from sigma_1 to sigma_L (not rounded)."""
    return 1 + math.log(first / last) / math.log(ratio)


# ------------------------------------------------------------------------------------------------- few evaluations: ODE


def karras_sigmas(first=10.0, last=0.01, levels=10, rho=7.0):
    """Noise levels that lie the closer the smaller they are (Karras et al. 2022, eq. 5)."""
    ramp = torch.linspace(0, 1, levels, dtype=torch.float64)
    return helpers.check_sigmas((first ** (1 / rho) + ramp * (last ** (1 / rho) - first ** (1 / rho))) ** rho)


@torch.no_grad()
def heun(model, labels, sigmas, *, churn=0.0, n=None, start=None, guidance=1.25, generator=None, progress=False):
    """The probability-flow ODE dx = -sigma score(x, sigma) dsigma by Heun's method (Karras et al. 2022, algorithm 1), with
    `churn` above zero their stochastic sampler (algorithm 2): each step first adds noise, churn / L of sigma, at most 0.41.

    Two evaluations a level, one at the last: 2 L - 1.
    """
    score, labels, sigmas, x = helpers.begin_sampling(model, labels, sigmas, n, start, guidance, generator)
    raised = 1 + min(churn / len(sigmas), math.sqrt(2) - 1)
    for i in helpers.progress_bar(range(len(sigmas) - 1), "Heun", progress):
        sigma = sigmas[i]
        if churn:
            z = torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=generator)
            sigma, x = sigma * raised, x + sigma * math.sqrt(raised**2 - 1) * z
        step = sigmas[i + 1] - sigma
        slope = -sigma * score(x, sigma, labels)
        ahead = -sigmas[i + 1] * score(x + step * slope, sigmas[i + 1], labels)
        x = x + step * (slope + ahead) / 2
    return helpers.check_finite(x + sigmas[-1] ** 2 * score(x, sigmas[-1], labels), "Heun's method")


@torch.no_grad()
def dpm_solver(model, labels, sigmas, *, n=None, start=None, guidance=1.25, generator=None, progress=False):
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2) in the noise levels themselves, from sigma to sigma':
    x <- (sigma' / sigma) x + (1 - sigma' / sigma) D, where D, the clean image x + sigma^2 score(x, sigma), is extrapolated
    from the last two levels in -ln sigma.

    One evaluation a level: L.
    """
    score, labels, sigmas, x = helpers.begin_sampling(model, labels, sigmas, n, start, guidance, generator)
    before = None
    for i in helpers.progress_bar(range(len(sigmas) - 1), "DPM-Solver++", progress):
        clean = x + sigmas[i] ** 2 * score(x, sigmas[i], labels)
        ahead = clean
        if before is not None:
            ratio = torch.log(sigmas[i] / sigmas[i + 1]) / torch.log(sigmas[i - 1] / sigmas[i])  # of the two steps in t
            ahead = clean + ratio / 2 * (clean - before)
        shrink = sigmas[i + 1] / sigmas[i]
        x, before = shrink * x + (1 - shrink) * ahead, clean
    return helpers.check_finite(x + sigmas[-1] ** 2 * score(x, sigmas[-1], labels), "DPM-Solver++")


# ------------------------------------------------------------------------------------------------ many evaluations: noise


@torch.no_grad()
def consistent_annealed(model, labels, sigmas, *, eta=1.5, n=None, start=None, guidance=1.25, generator=None,
                        progress=False):  # fmt: skip
    """Consistent annealed sampling (Jolicoeur-Martineau et al. 2020, algorithm 2): one step a level, with just the
    noise that brings x from level sigma_i to sigma_j: x <- x + a sigma_i^2 score(x, sigma_i) + b sigma_j z,
    b^2 = 1 - (1 - a)^2 sigma_i^2 / sigma_j^2. `eta` is a in units of 1 - sigma_j / sigma_i: with 1 no noise is added.

    One evaluation a level: L. ValueError for an eta below 1.
    """
    if eta < 1:
        raise ValueError("eta must be 1 or more: with less, a step leaves more noise than the next level has")
    score, labels, sigmas, x = helpers.begin_sampling(model, labels, sigmas, n, start, guidance, generator)
    for i in helpers.progress_bar(range(len(sigmas) - 1), "Consistent annealed sampling", progress):
        s_i, s_j = sigmas[i], sigmas[i + 1]
        a = torch.clamp(eta * (1 - s_j / s_i), max=1.0)
        z = torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=generator)
        noise = torch.sqrt((s_j**2 - (1 - a) ** 2 * s_i**2).clamp(min=0))
        x = x + a * s_i**2 * score(x, s_i, labels) + noise * z
    return helpers.check_finite(x + sigmas[-1] ** 2 * score(x, sigmas[-1], labels), "Consistent annealed sampling")


@torch.no_grad()
def predictor_corrector(model, labels, sigmas, *, snr=0.16, n=None, start=None, guidance=1.25, generator=None,
                        progress=False):  # fmt: skip
    """Predictor and corrector (Song et al. 2021, algorithms 2 and 4): from each level to the next by the reverse-time SDE,
    x <- x + (sigma_i^2 - sigma_j^2) score + sqrt(sigma_i^2 - sigma_j^2) z, and there one Langevin step whose size makes the
    score's part `snr` times as long as the noise's, epsilon = 2 (snr |z| / |score|)^2, norms averaged over the batch.

    Two evaluations a level, one at the last: 2 L - 1.
    """
    score, labels, sigmas, x = helpers.begin_sampling(model, labels, sigmas, n, start, guidance, generator)
    for i in helpers.progress_bar(range(len(sigmas) - 1), "Predictor-corrector", progress):
        step = sigmas[i] ** 2 - sigmas[i + 1] ** 2
        z = torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=generator)
        x = x + step * score(x, sigmas[i], labels) + torch.sqrt(step) * z
        z = torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=generator)
        slope = score(x, sigmas[i + 1], labels)
        epsilon = 2 * (snr * z.flatten(1).norm(dim=1).mean() / slope.flatten(1).norm(dim=1).mean()) ** 2
        x = x + epsilon * slope + torch.sqrt(2 * epsilon) * z
    return helpers.check_finite(x + sigmas[-1] ** 2 * score(x, sigmas[-1], labels), "Predictor-corrector")


# -------------------------------------------------------------------------------------------------------------- likelihood


@torch.no_grad()
def log_likelihood(model, x, labels=None, *, sigmas=None, probes=1, generator=None, progress=False):
    """log p(x) in nats, [B], by the probability-flow ODE run upwards (Song et al. 2021, appendix D.2): p is that of the
    smallest of `sigmas` (descending; default 120 levels from 20 to 0.001), a Gaussian at the largest.

    d log p / d sigma is the divergence of sigma score, estimated by `probes` random signs a path (Hutchinson 1989); Heun's
    method, two evaluations with their gradients a level. ValueError and FloatingPointError as for the samplers.
    """
    sigmas = karras_sigmas(20.0, 0.001, 120) if sigmas is None else sigmas
    score, labels, sigmas, x = helpers.begin_sampling(model, labels, sigmas, None, x, 1, generator)
    signs = [torch.empty_like(x).bernoulli_(generator=generator).mul_(2).sub_(1) for _ in range(probes)]

    def slope(x, sigma):
        """-sigma score and its divergence, [B]."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            s = score(leaf, sigma, labels)
            products = [torch.autograd.grad(s, leaf, v, retain_graph=True)[0].mul(v).flatten(1).sum(1) for v in signs]
        return -sigma * s.detach(), -sigma * sum(products) / len(products)

    up, gained = sigmas.flip(0), torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for low, high in helpers.progress_bar(list(itertools.pairwise(up)), "Likelihood", progress):
        step, (here, growth) = high - low, slope(x, low)
        ahead, growth_ahead = slope(x + step * here, high)
        x, gained = x + step * (here + ahead) / 2, gained + step * (growth + growth_ahead) / 2
    variance = up[-1] ** 2 + helpers.PIXEL_STD**2
    square = (x - helpers.PIXEL_MEAN).square().flatten(1).sum(1)
    top = -square / (2 * variance) - x[0].numel() / 2 * torch.log(2 * math.pi * variance)
    return helpers.check_finite(top + gained, "The likelihood's ODE")


def bits_per_dimension(log_p, dimensions=784, levels=256):
    """Bits a pixel of `levels` grey values costs, from log p in nats of the uniformly dequantised image on [0, 1]."""
    return math.log2(levels) - log_p / (dimensions * math.log(2))
