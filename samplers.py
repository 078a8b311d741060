"""Samplers of a score behind one signature, sampler(model, labels, sigmas, ...), the rules for its noise levels, its
likelihood, and the checks that everything here shares with helpers.py.

`model(x, sigma, labels)` is the score; labels [B] in 0..9, or None with `n` or `start` [B, ...]; `sigmas` descend, and a
last step leads from the smallest to zero; `guidance` is the weight of guided(), which doubles the work. All raise
ValueError for bad labels or sigmas, and FloatingPointError if a sample diverges.
"""

import copy
import itertools
import math
import os
from contextlib import contextmanager

import torch
from scipy.optimize import brentq
from scipy.stats import norm
from torch import nn
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm

IMAGE_SHAPE = (1, 28, 28)
PIXEL_MEAN, PIXEL_STD = 0.1307, 0.3081  # of the MNIST training images on [0, 1]
NO_LABEL = 10  # stands for a hidden label
GUIDANCE = 1.4  # the samplers' default weight of guided()

# ------------------------------------------------------------------------------------------- checks, and what chains share


def check_images(images, clean=False):
    """Raise ValueError unless images are float32 [B, 1, 28, 28], and in [0, 1] where they are clean data."""
    if not torch.is_tensor(images) or images.dim() != 4 or tuple(images.shape[1:]) != IMAGE_SHAPE:
        raise ValueError(f"images must be a tensor [B, 1, 28, 28]; this is {tuple(getattr(images, 'shape', ()))}")
    if images.dtype != torch.float32:
        cure = "call .float()" if images.is_floating_point() else "divide bytes by 255 first"
        raise ValueError(f"images must be float32, not {images.dtype}: {cure}")
    if clean and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"clean images must lie in [0, 1]; these span [{images.min():.3g}, {images.max():.3g}]")


def check_labels(labels, n=None, device=None):
    """Return labels as int64 on `device`; raise ValueError unless they are `n` whole numbers in 0..9."""
    labels = torch.as_tensor(labels, device=device)
    if labels.dim() != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be a 1-D tensor of whole numbers, not {labels.dtype} {tuple(labels.shape)}")
    if n is not None and len(labels) != n:
        raise ValueError(f"{len(labels)} labels were given for {n} images")
    if len(labels) and not (labels.min() >= 0 and labels.max() <= 9):
        raise ValueError(f"labels must lie in 0..9; these span {labels.min():d}..{labels.max():d}")
    return labels.long()


def check_sigmas(sigmas, device=None):
    """Return noise levels as float32 on `device`; raise ValueError unless they are positive and descending."""
    sigmas = torch.as_tensor(sigmas, dtype=torch.float32, device=device)
    if sigmas.dim() != 1 or not len(sigmas) or not torch.isfinite(sigmas).all() or sigmas.min() <= 0:
        raise ValueError("sigmas must be a 1-D tensor of positive finite noise levels")
    if (sigmas[1:] >= sigmas[:-1]).any():
        raise ValueError("sigmas must descend, from the largest noise to the smallest: try sigmas.flip(0)")
    return sigmas


def device_of(model):
    """The device of a network's parameters, None for a plain function or a network without any."""
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next((p.device for p in parameters), None)


def frozen(model):
    """A copy of a network for use inside a chain: no parameter gradients, evaluation mode. A plain function comes back as it
    is."""
    model = model.module if isinstance(model, AveragedModel) else model
    return copy.deepcopy(model).eval().requires_grad_(False) if isinstance(model, nn.Module) else model


@contextmanager
def recording(snapshots, steps):
    """Yield (frames, keep): keep(k, x) stores a copy of x for each k in `snapshots`, step numbers in ascending order."""
    wanted = list(snapshots) if snapshots is not None else []
    if not set(wanted) <= set(range(steps + 1)) or wanted != sorted(set(wanted)) or (snapshots is not None and not wanted):
        raise ValueError(f"snapshots must be step numbers in 0..{steps}, each once, in ascending order")
    frames = []
    yield frames, lambda k, x: frames.append(x.detach().clone()) if k in wanted else None


def progress_bar(steps, description, progress):
    """`steps`, with a bar where `progress` asks for it (and TQDM_DISABLE does not forbid it)."""
    hidden = not progress or bool(os.environ.get("TQDM_DISABLE"))
    return steps if hidden else tqdm(steps, desc=description, leave=False)


def check_finite(x, what):
    """Raise FloatingPointError if a chain diverged: one look at the end of a chain, none inside it."""
    if not torch.isfinite(x).all():
        raise FloatingPointError(f"{what} diverged (NaN or infinity): try a smaller step size, or clip the gradient; or the "
                                 "network itself is no longer finite")  # fmt: skip
    return x


# -------------------------------------------------------------------------------------------- annealed Langevin dynamics


def geometric_sigmas(first=10.0, last=0.01, levels=30):
    """Noise levels in geometric progression. Technique 2 of Song & Ermon 2020 asks for 89 levels from 10 to 0.01 with 784
    pixels; with 30, each level needs more steps."""
    return check_sigmas(torch.logspace(math.log10(first), math.log10(last), levels))


def annealed_step(sigmas, steps):
    """epsilon of annealed Langevin for `steps` steps a level: technique 4 of Song & Ermon 2020.

    Each level should hand on the variance it is meant to have: among 10,000 step sizes r = epsilon / sigma_L^2, the one
    whose variance recursion ends nearest to 1.
    """
    gamma = float(sigmas[0] / sigmas[-1]) ** (1 / max(len(sigmas) - 1, 1))
    r = torch.linspace(1e-4, 1, 10_000, dtype=torch.float64)
    stationary = 1 / (1 - r / 2)
    variance = (1 - r) ** (2 * steps) * (gamma**2 - stationary) + stationary
    return float(r[(variance - 1).abs().argmin()] * sigmas[-1] ** 2)


def guided(score, weight):
    """Classifier-free guidance (Ho & Salimans 2022): s(x) + weight (s(x | label) - s(x)); small batches in one call.

    weight 1 is the conditional score itself; above 1, samples are surer of their label and less varied.
    """

    def guided_score(x, sigma, labels):
        if labels is None or weight == 1:
            return score(x, sigma, labels)
        nothing = torch.full_like(labels, NO_LABEL)
        if len(x) > 512:  # twice as many at once would be no faster, and take twice the memory
            with_label, without = score(x, sigma, labels), score(x, sigma, nothing)
        else:
            with_label, without = score(torch.cat([x, x]), sigma, torch.cat([labels, nothing])).chunk(2)
        return without + weight * (with_label - without)

    return guided_score


def begin_sampling(model, labels, sigmas, n, start, guidance, generator):
    """(score, labels, sigmas, x): what every sampler of a score begins with, checked and on the model's device; x is
    `start`, or noise of the largest level for each label, or for `n` images without."""
    device = device_of(model) or (start.device if start is not None else torch.device("cpu"))
    sigmas = check_sigmas(sigmas, device)
    labels = None if labels is None else check_labels(labels, n if start is None else len(start), device)
    if labels is None and n is None and start is None:
        raise ValueError("without labels, say how many: n=64 (or give start)")
    if start is None:
        shape = (n if labels is None else len(labels), *IMAGE_SHAPE)
        start = sigmas[0] * torch.randn(shape, device=device, generator=generator)
    return guided(frozen(model), guidance), labels, sigmas, start.detach().to(device, copy=True)


@torch.no_grad()
def annealed_langevin_dynamics(model, labels, sigmas, *, n=None, start=None, steps=8, epsilon=None, guidance=GUIDANCE,
                               denoise=True, snapshots=None, generator=None, progress=False):  # fmt: skip
    """Annealed Langevin dynamics on a score (Song & Ermon 2019, algorithm 1, in the form of 2020).

    At each noise level sigma_i, `steps` times: x <- x + alpha_i s(x, sigma_i) + sqrt(2 alpha_i) z with
    alpha_i = epsilon (sigma_i / sigma_L)^2; at last x + sigma_L^2 s (Tweedie). `model(x, sigma, labels)` is the score;
    labels [B] in 0..9, or None with `n` or `start` [B, ...]. epsilon None: annealed_step(). `guidance` is the weight of
    guided() where there are labels. `snapshots` are level numbers in 0..L; then the frames come back too. Raises
    ValueError for bad labels or sigmas, FloatingPointError if the chain diverges.
    """
    score, labels, sigmas, x = begin_sampling(model, labels, sigmas, n, start, guidance, generator)
    epsilon = annealed_step(sigmas, steps) if epsilon is None else epsilon
    with recording(snapshots, len(sigmas)) as (frames, keep):
        keep(0, x)
        for i, sigma in enumerate(progress_bar(sigmas, "Annealed Langevin", progress), start=1):
            alpha = epsilon * (sigma / sigmas[-1]) ** 2
            for _ in range(steps):
                z = torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=generator)
                x = x + alpha * score(x, sigma, labels) + torch.sqrt(2 * alpha) * z
            keep(i, x)
    if denoise:
        x = x + sigmas[-1] ** 2 * score(x, sigmas[-1], labels)
    check_finite(x, "Annealed Langevin")
    return (x, torch.stack(frames)) if snapshots is not None else x


@torch.no_grad()
def posterior_sampling(model, noisy, sigma, labels=None, *, levels=100, last=0.01, generator=None, progress=False):
    """One draw from p(clean | noisy) for each noisy = clean + sigma n, which is itself a draw of noise level sigma: the
    reverse-time SDE from there on (Song et al. 2021, appendix F), from level s_i to s_j by
    x <- x + (s_i^2 - s_j^2) score(x, s_i) + sqrt((s_i^2 - s_j^2) s_j / s_i) z, and at last Tweedie. The noise is midway
    between its two bounds (Nichol & Dhariwal 2021, eq. 15 with v = 1/2): of a Gaussian posterior's variance 1.6 % is lost
    in 100 levels, 5.4 % by the lower bound.

    `levels` noise levels from sigma to `last`. ValueError for a sigma not above `last`, fewer than 2 levels, or wrong labels
    or images; FloatingPointError if the chain diverges.
    """
    check_images(noisy)
    if not sigma > last or levels < 2:
        raise ValueError(f"sigma must lie above last = {last}, where the chain ends, and there must be two levels or more")
    score, x = frozen(model), noisy.to(device_of(model) or noisy.device)
    labels = None if labels is None else check_labels(labels, len(x), x.device)
    sigmas = geometric_sigmas(sigma, last, levels).to(x.device)
    for i in progress_bar(range(levels - 1), "Posterior sampling", progress):
        s_i, s_j = sigmas[i], sigmas[i + 1]
        z = torch.randn(x.shape, device=x.device, generator=generator)
        step = s_i**2 - s_j**2
        x = x + step * score(x, s_i, labels) + torch.sqrt(step * s_j / s_i) * z
    return check_finite(x + sigmas[-1] ** 2 * score(x, sigmas[-1], labels), "Posterior sampling")


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
    return check_sigmas((first ** (1 / rho) + ramp * (last ** (1 / rho) - first ** (1 / rho))) ** rho)


@torch.no_grad()
def heun(model, labels, sigmas, *, churn=0.0, n=None, start=None, guidance=GUIDANCE, generator=None, progress=False):
    """The probability-flow ODE dx = -sigma score(x, sigma) dsigma by Heun's method (Karras et al. 2022, algorithm 1), with
    `churn` above zero their stochastic sampler (algorithm 2): each step first adds noise, churn / L of sigma, at most 0.41.

    Two evaluations a level, one at the last: 2 L - 1.
    """
    score, labels, sigmas, x = begin_sampling(model, labels, sigmas, n, start, guidance, generator)
    raised = 1 + min(churn / len(sigmas), math.sqrt(2) - 1)
    for i in progress_bar(range(len(sigmas) - 1), "Heun", progress):
        sigma = sigmas[i]
        if churn:
            z = torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=generator)
            sigma, x = sigma * raised, x + sigma * math.sqrt(raised**2 - 1) * z
        step = sigmas[i + 1] - sigma
        slope = -sigma * score(x, sigma, labels)
        ahead = -sigmas[i + 1] * score(x + step * slope, sigmas[i + 1], labels)
        x = x + step * (slope + ahead) / 2
    return check_finite(x + sigmas[-1] ** 2 * score(x, sigmas[-1], labels), "Heun's method")


@torch.no_grad()
def dpm_solver(model, labels, sigmas, *, n=None, start=None, guidance=GUIDANCE, generator=None, progress=False):
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2) in the noise levels themselves, from sigma to sigma':
    x <- (sigma' / sigma) x + (1 - sigma' / sigma) D, where D, the clean image x + sigma^2 score(x, sigma), is extrapolated
    from the last two levels in -ln sigma.

    One evaluation a level: L.
    """
    score, labels, sigmas, x = begin_sampling(model, labels, sigmas, n, start, guidance, generator)
    before = None
    for i in progress_bar(range(len(sigmas) - 1), "DPM-Solver++", progress):
        clean = x + sigmas[i] ** 2 * score(x, sigmas[i], labels)
        ahead = clean
        if before is not None:
            ratio = torch.log(sigmas[i] / sigmas[i + 1]) / torch.log(sigmas[i - 1] / sigmas[i])  # of the two steps in t
            ahead = clean + ratio / 2 * (clean - before)
        shrink = sigmas[i + 1] / sigmas[i]
        x, before = shrink * x + (1 - shrink) * ahead, clean
    return check_finite(x + sigmas[-1] ** 2 * score(x, sigmas[-1], labels), "DPM-Solver++")


# ------------------------------------------------------------------------------------------------ many evaluations: noise


@torch.no_grad()
def consistent_annealed(model, labels, sigmas, *, eta=1.5, n=None, start=None, guidance=GUIDANCE, generator=None,
                        progress=False):  # fmt: skip
    """Consistent annealed sampling (Jolicoeur-Martineau et al. 2020, algorithm 2): one step a level, with just the
    noise that brings x from level sigma_i to sigma_j: x <- x + a sigma_i^2 score(x, sigma_i) + b sigma_j z,
    b^2 = 1 - (1 - a)^2 sigma_i^2 / sigma_j^2. `eta` is a in units of 1 - sigma_j / sigma_i: with 1 no noise is added.

    One evaluation a level: L. ValueError for an eta below 1.
    """
    if eta < 1:
        raise ValueError("eta must be 1 or more: with less, a step leaves more noise than the next level has")
    score, labels, sigmas, x = begin_sampling(model, labels, sigmas, n, start, guidance, generator)
    for i in progress_bar(range(len(sigmas) - 1), "Consistent annealed sampling", progress):
        s_i, s_j = sigmas[i], sigmas[i + 1]
        a = torch.clamp(eta * (1 - s_j / s_i), max=1.0)
        z = torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=generator)
        noise = torch.sqrt((s_j**2 - (1 - a) ** 2 * s_i**2).clamp(min=0))
        x = x + a * s_i**2 * score(x, s_i, labels) + noise * z
    return check_finite(x + sigmas[-1] ** 2 * score(x, sigmas[-1], labels), "Consistent annealed sampling")


@torch.no_grad()
def predictor_corrector(model, labels, sigmas, *, snr=0.16, n=None, start=None, guidance=GUIDANCE, generator=None,
                        progress=False):  # fmt: skip
    """Predictor and corrector (Song et al. 2021, algorithms 2 and 4): from each level to the next by the reverse-time SDE,
    x <- x + (sigma_i^2 - sigma_j^2) score + sqrt(sigma_i^2 - sigma_j^2) z, and there one Langevin step whose size makes the
    score's part `snr` times as long as the noise's, epsilon = 2 (snr |z| / |score|)^2, norms averaged over the batch.

    Two evaluations a level, one at the last: 2 L - 1.
    """
    score, labels, sigmas, x = begin_sampling(model, labels, sigmas, n, start, guidance, generator)
    for i in progress_bar(range(len(sigmas) - 1), "Predictor-corrector", progress):
        step = sigmas[i] ** 2 - sigmas[i + 1] ** 2
        z = torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=generator)
        x = x + step * score(x, sigmas[i], labels) + torch.sqrt(step) * z
        z = torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=generator)
        slope = score(x, sigmas[i + 1], labels)
        epsilon = 2 * (snr * z.flatten(1).norm(dim=1).mean() / slope.flatten(1).norm(dim=1).mean()) ** 2
        x = x + epsilon * slope + torch.sqrt(2 * epsilon) * z
    return check_finite(x + sigmas[-1] ** 2 * score(x, sigmas[-1], labels), "Predictor-corrector")


# --------------------------------------------------------------------------------------- what else the same score can do


@torch.no_grad()
def to_latent(model, labels, sigmas, x, *, guidance=1.0):
    """The noise at the first of `sigmas` that the probability-flow ODE joins to the images x: heun() run upwards.

    Two evaluations a level; heun(..., start=latent) leads back. Raises as the samplers do.
    """
    score, labels, sigmas, x = begin_sampling(model, labels, sigmas, None, x, guidance, None)
    for low, high in itertools.pairwise(sigmas.flip(0)):
        slope = -low * score(x, low, labels)
        ahead = -high * score(x + (high - low) * slope, high, labels)
        x = x + (high - low) * (slope + ahead) / 2
    return check_finite(x, "The way to the latent")


def spherical(a, b, share):
    """Between two latents [B, ...], along the great circle: as much noise on the way as at its ends (Shoemake 1985)."""
    cosine = torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1)).clamp(-1, 1)
    angle = torch.arccos(cosine).clamp(min=1e-4).view(-1, *[1] * (a.dim() - 1))
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)


def check_mask(known, images):
    """Raise ValueError unless the mask `known` is boolean and fits images [B, ...]."""
    fits = all(k in (1, size) for k, size in zip(known.shape[::-1], images.shape[::-1], strict=False))
    if known.dtype != torch.bool or known.dim() > images.dim() or not fits:
        raise ValueError(f"known must be a boolean mask that fits images of shape {list(images.shape)}")


@torch.no_grad()
def inpaint(model, labels, sigmas, images, known, *, spread=PIXEL_STD, guidance=GUIDANCE, generator=None, progress=False):
    """Complete `images` [B, ...] where the mask `known` is False: the reverse-time SDE of posterior_sampling(), its score
    plus the slope of log N(known pixels; D, r^2), where D is the clean estimate x + sigma^2 score(x, sigma) and r^2 =
    sigma^2 spread^2 / (sigma^2 + spread^2) (pseudoinverse guidance, Song, Vahdat, Mardani & Kautz 2023).

    L evaluations with their gradients. Approximate: r^2 is the variance around D of independent pixels of deviation `spread`
    (two Gaussian pixels of correlation 0.8: 5 % off). ValueError for a mask that does not fit or is not boolean, and as the
    samplers.
    """
    check_mask(known, images)
    sigmas, images = check_sigmas(sigmas), torch.where(known, images, 0)  # a missing pixel may be anything, NaN too
    start = torch.randn(images.shape, device=images.device, dtype=images.dtype, generator=generator) * float(sigmas[0])
    score, labels, sigmas, x = begin_sampling(model, labels, sigmas, None, start, guidance, generator)
    images, known = images.to(x.device), known.to(x.device)
    for s_i, s_j in progress_bar(list(itertools.pairwise([*sigmas, 0 * sigmas[-1]])), "Inpainting", progress):
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            s = score(leaf, s_i, labels)
            missed = ((images - leaf - s_i**2 * s) * known).square().sum() / (2 * s_i**2 * spread**2 / (s_i**2 + spread**2))
            pull = -torch.autograd.grad(missed, leaf)[0]
        z = torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=generator)
        step = s_i**2 - s_j**2
        x = x + step * (s.detach() + pull) + torch.sqrt(step * s_j / s_i) * z
    return check_finite(torch.where(known, images, x), "Inpainting")


@torch.no_grad()
def inpaint_by_replacement(model, labels, sigmas, images, known, *, steps=8, guidance=GUIDANCE, generator=None,
                           progress=False):  # fmt: skip
    """inpaint() by annealed Langevin dynamics whose known pixels are replaced in every step by the true ones with that
    level's noise (Song & Ermon 2019, appendix B.3, algorithm 2).

    L times `steps` evaluations and one. Approximate: what is decided while the known pixels are still noisy comes out too
    close to the average (of two Gaussian pixels 9 % with 8 steps a level, 3 % with 300). ValueError as inpaint().
    """
    check_mask(known, images)
    sigmas = check_sigmas(sigmas)
    start = torch.randn(images.shape, device=images.device, dtype=images.dtype, generator=generator) * float(sigmas[0])
    score, labels, sigmas, x = begin_sampling(model, labels, sigmas, None, start, guidance, generator)
    images, known, epsilon = images.to(x.device), known.to(x.device), annealed_step(sigmas, steps)
    for sigma in progress_bar(sigmas, "Inpainting", progress):
        alpha = epsilon * (sigma / sigmas[-1]) ** 2
        for _ in range(steps):
            z, z_known = (torch.randn(x.shape, device=x.device, dtype=x.dtype, generator=generator) for _ in range(2))
            x = torch.where(known, images + sigma * z_known, x)
            x = x + alpha * score(x, sigma, labels) + torch.sqrt(2 * alpha) * z
    x = torch.where(known, images, x)
    x = torch.where(known, images, x + sigmas[-1] ** 2 * score(x, sigmas[-1], labels))
    return check_finite(x, "Inpainting")


# -------------------------------------------------------------------------------------------------------------- likelihood


@torch.no_grad()
def log_likelihood(model, x, labels=None, *, sigmas=None, probes=1, generator=None, progress=False):
    """log p(x) in nats, [B], by the probability-flow ODE run upwards (Song et al. 2021, appendix D.2): p is that of the
    smallest of `sigmas` (descending; default 60 from 20 to 0.001 in geometric progression), a Gaussian at the largest.

    d log p / d ln sigma is sigma^2 times the divergence of the score, estimated by `probes` random signs a path (Hutchinson
    1989). Heun's method for the path, the trapezoid rule in ln sigma, where the divergence changes slowly, for log p: two
    evaluations with their gradients a level. ValueError and FloatingPointError as for the samplers.
    """
    sigmas = geometric_sigmas(20.0, 0.001, 60) if sigmas is None else sigmas
    score, labels, sigmas, x = begin_sampling(model, labels, sigmas, None, x, 1, generator)
    signs = [torch.empty_like(x).bernoulli_(generator=generator).mul_(2).sub_(1) for _ in range(probes)]

    def slope(x, sigma):
        """-sigma score, and -sigma^2 times its divergence, [B]."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            s = score(leaf, sigma, labels)
            products = [torch.autograd.grad(s, leaf, v, retain_graph=True)[0].mul(v).flatten(1).sum(1) for v in signs]
        return -sigma * s.detach(), -(sigma**2) * sum(products) / len(products)

    up, gained = sigmas.flip(0), torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for low, high in progress_bar(list(itertools.pairwise(up)), "Likelihood", progress):
        step, (here, growth) = high - low, slope(x, low)
        ahead, growth_ahead = slope(x + step * here, high)
        x, gained = x + step * (here + ahead) / 2, gained + torch.log(high / low) * (growth + growth_ahead) / 2
    variance = up[-1] ** 2 + PIXEL_STD**2
    square = (x - PIXEL_MEAN).square().flatten(1).sum(1)
    top = -square / (2 * variance) - x[0].numel() / 2 * torch.log(2 * math.pi * variance)
    return check_finite(top + gained, "The likelihood's ODE")


def bits_per_dimension(log_p, dimensions=784, levels=256):
    """Bits a pixel of `levels` grey values costs, from log p in nats of the uniformly dequantised image on [0, 1]."""
    return math.log2(levels) - log_p / (dimensions * math.log(2))
