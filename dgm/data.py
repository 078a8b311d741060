"""Image data: MNIST files (search, download, verification), fallback digits, minibatches."""

import gzip
import hashlib
import os
import socket
import zlib
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from dgm.checks import IMAGE_SHAPE, check_clean_images, check_count, check_generator, check_labels

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
    """A data set on one device: images [N, 1, 28, 28] in [0, 1] and labels [N] in 0..9."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    name: str


def read_mnist(root=None, device="cpu", download=True):
    """Return MNIST from a folder, or the UCI digits if no folder is given and MNIST unavailable.

    `root` defaults to $MNIST_ROOT, else data/. The files may be in `root`/MNIST/raw or in `root`,
    unpacked or as .gz. If there are none, torchvision downloads them. Raises ValueError for a
    damaged file, FileNotFoundError for an incomplete set or for a given folder without MNIST.
    """
    named = root or os.environ.get("MNIST_ROOT")
    root = Path(os.path.expandvars(named or "data")).expanduser()
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
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)
    try:
        MNIST(root, download=True)
        return ""
    except Exception as error:  # offline, refused or read-only: the fallback is the same
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        return "download failed: " + reason.rstrip(".")
    finally:
        socket.setdefaulttimeout(timeout)


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


def minibatches(images, labels, batch_size, generator=None):
    """Yield random (images, labels) forever, drawn with replacement.

    Raises ValueError before the first batch unless images are in [0, 1] and labels in 0..9.
    """
    check_clean_images(images)
    check_labels(labels, len(images), hidden=False)
    check_count(batch_size, "batch_size")
    check_generator(generator)
    while True:
        index = torch.randint(len(images), (batch_size,), device=images.device, generator=generator)
        yield images[index], labels[index]
