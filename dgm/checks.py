"""The shape and statistics of an image, and checks of what public functions are given."""

import torch

IMAGE_SHAPE = (1, 28, 28)
PIXEL_MEAN, PIXEL_STD = 0.1307, 0.3081  # of the MNIST training images on [0, 1]
NO_LABEL = 10  # stands for a hidden label


def check_images(images, clean=False):
    """Raise ValueError unless images are float32 [B, 1, 28, 28], and in [0, 1] where `clean`."""
    if not torch.is_tensor(images) or images.dim() != 4 or tuple(images.shape[1:]) != IMAGE_SHAPE:
        shape = tuple(getattr(images, "shape", ()))
        raise ValueError(f"images must be a tensor [B, 1, 28, 28]; this is {shape}")
    if images.dtype != torch.float32:
        cure = "call .float()" if images.is_floating_point() else "divide bytes by 255 first"
        raise ValueError(f"images must be float32, not {images.dtype}: {cure}")
    if clean and not (images.min() >= 0 and images.max() <= 1):
        span = f"[{images.min():.3g}, {images.max():.3g}]"
        raise ValueError(f"clean images must lie in [0, 1]; these span {span}")


def check_labels(labels, n=None, device=None):
    """Return labels as int64 on `device`.

    Raises ValueError unless they are `n` whole numbers in 0..9.
    """
    labels = torch.as_tensor(labels, device=device)
    if labels.dim() != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        found = f"{labels.dtype} {tuple(labels.shape)}"
        raise ValueError(f"labels must be a 1-D tensor of whole numbers, not {found}")
    if n is not None and len(labels) != n:
        raise ValueError(f"{len(labels)} labels were given for {n} images")
    if len(labels) and not (labels.min() >= 0 and labels.max() <= 9):
        span = f"{labels.min():d}..{labels.max():d}"
        raise ValueError(f"labels must lie in 0..9; these span {span}")
    return labels.long()


def check_sigmas(sigmas, device=None):
    """Return noise levels as float32 on `device`.

    Raises ValueError unless they are positive and descending.
    """
    sigmas = torch.as_tensor(sigmas, dtype=torch.float32, device=device)
    if (
        sigmas.dim() != 1
        or not len(sigmas)
        or not torch.isfinite(sigmas).all()
        or sigmas.min() <= 0
    ):
        raise ValueError("sigmas must be a 1-D tensor of positive finite noise levels")
    if (sigmas[1:] >= sigmas[:-1]).any():
        raise ValueError(
            "sigmas must descend, from the largest noise to the smallest: try sigmas.flip(0)"
        )
    return sigmas


def check_mask(known, images):
    """Raise ValueError unless the mask `known` is boolean and fits images [B, ...]."""
    sizes = zip(known.shape[::-1], images.shape[::-1], strict=False)
    fits = all(k in (1, size) for k, size in sizes)
    if known.dtype != torch.bool or known.dim() > images.dim() or not fits:
        shape = list(images.shape)
        raise ValueError(f"known must be a boolean mask that fits images of shape {shape}")


def check_snapshots(snapshots, steps):
    """Return the step numbers to keep as a list.

    Raises ValueError unless they are numbers in 0..steps, each once, in ascending order.
    """
    if snapshots is None:
        return []
    wanted = list(snapshots)
    inside = set(wanted) <= set(range(steps + 1))
    if not wanted or not inside or wanted != sorted(set(wanted)):
        raise ValueError(
            f"snapshots must be step numbers in 0..{steps}, each once, in ascending order"
        )
    return wanted


def check_finite(x, what):
    """Return x; raise FloatingPointError if a chain diverged. Call it once, after the chain."""
    if not torch.isfinite(x).all():
        raise FloatingPointError(
            f"{what} diverged (NaN or infinity): try a smaller step size, or clip the gradient; "
            "or the network itself is no longer finite"
        )
    return x
