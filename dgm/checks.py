"""Image shape and pixel statistics, and checks of the arguments of public functions.

Functions that run in every update or step (losses, networks, buffer) check only type, dtype, shape
and device, which never waits for a GPU. Loaders, metrics and samplers also check values, once.
"""

import inspect
import math
import operator
import reprlib
from numbers import Real

import numpy as np
import torch

IMAGE_SHAPE = (1, 28, 28)
PIXEL_MEAN, PIXEL_STD = 0.1307, 0.3081  # of the MNIST training images on [0, 1]
NO_LABEL = 10  # marks an image without a label

# ------------------------------------------------------------------------------------ tensors


def check_tensor(x, name):
    """Raise TypeError unless x is a tensor, ValueError if it is empty."""
    if not torch.is_tensor(x):
        kind = type(x).__name__
        cure = "torch.from_numpy(array)" if kind == "ndarray" else "torch.as_tensor(...)"
        raise TypeError(f"{name} must be a torch tensor, not {kind}: pass {cure}")
    if x.numel() == 0:
        raise ValueError(f"{name} must not be empty (shape {list(x.shape)}): pass at least one")


def check_floats(x, name):
    """Raise TypeError or ValueError unless x is a floating-point tensor [B, ...] with B >= 1."""
    check_tensor(x, name)
    if not x.is_floating_point():
        cure = "call .float() / 255" if x.dtype == torch.uint8 else "call .float()"
        raise ValueError(f"{name} must be floating point, not {x.dtype}: {cure}")
    if x.dim() == 0:
        raise ValueError(f"{name} must have shape [B, ...], not []: add a dimension with [None]")


def check_chains(chains, name="chains"):
    """Return chains as float32 [B, 1, 28, 28] on the scale [0, 1]; uint8 is divided by 255.

    Raises TypeError or ValueError for anything else.
    """
    check_tensor(chains, name)
    if chains.dtype == torch.uint8:  # the format of committed checkpoints
        chains = chains.float() / 255
    check_images(chains, name)
    check_values(chains, name)
    return chains.detach()


def check_generator(generator):
    """Raise TypeError unless generator is a torch.Generator or None."""
    if generator is not None and not isinstance(generator, torch.Generator):
        kind = type(generator).__name__
        raise TypeError(
            f"generator must be a torch.Generator, not {kind}: pass seed_everything(0), or None"
        )


def check_flag(value, name):
    """Raise TypeError unless value is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}: pass one of them")


def check_device(x, device, name):
    """Raise ValueError unless the tensor x is on `device`."""
    if x.device != torch.device(device):
        raise ValueError(f'{name} must be on {device}, not {x.device}: call .to("{device}")')


def check_images(images, name="images", device=None):
    """Raise TypeError or ValueError unless images are float32 [B, 1, 28, 28], on `device`."""
    check_tensor(images, name)
    if device is not None:
        check_device(images, device, name)
    if images.dim() != 4 or tuple(images.shape[1:]) != IMAGE_SHAPE:
        cure = "add the channel with [:, None]" if images.shape[1:] == (28, 28) else "reshape it"
        raise ValueError(f"{name} must have shape [B, 1, 28, 28], not {list(images.shape)}: {cure}")
    if images.dtype != torch.float32:
        cure = "call .float()" if images.is_floating_point() else "call .float() / 255"
        raise ValueError(f"{name} must be float32, not {images.dtype}: {cure}")


def check_values(images, name="images"):
    """Raise ValueError unless all pixels are finite and on the scale [0, 1].

    Noisy images may leave the range. On another scale (0..255 or [-1, 1]), pixels lie more than
    0.5 outside [0, 1] on average. Call it once, because it waits for a GPU.
    """
    check_all_finite(images, name)
    low, high = images.min().item(), images.max().item()
    if (images - images.clamp(0, 1)).abs().mean() > 0.5:
        cure = "call .clamp(0, 1) if this is noise"
        if high > 100:
            cure = "divide by 255"
        elif low >= -1.5 and high <= 1.5:
            cure = "take (x + 1) / 2"
        raise ValueError(
            f"{name} must lie in [0, 1], but they span [{low:.3g}, {high:.3g}]: {cure}"
        )


def check_all_finite(images, name="images"):
    """Raise ValueError if a pixel is NaN or infinite. Call it once, because it waits for a GPU."""
    if not torch.isfinite(images).all():
        raise ValueError(
            f"{name} must be finite, but they contain NaN or infinity: check where they come from"
        )


def check_clean_images(images, name="images"):
    """Raise TypeError or ValueError unless images are float32 [B, 1, 28, 28] in [0, 1]."""
    check_images(images, name)
    check_values(images, name)
    low, high = images.min().item(), images.max().item()
    if low < 0 or high > 1:
        raise ValueError(
            f"{name} must lie in [0, 1], but they span [{low:.3g}, {high:.3g}]: call .clamp(0, 1)"
        )


def check_same_shape(a, b, names=("images", "clean images")):
    """Raise TypeError or ValueError unless two tensors have the same shape."""
    check_tensor(a, names[0])
    check_tensor(b, names[1])
    if a.shape != b.shape:
        raise ValueError(
            f"{names[0]} and {names[1]} must have the same shape, not {list(a.shape)} and "
            f"{list(b.shape)}: pass tensors of the same shape"
        )
    check_device(a, b.device, names[0])


def check_at_least(x, count, name):
    """Raise ValueError unless x has at least `count` rows."""
    rows = len(x) if x.ndim else 0
    if rows < count:
        raise ValueError(f"{name} must be at least {count}, not {rows}: pass more of them")


def check_length(x, count, name, of):
    """Raise ValueError unless x has `count` rows, the number that `of` has."""
    if len(x) != count:
        raise ValueError(
            f"{name} must have length {count}, like {of}, not {len(x)}: pass all of them"
        )


def check_mask(known, images):
    """Raise TypeError or ValueError unless the mask `known` is boolean and fits images [B, ...]."""
    check_tensor(known, "known")
    check_tensor(images, "images")
    if known.dtype != torch.bool:
        raise ValueError(f"known must be a boolean mask, not {known.dtype}: pass known.bool()")
    sizes = zip(known.shape[::-1], images.shape[::-1], strict=False)
    if known.dim() > images.dim() or not all(k in (1, size) for k, size in sizes):
        raise ValueError(
            f"known must fit images of shape {list(images.shape)}, not {list(known.shape)}: "
            "pass one mask for all images, or one per image"
        )


def check_finite(x, what):
    """Return x, or raise FloatingPointError if a chain diverged. Call it once, after the chain."""
    if not torch.isfinite(x).all():
        raise FloatingPointError(
            f"{what} diverged (NaN or infinity): try a smaller step size or clip the gradient, "
            "and check that the weights of the network are finite"
        )
    return x


# ------------------------------------------------------------------------------------ numbers


def check_number(value, name, low=None, high=None, above=None):
    """Raise TypeError or ValueError unless value is a finite number within the bounds.

    The bounds are low <= value <= high and value > above.
    """
    try:
        value = float(None if isinstance(value, (bool, str, bytes)) else value)
    except OverflowError:  # an integer too large for a float
        value = math.inf if value > 0 else -math.inf
    except (TypeError, ValueError, RuntimeError):
        kind = type(value).__name__
        raise TypeError(f"{name} must be a number, not {kind}: pass one number") from None
    bounds = [f"at least {low:g}"] if low is not None else []
    bounds += [f"at most {high:g}"] if high is not None else []
    bounds += [f"greater than {above:g}"] if above is not None else []
    inside = (
        math.isfinite(value)
        and (low is None or value >= low)
        and (high is None or value <= high)
        and (above is None or value > above)
    )
    if not inside:
        wanted = " and ".join(["finite", *bounds])
        raise ValueError(f"{name} must be {wanted}, not {value:g}: pass another number")


def check_count(value, name, low=1, high=None):
    """Raise TypeError or ValueError unless value is an integer in low..high."""
    try:
        value = operator.index(None if isinstance(value, bool) else value)
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{name} must be a whole number, not {kind}: pass an int") from None
    if value < low:
        raise ValueError(f"{name} must be at least {low}, not {value}: pass a larger number")
    if high is not None and value > high:
        raise ValueError(f"{name} must be at most {high}, not {value}: pass a smaller number")


def check_langevin(steps, step_size, noise, clip, bounds, generator):
    """Raise TypeError or ValueError for invalid settings of Langevin dynamics."""
    check_count(steps, "steps", low=0)
    check_number(step_size, "step_size", low=0)
    check_number(noise, "noise", low=0)
    if clip is not None:
        check_number(clip, "clip", above=0)
    check_bounds(bounds)
    check_generator(generator)


def check_start(samples, bounds):
    """Raise TypeError or ValueError unless samples can start a Langevin chain.

    Images on the scale 0..255 are rejected on a CPU only, because a GPU would have to wait.
    """
    check_floats(samples, "samples")
    if samples.device.type != "cpu" or samples.shape[1:] != IMAGE_SHAPE or bounds is None:
        return
    low, high = samples.min().item(), samples.max().item()
    if tuple(bounds) == (0, 1) and low >= 0 and high > 2:
        raise ValueError(
            f"samples must lie in [0, 1], but they span [{low:.3g}, {high:.3g}]: divide by 255"
        )


def check_schedule(peak, update, total, warmup, fall, last):
    """Raise TypeError or ValueError for invalid settings of a learning-rate schedule."""
    check_number(peak, "peak", low=0)
    check_count(update, "update", low=0)
    check_count(total, "total")
    check_count(warmup, "warmup")
    check_number(fall, "fall", low=0, high=1)
    check_number(last, "last", low=0, high=1)


def check_bounds(bounds):
    """Raise ValueError unless bounds are None or two ascending numbers."""
    if bounds is None:
        return
    pair = tuple(bounds) if isinstance(bounds, (tuple, list)) else bounds
    is_pair = isinstance(pair, tuple) and len(pair) == 2
    if not is_pair or not all(isinstance(b, Real) for b in pair) or not pair[0] < pair[1]:
        raise ValueError(
            f"bounds must be a pair of numbers, the smaller first, not {pair}: "
            "pass (0.0, 1.0) or None"
        )


def check_redraw(redraw):
    """Return `redraw` as a pair (often, rarely).

    Raises TypeError or ValueError unless it is a probability or a pair of positive probabilities.
    """
    pair = tuple(redraw) if isinstance(redraw, (tuple, list)) else (redraw, redraw)
    for rate in pair:
        check_number(rate, "redraw")
    if len(pair) != 2 or not 0 <= pair[1] <= pair[0] <= 1 or (pair[1] == 0 < pair[0]):
        raise ValueError(
            "redraw must be a probability or a pair of positive probabilities, the larger first, "
            f"not {redraw}: pass for example 0.05"
        )
    return pair


def check_snapshots(snapshots, steps):
    """Return the step numbers to record as a list.

    Raises ValueError unless they are distinct numbers in 0..steps, in ascending order.
    """
    if snapshots is None:
        return []
    wanted = list(snapshots)
    inside = set(wanted) <= set(range(steps + 1))
    if not wanted or not inside or wanted != sorted(set(wanted)):
        raise ValueError(
            f"snapshots must be step numbers in 0..{steps}, each once, in ascending order, "
            f"not {wanted}: sort them and remove the others"
        )
    return wanted


# ---------------------------------------------------------------------------- labels, sigmas


def as_numbers(values, name, cure, **options):
    """Return values as a tensor, or raise TypeError if they are not numbers."""
    if isinstance(values, np.ndarray):
        values = np.ascontiguousarray(values)  # torch rejects negative strides
    try:
        return torch.as_tensor(values, **options)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        listed = isinstance(values, (list, tuple))
        found = reprlib.repr(values) if listed else type(values).__name__
        raise TypeError(f"{name} must be numbers, not {found}: {cure}") from None


def check_labels(labels, n=None, device=None, hidden=True):
    """Return labels as int64 on `device`.

    Raises ValueError unless they are `n` integers in 0..9. With `hidden`, NO_LABEL (10) is also
    valid and marks images without a label.
    """
    labels = as_numbers(labels, "labels", "pass for example [5, 5, 5]", device=device)
    if labels.dim() == 1 and len(labels) == 0:
        raise ValueError("labels must not be empty: pass None and n=64 for samples without labels")
    if labels.dim() != 1 or not is_whole(labels):
        found = f"{labels.dtype} {list(labels.shape)}"
        raise ValueError(
            f"labels must be a 1-D tensor of whole numbers, not {found}: pass for example [5, 5, 5]"
        )
    if n is not None and len(labels) != n:
        raise ValueError(
            f"labels must have length {n}, one per image, not {len(labels)}: pass one per image"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > (NO_LABEL if hidden else 9):
        raise ValueError(f"labels must lie in 0..9, but they span {low}..{high}: pass digits")
    return labels.long()


def is_whole(x):
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)


def label_per_image(labels, x):
    """Return the labels of images x as int64, or NO_LABEL for every image if labels are None.

    Raises the errors of check_labels. On a GPU, where reading values means waiting, only type,
    shape and device are checked.
    """
    if labels is None:
        return torch.full((len(x),), NO_LABEL, device=x.device)
    if not torch.is_tensor(labels):
        labels = as_numbers(labels, "labels", "pass for example [5, 5, 5]", device=x.device)
    check_device(labels, x.device, "labels")
    if x.device.type == "cpu":
        return check_labels(labels, len(x))
    if labels.shape != x.shape[:1] or not is_whole(labels):
        raise ValueError(
            f"labels must be {len(x)} whole numbers, one per image, not {labels.dtype} "
            f"{list(labels.shape)}: pass labels of 0..9"
        )
    return labels.long()


def check_sigmas(sigmas, device=None):
    """Return noise levels as float32 on `device`.

    Raises ValueError unless they are positive, finite and descending.
    """
    cure = "pass for example geometric_sigmas()"
    sigmas = as_numbers(sigmas, "sigmas", cure, dtype=torch.float32, device=device)
    if sigmas.dim() != 1 or not len(sigmas):
        raise ValueError(
            f"sigmas must be a 1-D tensor of noise levels, not of shape {list(sigmas.shape)}: "
            "pass for example geometric_sigmas()"
        )
    if not torch.isfinite(sigmas).all() or sigmas.min() <= 0:
        raise ValueError(
            "sigmas must be positive and finite: leave out zero, the samplers add the last step"
        )
    if (sigmas[1:] >= sigmas[:-1]).any():
        raise ValueError(
            "sigmas must descend, from the largest noise to the smallest: pass sigmas.flip(0)"
        )
    return sigmas


def per_image(sigma, x):
    """Return sigma as one number per image, [len(x)], with the dtype and device of x.

    Raises TypeError or ValueError unless it is a number or [len(x)].
    """
    cure = "pass one number, or one per image"
    sigma = as_numbers(sigma, "sigma", cure, dtype=x.dtype, device=x.device)
    if sigma.dim() > 1 or (sigma.dim() and len(sigma) not in (1, len(x))):
        shape = list(sigma.shape)
        raise ValueError(f"sigma must be a number or [{len(x)}], not {shape}: pass one per image")
    return sigma.expand(len(x))


def check_sigma(sigma, x):
    """Raise TypeError or ValueError unless sigma is positive, finite, and a number or [len(x)]."""
    levels = per_image(sigma, x)
    if not (torch.isfinite(levels) & (levels > 0)).all():
        raise ValueError("sigma must be positive and finite: pass a number or one per image")
    square = levels.square()
    if not (torch.isfinite(square) & (square > 0)).all():
        raise ValueError("sigma must have a square within the range of float32: pass 1e-18 to 1e18")


# ------------------------------------------------------------------------ energies and scores


def check_energy(energy, batch):
    """Raise TypeError or ValueError unless an energy has shape [B] or [B, 1]."""
    check_tensor(energy, "an energy")
    if tuple(energy.shape) not in ((batch,), (batch, 1)):
        raise ValueError(
            f"an energy must have shape [{batch}], one number per image, not "
            f"{list(energy.shape)}: sum over all but the first dimension"
        )


def check_score(score, x, name="a score"):
    """Raise TypeError or ValueError unless a score is a tensor of the shape of x."""
    check_tensor(score, name)
    if score.shape != x.shape:
        raise ValueError(
            f"{name} must have the shape of x, {list(x.shape)}, not {list(score.shape)}: "
            "return one number per pixel"
        )


def check_takes(function, arguments, name="model"):
    """Raise TypeError unless a function accepts these arguments, for example "x, sigma"."""
    names = arguments.split(", ")
    if not callable(function):
        kind = type(function).__name__
        raise TypeError(f"{name} must be a network or a function of ({arguments}), not {kind}")
    target = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        inspect.signature(target).bind(*names)
    except TypeError as error:
        raise TypeError(
            f"{name} must take ({arguments}), but {error}: wrap it in a lambda that does"
        ) from None
    except ValueError:  # builtins may have no signature
        return
