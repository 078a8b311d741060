"""Loading MNIST: good files, every kind of bad file, no files and no network."""

import hashlib
import os
from pathlib import Path

import pytest
import torch
import torchvision

import helpers


def idx_bytes(magic, values):
    values = values.to(torch.uint8)
    sizes = values.shape
    return b"".join(n.to_bytes(4, "big") for n in (magic, *sizes)) + values.numpy().tobytes()


@pytest.fixture
def small_mnist(tmp_path, monkeypatch, generator):
    """Four small files in MNIST's format, and helpers told that these are the official ones."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    table = {}
    for name, (_, magic, _) in helpers.MNIST_FILES.items():
        n = 30 if name.startswith("train") else 20
        shape, high = ((n, 28, 28), 256) if magic == 2051 else ((n,), 10)
        data = idx_bytes(magic, torch.randint(high, shape, generator=generator))
        (raw / name).write_bytes(data)
        table[name] = (len(data), magic, hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(helpers, "MNIST_FILES", table)
    return tmp_path


def damage(root, name, change):
    path = root / "MNIST" / "raw" / name
    path.write_bytes(change(path.read_bytes()))


def test_good_files_are_read_as_written(small_mnist):
    digits = helpers.load_mnist(small_mnist)
    assert digits.name == "MNIST" and digits.train_images.shape == (30, 1, 28, 28) and digits.test_labels.shape == (20,)
    raw = (small_mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()
    assert digits.test_images[0, 0, 0, 0].item() == pytest.approx(raw[16] / 255)
    helpers.check_images(digits.train_images, clean=True)
    helpers.check_labels(digits.train_labels)


def test_mnist_root_is_read_from_the_environment(small_mnist, monkeypatch):
    monkeypatch.setenv("MNIST_ROOT", str(small_mnist))
    assert helpers.load_mnist().name == "MNIST"


@pytest.mark.parametrize(("change", "message"), [
    (lambda data: data[:-100], r"bytes instead of"),
    (lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:], "SHA-256"),
    (lambda data: b"<html>not found</html>", "no MNIST file"),
    (lambda data: b"", "no MNIST file"),
])  # fmt: skip
def test_damaged_files_are_named(small_mnist, change, message):
    damage(small_mnist, "train-images-idx3-ubyte", change)
    with pytest.raises(ValueError, match=f"train-images-idx3-ubyte is damaged.*{message}.*Delete"):
        helpers.load_mnist(small_mnist)


def test_mislabelled_files_are_told_apart(small_mnist):
    raw = small_mnist / "MNIST" / "raw"
    labels = (raw / "train-labels-idx1-ubyte").read_bytes()
    damage(small_mnist, "train-images-idx3-ubyte", lambda data: labels)
    with pytest.raises(ValueError, match="a label file where an image file belongs"):
        helpers.load_mnist(small_mnist)
    damage(small_mnist, "train-images-idx3-ubyte", lambda data: (raw / "t10k-images-idx3-ubyte").read_bytes())
    with pytest.raises(ValueError, match="bytes instead of"):
        helpers.load_mnist(small_mnist)


def test_an_incomplete_set_names_what_is_missing(small_mnist):
    (small_mnist / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="lacks t10k-labels-idx1-ubyte"):
        helpers.load_mnist(small_mnist)


def test_without_files_and_network_it_says_so_and_leaves_assets_alone(tmp_cwd, monkeypatch, capsys):
    def offline(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torchvision.datasets.MNIST, "__init__", offline)
    monkeypatch.delenv("PUBLISH", raising=False)
    digits = helpers.load_mnist(tmp_cwd)
    printed = capsys.readouterr().out
    assert "NO MNIST" in printed and "UCI digits" in printed and "Name or service not known" in printed
    assert digits.name == "UCI digits" and digits.train_images.shape == (1500, 1, 28, 28)
    helpers.check_images(digits.test_images, clean=True)
    for preset in helpers.PRESETS:
        assert helpers.open_run("EBM", preset, False, digits.name).figures != Path("assets")
    assert not Path("assets").exists()


def test_downloading_asks_the_s3_mirror_first(tmp_cwd, monkeypatch):
    seen = []
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://first/", "https://s3.second/"])
    monkeypatch.setattr(torchvision.datasets.MNIST, "__init__", lambda self, *_, **__: seen.extend(self.mirrors))
    assert helpers.download_mnist(tmp_cwd) == "" and seen == ["https://s3.second/", "http://first/"]


def test_nothing_is_downloaded_unless_asked(tmp_cwd, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "__init__", lambda *_, **__: pytest.fail("downloaded"))
    assert helpers.load_mnist(tmp_cwd, download=False).name == "UCI digits"


@pytest.mark.skipif(not (Path(os.environ.get("MNIST_ROOT") or "data") / "MNIST" / "raw").is_dir(), reason="needs MNIST")
def test_real_mnist_passes_its_checks_and_the_classifier_knows_it():
    import evaluation

    digits = helpers.load_mnist(download=False)
    assert digits.name == "MNIST" and len(digits.train_images) == 60_000
    assert digits.train_images.mean().item() == pytest.approx(helpers.PIXEL_MEAN, abs=1e-4)
    assert digits.train_images.std().item() == pytest.approx(helpers.PIXEL_STD, abs=1e-4)
    assert evaluation.accuracy(evaluation.load_classifier("cpu"), digits.test_images, digits.test_labels) > 0.994
