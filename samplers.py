"""Samplers of a score that need few network evaluations, with the signature of helpers.annealed_langevin_dynamics.

`model(x, sigma, labels)` is the score; labels [B] in 0..9, or None with `n` or `start` [B, ...]; `sigmas` descend, and a
last step leads from the smallest to zero; `guidance` is the weight of helpers.guided(), which doubles the work. All raise
ValueError for bad labels or sigmas, and FloatingPointError if a sample diverges.
"""

import torch

import helpers


def karras_sigmas(first=10.0, last=0.01, levels=10, rho=7.0):
    """Noise levels that lie the closer the smaller they are (Karras et al. 2022, eq. 5)."""
    ramp = torch.linspace(0, 1, levels, dtype=torch.float64)
    return helpers.check_sigmas((first ** (1 / rho) + ramp * (last ** (1 / rho) - first ** (1 / rho))) ** rho)


@torch.no_grad()
def heun(model, labels, sigmas, *, n=None, start=None, guidance=1.25, generator=None, progress=False):
    """The probability-flow ODE dx = -sigma score(x, sigma) dsigma by Heun's method (Karras et al. 2022, algorithm 1).

    Two evaluations a level, one at the last: 2 L - 1.
    """
    score, labels, sigmas, x = helpers.begin_sampling(model, labels, sigmas, n, start, guidance, generator)
    for i in helpers.progress_bar(range(len(sigmas) - 1), "Heun", progress):
        step = sigmas[i + 1] - sigmas[i]
        slope = -sigmas[i] * score(x, sigmas[i], labels)
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
