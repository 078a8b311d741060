"""Image data: MNIST, its fallback and relatives, your own images; minibatches."""

import gzip
import hashlib
import os
import socket
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from dgm.checks import (
    IMAGE_SHAPE,
    NO_LABEL,
    check_clean_images,
    check_count,
    check_generator,
    check_labels,
)

DIGITS = ("MNIST", "UCI digits")  # the data that committed weights and classifier are used on
RELATIVES = ("FashionMNIST", "KMNIST")  # sets of torchvision with MNIST's shape
CHOICES = f"choose MNIST, {', '.join(RELATIVES)} or the path of an .npz file"
SAVE_IT = "write it with numpy.savez(path, x=images) or numpy.savez(path, x=images, y=labels)"
NO_LABELS = "Without labels there are no class-conditional samples."
MIN_IMAGES = 100  # of your own: a seventh of them are test images, and figures show up to 12

IMAGES, LABELS = 2051, 2049  # magic numbers: first four bytes of image and label files
MNIST_FILES = {  # name: (bytes, first four bytes as a number, SHA-256)
    "train-images-idx3-ubyte": (
        47040016,
        IMAGES,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte": (
        60008,
        LABELS,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte": (
        7840016,
        IMAGES,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte": (
        10008,
        LABELS,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}


class Digits(NamedTuple):
    """A data set on one device: images [N, 1, 28, 28] in [0, 1], labels [N] in 0..9 or None."""

    train_images: torch.Tensor
    train_labels: torch.Tensor | None
    test_images: torch.Tensor
    test_labels: torch.Tensor | None
    name: str

    @property
    def labelled(self):
        return self.train_labels is not None

    @property
    def classes(self):
        """The labels that occur in training, ascending; NO_LABEL alone where there are none."""
        if not self.labelled:
            return torch.tensor([NO_LABEL], device=self.train_images.device)
        return self.train_labels.unique()

    def examples(self, label, count):
        """Return `count` test images: the first with this label, then others from there on."""
        index = torch.arange(len(self.test_images), device=self.test_images.device)
        order = len(index) + (index - label) % len(index)
        if self.labelled:
            order = torch.where(self.test_labels == label, index, order)
        return self.test_images[order.argsort()[:count]]


def load_images(data="MNIST", device="cpu", download=True):
    """Return a data set: MNIST, FashionMNIST, KMNIST, or your own images from an .npz file.

    The file holds `x` [N, 28, 28], uint8 or float in [0, 1], and with labels also `y` [N] in 0..9.
    Raises FileNotFoundError or ValueError, with what to do, for a set that cannot be had and for
    a file that does not fit.
    """
    if not isinstance(data, (str, Path)) or not str(data):
        found = "empty" if isinstance(data, str) else type(data).__name__
        raise ValueError(f"data must be a name or a path, not {found}: {CHOICES}")
    if data == "MNIST":
        return read_mnist(device=device, download=download)
    if data in RELATIVES:
        return read_relative(data, device, download)
    return read_npz(data, device)


def check_pretrained(pretrained, data):
    """Raise ValueError if committed weights are to be used on data that they do not know."""
    if pretrained and data not in DIGITS:
        raise ValueError(
            f"the committed weights were trained on MNIST, not on {data}: "
            'set pretrained = False, or data = "MNIST"'
        )


# -------------------------------------------------------------------------- MNIST, UCI digits


def data_folder(root=None):
    """Return the folder of the data sets: `root`, else $MNIST_ROOT, else data/."""
    return Path(os.path.expandvars(root or os.environ.get("MNIST_ROOT") or "data")).expanduser()


def read_mnist(root=None, device="cpu", download=True):
    """Return MNIST from a folder, or the UCI digits if no folder is given and MNIST unavailable.

    `root` defaults to $MNIST_ROOT, else data/. The files may be in `root`/MNIST/raw or in `root`,
    unpacked or as .gz. If there are none, torchvision downloads them. Raises ValueError for a
    damaged file, FileNotFoundError for an incomplete set or for a given folder without MNIST.
    """
    named = root or os.environ.get("MNIST_ROOT")
    root = data_folder(root)
    found, there = find_files(root), contents(root)
    reason = "no files were found, and downloading is switched off"
    if not found and download:
        reason = download_mnist(root)
        found = find_files(root)
    missing = [name for name in MNIST_FILES if name not in found]
    if not found and named and download:
        raise FileNotFoundError(
            f"no MNIST in {root} ({there}; {reason}): put the four files there, "
            "for example train-images-idx3-ubyte.gz, or pass no folder"
        )
    if not found:
        print(
            f"!!! NO MNIST in {root / 'MNIST' / 'raw'} ({reason}).\n"
            "!!! Using the UCI digits of scikit-learn instead (1,797 real digits of 8x8 pixels, "
            "resized). They are good enough to try the code, but not to evaluate a model.\n"
            "!!! If you have MNIST, set MNIST_ROOT to its folder."
        )
        return uci_digits(device)
    if missing:
        folder = next(iter(found.values())).parent
        names = ", ".join(missing)
        raise FileNotFoundError(
            f"{folder} lacks {names}: add them, or empty the folder to download all four files"
        )
    return Digits(*(read_idx(found[name], name).to(device) for name in MNIST_FILES), "MNIST")


def find_files(root):
    """Return {name: path} of the MNIST files below a folder.

    They are in root/MNIST/raw, root/raw or root, unpacked or as .gz, and their names have "-idx"
    or ".idx".
    """
    for folder in (root / "MNIST" / "raw", root / "raw", root):
        found = {}
        for name in MNIST_FILES:
            forms = (name, name.replace("-idx", ".idx"))
            paths = [folder / f"{form}{end}" for end in ("", ".gz") for form in forms]
            path = next((path for path in paths if path.is_file()), None)
            if path:
                found[name] = path
        if found:
            return found
    return {}


def contents(folder):
    """Return a description of the contents of a folder."""
    if not folder.is_dir():
        return "there is no such folder"
    names = sorted(path.name for path in folder.iterdir())
    return f"it holds {', '.join(names[:5])}" if names else "it is empty"


def download_mnist(root):
    """Download MNIST with torchvision, the S3 mirror first; return "" or the reason of failure."""
    from torchvision.datasets import MNIST

    MNIST.mirrors = sorted(MNIST.mirrors, key=lambda mirror: "s3" not in mirror)
    try:
        with short_timeout():
            MNIST(root, download=True)
        return ""
    except Exception as error:  # offline, refused, read-only: all end in the same fallback
        return f"download failed: {last_line(error)}"


@contextmanager
def short_timeout():
    """Let connections give up after 20 seconds."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)
    try:
        yield
    finally:
        socket.setdefaulttimeout(timeout)


def last_line(error):
    """Return the last line that an exception says, without its full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].rstrip(".")


def read_idx(path, name):
    """Read the MNIST file `name` as float32 images in [0, 1] or int64 labels.

    Raises ValueError if it is not the official file.
    """
    size, magic, digest = MNIST_FILES[name]
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            data = b""  # reported below
    found = int.from_bytes(data[:4], "big")
    if found != magic:
        kind = {IMAGES: "an image file", LABELS: "a label file"}
        problem = f"it is {kind.get(found, 'no MNIST file')} instead of {kind[magic]}"
    elif len(data) != size:
        problem = f"it has {len(data):,} bytes instead of {size:,}"
    elif hashlib.sha256(data).hexdigest() != digest:
        problem = "its SHA-256 is not that of the official file"
    else:
        values = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        if magic == LABELS:
            return values[8:].long()
        return values[16:].view(-1, *IMAGE_SHAPE).float().div_(255)
    raise ValueError(
        f"{path} is damaged or not MNIST: {problem}. Delete the four files to download them again."
    )


def uci_digits(device="cpu"):
    """Return scikit-learn's digits (8x8, 0..16), resized to 28x28 in [0, 1].

    The last 297 of the 1,797 images are the test set.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32, device=device)[:, None] / 16
    images = F.interpolate(images, size=IMAGE_SHAPE[1:], mode="bicubic").clamp(0, 1)
    labels = torch.tensor(digits.target, device=device).long()
    return Digits(images[:1500], labels[:1500], images[1500:], labels[1500:], "UCI digits")


# --------------------------------------------------------------------------- other data sets


def read_relative(name, device="cpu", download=True):
    """Return FashionMNIST or KMNIST through torchvision, which downloads it where it is absent.

    Raises FileNotFoundError where it cannot be had.
    """
    from torchvision import datasets

    root = data_folder()
    try:
        with short_timeout():
            kind = getattr(datasets, name)
            train, test = (kind(root, train=first, download=download) for first in (True, False))
    except Exception as error:  # offline, refused, damaged: all end in the same message
        reason = last_line(error) if download else "nothing is downloaded in preset smoke"
        raise FileNotFoundError(
            f"no {name} in {root / name / 'raw'} ({reason}): put its four files there, "
            "for example train-images-idx3-ubyte"
        ) from error
    parts = (images_from(train.data), train.targets, images_from(test.data), test.targets)
    return Digits(*(part.to(device) for part in parts), name)


def images_from(pixels):
    """Return bytes [N, 28, 28], or floats in [0, 1], as images [N, 1, 28, 28]."""
    scale = 255 if pixels.dtype == torch.uint8 else 1
    return pixels[:, None].float() / scale


def read_npz(path, device="cpu"):
    """Return your own images; a seventh of them, drawn with a fixed seed, are the test images.

    The data's name is the file's with six letters that change with what the file holds.
    """
    path = Path(os.path.expandvars(path)).expanduser()
    arrays = read_arrays(path)
    images = images_from(torch.from_numpy(checked_pixels(arrays, path)))
    check_clean_images(images, f"x of {path}")
    labels = None if "y" not in arrays else torch.from_numpy(checked_labels(arrays, path))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[len(order) // 7 :], order[: len(order) // 7]
    split = (x[part] if x is not None else None for part in (train, test) for x in (images, labels))
    parts = (x.to(device) if x is not None else None for x in split)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:6]
    return Digits(*parts, f"{path.stem}-{digest}")


def read_arrays(path):
    """Return the arrays x and, if it is there, y of an .npz file; nothing in it is unpickled."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} (seen from {Path.cwd()}): {CHOICES}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not an .npz file: {SAVE_IT}")
    try:
        with np.load(path, allow_pickle=False) as contents:
            names = contents.files
            arrays = {name: np.asarray(contents[name]) for name in names if name in ("x", "y")}
    except Exception as error:  # damaged, or Python objects
        problem = f"{path} cannot be read as arrays of numbers ({last_line(error)})"
        raise ValueError(f"{problem}: {SAVE_IT}") from error
    if "x" not in arrays:
        raise ValueError(f"{path} has no array x, but {', '.join(names) or 'nothing'}: {SAVE_IT}")
    return arrays


def checked_pixels(arrays, path):
    """Return x as uint8 or float32; raise ValueError for another type, shape or number."""
    x = arrays["x"]
    problem = None
    if x.ndim != 3 or x.shape[1:] != IMAGE_SHAPE[1:]:
        shape = list(x.shape)
        problem = f"must have shape [N, 28, 28], not {shape}: resize the images, or reshape x"
    elif x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        problem = f"must be uint8 or floating point, not {x.dtype}: call .astype(numpy.uint8)"
    elif len(x) < MIN_IMAGES:
        problem = f"must hold {MIN_IMAGES} images or more, not {len(x)}: add some"
    elif x.dtype == np.uint8 and x.max() <= 1:
        problem = "must lie in 0..255 as uint8, but has no value above 1: call .astype(float)"
    if problem:
        raise ValueError(f"x of {path} {problem}")
    with np.errstate(over="ignore"):  # infinity is told where values are checked
        return x if x.dtype == np.uint8 else x.astype(np.float32)


def checked_labels(arrays, path):
    """Return y as int64; raise ValueError unless it has a whole number in 0..9 per image."""
    y, n = arrays["y"], len(arrays["x"])
    problem = None
    if y.shape != (n,):
        problem = f"must have shape [{n}], one label per image, not {list(y.shape)}: pass as many"
    elif not np.issubdtype(y.dtype, np.integer):
        problem = f"must be whole numbers, not {y.dtype}: call .astype(int)"
    elif y.min() < 0 or y.max() > 9:
        problem = f"must lie in 0..9, but spans {y.min()}..{y.max()}: renumber or leave out y"
    if problem:
        raise ValueError(f"y of {path} {problem}")
    return y.astype(np.int64)


# ----------------------------------------------------------------------------- random batches


def minibatches(images, labels, batch_size, generator=None):
    """Yield random (images, labels) forever, drawn with replacement.

    Without labels, all are NO_LABEL. Raises ValueError before the first batch unless images are
    in [0, 1] and labels in 0..9.
    """
    check_clean_images(images)
    if labels is None:
        labels = torch.full((len(images),), NO_LABEL, device=images.device)
    else:
        check_labels(labels, len(images), hidden=False)
    check_count(batch_size, "batch_size")
    check_generator(generator)
    while True:
        index = torch.randint(len(images), (batch_size,), device=images.device, generator=generator)
        yield images[index], labels[index]
