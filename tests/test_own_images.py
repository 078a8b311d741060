"""Other data than MNIST: FashionMNIST, KMNIST, your own images; what is left out for them."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from dgm import checks, data, metrics, runs

N = 140


@pytest.fixture
def arrays():
    """Random images as bytes, and labels."""
    random = np.random.default_rng(0)
    return {
        "x": random.integers(0, 256, (N, 28, 28), dtype=np.uint8),
        "y": random.integers(0, 10, N),
    }


@pytest.fixture
def load(tmp_path):
    """A function that writes arrays as own.npz and loads the file."""

    def write_and_load(**arrays):
        np.savez(tmp_path / "own.npz", **arrays)
        return data.load_images(tmp_path / "own.npz")

    return write_and_load


# --------------------------------------------------------------------------------- a good file


def test_a_seventh_of_the_images_are_test_images(load, arrays):
    digits = load(**arrays)
    assert digits.train_images.shape == (N - N // 7, 1, 28, 28)
    assert digits.test_images.shape == (N // 7, 1, 28, 28)


def test_every_image_is_in_one_of_the_two_sets(load, arrays):
    digits = load(**arrays)
    loaded = torch.cat([digits.train_images, digits.test_images]).flatten(1).sum(1)
    there = torch.from_numpy(arrays["x"]).float().flatten(1).sum(1) / 255
    assert torch.allclose(loaded.sort().values, there.sort().values)


def test_images_keep_their_labels(load, arrays):
    arrays["x"][:] = 20 * arrays["y"][:, None, None]
    digits = load(**arrays)
    for images, labels in (digits[:2], digits[2:4]):
        assert torch.allclose(images[:, 0, 0, 0] * 255, 20 * labels.float())


def test_the_split_is_the_same_every_time(load, arrays):
    assert torch.equal(load(**arrays).test_images, load(**arrays).test_images)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_floats_in_0_to_1_are_taken_as_they_are(dtype, load, arrays):
    arrays["x"] = (arrays["x"] / 255).astype(dtype)
    assert load(**arrays).train_images.max() == 1
    checks.check_clean_images(load(**arrays).train_images)


def test_labels_may_be_bytes(load, arrays):
    arrays["y"] = arrays["y"].astype(np.uint8)
    assert load(**arrays).train_labels.dtype == torch.int64


def test_the_path_may_be_text(tmp_path, arrays, monkeypatch):
    np.savez(tmp_path / "own.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    assert data.load_images("own.npz").name.startswith("own-")


def test_the_name_changes_with_the_contents(load, arrays):
    first = load(**arrays).name
    assert load(**arrays).name == first
    arrays["x"][0] = 0
    assert load(**arrays).name != first


def test_a_file_that_is_called_mnist_is_not_mnist(tmp_path, arrays):
    np.savez(tmp_path / "MNIST.npz", **arrays)
    assert data.load_images(tmp_path / "MNIST.npz").name not in data.DIGITS


# ----------------------------------------------------------------------------------- labels


def test_a_file_without_labels_has_none(load, arrays):
    digits = load(x=arrays["x"])
    assert not digits.labelled
    assert (digits.train_labels, digits.test_labels) == (None, None)


def test_without_labels_the_only_class_is_no_label(load, arrays):
    assert load(x=arrays["x"]).classes.tolist() == [checks.NO_LABEL]


def test_classes_are_those_that_occur(load, arrays):
    arrays["y"] = arrays["y"] % 3 + 2
    assert load(**arrays).classes.tolist() == [2, 3, 4]


def test_minibatches_without_labels_hide_all(load, arrays, generator):
    images, labels = next(data.minibatches(load(x=arrays["x"]).train_images, None, 8, generator))
    assert len(images) == 8
    assert labels.tolist() == [checks.NO_LABEL] * 8


def test_examples_are_the_first_with_the_label():
    digits = data.uci_digits()
    expected = digits.test_images[digits.test_labels == 7][:10]
    assert torch.equal(digits.examples(7, 10), expected)


def test_examples_of_a_label_that_does_not_occur_are_other_images(load, arrays):
    arrays["y"] = np.zeros(N, dtype=int)
    assert len(load(**arrays).examples(7, 10)) == 10


def test_examples_without_labels_differ_from_label_to_label(load, arrays):
    digits = load(x=arrays["x"])
    assert torch.equal(digits.examples(3, 2), digits.test_images[3:5])


# ------------------------------------------------------------------------------------ bad files


def wrong_pixel(value):
    """Return a change that sets one pixel of floats in [0, 1]."""

    def change(arrays):
        arrays["x"] = arrays["x"] / 255
        arrays["x"][0, 0, 0] = value

    return change


def replaced(name, change):
    """Return a change of one array."""
    return lambda arrays: arrays.update({name: change(arrays[name])})


BAD_ARRAYS = {
    "no x": (lambda arrays: arrays.pop("x"), "has no array x, but y: write it with numpy.savez"),
    "empty": (lambda arrays: arrays.clear(), "has no array x, but nothing"),
    "flat": (replaced("x", lambda x: x.reshape(N, 784)), r"shape \[N, 28, 28\], not \[140, 784\]"),
    "size": (replaced("x", lambda x: x[:, :20]), r"shape \[N, 28, 28\], not \[140, 20, 28\]"),
    "colours": (replaced("x", lambda x: np.stack([x] * 3, 3)), r"not \[140, 28, 28, 3\]"),
    "integers": (
        replaced("x", lambda x: x.astype(int)),
        "must be uint8 or floating point, not int",
    ),
    "complex": (replaced("x", lambda x: x + 0j), "must be uint8 or floating point, not complex"),
    "text": (replaced("x", lambda x: x.astype(str)), "must be uint8 or floating point, not <U3"),
    "objects": (replaced("x", lambda x: x.astype(object)), "cannot be read as arrays of numbers"),
    "few": (replaced("x", lambda x: x[:99]), "must hold 100 images or more, not 99"),
    "none": (replaced("x", lambda x: x[:0]), "must hold 100 images or more, not 0"),
    "0 or 1": (replaced("x", lambda x: x // 255), "no value above 1: call .astype"),
    "0 to 255": (replaced("x", lambda x: x.astype(float)), r"span \[0, 255\]: divide by 255"),
    "-1 to 1": (replaced("x", lambda x: x / 127.5 - 1), r"must lie in \[0, 1\], but they span"),
    "above 1": (wrong_pixel(1.5), r"must lie in \[0, 1\], but they span \[0, 1.5\]"),
    "below 0": (wrong_pixel(-0.1), r"must lie in \[0, 1\], but they span \[-0.1, 1\]"),
    "nan": (wrong_pixel(np.nan), "must be finite, but they contain NaN"),
    "infinity": (wrong_pixel(1e300), "must be finite, but they contain NaN or infinity"),
    "y short": (
        replaced("y", lambda y: y[:-1]),
        r"shape \[140\], one label per image, not \[139\]",
    ),
    "y one-hot": (replaced("y", lambda y: np.eye(10)[y]), r"one label per image, not \[140, 10\]"),
    "y from 1": (replaced("y", lambda y: y + 1), r"must lie in 0\.\.9, but spans 1\.\.10"),
    "y below 0": (replaced("y", lambda y: y - 1), r"must lie in 0\.\.9, but spans -1\.\.8"),
    "y floats": (replaced("y", lambda y: y / 1), "must be whole numbers, not float64"),
    "y text": (replaced("y", lambda y: y.astype(str)), "must be whole numbers, not <U"),
    "y objects": (replaced("y", lambda y: y.astype(object)), "cannot be read as arrays of numbers"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_arrays_get_a_sentence(name, load, arrays):
    change, message = BAD_ARRAYS[name]
    change(arrays)
    with pytest.raises(ValueError, match=rf"own\.npz .*{message}"):
        load(**arrays)


def half(path):
    """Damage a pixel in the middle of the file."""
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 255
    path.write_bytes(contents)


BAD_FILES = {
    "text": (lambda path: path.write_text("0,0,0"), "is not an .npz file: write it"),
    "empty": (lambda path: path.write_bytes(b""), "is not an .npz file"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "is not an .npz file"),
    "npy": (lambda path: np.save(path.open("wb"), np.zeros(3)), "is not an .npz file"),
    "damaged": (half, "cannot be read as arrays of numbers .*CRC"),
    "zip": (
        lambda path: zipfile.ZipFile(path, "w").writestr("a.png", b""),
        "has no array x, but a.png",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_get_a_sentence(name, tmp_path, arrays):
    path = tmp_path / "own.npz"
    np.savez(path, **arrays)
    change, message = BAD_FILES[name]
    change(path)
    with pytest.raises(ValueError, match=rf"own\.npz {message}"):
        data.load_images(path)


@pytest.mark.parametrize("name", ["own.npz", "mnist", "."])
def test_a_file_that_is_not_there_is_named_with_the_choices(name, tmp_cwd):
    message = rf"there is no file {re.escape(name)} \(seen from .*: choose MNIST, FashionMNIST"
    with pytest.raises(FileNotFoundError, match=message):
        data.load_images(name)


@pytest.mark.parametrize("value", [None, 5, "", np.zeros((N, 28, 28))])
def test_what_is_neither_name_nor_path_is_refused(value):
    with pytest.raises(ValueError, match="data must be a name or a path, not .*: choose MNIST"):
        data.load_images(value)


# ----------------------------------------------------------------------- torchvision's sets


def idx_bytes(values):
    """Return bytes in MNIST's format."""
    magic = 2051 if values.ndim == 3 else 2049
    header = b"".join(n.to_bytes(4, "big") for n in (magic, *values.shape))
    return header + values.astype(np.uint8).tobytes()


@pytest.fixture(params=data.RELATIVES)
def relative(request, tmp_path, monkeypatch, arrays):
    """The name of a set of torchvision, a few images of which lie in its folder."""
    folder = tmp_path / request.param / "raw"
    folder.mkdir(parents=True)
    for part, shown in (("train", slice(None)), ("t10k", slice(20))):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(arrays["x"][shown]))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(arrays["y"][shown]))
    monkeypatch.setenv("MNIST_ROOT", str(tmp_path))
    return request.param


def test_a_relative_of_mnist_is_read_by_its_name(relative, arrays):
    digits = data.load_images(relative, download=False)
    pixels = torch.from_numpy(arrays["x"])[:, None].float() / 255
    assert digits.name == relative
    assert torch.equal(digits.train_images, pixels)
    assert torch.equal(digits.test_images, pixels[:20])
    assert digits.train_labels.tolist() == arrays["y"].tolist()


@pytest.mark.parametrize("name", data.RELATIVES)
def test_a_relative_that_is_absent_is_not_downloaded_in_smoke_mode(name, tmp_cwd, monkeypatch):
    monkeypatch.delenv("MNIST_ROOT", raising=False)
    message = rf"no {name} in data.{name}.raw \(nothing is downloaded in preset smoke\): put its"
    with pytest.raises(FileNotFoundError, match=message):
        data.load_images(name, download=False)


def test_a_relative_that_cannot_be_downloaded_says_why(tmp_cwd, monkeypatch):
    def refuse(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torchvision.datasets.KMNIST, "__init__", refuse)
    with pytest.raises(FileNotFoundError, match=r"no KMNIST in .*\(Name or service not known\)"):
        data.load_images("KMNIST")


def test_mnist_is_read_as_ever(tmp_cwd, monkeypatch):
    monkeypatch.setattr(data, "read_mnist", lambda **options: options)
    assert data.load_images("MNIST", "cpu", False) == {"device": "cpu", "download": False}


# --------------------------------------------------------------------- what belongs to MNIST


@pytest.mark.parametrize(
    "options", [{"pretrained": True}, {"publish": True}], ids=["demo", "publish"]
)
def test_committed_weights_are_refused_on_other_data(options, tmp_cwd):
    message = "weights were trained on MNIST, not on KMNIST: set pretrained = False, or data"
    with pytest.raises(ValueError, match=message):
        runs.open_run("EBM", "smoke", data="KMNIST", **options)


@pytest.mark.parametrize("preset", runs.PRESETS)
def test_runs_on_other_data_have_their_own_folder(preset, tmp_cwd):
    run = runs.open_run("EBM", preset, data="own-3f2a91")
    assert run.folder == Path("runs") / f"{preset}-own-3f2a91"
    assert run.figures == run.folder / "assets"


def test_committed_weights_are_no_partners_on_other_data(tmp_cwd):
    runs.CHECKPOINTS.mkdir()
    (runs.CHECKPOINTS / "EBM.pt").touch()
    run = runs.open_run("score-based-model", "smoke", data="KMNIST")
    assert runs.partner_folder("EBM", run) is None


def test_weights_of_the_same_data_are_partners(tmp_cwd):
    run = runs.open_run("score-based-model", "smoke", data="KMNIST")
    (run.folder / "EBM.pt").touch()
    assert runs.partner_folder("EBM", run) == run.folder


def test_the_classifier_is_left_out_on_other_data():
    assert metrics.load_classifier("cpu", data="KMNIST") is None


@pytest.mark.parametrize("name", data.DIGITS)
def test_the_classifier_is_there_for_digits(name):
    assert metrics.load_classifier("cpu", data=name) is not None
