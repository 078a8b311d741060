"""Out-of-distribution detection: energies of test digits and other images."""

import socket

import numpy as np
import torch

from dgm import metrics, plots
from dgm.data import uci_digits
from experiments.chains import ENERGIES
from experiments.denoising import fitted_gaussian
from experiments.laboratory import quantiles
from experiments.names import label
from helpers import load_pretrained

PHOTOGRAPHS = (
    "astronaut",
    "brick",
    "camera",
    "cat",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "moon",
    "rocket",
)

# ------------------------------------------------------------------------------- other images


def photograph_patches(n, rng):
    """Return grey patches of photographs from scikit-image, [n, 1, 28, 28] in [0, 1]."""
    import skimage

    images = [getattr(skimage.data, name)() for name in PHOTOGRAPHS]
    grey = [skimage.color.rgb2gray(x) if x.ndim == 3 else x for x in images]
    grey = [skimage.util.img_as_float32(x) for x in grey]
    patches = []
    for i in range(n):
        x = grey[i % len(grey)]
        top, left = rng.integers(x.shape[0] - 27), rng.integers(x.shape[1] - 27)
        patch = np.ascontiguousarray(x[top : top + 28, left : left + 28])
        patches.append(torch.from_numpy(patch))
    return torch.stack(patches)[:, None]


def shuffled_patches(images, generator):
    """Return images with their sixteen 7x7 patches in random order."""
    patches = images.unfold(2, 7, 7).unfold(3, 7, 7).reshape(len(images), 16, 7, 7)
    order = torch.rand(len(images), 16, generator=generator).argsort(1)
    patches = patches[torch.arange(len(images))[:, None], order].view(-1, 4, 4, 7, 7)
    return patches.permute(0, 1, 3, 2, 4).reshape(images.shape)


def fashion_mnist(n):
    """Return (the first n test images of Fashion-MNIST, "") or (None, reason of failure)."""
    from torchvision.datasets import FashionMNIST

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)
    try:
        images = FashionMNIST("data", train=False, download=True).data
        return images[:n, None].float() / 255, ""
    except (OSError, RuntimeError) as error:  # offline, refused, read-only or broken
        return None, (str(error).strip() or type(error).__name__).splitlines()[-1]
    finally:
        socket.setdefaulttimeout(timeout)


def unlike_digits(test_images, n, seed):
    """Return {name: images [n, 1, 28, 28]} other than MNIST digits, and a list of missing sets."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    x = test_images[:n].cpu()
    uci = uci_digits()
    sets = {
        "uniform_noise": torch.rand(x.shape, generator=generator),
        "constant_grey": torch.rand(len(x), 1, 1, 1, generator=generator).expand(x.shape).clone(),
        "photograph_patches": photograph_patches(n, rng),
        "inverted_digits": 1 - x,
        "flipped_digits": x.flip(3),
        "turned_digits": x.rot90(1, (2, 3)),
        "shuffled_digits": shuffled_patches(x, generator),
        "uci_digits": torch.cat([uci.train_images, uci.test_images])[:n],
    }
    fashion, reason = fashion_mnist(n)
    if fashion is None:
        return sets, [f"Fashion-MNIST ({reason})"]
    return {**sets, "fashion_mnist": fashion}, []


# ------------------------------------------------------------------------------ the experiment


def scores_of(lab):
    """Return a function from images to {name: scores [N]}, higher for other images."""
    keys = ("replay_buffer", "no_buffer")
    energies = {f"energy_{key}": load_pretrained(ENERGIES[key], lab.device)[0] for key in keys}
    gaussian = fitted_gaussian(lab)
    mean_pixel = lab.digits.train_images.mean().item()

    @torch.no_grad()
    def scores(images):
        found = {}
        for key, model in energies.items():
            parts = [model(x.to(lab.device)).cpu() for x in images.split(500)]
            found[key] = torch.cat(parts)
        found["mean_pixel"] = (images.mean((1, 2, 3)) - mean_pixel).abs().cpu()
        pixels = images.flatten(1).cpu().double().numpy()
        found["gaussian"] = torch.from_numpy(gaussian.mahalanobis(pixels))
        return found

    return scores


def energy_histogram(energies):
    """Return shares of images by energy, in equal bins within ±0.1 and geometric bins beyond."""
    everything = torch.cat(list(energies.values()))
    low, high = (everything.min() / 0.1).asinh().item(), (everything.max() / 0.1).asinh().item()
    edges = 0.1 * torch.linspace(low, high, 81).sinh()
    shares = {}
    for name, values in energies.items():
        counts = torch.histogram(values.clamp(edges[0], edges[-1]), edges)[0]
        shares[name] = (counts / len(values)).tolist()
    return {"edges": edges.tolist(), "shares": shares}


def out_of_distribution(lab, seed=7, n=1_000):
    """Measure the AUROC of energies and trivial scores for test digits against other images."""
    digits, n = lab.digits, min(n, lab.max_samples)
    scores = scores_of(lab)
    inside = scores(digits.test_images[: lab.max_samples])
    sets, left_out = unlike_digits(digits.test_images, n, seed)
    shown, auroc = {"test_digits": inside["energy_replay_buffer"]}, {}
    for name, images in {"training_digits": digits.train_images[:n], **sets}.items():
        outside = scores(images.cpu())
        auroc[name] = {key: metrics.auroc(inside[key], outside[key]) for key in outside}
        auroc[name]["n"] = len(images)
        shown[name] = outside["energy_replay_buffer"]
    energies = {name: quantiles(values) for name, values in shown.items()}
    del shown["training_digits"]  # their energies are those of the test digits
    return {
        "seed": seed,
        "n": n,
        "n_test_digits": lab.max_samples,
        "auroc": auroc,
        "left_out": left_out,
        "energies": energies,
        "histogram": energy_histogram(shown),
    }


def draw_histogram(ax, histogram):
    """Draw the shares of images by energy, one outline per data set."""
    edges = np.array(histogram["edges"])
    for name, shares in histogram["shares"].items():
        inside = name == "test_digits"
        ax.stairs(shares, edges, label=label(name), fill=inside, alpha=0.4 if inside else 1)
    ax.set(xlabel="energy $E(x)$ (logarithmic beyond ±0.1)", ylabel="share of images")
    ax.set(xlim=(-0.3, 400))
    ax.set_title("Energy of the replay buffer's model", fontsize=10)
    ax.set(yscale="log", ylim=(1e-3, 30), yticks=[1e-3, 1e-2, 1e-1, 1])
    ax.set_xscale("symlog", linthresh=0.1)
    ax.legend(fontsize=7, ncols=2, loc="upper left")


def draw_out_of_distribution(results, folder):
    """Draw energies of test digits and other images, and the AUROC of each score."""
    import matplotlib.pyplot as plt

    measured = results["out-of-distribution"]
    widths = {"width_ratios": [1.2, 1]}
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), gridspec_kw=widths)
    draw_histogram(left, measured["histogram"])
    kinds = ["energy_replay_buffer", "energy_no_buffer", "mean_pixel", "gaussian"]
    rows = measured["auroc"]
    table = np.array([[row[kind] for kind in kinds] for row in rows.values()])
    right.imshow(table, vmin=0.3, vmax=1.3, cmap="RdYlGn", aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        right.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=9)
    names = [label(kind).replace(", ", ",\n").replace(" (", "\n(") for kind in kinds]
    right.set_xticks(range(len(kinds)), names, fontsize=8)
    right.set_yticks(range(len(rows)), [label(name) for name in rows], fontsize=8)
    right.set_title("AUROC against test digits", fontsize=10)
    figure.tight_layout()
    plots.write_figure(figure, folder / "ebm_out_of_distribution.png")
    plt.close(figure)
