"""Models, losses and samplers: MNIST, two networks, replay buffer, Langevin dynamics.

Conventions: p(x) is proportional to exp(-E(x)), so a low energy means a likely image. Images are
float32 [B, 1, 28, 28] in [0, 1]; noise levels `sigmas` are a descending 1-D tensor on the same
scale; a score is the gradient of log p_sigma(x) with respect to x, shaped like x.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dgm import checks, data, fast_gradient, runs
from dgm.checks import IMAGE_SHAPE, NO_LABEL, PIXEL_MEAN, PIXEL_STD
from dgm.device import chain_dtype, fast_math, pick_device
from dgm.halves import as_a_whole, in_halves
from dgm.progress import progress_bar
from dgm.samplers import (
    annealed_step,
    begin_sampling,
    device_of,
    frozen,
    noise_like,
    recording,
)


def load_mnist(root=None, device="cpu", download=True):
    """Return MNIST on the device as a named tuple (train_images, train_labels, ...).

    The files are read from `root`/MNIST/raw (default $MNIST_ROOT, else data/) and downloaded if
    they are absent. Without files and network, a message says so and scikit-learn's UCI digits
    are returned, resized. Raises ValueError for a damaged file, FileNotFoundError for missing ones.
    """
    return data.read_mnist(root, device, download)


# ---------------------------------------------------------------------------------- networks


class EnergyNetwork(nn.Module):
    """A network that maps images [B, 1, 28, 28] to energies E(x) [B], low = likely.

    It has smooth activations, no normalisation and no dropout. The layers run in bfloat16 if the
    chip supports it natively; the result is float32. Raises ValueError for a wrong shape or dtype.
    """

    def __init__(self, width=32):
        super().__init__()
        self.settings = {"width": width}
        w = width
        self.layers = nn.Sequential(
            nn.Conv2d(1, w, 5, stride=2, padding=4),  # [B, w, 16, 16]
            nn.SiLU(),
            nn.Conv2d(w, 2 * w, 3, stride=2, padding=1),  # [B, 2w, 8, 8]
            nn.SiLU(),
            nn.Conv2d(2 * w, 4 * w, 3, stride=2, padding=1),  # [B, 4w, 4, 4]
            nn.SiLU(),
            nn.Conv2d(4 * w, 4 * w, 3, stride=2, padding=1),  # [B, 4w, 2, 2]
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(16 * w, 4 * w),
            nn.SiLU(),
            nn.Linear(4 * w, 1),
        )

    def forward(self, x):
        checks.check_images(x, device=self.layers[0].weight.device)
        with fast_math(x.device):
            return self.layers(2 * x - 1).squeeze(1).float()  # centred; [B]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a scale and shift from the embedding of (sigma, label)."""

    def __init__(self, c_in, c_out, embedding):
        super().__init__()
        convolution = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.first = nn.Sequential(nn.GroupNorm(8, c_in), nn.SiLU(), convolution)
        self.modulate = nn.Linear(embedding, 2 * c_out)
        self.norm = nn.GroupNorm(8, c_out)
        self.second = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        nn.init.zeros_(self.second.weight)  # each block starts as the identity

    def forward(self, x, embedding):
        scale, shift = self.modulate(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.norm(self.first(x)) * (1 + scale) + shift
        return self.skip(x) + self.second(F.silu(h))


class Attention(nn.Module):
    """Self-attention over the 7x7 positions, which connects distant parts of a stroke."""

    def __init__(self, channels, heads=4):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x):
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        qkv = qkv.transpose(-1, -2)
        if x.is_cuda or not torch.is_grad_enabled():
            qkv = qkv.contiguous()  # for the fused kernel; no gain in training on a CPU
        attended = F.scaled_dot_product_attention(*qkv.unbind(1))  # [B, heads, 49, c / heads]
        return x + self.out(attended.transpose(-1, -2).reshape(b, c, h, w))


class ScoreNetwork(nn.Module):
    """A network for the score s(x, sigma, label) of digits with noise N(0, sigma^2).

    It is a small U-Net on 14x14 positions (2x2 pixels each) and 7x7, preconditioned as in Karras
    et al. 2022, table 1: D(x) = c_skip x + c_out F(c_in x), score = (D(x) - x) / sigma^2, in a
    form without cancellation at small sigma. The label is optional.
    """

    NO_LABEL = NO_LABEL

    def __init__(self, width=64, embedding=128):
        super().__init__()
        self.settings = {"width": width, "embedding": embedding}
        w, e = width, embedding
        self.register_buffer("frequencies", 2 ** torch.linspace(-2, 5, 16))
        self.embed_sigma = nn.Sequential(nn.Linear(32, e), nn.SiLU(), nn.Linear(e, e))
        self.embed_label = nn.Embedding(11, e)
        self.stem = nn.Conv2d(4, w, 3, padding=1)
        self.down = nn.ModuleList([ResidualBlock(w, w, e), ResidualBlock(w, w, e)])
        self.shrink = nn.Conv2d(w, 2 * w, 3, stride=2, padding=1)
        self.middle = nn.ModuleList([ResidualBlock(2 * w, 2 * w, e) for _ in range(3)])
        self.attention = nn.ModuleList([Attention(2 * w) for _ in range(2)])
        self.grow = nn.Conv2d(2 * w, w, 3, padding=1)
        self.up = nn.ModuleList([ResidualBlock(2 * w, w, e), ResidualBlock(2 * w, w, e)])
        self.out = nn.Sequential(nn.GroupNorm(8, w), nn.SiLU(), nn.Conv2d(w, 4, 3, padding=1))
        nn.init.zeros_(self.out[-1].weight)  # the network starts as the exact score of a Gaussian
        nn.init.zeros_(self.out[-1].bias)

    def unet(self, x, log_sigma, labels):
        angles = (log_sigma / 4)[:, None] * self.frequencies  # c_noise = ln(sigma) / 4
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        embedding = F.silu(self.embed_sigma(waves) + self.embed_label(labels))
        h = self.stem(F.pixel_unshuffle(x, 2))  # [B, w, 14, 14]
        skips = []
        for block in self.down:
            h = block(h, embedding)
            skips.append(h)
        h = self.shrink(h)  # [B, 2w, 7, 7]
        for i, block in enumerate(self.middle):
            h = block(h, embedding)
            h = self.attention[i](h) if i < len(self.attention) else h
        h = self.grow(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        for block in self.up:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        return F.pixel_shuffle(self.out(h), 2)  # [B, 1, 28, 28]

    def forward(self, x, sigma, labels=None):
        """Return the score. `sigma` is a number or [B], `labels` are [B] in 0..9 or None.

        NO_LABEL marks individual images without a label.
        """
        checks.check_images(x, device=self.stem.weight.device)
        sigma = checks.per_image(sigma, x)
        labels = checks.label_per_image(labels, x)
        s, centred = sigma.view(-1, 1, 1, 1), x - PIXEL_MEAN
        total = torch.sqrt(s**2 + PIXEL_STD**2)  # 1 / c_in
        with fast_math(x.device):
            f = self.unet(centred / total, sigma.log(), labels).float()
        return PIXEL_STD / (s * total) * f - centred / total**2

    def score(self, x, sigma, labels=None):
        """Return the score after checking all arguments.

        Raises ValueError for wrong images or labels, and for a sigma that is not positive.
        """
        checks.check_images(x, "x")
        checks.check_sigma(sigma, x)
        labels = None if labels is None else checks.check_labels(labels, len(x), x.device)
        return self(x, sigma, labels)

    def denoise(self, x, sigma, labels=None):
        """Return E[x_0 | x] = x + sigma^2 score(x, sigma) (Tweedie's formula, Efron 2011)."""
        score = self.score(x, sigma, labels)
        return x + checks.per_image(sigma, x).view(-1, 1, 1, 1) ** 2 * score


# --------------------------------------------------------------- gradient of an energy, average


def written_out_layers(model, x):
    """Return the layers whose gradient dgm/fast_gradient.py computes, None for other energies."""
    model = model.module if isinstance(model, AveragedModel) else model
    fits = type(model) is EnergyNetwork and fast_gradient.fits(model, x.device)
    return model.layers if fits else None


def energy_gradient(model, x):
    """Return the function x -> grad E(x) for chains whose first state is x.

    An EnergyNetwork uses the chain rule written out (dgm/fast_gradient.py) and raises ValueError
    for anything but images. Every other energy uses autograd.
    """
    layers = written_out_layers(model, x)
    if layers is not None:
        checks.check_images(x)
        dtype = chain_dtype(x.device) if len(x) >= fast_gradient.SMALL else torch.float32
        weights = fast_gradient.weights_of(layers, dtype)
        return functools.partial(fast_gradient.gradient_on(x.device.type), weights=weights)
    checks.check_takes(model, "x")
    energy = frozen(model)

    @torch.inference_mode(False)  # tensors of inference mode have no gradients
    @torch.enable_grad()
    def gradient(x):
        leaf = (x.clone() if x.is_inference() else x.detach()).requires_grad_(True)
        e = energy(leaf)
        checks.check_energy(e, len(x))
        return torch.autograd.grad(e.sum(), leaf)[0]

    return gradient


def ema_of(model, decay):
    """Return a moving average of the weights; call update_parameters(model) after each update."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


# -------------------------------------------------------------------- replay buffer, Langevin


class ReplayBuffer:
    """Persistent chains (Tieleman 2008; Du & Mordatch 2019): `size` images as one tensor.

    sample() draws distinct slots and restarts each with probability `redraw`, from restart(n) (n
    images) or from uniform noise. A pair (often, rarely) gives probabilities in geometric
    progression from the first slot to the last, so that chains of every age occur. write_back()
    stores the continued chains in the same slots. Raises ValueError if `redraw` is no probability.
    """

    def __init__(
        self, size=10_000, redraw=0.05, chains=None, restart=None, device="cpu", generator=None
    ):
        checks.check_generator(generator)
        self.options, self.slots = {"device": device, "generator": generator}, None
        self.restart = restart or (lambda n: torch.rand(n, *IMAGE_SHAPE, **self.options))
        checks.check_takes(self.restart, "n", name="restart")
        if chains is None:
            checks.check_count(size, "size")
            chains = self.restart(size)
            checks.check_length(chains, size, "restart(n)", "n")
        self.chains = checks.check_chains(chains).to(device, copy=True)
        self.redraw = self.redraw_rates(redraw, len(self.chains)).to(device)

    @staticmethod
    def redraw_rates(redraw, size):
        often, rarely = checks.check_redraw(redraw)
        return often * (rarely / often if often else 1.0) ** torch.linspace(0, 1, size)

    def __len__(self):
        return len(self.chains)

    def sample(self, batch_size):
        """Return initial states [B, 1, 28, 28]. Raises ValueError for more than the slots."""
        checks.check_count(batch_size, "batch_size", high=len(self))
        self.slots = torch.randperm(len(self), **self.options)[:batch_size]
        new = self.restart(batch_size)
        checks.check_images(new, "restart(n)", self.chains.device)
        checks.check_length(new, batch_size, "restart(n)", "n")
        fresh = torch.rand(batch_size, **self.options) < self.redraw[self.slots]
        return torch.where(fresh.view(-1, 1, 1, 1), new, self.chains[self.slots])

    def write_back(self, samples):
        """Store the chains in the slots of the last sample(). Raises ValueError for fewer."""
        checks.check_images(samples, "samples", self.chains.device)
        drawn = 0 if self.slots is None else len(self.slots)
        checks.check_length(samples, drawn, "samples", "the last sample()")
        self.chains[self.slots] = samples.detach()

    def state_dict(self):
        return {"chains": self.chains}

    def load_state_dict(self, state):
        chains = checks.check_chains(state["chains"])
        checks.check_length(chains, len(self), "chains", "this buffer")
        self.chains.copy_(chains)


@torch.no_grad()
def langevin_dynamics(
    model,
    samples,
    steps=1_000,
    step_size=2.5,
    noise=0.005,
    clip=0.06,
    bounds=(0.0, 1.0),
    *,
    snapshots=None,
    check=True,
    generator=None,
    progress=False,
):
    """Run Langevin dynamics on an energy, x <- x - step_size grad E(x) + noise z (Xie et al. 2016).

    `model` maps x [B, ...] to energies [B]. The defaults are those of the training: low noise (far
    below sqrt(2 step_size)), gradient clipped per pixel, pixels clamped. noise=sqrt(2 step_size),
    clip=None and bounds=None give unadjusted Langevin dynamics. Returns x [B, ...], or with
    `snapshots` (step numbers, ascending) x and the frames [len(snapshots), B, ...]. Raises
    FloatingPointError if the chain diverges; check=False omits this check, so that no GPU waits.
    """
    checks.check_langevin(steps, step_size, noise, clip, bounds, generator)
    checks.check_start(samples, bounds)
    device = device_of(model) or samples.device
    x = samples.to(device, copy=True, memory_format=torch.contiguous_format)

    def chain(x, numbers, generator):
        grad_energy, z = energy_gradient(model, x), torch.empty_like(x)
        with recording(snapshots, steps) as (frames, keep):
            keep(0, x)
            for k in numbers:
                gradient = grad_energy(x)
                if clip is not None:
                    gradient = gradient.clamp(-clip, clip)
                x.add_(gradient, alpha=-step_size).add_(z.normal_(generator=generator), alpha=noise)
                if bounds is not None:
                    x.clamp_(*bounds)
                keep(k, x)
        return frames

    run = in_halves if written_out_layers(model, x) else as_a_whole
    frames = run(chain, x, progress_bar(range(1, steps + 1), "Langevin", progress), generator)
    if check:
        checks.check_finite(x, "The Langevin chain")
    return (x, torch.stack(frames)) if snapshots is not None else x


@torch.no_grad()
def annealed_langevin_dynamics(
    model,
    labels,
    sigmas,
    *,
    n=None,
    start=None,
    steps=8,
    epsilon=None,
    guidance=2.0,
    denoise=True,
    snapshots=None,
    generator=None,
    progress=False,
):
    """Run annealed Langevin dynamics on a score (Song & Ermon 2019, algorithm 1, 2020 form).

    Repeats x <- x + alpha_i s(x, sigma_i) + sqrt(2 alpha_i) z, alpha_i = epsilon (sigma_i /
    sigma_L)^2, `steps` times per noise level, then returns x + sigma_L^2 s (Tweedie). `epsilon`
    None means annealed_step(). The other arguments are those of dgm/samplers.py. With `snapshots`
    (level numbers in 0..L), the frames are returned too. Raises ValueError for wrong labels or
    sigmas, FloatingPointError if the chain diverges.
    """
    score, labels, sigmas, x = begin_sampling(model, labels, sigmas, n, start, guidance, generator)
    checks.check_count(steps, "steps")
    epsilon = annealed_step(sigmas, steps) if epsilon is None else epsilon
    checks.check_number(epsilon, "epsilon", above=0)
    with recording(snapshots, len(sigmas)) as (frames, keep):
        keep(0, x)
        for i, sigma in enumerate(progress_bar(sigmas, "Annealed Langevin", progress), start=1):
            alpha = epsilon * (sigma / sigmas[-1]) ** 2
            for _ in range(steps):
                z = noise_like(x, generator)
                x = x + alpha * score(x, sigma, labels) + torch.sqrt(2 * alpha) * z
            keep(i, x)
    if denoise:
        x = x + sigmas[-1] ** 2 * score(x, sigmas[-1], labels)
    checks.check_finite(x, "Annealed Langevin")
    return (x, torch.stack(frames)) if snapshots is not None else x


# ------------------------------------------------------------------------------------ losses


def contrastive_divergence_loss(model, data, samples, regularisation=0.1, regularise_samples=True):
    """Return (loss, mean energy of the data, mean energy of the samples).

    The loss is E(data) - E(samples), whose gradient is that of the negative log-likelihood
    (Hinton 2002), plus regularisation (E(data)^2 + E(samples)^2), which keeps energies near zero
    (Du & Mordatch 2019, section 3.3). At E(samples) = 1 / (2 regularisation) the two gradients in
    E(samples) cancel; with regularise_samples=False they do not, and the loss keeps raising the
    energy of a chain that is stuck there. Raises ValueError for wrong shapes or dtypes.
    """
    checks.check_images(data, "data")
    checks.check_images(samples, "samples", data.device)
    checks.check_number(regularisation, "regularisation", low=0)
    energy = model(torch.cat([data, samples]))
    checks.check_energy(energy, len(data) + len(samples))
    energy = energy.flatten()
    e_data, e_samples = energy[: len(data)], energy[len(data) :]
    square = e_data.square().mean()
    if regularise_samples:
        square = square + e_samples.square().mean()
    loss = e_data.mean() - e_samples.mean() + regularisation * square
    return loss, e_data.mean().detach(), e_samples.mean().detach()


def training_sigmas(
    n,
    mean=-1.7,
    spread=1.2,
    uniform_share=0.25,
    span=(0.002, 20.0),
    device="cpu",
    generator=None,
):
    """Draw n noise levels for training.

    Most follow ln sigma ~ N(mean, spread^2), the range in which digits form (Karras et al. 2022).
    A share is log-uniform over `span`, so that every level a sampler visits is trained.
    """
    checks.check_count(n, "n")
    checks.check_number(uniform_share, "uniform_share", low=0, high=1)
    checks.check_number(spread, "spread", low=0)
    checks.check_generator(generator)
    options = {"device": device, "generator": generator}
    log_normal = mean + spread * torch.randn(n, **options)
    low, high = math.log(span[0]), math.log(span[1])
    log_uniform = low + (high - low) * torch.rand(n, **options)
    uniform = torch.rand(n, **options) < uniform_share
    return torch.where(uniform, log_uniform, log_normal).exp()


def edm_weight(sigma):
    """Return the weight that gives all levels the same initial loss (Karras et al. 2022)."""
    return sigma**2 * (1 + sigma**2 / PIXEL_STD**2)


def denoising_score_matching_loss(
    model, x, sigma, labels=None, weight=torch.square, generator=None, z=None
):
    """Return the mean of lambda(sigma) |s(x + sigma z, sigma) + z / sigma|^2 / dimensions.

    x [B, ...] is clean and sigma [B]. `weight` is lambda, by default sigma^2 as in the paper; z is
    drawn by default (Vincent 2011; Song & Ermon 2019, eq. 5 and 6).
    """
    checks.check_floats(x, "x")
    sigma = checks.per_image(sigma, x)
    s = sigma.view(-1, *[1] * (x.dim() - 1))
    z = torch.randn(x.shape, device=x.device, generator=generator) if z is None else z
    checks.check_same_shape(z, x, ("z", "x"))
    score = model(x + s * z, sigma, labels)
    checks.check_score(score, x)
    return (weight(s) * (score + z / s).square()).mean()


def set_learning_rate(optimizer, peak, update, total, warmup=100, fall=0.8, last=0.02):
    """Set the learning rate: linear warm-up to `peak`, constant, then linear decay.

    It decays to `last` * peak over the final share `fall` of the run (0 means no decay).
    """
    checks.check_schedule(peak, update, total, warmup, fall, last)
    falling = max(last, (total - update) / total / fall) if fall else 1.0
    rate = peak * min(1.0, (update + 1) / min(warmup, total), falling)
    for group in optimizer.param_groups:
        group["lr"] = rate


def choose_denoising_steps(model, clean, sigma, most=150, generator=None):
    """Return the number of noise-free Langevin steps that brings clean + sigma z closest to clean.

    Use training images for `clean`.
    """
    checks.check_clean_images(clean, "clean")
    checks.check_number(sigma, "sigma", low=0)
    checks.check_count(most, "most", low=0)
    noisy = clean + sigma * torch.randn(clean.shape, device=clean.device, generator=generator)
    _, frames = langevin_dynamics(model, noisy, most, noise=0.0, snapshots=range(most + 1))
    return int((frames - clean).square().flatten(1).mean(1).argmin())


def load_pretrained(name, device=None, folder=None):
    """Return (network, record) of a committed run.

    The record has history, settings, minutes, hardware, a label that summarises them, a `digest`
    of the file and, for an energy, uint8 chains. Raises FileNotFoundError if there is no such
    run, ValueError if the file is damaged or does not fit the network.
    """
    device = pick_device(device)
    path, record = runs.load_record(name, device, folder)
    networks = {"EnergyNetwork": EnergyNetwork, "ScoreNetwork": ScoreNetwork}
    try:
        model = networks[record["network"]](**record["network_settings"]).to(device)
        model.load_state_dict(record.pop("weights"))
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} does not fit the networks of helpers.py: {error}") from error
    return model, record
