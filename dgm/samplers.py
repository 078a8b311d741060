"""Samplers for a score with one signature, guidance, and rules for noise levels.

A sampler is called as `sampler(model, labels, sigmas, *, n=None, start=None, ...)`, where
`model(x, sigma, labels)` is the score. `labels` [B] are in 0..9, or None together with `n` or
`start` [B, ...]. `sigmas` descend, and a last step leads from the smallest to zero. `guidance` is
the weight in `guided`; any weight but 1 doubles the evaluations of labelled samples. All samplers
raise ValueError for wrong labels or sigmas, and FloatingPointError if a sample diverges.
"""

import copy
import math
from contextlib import contextmanager

import torch
from scipy.optimize import brentq
from scipy.stats import norm
from torch import nn
from torch.optim.swa_utils import AveragedModel

from dgm.checks import (
    IMAGE_SHAPE,
    NO_LABEL,
    check_count,
    check_finite,
    check_floats,
    check_generator,
    check_labels,
    check_number,
    check_score,
    check_sigmas,
    check_snapshots,
    check_takes,
)
from dgm.progress import progress_bar

GUIDANCE = 1.4  # default guidance weight of the samplers

# --------------------------------------------------------------------- shared by all samplers


def device_of(model):
    """Return the device of a network's parameters, or None for a plain function."""
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next((p.device for p in parameters), None)


def frozen(model):
    """Return a copy of a network in evaluation mode, without gradients of its parameters.

    A plain function is returned unchanged.
    """
    model = model.module if isinstance(model, AveragedModel) else model
    if not isinstance(model, nn.Module):
        return model
    with torch.inference_mode(False):  # tensors of inference mode have no gradients
        return copy.deepcopy(model).eval().requires_grad_(False)


@contextmanager
def recording(snapshots, steps):
    """Yield (frames, keep): keep(k, x) stores a copy of x for each step number in `snapshots`."""
    wanted, frames = check_snapshots(snapshots, steps), []

    def keep(k, x):
        if k in wanted:
            frames.append(x.detach().clone())

    yield frames, keep


def noise_like(x, generator):
    """Draw standard normal noise shaped like x."""
    return torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=generator)


def guided(score, weight):
    """Return the score s(x) + weight (s(x | label) - s(x)) (Ho & Salimans 2022).

    Weight 1 is the conditional score. With larger weights, samples fit their label better and
    vary less.
    """

    def guided_score(x, sigma, labels):
        if labels is None or weight == 1:
            return score(x, sigma, labels)
        nothing = torch.full_like(labels, NO_LABEL)
        if len(x) > 512:  # a doubled batch would be no faster and take twice the memory
            with_label = score(x, sigma, labels)
            without = score(x, sigma, nothing)
        else:
            both = score(torch.cat([x, x]), sigma, torch.cat([labels, nothing]))
            with_label, without = both.chunk(2)
        return without + weight * (with_label - without)

    return guided_score


class Autoguidance(nn.Module):
    """The score s_guide + weight (s - s_guide) of a network and a weaker one (Karras et al. 2024).

    Samplers take it in place of the network. The guide is smaller or less trained. Where the two
    differ, the guide is usually worse, so that a weight above 1 corrects errors that both make.
    Every step evaluates both. Pass guidance=1 with labels, or guidance by labels is added. Raises
    TypeError or ValueError unless both return scores of the shape of x.
    """

    def __init__(self, model, guide, weight=2.0):
        super().__init__()
        check_takes(model, "x, sigma, labels")
        check_takes(guide, "x, sigma, labels", "guide")
        check_number(weight, "weight")
        self.model, self.guide, self.weight = model, guide, float(weight)

    def forward(self, x, sigma, labels=None):
        score, weak = self.model(x, sigma, labels), self.guide(x, sigma, labels)
        check_score(score, x)
        check_score(weak, x, "the guide's score")
        return weak + self.weight * (score - weak)


def begin_sampling(model, labels, sigmas, n, start, guidance, generator):
    """Check the arguments of a sampler; return (score, labels, sigmas, x) on the model's device.

    x is a copy of `start`, or noise of the largest level, one image per label or `n` images.
    """
    check_takes(model, "x, sigma, labels")
    check_number(guidance, "guidance")
    check_generator(generator)
    if n is not None:
        check_count(n, "n")
    if start is not None:
        check_floats(start, "start")
    device = device_of(model) or (start.device if start is not None else torch.device("cpu"))
    sigmas = check_sigmas(sigmas, device)
    if labels is not None:
        labels = check_labels(labels, n if start is None else len(start), device)
    elif n is None and start is None:
        raise ValueError("n must be given if there are no labels: pass n=64, or start")
    if start is None:
        shape = (n if labels is None else len(labels), *IMAGE_SHAPE)
        start = sigmas[0] * torch.randn(shape, device=device, generator=generator)
    score = guided(checked_once(frozen(model)), guidance)
    return score, labels, sigmas, start.detach().to(device, copy=True)


def checked_once(score):
    """Return a score whose first result is checked to have the shape of x."""
    checked = False

    def checked_score(x, sigma, labels):
        nonlocal checked
        s = score(x, sigma, labels)
        if not checked:
            check_score(s, x)
            checked = True
        return s

    return checked_score


# ------------------------------------------------------------------------------ noise levels


def geometric_sigmas(first=10.0, last=0.01, levels=30):
    """Return noise levels in geometric progression.

    Technique 2 of Song & Ermon 2020 recommends 89 levels from 10 to 0.01 in 784 dimensions. With
    30 levels, each needs more steps.
    """
    check_number(last, "last", above=0)
    check_number(first, "first", above=0)
    check_count(levels, "levels")
    return check_sigmas(torch.logspace(math.log10(first), math.log10(last), levels))


def karras_sigmas(first=10.0, last=0.01, levels=10, rho=7.0):
    """Return noise levels that are denser towards the smallest (Karras et al. 2022, eq. 5)."""
    check_number(last, "last", above=0)
    check_number(first, "first", above=0)
    check_number(rho, "rho", above=0)
    check_count(levels, "levels")
    ramp = torch.linspace(0, 1, levels, dtype=torch.float64)
    ends = first ** (1 / rho), last ** (1 / rho)
    return check_sigmas((ends[0] + ramp * (ends[1] - ends[0])) ** rho)


def annealed_step(sigmas, steps):
    """Return epsilon of annealed Langevin dynamics (Song & Ermon 2020, technique 4).

    After `steps` steps, the variance of a level should be sigma_i^2. Among 10,000 values of
    r = epsilon / sigma_L^2, this is the one whose relative variance ends closest to 1.
    """
    check_sigmas(sigmas)
    check_count(steps, "steps")
    gamma = float(sigmas[0] / sigmas[-1]) ** (1 / max(len(sigmas) - 1, 1))
    r = torch.linspace(1e-4, 1, 10_000, dtype=torch.float64)
    stationary = 1 / (1 - r / 2)
    variance = (1 - r) ** (2 * steps) * (gamma**2 - stationary) + stationary
    return float(r[(variance - 1).abs().argmin()] * sigmas[-1] ** 2)


def largest_distance(images, block=2_000):
    """Return the largest Euclidean distance between two images (Song & Ermon 2020, technique 1)."""
    check_floats(images, "images")
    flat = images.flatten(1)
    return max(torch.cdist(part, flat).max().item() for part in flat.split(block))


def level_overlap(ratio, dimensions):
    """Return the overlap of two noise levels whose ratio is `ratio`.

    It is the probability that the norm of the noise at the smaller level lies within three
    standard deviations of the mean norm at the larger (Song & Ermon 2020, section 3.2).
    """
    check_number(ratio, "ratio", low=1)
    check_count(dimensions, "dimensions")
    middle = math.sqrt(2 * dimensions) * (ratio - 1)
    return norm.cdf(middle + 3 * ratio) - norm.cdf(middle - 3 * ratio)


def level_ratio(dimensions, overlap=0.5):
    """Return gamma = sigma_i / sigma_(i+1) for an overlap (Song & Ermon 2020, technique 2)."""

    def excess(ratio):
        return level_overlap(ratio, dimensions) - overlap

    check_count(dimensions, "dimensions")
    check_number(overlap, "overlap", above=0)
    largest = 2.0 + 6 / math.sqrt(2 * dimensions)
    low, high = level_overlap(largest, dimensions), level_overlap(1.0, dimensions)
    if not low < overlap < high:
        raise ValueError(
            f"overlap must be between {low:.3g} and {high:.3g} in {dimensions} dimensions, "
            f"not {overlap:g}: pass another number"
        )
    return brentq(excess, 1.0, largest)


def number_of_levels(first, last, ratio):
    """Return the unrounded number of levels with this ratio from sigma_1 to sigma_L."""
    check_number(last, "last", above=0)
    check_number(first, "first", above=0)
    check_number(ratio, "ratio", above=1)
    return 1 + math.log(first / last) / math.log(ratio)


# ------------------------------------------------------------------- deterministic samplers


@torch.no_grad()
def heun(
    model,
    labels,
    sigmas,
    *,
    churn=0.0,
    n=None,
    start=None,
    guidance=GUIDANCE,
    generator=None,
    progress=False,
):
    """Solve dx = -sigma score(x, sigma) dsigma by Heun's method (Karras et al. 2022, algorithm 1).

    With churn > 0 it is their stochastic sampler (algorithm 2): each step first raises sigma by
    the factor 1 + churn / L (at most 1.41) with added noise. It takes 2 L - 1 evaluations, two
    per level and one at the last.
    """
    score, labels, sigmas, x = begin_sampling(model, labels, sigmas, n, start, guidance, generator)
    check_number(churn, "churn", low=0)
    raised = 1 + min(churn / len(sigmas), math.sqrt(2) - 1)
    for i in progress_bar(range(len(sigmas) - 1), "Heun", progress):
        sigma = sigmas[i]
        if churn:
            z = noise_like(x, generator)
            x = x + sigma * math.sqrt(raised**2 - 1) * z
            sigma = sigma * raised
        step = sigmas[i + 1] - sigma
        here = -sigma * score(x, sigma, labels)
        ahead = -sigmas[i + 1] * score(x + step * here, sigmas[i + 1], labels)
        x = x + step * (here + ahead) / 2
    x = x + sigmas[-1] ** 2 * score(x, sigmas[-1], labels)
    return check_finite(x, "Heun's method")


@torch.no_grad()
def dpm_solver(
    model,
    labels,
    sigmas,
    *,
    order=3,
    eta=0.0,
    n=None,
    start=None,
    guidance=GUIDANCE,
    generator=None,
    progress=False,
):
    """Sample by multistep DPM-Solver++ of order 1, 2 or 3, without or with noise (Lu et al. 2022).

    With the step h = ln(sigma / sigma') and k = (1 + eta) h,
    x <- e^-k x + (1 - e^-k) D + a D' + b D'' / 2 + sigma' sqrt(1 - e^(-2 eta h)) z.
    D is the clean image x + sigma^2 score(x, sigma); D' and D'' are its derivatives in -ln sigma,
    in units of h, estimated from the last levels. Order 2 has a = (1 - e^-k) / 2 and b = 0
    (algorithm 2 for eta = 0). Order 3 has a = 1 - (1 - e^-k) / k and b = 1 / 2 - a / k, as
    `sample_dpmpp_3m_sde` in k-diffusion. eta = 0 solves the ODE, eta = 1 the reverse-time SDE.
    With noise, neighbouring steps in ln sigma must be similar. It takes one evaluation per level.
    """
    check_number(eta, "eta", low=0)
    check_count(order, "order", high=3)
    score, labels, sigmas, x = begin_sampling(model, labels, sigmas, n, start, guidance, generator)
    eta, h, cleans = float(eta), torch.log(sigmas[:-1] / sigmas[1:]), []
    k, noise = (1 + eta) * h, torch.sqrt(1 - torch.exp(-2 * eta * h))
    gone = 1 - torch.exp(-k)  # the share of x that a step replaces
    a = gone / 2 if order == 2 else 1 - gone / k
    b = 1 / 2 - a / k
    for i in progress_bar(range(len(sigmas) - 1), "DPM-Solver++", progress):
        clean = x + sigmas[i] ** 2 * score(x, sigmas[i], labels)
        cleans = [clean, *cleans[: order - 1]]  # the newest first
        x = (1 - gone[i]) * x + gone[i] * clean
        if len(cleans) == 2:
            x = x + a[i] * (clean - cleans[1]) * h[i] / h[i - 1]
        if len(cleans) == 3:
            first, half_second = derivatives(cleans, h[i], h[i - 1], h[i - 2])
            x = x + a[i] * first + b[i] * half_second
        if eta > 0:
            x = x + sigmas[i + 1] * noise[i] * noise_like(x, generator)
    x = x + sigmas[-1] ** 2 * score(x, sigmas[-1], labels)
    return check_finite(x, "DPM-Solver++")


def derivatives(cleans, h, h_1, h_2):
    """Return D' and D'' / 2 of three clean images in units of h, after steps h_2 and h_1."""
    newer = (cleans[0] - cleans[1]) * h / h_1
    older = (cleans[1] - cleans[2]) * h / h_2
    half_second = (newer - older) * h / (h_1 + h_2)
    return newer + half_second * h_1 / h, half_second


# --------------------------------------------------------------------- stochastic samplers


@torch.no_grad()
def consistent_annealed(
    model,
    labels,
    sigmas,
    *,
    eta=1.5,
    n=None,
    start=None,
    guidance=GUIDANCE,
    generator=None,
    progress=False,
):
    """Sample by consistent annealed sampling (Jolicoeur-Martineau et al. 2020, algorithm 2).

    Each level has one step, whose noise brings x exactly from level sigma_i to sigma_j:
    x <- x + a sigma_i^2 score(x, sigma_i) + b sigma_j z,
    b^2 = 1 - (1 - a)^2 sigma_i^2 / sigma_j^2. `eta` is a in units of 1 - sigma_j / sigma_i. With
    eta = 1 no noise is added; a smaller eta raises ValueError. It takes L evaluations, one per
    level.
    """
    check_number(eta, "eta", low=1)  # below 1, more noise remains than the next level has
    score, labels, sigmas, x = begin_sampling(model, labels, sigmas, n, start, guidance, generator)
    for i in progress_bar(range(len(sigmas) - 1), "Consistent annealed sampling", progress):
        s_i, s_j = sigmas[i], sigmas[i + 1]
        a = torch.clamp(eta * (1 - s_j / s_i), max=1.0)
        z = noise_like(x, generator)
        noise = torch.sqrt((s_j**2 - (1 - a) ** 2 * s_i**2).clamp(min=0))
        x = x + a * s_i**2 * score(x, s_i, labels) + noise * z
    x = x + sigmas[-1] ** 2 * score(x, sigmas[-1], labels)
    return check_finite(x, "Consistent annealed sampling")


@torch.no_grad()
def predictor_corrector(
    model,
    labels,
    sigmas,
    *,
    snr=0.16,
    n=None,
    start=None,
    guidance=GUIDANCE,
    generator=None,
    progress=False,
):
    """Sample by the predictor-corrector method (Song et al. 2021, algorithms 2 and 4).

    The predictor is a step of the reverse-time SDE to the next level,
    x <- x + (sigma_i^2 - sigma_j^2) score + sqrt(sigma_i^2 - sigma_j^2) z. The corrector is one
    Langevin step there with epsilon = 2 (snr |z| / |score|)^2, norms averaged over the batch. It
    takes 2 L - 1 evaluations, two per level and one at the last.
    """
    check_number(snr, "snr", above=0)
    score, labels, sigmas, x = begin_sampling(model, labels, sigmas, n, start, guidance, generator)
    for i in progress_bar(range(len(sigmas) - 1), "Predictor-corrector", progress):
        step = sigmas[i] ** 2 - sigmas[i + 1] ** 2
        z = noise_like(x, generator)
        x = x + step * score(x, sigmas[i], labels) + torch.sqrt(step) * z
        z = noise_like(x, generator)
        s = score(x, sigmas[i + 1], labels)
        length_z = z.flatten(1).norm(dim=1).mean()
        length_s = s.flatten(1).norm(dim=1).mean()
        epsilon = 2 * (snr * length_z / length_s) ** 2
        x = x + epsilon * s + torch.sqrt(2 * epsilon) * z
    x = x + sigmas[-1] ** 2 * score(x, sigmas[-1], labels)
    return check_finite(x, "Predictor-corrector")
