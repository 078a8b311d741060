"""What makes: MNIST, the two networks, the replay buffer, the samplers, the losses and the checkpoints.

Conventions: p(x) is proportional to exp(-E(x)), so a low energy means a likely image. Images are float32
[B, 1, 28, 28] in [0, 1]; noise levels `sigmas` are a descending 1-D tensor on the same scale; a score is the
gradient of log p_sigma(x) with respect to x, shaped like x. What judges the results lives in evaluation.py.
"""

import ctypes
import functools
import hashlib
import json
import math
import os
import platform
import random
import signal
import socket
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

import fast
from samplers import (  # noqa: F401  the score, by name at hand here too
    IMAGE_SHAPE,
    NO_LABEL,
    PIXEL_MEAN,
    PIXEL_STD,
    annealed_langevin_dynamics,
    annealed_step,
    bits_per_dimension,
    check_finite,
    check_images,
    check_labels,
    check_sigmas,
    consistent_annealed,
    device_of,
    dpm_solver,
    frozen,
    geometric_sigmas,
    guided,
    heun,
    inpaint,
    inpaint_by_replacement,
    karras_sigmas,
    log_likelihood,
    posterior_sampling,
    predictor_corrector,
    progress_bar,
    recording,
    spherical,
    to_latent,
)

CHECKPOINTS = Path(__file__).resolve().parent / "checkpoints"
RESULTS = Path(__file__).resolve().parent / "assets" / "results"
PRESETS = ("smoke", "quick", "full")

# ------------------------------------------------------------------------------------------------ device, seed, checks


def keep_freed_memory():
    """Have glibc keep freed memory for the next step; by default large blocks go back to the kernel, which clears every page
    anew. Measured on one core: chains of 1,000 images 9,000 -> 12,000 image-steps/s, score network at batch 2,000
    560 -> 1,060 evaluations/s. Returns whether it was done; without glibc (macOS, Windows, Alpine) it is not."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    no_mmap, no_trim = (-4, 0), (-1, 2**31 - 1)  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
    return mallopt is not None and bool(mallopt(*no_mmap)) and bool(mallopt(*no_trim))


keep_freed_memory()


def pick_device():
    """The one device of a run: cuda, then mps, then cpu."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def seed_everything(seed, device="cpu"):
    """Seed Python, NumPy and PyTorch; return a torch.Generator on `device` for everything a run draws."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return torch.Generator(device).manual_seed(seed)


def has_native_bf16(device):
    """Whether the chip multiplies bfloat16 itself; where it only emulates it, bfloat16 is slower than float32."""
    if device.type == "cuda":  # not is_bf16_supported(): it says yes to chips that emulate
        return torch.cuda.get_device_capability(device)[0] >= 8
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return device.type == "cpu" and supported()


def fast_math(device):
    """Autocast to bfloat16 where the chip has it natively, float32 elsewhere."""
    device = torch.device(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=has_native_bf16(device))


def hardware_name():
    """What a number was measured on, for example "2 of 2 cores, Intel(R) Xeon(R) Processor"."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    chip = names[0] if names else platform.processor() or platform.machine()
    return f"{torch.get_num_threads()} of {os.cpu_count()} cores, {chip}"


def peak_memory():
    """The most memory this process has used, in GB: {"RAM": None where it cannot be asked, "GPU": where there is one}."""
    try:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
        peak = {"RAM": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2)}
    except ImportError:  # Windows
        peak = {"RAM": None}
    return peak | ({"GPU": round(torch.cuda.max_memory_allocated() / 1e9, 2)} if torch.cuda.is_available() else {})


# ------------------------------------------------------------------------------------------------------------- data

MNIST_FILES = {  # name: (bytes, first four bytes as a number, SHA-256)
    "train-images-idx3-ubyte": (47040016, 2051, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    "train-labels-idx1-ubyte": (60008, 2049, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    "t10k-images-idx3-ubyte": (7840016, 2051, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    "t10k-labels-idx1-ubyte": (10008, 2049, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}


class Digits(NamedTuple):
    """A data set as tensors on one device: images [N, 1, 28, 28] in [0, 1], labels [N] in 0..9."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    name: str


def load_mnist(root=None, device="cpu", download=True):
    """MNIST from `root`/MNIST/raw (default $MNIST_ROOT, else data/), downloaded by torchvision where it is absent.

    Without files and network it says so and returns scikit-learn's UCI digits, resized to 28x28.
    Raises ValueError naming a damaged file, FileNotFoundError naming those missing from an incomplete set.
    """
    root = Path(root or os.environ.get("MNIST_ROOT") or "data")
    raw = root / "MNIST" / "raw"
    reason = "no files were found and downloading was not asked for"
    if download and not any((raw / name).exists() for name in MNIST_FILES):
        reason = download_mnist(root)
    missing = [name for name in MNIST_FILES if not (raw / name).exists()]
    if len(missing) == len(MNIST_FILES):
        print(f"!!! NO MNIST in {raw} ({reason}).\n!!! Going on with the UCI digits of scikit-learn "
              "(1,797 real digits of 8x8 pixels, resized): good enough to try the code, not to judge a model.\n"
              "!!! If you have MNIST, set MNIST_ROOT to the folder that has MNIST/raw in it.")
        return uci_digits(device)
    if missing:
        raise FileNotFoundError(f"{raw} lacks {', '.join(missing)}: add them, or empty the folder to download all")
    images, labels, test_images, test_labels = (read_idx(raw / name).to(device) for name in MNIST_FILES)
    return Digits(images, labels, test_images, test_labels, "MNIST")


def download_mnist(root):
    """Fetch MNIST through torchvision, the S3 mirror first; return "" or the reason why it could not be had."""
    from torchvision.datasets import MNIST

    MNIST.mirrors = sorted(MNIST.mirrors, key=lambda mirror: "s3" not in mirror)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)
    try:
        MNIST(root, download=True)
        return ""
    except Exception as error:  # offline, refused, read-only folder: all end in the same fallback, with this reason
        return "download failed: " + (str(error).strip() or type(error).__name__).splitlines()[-1].rstrip(".")
    finally:
        socket.setdefaulttimeout(timeout)


def read_idx(path):
    """One verified MNIST file as float32 images in [0, 1] or int64 labels; ValueError if it is not the official one."""
    size, magic, digest = MNIST_FILES[path.name]
    data = path.read_bytes()
    found = int.from_bytes(data[:4], "big")
    if found != magic:
        kind = {2051: "an image file", 2049: "a label file"}
        problem = f"it is {kind.get(found, 'no MNIST file')} where {kind[magic]} belongs"
    elif len(data) != size:
        problem = f"it has {len(data):,} bytes instead of {size:,}"
    elif hashlib.sha256(data).hexdigest() != digest:
        problem = "its SHA-256 is not that of the official file"
    else:
        values = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return values[8:].long() if magic == 2049 else values[16:].view(-1, *IMAGE_SHAPE).float().div_(255)
    raise ValueError(f"{path} is damaged or not MNIST: {problem}. Delete the four files to download them anew.")


def uci_digits(device="cpu"):
    """scikit-learn's bundled digits (8x8, 0..16) resized to 28x28 in [0, 1]; the last 297 of 1,797 are for testing."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32, device=device)[:, None] / 16
    images = F.interpolate(images, size=IMAGE_SHAPE[1:], mode="bicubic").clamp(0, 1)
    labels = torch.tensor(digits.target, device=device).long()
    return Digits(images[:1500], labels[:1500], images[1500:], labels[1500:], "UCI digits")


def minibatches(images, labels, batch_size, generator=None):
    """An endless stream of random (images, labels), drawn with replacement so that a run resumes anywhere.

    Raises ValueError where check_images (clean) or check_labels does: once, not in every update.
    """
    check_images(images, clean=True)
    check_labels(labels, len(images))
    while True:
        index = torch.randint(len(images), (batch_size,), device=images.device, generator=generator)
        yield images[index], labels[index]


# --------------------------------------------------------------------------------------------------------- networks


class EnergyNetwork(nn.Module):
    """E(x): images [B, 1, 28, 28] to energies [B], low = likely. Smooth activations, no normalisation, no dropout.

    As in ScoreNetwork, the layers run in bfloat16 where the chip has it natively; the result is float32. Raises
    ValueError for images of another shape or type.
    """

    def __init__(self, width=32):
        super().__init__()
        self.settings = {"width": width}
        w = width
        self.layers = nn.Sequential(
            nn.Conv2d(1, w, 5, stride=2, padding=4), nn.SiLU(),  # [B, w, 16, 16]
            nn.Conv2d(w, 2 * w, 3, stride=2, padding=1), nn.SiLU(),  # [B, 2w, 8, 8]
            nn.Conv2d(2 * w, 4 * w, 3, stride=2, padding=1), nn.SiLU(),  # [B, 4w, 4, 4]
            nn.Conv2d(4 * w, 4 * w, 3, stride=2, padding=1), nn.SiLU(),  # [B, 4w, 2, 2]
            nn.Flatten(), nn.Linear(16 * w, 4 * w), nn.SiLU(), nn.Linear(4 * w, 1),
        )  # fmt: skip

    def forward(self, x):
        check_images(x)
        with fast_math(x.device):
            return self.layers(2 * x - 1).squeeze(1).float()  # centred; [B]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions whose normalised activations are scaled and shifted by the embedding of (sigma, label)."""

    def __init__(self, c_in, c_out, embedding):
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.modulate = nn.Linear(embedding, 2 * c_out)
        self.norm = nn.GroupNorm(8, c_out)
        self.second = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        nn.init.zeros_(self.second.weight)  # each block starts as the identity

    def forward(self, x, embedding):
        scale, shift = self.modulate(embedding)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm(self.first(x)), 1 + scale)
        return self.skip(x) + self.second(F.silu(h))


class Attention(nn.Module):
    """Self-attention over the 7x7 positions, so that the two ends of a stroke see each other."""

    def __init__(self, channels, heads=4):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x):
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w).transpose(-1, -2)
        if x.is_cuda or not torch.is_grad_enabled():  # contiguous, it takes the fused kernel, on two cores the faster one in
            qkv = qkv.contiguous()  # samplers (2,700 -> 3,060 evaluations/s) and the slower one in training (6.1 -> 4.4/s)
        attended = F.scaled_dot_product_attention(*qkv.unbind(1))  # [B, heads, 49, c / heads]
        return x + self.out(attended.transpose(-1, -2).reshape(b, c, h, w))


class ScoreNetwork(nn.Module):
    """s(x, sigma, label): the score of the digits blurred with N(0, sigma^2), for any sigma, any label or none.

    A small U-Net on 14x14 positions (2x2 pixels each) and 7x7, preconditioned as in Karras et al. 2022, table 1:
    D(x) = c_skip x + c_out F(c_in x), score = (D(x) - x) / sigma^2, written so that nothing cancels at small sigma.
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
        nn.init.zeros_(self.out[-1].weight)  # so that it starts as the exact score of one Gaussian
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
        """The score; sigma is a number or [B]; labels [B] in 0..9, or None (NO_LABEL marks single unlabelled images)."""
        check_images(x)
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).expand(len(x))
        if labels is None:
            labels = torch.full((len(x),), self.NO_LABEL, device=x.device)
        s, centred = sigma.view(-1, 1, 1, 1), x - PIXEL_MEAN
        total = torch.sqrt(s**2 + PIXEL_STD**2)  # 1 / c_in
        with fast_math(x.device):
            f = self.unet(centred / total, sigma.log(), labels).float()
        return PIXEL_STD / (s * total) * f - centred / total**2

    def score(self, x, sigma, labels=None):
        """forward() with all its arguments checked: ValueError also for wrong labels and a sigma that is not positive."""
        if not torch.as_tensor(sigma).gt(0).all():
            raise ValueError("sigma must be positive")
        labels = None if labels is None else check_labels(labels, len(x), x.device)
        return self(x, sigma, labels)

    def denoise(self, x, sigma, labels=None):
        """Tweedie's estimate of the clean image, E[x_0 | x] = x + sigma^2 score(x, sigma) (Efron 2011)."""
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device)
        return x + sigma.view(-1, 1, 1, 1) ** 2 * self.score(x, sigma, labels)


def frozen_energy(model):
    """frozen(), and an EnergyNetwork's weights in bfloat16 where the chip has it, so that they are not cast anew in every
    step (image-steps/s at batch 128 on two cores: float32 4,900, autocast 10,100, this 21,100)."""
    energy = frozen(model)
    if isinstance(energy, EnergyNetwork) and has_native_bf16(next(energy.parameters()).device):
        energy = energy.to(dtype=torch.bfloat16, memory_format=torch.channels_last)
    return energy


def energy_gradient(model, x):
    """The function x -> grad E(x) for chains that start as x: the chain rule of an EnergyNetwork written out (fast.py),
    autograd for every other energy. ValueError where an EnergyNetwork is given anything but images."""
    model = model.module if isinstance(model, AveragedModel) else model
    if type(model) is EnergyNetwork and x.device.type in ("cpu", "cuda") and fast.fits(model.layers):
        check_images(x)
        low = has_native_bf16(x.device) and len(x) >= fast.SMALL
        weights = fast.weights_of(model.layers, torch.bfloat16 if low else torch.float32)
        return functools.partial(fast.gradient_on(x.device.type), weights=weights)
    energy = frozen_energy(model)

    @torch.enable_grad()
    def gradient(x):
        leaf = x.detach().requires_grad_(True)
        return torch.autograd.grad(energy(leaf).sum(), leaf)[0]

    return gradient


def ema_of(model, decay):
    """An exponential moving average of the model's weights: call update_parameters(model) after each update."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


# ---------------------------------------------------------------------------------------------- replay buffer, Langevin


class ReplayBuffer:
    """Persistent chains (Tieleman 2008; Du & Mordatch 2019): `size` images kept as one tensor on the device.

    sample() draws distinct slots and re-draws each from uniform noise with its probability: `redraw`, or for a pair
    (often, rarely) probabilities in geometric progression from the first slot to the last, so that the chains are of every
    age. write_back() puts the chains that ran on from there into the same slots. ValueError for no probabilities.
    """

    def __init__(self, size=10_000, redraw=0.05, chains=None, device="cpu", generator=None):
        if chains is None:
            chains = torch.rand(size, *IMAGE_SHAPE, device=device, generator=generator)
        elif chains.dtype == torch.uint8:  # as committed checkpoints hold them
            chains = chains.float() / 255
        self.chains = chains.to(device, copy=True)
        check_images(self.chains)
        self.redraw = self.redraw_rates(redraw, len(self.chains)).to(device)
        self.generator, self.slots = generator, None

    @staticmethod
    def redraw_rates(redraw, size):
        often, rarely = redraw if isinstance(redraw, (tuple, list)) else (redraw, redraw)
        if not 0 <= rarely <= often <= 1 or (rarely == 0 < often):
            raise ValueError("redraw is a probability, or a pair of them above zero, the larger first")
        return often * (rarely / often if often else 1.0) ** torch.linspace(0, 1, size)

    def __len__(self):
        return len(self.chains)

    def sample(self, batch_size):
        """Start points [batch_size, 1, 28, 28]; ValueError if more are asked for than there are slots."""
        if not 0 < batch_size <= len(self):
            raise ValueError(f"cannot draw {batch_size} distinct chains from a buffer of {len(self)}")
        options = {"device": self.chains.device, "generator": self.generator}
        self.slots = torch.randperm(len(self), **options)[:batch_size]
        noise = torch.rand(batch_size, *IMAGE_SHAPE, **options)
        fresh = torch.rand(batch_size, **options) < self.redraw[self.slots]
        return torch.where(fresh.view(-1, 1, 1, 1), noise, self.chains[self.slots])

    def write_back(self, samples):
        """Store the chains in the slots of the last sample(); ValueError if they are not as many."""
        check_images(samples)
        if self.slots is None or len(samples) != len(self.slots):
            raise ValueError("write_back() takes as many images as the last sample() gave")
        self.chains[self.slots] = samples.detach()

    def state_dict(self):
        return {"chains": self.chains}

    def load_state_dict(self, state):
        self.chains.copy_(state["chains"])


@torch.no_grad()
def langevin_dynamics(model, samples, steps=500, step_size=2.5, noise=0.005, clip=0.06, bounds=(0.0, 1.0),
                      *, snapshots=None, generator=None, progress=False):  # fmt: skip
    """Langevin dynamics on an energy, x <- x - step_size grad E(x) + noise z (Xie et al. 2016).

    `model` maps x [B, ...] to energies [B]. The defaults are the trained recipe: cold (noise far below
    sqrt(2 step_size)), gradient clipped per pixel, pixels clamped. noise=sqrt(2 step_size), clip=None and bounds=None
    is unadjusted Langevin proper. Returns x [B, ...], or with `snapshots` (step numbers, ascending) x and the frames
    [len(snapshots), B, ...]. Raises FloatingPointError if the chain diverges.
    """
    x = samples.to(device_of(model) or samples.device, copy=True, memory_format=torch.contiguous_format)
    grad_energy, z = energy_gradient(model, x), torch.empty_like(x)
    with recording(snapshots, steps) as (frames, keep):
        keep(0, x)
        for k in progress_bar(range(1, steps + 1), "Langevin", progress):
            gradient = grad_energy(x)
            if clip is not None:
                gradient = gradient.clamp(-clip, clip)
            x.add_(gradient, alpha=-step_size).add_(z.normal_(generator=generator), alpha=noise)
            if bounds is not None:
                x.clamp_(*bounds)
            keep(k, x)
    check_finite(x, "The Langevin chain")
    return (x, torch.stack(frames)) if snapshots is not None else x


# ----------------------------------------------------------------------------------------------------------- losses


def contrastive_divergence_loss(model, data, samples, regularisation=0.1, regularise_samples=True):
    """E(data) - E(samples), whose gradient is that of the negative log-likelihood (Hinton 2002), plus
    regularisation (E(data)^2 + E(samples)^2), which keeps energies near zero (Du & Mordatch 2019, section 3.3).

    The square of E(samples) takes away the push on a sample of energy 1 / (2 regularisation): without it
    (`regularise_samples`) a chain that is caught on high ground goes on being pushed off. Returns (loss, mean energy of
    the data, mean energy of the samples). ValueError for wrong shapes or dtypes.
    """
    check_images(data)
    check_images(samples)
    energy = model(torch.cat([data, samples]))
    e_data, e_samples = energy[: len(data)], energy[len(data) :]
    square = e_data.square().mean() + (e_samples.square().mean() if regularise_samples else 0.0)
    loss = e_data.mean() - e_samples.mean() + regularisation * square
    return loss, e_data.mean().detach(), e_samples.mean().detach()


def training_sigmas(n, mean=-1.7, spread=1.2, uniform_share=0.25, span=(0.002, 20.0), device="cpu", generator=None):
    """Noise levels to train on: ln sigma ~ N(mean, spread^2) (Karras et al. 2022), where digits take shape, and a
    share log-uniform over all that samplers visit, since a level never trained on is a level not learned."""
    options = {"device": device, "generator": generator}
    log_normal = mean + spread * torch.randn(n, **options)
    low, high = math.log(span[0]), math.log(span[1])
    log_uniform = low + (high - low) * torch.rand(n, **options)
    return torch.where(torch.rand(n, **options) < uniform_share, log_uniform, log_normal).exp()


def edm_weight(sigma):
    """lambda(sigma) under which every noise level starts with the same loss per pixel (Karras et al. 2022)."""
    return sigma**2 * (1 + sigma**2 / PIXEL_STD**2)


def denoising_score_matching_loss(model, x, sigma, labels=None, weight=torch.square, generator=None, z=None):
    """Mean of lambda(sigma) |s(x + sigma z, sigma) + z / sigma|^2 / dimensions (Vincent 2011; Song & Ermon 2019, eq. 5, 6).

    x [B, ...] is clean, sigma [B], `weight` is lambda, sigma^2 as in the paper unless given; z is drawn unless given.
    """
    s = sigma.view(-1, *[1] * (x.dim() - 1))
    z = torch.randn(x.shape, device=x.device, generator=generator) if z is None else z
    return (weight(s) * (model(x + s * z, sigma, labels) + z / s).square()).mean()


def set_learning_rate(optimizer, peak, update, total, warmup=100, fall=0.8, last=0.02):
    """`peak` after a linear warm-up, falling linearly to `last` * peak over the final `fall` of the run (0: not at all)."""
    falling = max(last, (total - update) / total / fall) if fall else 1.0
    rate = peak * min(1.0, (update + 1) / min(warmup, total), falling)
    for group in optimizer.param_groups:
        group["lr"] = rate


def choose_denoising_steps(model, clean, sigma, most=60, generator=None):
    """How many noise-free Langevin steps bring clean + sigma z closest to the clean images: tune on training data."""
    check_images(clean, clean=True)
    noisy = clean + sigma * torch.randn(clean.shape, device=clean.device, generator=generator)
    _, frames = langevin_dynamics(model, noisy, most, noise=0.0, snapshots=range(most + 1))
    return int((frames - clean).square().flatten(1).mean(1).argmin())


# ------------------------------------------------------------------------------------------- runs, checkpoints, figures


class Run(NamedTuple):
    """Where a notebook's run reads and writes: `checkpoint` to resume from, `figures` and the folder of it all."""

    name: str
    preset: str
    pretrained: bool
    folder: Path
    figures: Path

    @property
    def checkpoint(self):
        return self.folder / f"{self.name}-resume.pt"


def open_run(name, preset="auto", pretrained=False, data="MNIST", device="cpu"):
    """Choose preset and folders, say so, and check before any training that the folders can be written.

    assets/ belongs to `full` runs on MNIST and to `make publish` (PUBLISH=1 in the environment: full preset, committed
    weights); anything else goes below runs/. Raises ValueError for an unknown preset, OSError for a folder.
    """
    publish = os.environ.get("PUBLISH") == "1"
    pretrained = pretrained or publish
    if preset not in ("auto", *PRESETS):
        raise ValueError(f"unknown preset {preset!r}: choose auto, {', '.join(PRESETS)}")
    if preset == "auto":
        preset = "full" if publish or torch.device(device).type == "cuda" else "quick"
    folder = f"demo-{preset}" if pretrained and not publish else preset
    folder = Path("runs") / (folder if data == "MNIST" else f"{folder}-{data.replace(' ', '-').lower()}")
    to_assets = preset == "full" and data == "MNIST" and (publish or not pretrained)
    figures = Path("assets") if to_assets else folder / "assets"
    for path in (folder, figures, *([CHECKPOINTS] if to_assets and not pretrained else [])):
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / ".writable").touch()
            (path / ".writable").unlink()
        except OSError as error:
            raise OSError(f"cannot write to {path}/: {error}. Free it or run elsewhere; nothing was lost.") from error
    weights = "weights from checkpoints/" if pretrained else f"training from scratch, or on from {folder}/"
    print(f"{name}: preset {preset}, {data}, {weights}; figures go to {figures}/. {hardware_name()}.")
    return Run(name, preset, pretrained, folder, figures)


def save_atomically(contents, path):
    """torch.save that leaves either the old file or the whole new one, never a half-written one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    torch.save(contents, temporary)
    os.replace(temporary, path)


def load_checkpoint(path, kind, device="cpu"):
    """Read a file written by this module (weights only); ValueError if it is half-written, foreign or of another kind."""
    cure = "Delete it to start afresh." if kind == "run" else "Restore it, from git if it was committed."
    try:
        contents = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no checkpoint {path}") from None
    except Exception as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}): it is half-written or not a checkpoint. "
                         f"{cure}") from error  # fmt: skip
    if not isinstance(contents, dict) or contents.get("kind") != kind:
        raise ValueError(f"{path} is not a {kind} checkpoint of this project. {cure}")
    return contents


@contextmanager
def deferred_interrupt():
    """Turn the first Ctrl-C into a flag that a loop looks at between updates; a second one stops at once."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def on_interrupt(*_):
        flag.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, previous)


def training_steps(total, path, settings, history, state, lines=10, check_every=50, save_seconds=60):
    """Yield the numbers of the updates still to do, out of `total`, and look after the run between them.

    `state` names what a resumed run needs: modules, optimizers and other things with a state_dict, torch.Generators.
    `history` is {name: list}; the loop appends one scalar tensor an update to each list. Resumes from `path` if it
    exists; saves there every minute, at the end and on Ctrl-C (which then raises KeyboardInterrupt); prints `lines`
    lines. A resumed run equals an uninterrupted one bit for bit on a CPU. Raises FloatingPointError at NaN or infinity,
    keeping the last good checkpoint, and ValueError if `path` holds a run with other settings or from another seed.
    """
    seeds = {f"seed of the {name}": part.initial_seed() for name, part in state.items() if isinstance(part, torch.Generator)}
    settings, done, seconds = {**settings, **seeds}, 0, 0.0
    if Path(path).exists():
        done, seconds = restore(path, settings, history, state)
        print(f"Resumed {path} at update {done:,} of {total:,}" + (": nothing left to train." if done >= total else "."))
    checked, clock = done, time.perf_counter() - seconds
    last_save = time.perf_counter()

    def check_and_save(update):
        nonlocal checked, last_save
        check_history(history, checked, update, path)
        checked, last_save = update, time.perf_counter()
        save_run(path, update, time.perf_counter() - clock, settings, history, state)

    bar = tqdm(total=total, initial=done, desc="Training", leave=False, disable=not lines)  # no lines, no bar either
    with deferred_interrupt() as interrupted, bar:
        for update in range(done, total):
            yield update
            done = update + 1
            bar.update()
            line = done * lines // total > update * lines // total
            if interrupted.is_set() or done == total or time.perf_counter() - last_save > save_seconds:
                check_and_save(done)
            elif line or done % check_every == 0:
                check_history(history, checked, done, path)
                checked = done
            if line:
                print(history_line(history, done, total, lines, time.perf_counter() - clock))
            if interrupted.is_set():
                raise KeyboardInterrupt(f"Stopped at update {done:,} of {total:,}, all kept: run again to go on from {path}")


def history_line(history, done, total, lines, seconds):
    """One plain line on the updates since the last one: the mean of everything in the history."""
    window = max(total // lines, 1)
    means = "  ".join(f"{name} {np.mean(values[max(done - window, 0):done]):.4f}" for name, values in history.items())
    return f"update {done:,}/{total:,}  {means}  {seconds / 60:.1f} min"


def check_history(history, first, last, path):
    """Turn the scalar tensors first..last of each list into numbers, in one transfer; stop if any is not finite."""
    for name, values in history.items():
        if len(values) != last:
            raise ValueError(f"history[{name!r}] has {len(values)} entries after {last} updates: append one an update")
        if last > first:
            values[first:] = torch.stack([torch.as_tensor(v).detach().float() for v in values[first:]]).tolist()
        bad = next((i for i in range(first, last) if not math.isfinite(values[i])), None)
        if bad is not None:
            kept = f"The last good state is in {path}" if Path(path).exists() else "No state had been saved yet"
            raise FloatingPointError(f"Training went non-finite: {name} is {values[bad]} at update {bad + 1}. "
                                     f"{kept}. Try a lower learning rate, smaller steps, or another seed.")  # fmt: skip


def save_run(path, update, seconds, settings, history, state):
    """Write all that a resumed run needs; FloatingPointError, and no writing, if a weight is not finite."""
    parts = {}
    for name, part in state.items():
        parts[name] = part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
        if isinstance(part, nn.Module) and not all(torch.isfinite(p).all() for p in part.parameters()):
            raise FloatingPointError(f"A weight of {name} went non-finite by update {update}; {path} was left as it was.")
    histories = {name: torch.tensor(values, dtype=torch.float64) for name, values in history.items()}
    save_atomically({"kind": "run", "update": update, "seconds": seconds, "settings": settings, "history": histories,
                     "hardware": hardware_name(), "state": parts}, path)  # fmt: skip


def restore(path, settings, history, state):
    """Put a run's saved state back into its parts; return (updates done, seconds spent). ValueError if it differs."""
    saved = load_checkpoint(path, "run")
    differing = [k for k in {*settings, *saved["settings"]} if settings.get(k) != saved["settings"].get(k)]
    if differing or set(saved["state"]) != set(state):
        what = ", ".join(sorted(differing)) or "its parts"
        raise ValueError(f"{path} belongs to a run that differs in {what}: delete or rename it to start afresh.")
    try:
        for name, part in state.items():
            if isinstance(part, torch.Generator):
                part.set_state(saved["state"][name].cpu())
            else:
                part.load_state_dict(saved["state"][name])
        for name in history:
            history[name][:] = saved["history"][name].tolist()
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not fit this run: delete or rename it to start afresh. ({error})") from error
    return saved["update"], saved["seconds"]


def save_pretrained(run, model, chains=None):
    """Turn a finished run into a small file: half-precision weights, history, settings, for an EBM 1,000 chains as bytes.

    It goes to the run's folder, where the other notebooks look for it; from a full run on MNIST also to checkpoints/.
    Returns what it wrote.
    """
    saved = load_checkpoint(run.checkpoint, "run")
    weights = {k: (v.half() if v.is_floating_point() else v).cpu() for k, v in model.state_dict().items()}
    contents = {"kind": "pretrained", "network": type(model).__name__, "network_settings": model.settings,
                "weights": weights, "preset": run.preset, "settings": saved["settings"],
                "history": {k: v.half() for k, v in saved["history"].items()},
                "updates": saved["update"], "minutes": saved["seconds"] / 60, "hardware": saved["hardware"]}  # fmt: skip
    if chains is not None:
        spread = torch.linspace(0, len(chains) - 1, min(1000, len(chains)), device=chains.device).long()  # over all slots
        contents["chains"] = (chains[spread].clamp(0, 1) * 255).round().byte().cpu()
    for folder in {run.folder, CHECKPOINTS if run.figures == Path("assets") else run.folder}:
        save_atomically(contents, folder / f"{run.name}.pt")
    return contents


def load_pretrained(name, device=None, folder=None):
    """(network, record) of a committed run: the record has its history, settings, minutes, hardware, for an EBM uint8
    chains, and as `digest` twelve letters that change with the file. Raises FileNotFoundError, or ValueError if the file is
    damaged or does not fit the network."""
    device = device or pick_device()
    path = (Path(folder) if folder else CHECKPOINTS) / f"{name}.pt"
    record = load_checkpoint(path, "pretrained", device)
    try:
        network = {"EnergyNetwork": EnergyNetwork, "ScoreNetwork": ScoreNetwork}[record["network"]]
        model = network(**record["network_settings"]).to(device)
        model.load_state_dict(record.pop("weights"))
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} does not fit the networks of this helpers.py: {error}") from error
    record["history"] = {k: v.float().cpu().numpy() for k, v in record["history"].items()}
    record["digest"] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return model, record


def provenance(record):
    """The part of a record that belongs beside every number: how long training took, on what."""
    return {key: record[key] for key in ("preset", "updates", "minutes", "hardware")}


def load_partner(name, run, device=None):
    """Another notebook's result, from the same preset if that was run here, else the committed one; None without either.
    Returns (network, record), record["label"] naming preset and hardware."""
    for folder in (run.folder, CHECKPOINTS):
        if (folder / f"{name}.pt").exists():
            model, record = load_pretrained(name, device, folder)
            record["label"] = f"{name}, preset {record['preset']}, {record['minutes']:.0f} minutes on {record['hardware']}"
            return model, record
    return None


def save_figure(figure, run, filename, data="MNIST"):
    """Write a figure to the run's figures folder; where the data are not MNIST, their name goes on it."""
    if data != "MNIST":
        figure.text(0.995, 0.005, f"data: {data}, not MNIST", ha="right", va="bottom", fontsize=8, color="crimson")
    figure.savefig(run.figures / filename, dpi=150, bbox_inches="tight", facecolor="white")


def show_images(ax, images, columns, title=None):
    """Draw images [N, 1, 28, 28] as one grid, row by row, white strokes on black, values clamped to [0, 1]."""
    from torchvision.utils import make_grid

    grid = make_grid(images.detach().float().cpu().clamp(0, 1), nrow=columns, padding=1, pad_value=0.35)
    ax.imshow(grid[0].numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[], title=title)


def plot_history(ax, values, color, label):
    """One curve of a training history: raw values faint, their running mean over 1/40 of the run as a line."""
    values = np.asarray(values, dtype=float)
    window = max(len(values) // 40, 1)
    smooth = np.convolve(values, np.ones(window) / window, mode="valid")
    ax.plot(values, color=color, alpha=0.2, linewidth=0.5)
    ax.plot(np.arange(len(smooth)) + window / 2, smooth, color=color, label=label)


def save_results(run, seed, **results):
    """Write what a notebook measured to the figures folder's results/<notebook>.json, with what it was measured on."""
    record = {"notebook": f"{run.name}.ipynb", "preset": run.preset, "seed": seed, "hardware": hardware_name(),
              "date": time.strftime("%Y-%m-%d"), "peak_memory_GB": peak_memory(), **results}  # fmt: skip
    write_json(record, run.figures / "results" / f"{run.name}.json")


def write_json(contents, path):
    """Contents as JSON in the file `path`, either the old ones or all of the new; ValueError for NaN or infinity."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(contents, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def load_results(name):
    """A committed measurement, assets/results/<name>.json, as a dict; None, and a line that says so, where it is absent."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        print(f"{path.name} is not in assets/results/ here: this panel is left out.")
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def save_animation(frames, run, filename, columns, milliseconds=90):
    """Write frames [T, N, 1, 28, 28] as a looping GIF of image grids; the last frame stays for two seconds."""
    from PIL import Image
    from torchvision.utils import make_grid

    grids = [make_grid(x.cpu().clamp(0, 1), nrow=columns, padding=1, pad_value=0.35)[0] for x in frames]
    images = [Image.fromarray((255 * grid).byte().numpy()).quantize(32) for grid in grids]
    times = [milliseconds] * (len(images) - 1) + [2000]
    images[0].save(run.figures / filename, save_all=True, append_images=images[1:], duration=times, loop=0, optimize=True)
