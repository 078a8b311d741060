"""Loading MNIST: good files, every kind of bad file, no files and no network; random batches."""

import gzip
import hashlib
import os
from pathlib import Path

import pytest
import torch
import torchvision

import helpers
from dgm import checks, data, metrics, runs

# -------------------------------------------------------------------------------- good files


def idx_bytes(magic, values):
    values = values.to(torch.uint8)
    header = b"".join(n.to_bytes(4, "big") for n in (magic, *values.shape))
    return header + values.numpy().tobytes()


@pytest.fixture
def small_mnist(tmp_path, monkeypatch, generator):
    """Four small files in MNIST's format, which dgm/data.py is told are the official ones."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    table = {}
    for name, (_, magic, _) in data.MNIST_FILES.items():
        n = 30 if name.startswith("train") else 20
        shape, high = ((n, 28, 28), 256) if magic == data.IMAGES else ((n,), 10)
        contents = idx_bytes(magic, torch.randint(high, shape, generator=generator))
        (raw / name).write_bytes(contents)
        table[name] = (len(contents), magic, hashlib.sha256(contents).hexdigest())
    monkeypatch.setattr(data, "MNIST_FILES", table)
    return tmp_path


@pytest.fixture
def digits(small_mnist):
    return helpers.load_mnist(small_mnist)


def test_good_files_are_called_mnist(digits):
    assert digits.name == "MNIST"


def test_images_are_as_many_as_in_the_file(digits):
    assert digits.train_images.shape == (30, 1, 28, 28)


def test_labels_are_as_many_as_in_the_file(digits):
    assert digits.test_labels.shape == (20,)


def test_pixels_are_the_bytes_of_the_file(digits, small_mnist):
    raw = (small_mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()
    assert digits.test_images[0, 0, 0, 0].item() == pytest.approx(raw[16] / 255)


def test_images_read_are_clean(digits):
    checks.check_clean_images(digits.train_images)


def test_labels_read_are_digits(digits):
    checks.check_labels(digits.train_labels)


def test_mnist_root_is_read_from_the_environment(small_mnist, monkeypatch):
    monkeypatch.setenv("MNIST_ROOT", str(small_mnist))
    assert helpers.load_mnist().name == "MNIST"


# --------------------------------------------------------------------------------- bad files


def damage(root, name, change):
    path = root / "MNIST" / "raw" / name
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda data: data[:-100], "bytes instead of", id="cut"),
        pytest.param(
            lambda data: data[:500] + bytes([data[500] ^ 1]) + data[501:], "SHA-256", id="one bit"
        ),
        pytest.param(lambda data: b"<html>not found</html>", "no MNIST file", id="a web page"),
        pytest.param(lambda data: b"", "no MNIST file", id="empty"),
    ],
)
def test_damaged_files_are_named(small_mnist, change, message):
    damage(small_mnist, "train-images-idx3-ubyte", change)
    with pytest.raises(ValueError, match=f"train-images-idx3-ubyte is damaged.*{message}.*Delete"):
        helpers.load_mnist(small_mnist)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("train-labels-idx1-ubyte", "a label file instead of an image file"),
        ("t10k-images-idx3-ubyte", "bytes instead of"),
    ],
)
def test_mislabelled_files_are_told_apart(small_mnist, other, message):
    contents = (small_mnist / "MNIST" / "raw" / other).read_bytes()
    damage(small_mnist, "train-images-idx3-ubyte", lambda _: contents)
    with pytest.raises(ValueError, match=message):
        helpers.load_mnist(small_mnist)


def test_an_incomplete_set_names_what_is_missing(small_mnist):
    (small_mnist / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="lacks t10k-labels-idx1-ubyte"):
        helpers.load_mnist(small_mnist)


# ---------------------------------------------------------------------- no files, no network


@pytest.fixture
def offline(tmp_cwd, monkeypatch):
    def refuse(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torchvision.datasets.MNIST, "__init__", refuse)
    monkeypatch.delenv("MNIST_ROOT", raising=False)


@pytest.mark.parametrize("words", ["NO MNIST", "UCI digits", "Name or service not known"])
def test_without_files_and_network_it_says_so(words, offline, capsys):
    helpers.load_mnist()
    assert words in capsys.readouterr().out


def test_without_files_and_network_the_uci_digits_are_used(offline):
    assert helpers.load_mnist().name == "UCI digits"


def test_training_images_of_the_uci_digits_are_1500(offline):
    assert helpers.load_mnist().train_images.shape == (1500, 1, 28, 28)


def test_uci_digits_are_clean_images(offline):
    checks.check_clean_images(helpers.load_mnist().test_images)


@pytest.mark.parametrize("preset", runs.PRESETS)
def test_runs_on_other_data_do_not_draw_into_assets(preset, offline):
    digits = helpers.load_mnist()
    assert runs.open_run("EBM", preset, False, digits.name).figures != Path("assets")


@pytest.mark.parametrize("preset", runs.PRESETS)
def test_runs_on_other_data_do_not_make_assets(preset, offline):
    runs.open_run("EBM", preset, False, helpers.load_mnist().name)
    assert not Path("assets").exists()


@pytest.fixture
def mirrors(monkeypatch):
    """The mirrors in the order in which they would be asked."""
    seen, mnist = [], torchvision.datasets.MNIST
    monkeypatch.setattr(mnist, "mirrors", ["http://first/", "https://s3.second/"])
    monkeypatch.setattr(mnist, "__init__", lambda self, *_, **__: seen.extend(self.mirrors))
    return seen


def test_downloading_asks_the_s3_mirror_first(tmp_cwd, mirrors):
    data.download_mnist(tmp_cwd)
    assert mirrors == ["https://s3.second/", "http://first/"]


def test_a_download_that_worked_gives_no_reason(tmp_cwd, mirrors):
    assert data.download_mnist(tmp_cwd) == ""


def test_nothing_is_downloaded_unless_asked(tmp_cwd, monkeypatch):
    fail = pytest.fail
    monkeypatch.setattr(torchvision.datasets.MNIST, "__init__", lambda *_, **__: fail("downloaded"))
    assert helpers.load_mnist(tmp_cwd, download=False).name == "UCI digits"


# ----------------------------------------------------------------------------- random batches


def test_minibatches_refuse_images_out_of_range(generator):
    images = 255 * torch.rand(4, 1, 28, 28, generator=generator)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        next(data.minibatches(images, torch.arange(4), 2, generator))


def test_minibatches_refuse_another_number_of_labels(generator):
    images = torch.rand(4, 1, 28, 28, generator=generator)
    with pytest.raises(ValueError, match="length 4, one per image, not 3"):
        next(data.minibatches(images, torch.arange(3), 2, generator))


def test_minibatches_keep_images_and_labels_together(generator):
    labels = torch.arange(4)
    images = (labels / 4).view(4, 1, 1, 1).expand(4, 1, 28, 28)
    x, y = next(data.minibatches(images, labels, 20, generator))
    assert torch.equal(4 * x[:, 0, 0, 0], y.float())


# --------------------------------------------------------------------------------- real MNIST

ROOT = Path(os.environ.get("MNIST_ROOT") or "data")
needs_mnist = pytest.mark.skipif(not (ROOT / "MNIST" / "raw").is_dir(), reason="needs MNIST")


@pytest.fixture(scope="module")
def mnist():
    return helpers.load_mnist(download=False)


@needs_mnist
def test_real_mnist_passes_its_checks(mnist):
    assert mnist.name == "MNIST"


@needs_mnist
def test_real_mnist_has_60000_training_images(mnist):
    assert len(mnist.train_images) == 60_000


@needs_mnist
def test_pixel_mean_is_that_of_real_mnist(mnist):
    assert mnist.train_images.mean().item() == pytest.approx(checks.PIXEL_MEAN, abs=1e-4)


@needs_mnist
def test_pixel_std_is_that_of_real_mnist(mnist):
    assert mnist.train_images.std().item() == pytest.approx(checks.PIXEL_STD, abs=1e-4)


@needs_mnist
def test_the_classifier_knows_real_mnist(mnist):
    classifier = metrics.load_classifier("cpu")
    assert metrics.accuracy(classifier, mnist.test_images, mnist.test_labels) > 0.994


# ------------------------------------------------------------------------- other common forms


def as_they_are(raw, root):
    """Leave the files in MNIST/raw."""
    return root


def with_dots(raw, root):
    """Name the files as other tools do: train-images.idx3-ubyte."""
    for path in list(raw.iterdir()):
        path.rename(raw / path.name.replace("-idx", ".idx"))
    return root


def as_archives(raw, root):
    """Leave the four .gz archives alone."""
    for path in list(raw.iterdir()):
        (raw / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return root


def flat(raw, root):
    """Put the files into the folder itself."""
    for path in list(raw.iterdir()):
        path.rename(root / path.name)
    return root


def raw_itself(raw, root):
    """Name the raw folder."""
    return raw


FORMS = [as_they_are, with_dots, as_archives, flat, raw_itself]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_mnist_is_read_from_where_it_lies(form, small_mnist, monkeypatch):
    monkeypatch.setattr(data, "download_mnist", lambda root: pytest.fail("downloaded"))
    expected = helpers.load_mnist(small_mnist)
    root = form(small_mnist / "MNIST" / "raw", small_mnist)
    assert torch.equal(helpers.load_mnist(root).train_images, expected.train_images)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_damaged_file_is_found_in_every_form(form, small_mnist):
    damage(small_mnist, "train-labels-idx1-ubyte", lambda contents: contents[:-1])
    root = form(small_mnist / "MNIST" / "raw", small_mnist)
    with pytest.raises(ValueError, match="it has .* bytes instead of"):
        helpers.load_mnist(root)


def test_a_broken_archive_is_named(small_mnist):
    as_archives(small_mnist / "MNIST" / "raw", small_mnist)
    damage(small_mnist, "train-labels-idx1-ubyte.gz", lambda contents: contents[:-9])
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte\.gz is damaged or not MNIST"):
        helpers.load_mnist(small_mnist)


@pytest.mark.parametrize("form", [with_dots, as_archives, flat], ids=lambda form: form.__name__)
def test_a_missing_file_is_named_in_every_form(form, small_mnist):
    (small_mnist / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    root = form(small_mnist / "MNIST" / "raw", small_mnist)
    with pytest.raises(FileNotFoundError, match="lacks t10k-labels-idx1-ubyte: add them"):
        helpers.load_mnist(root)


@pytest.fixture
def no_download(monkeypatch):
    monkeypatch.setattr(data, "download_mnist", lambda root: "download failed: no network")


def test_a_folder_that_was_named_and_has_no_mnist_is_an_error(tmp_path, no_download):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(FileNotFoundError) as caught:
        helpers.load_mnist(tmp_path)
    assert str(caught.value) == (
        f"no MNIST in {tmp_path} (it holds photo.jpg; download failed: no network): put the four "
        "files there, for example train-images-idx3-ubyte.gz, or pass no folder"
    )


def test_an_empty_folder_that_was_named_is_said_to_be_empty(tmp_path, no_download):
    with pytest.raises(FileNotFoundError, match="it is empty; download failed"):
        helpers.load_mnist(tmp_path)


def test_a_folder_that_does_not_exist_is_said_not_to(tmp_path, no_download):
    with pytest.raises(FileNotFoundError, match="there is no such folder; download failed"):
        helpers.load_mnist(tmp_path / "nowhere")


def test_the_environment_names_a_folder_too(tmp_path, no_download, monkeypatch):
    monkeypatch.setenv("MNIST_ROOT", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no MNIST in"):
        helpers.load_mnist()


def test_who_named_no_folder_gets_the_fallback(tmp_cwd, no_download, monkeypatch):
    monkeypatch.delenv("MNIST_ROOT", raising=False)
    assert helpers.load_mnist().name == "UCI digits"
