"""What used to pass in silence or lose a run: each is named or taken now."""

import math
import zlib

import numpy as np
import pytest
import torch
from torch.nn.utils import prune

import helpers
from dgm import data, fast_gradient, likelihood, metrics, plots, runs

BYTES = torch.full((4, 1, 28, 28), 255, dtype=torch.uint8)
IMAGES = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def test_a_buffer_restores_bytes_as_pixels():
    buffer = helpers.ReplayBuffer(4)
    buffer.load_state_dict({"chains": BYTES})
    assert buffer.chains.max() == 1


def test_a_buffer_restores_only_as_many_chains_as_it_has():
    with pytest.raises(ValueError) as caught:
        helpers.ReplayBuffer(4).load_state_dict({"chains": IMAGES[:1]})
    assert (
        str(caught.value) == "chains must have length 4, like this buffer, not 1: pass all of them"
    )


def test_bytes_are_kept_as_the_same_bytes():
    assert torch.equal(runs.as_bytes(BYTES), BYTES)


def test_chains_on_another_scale_are_not_kept():
    with pytest.raises(ValueError, match=r"chains must lie in \[0, 1\].*divide by 255"):
        runs.as_bytes(255 * IMAGES)


def test_a_classifier_in_training_mode_is_refused():
    classifier = metrics.load_classifier("cpu").train()
    with pytest.raises(ValueError, match=r"in evaluation mode: call classifier\.eval\(\)"):
        metrics.classifier_outputs(classifier, IMAGES)


def negated(network):
    network.register_forward_hook(lambda module, inputs, output: -output)


def with_another_forward(network):
    forward = network.forward
    network.forward = lambda x: -forward(x)


def pruned(network):
    prune.random_unstructured(network.layers[2], "weight", 0.5)


@pytest.mark.parametrize("change", [negated, with_another_forward, pruned])
def test_a_changed_network_does_not_take_the_gradient_written_out(change):
    network = helpers.EnergyNetwork(8)
    change(network)
    assert not fast_gradient.fits(network, torch.device("cpu"))


def test_an_energy_network_as_it_comes_takes_the_gradient_written_out():
    assert fast_gradient.fits(helpers.EnergyNetwork(8), torch.device("cpu"))


def test_one_flipped_bit_in_a_checkpoint_is_found(tmp_path):
    path = tmp_path / "run.pt"
    runs.save_atomically({"kind": "run", "weights": torch.zeros(10_000)}, path)
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)
    with pytest.raises(ValueError, match="half-written or not a checkpoint"):
        runs.load_checkpoint(path, "run")


@pytest.mark.parametrize("flag", [{"publish": "no"}, {"pretrained": "False"}])
def test_flags_are_true_or_false(flag, tmp_cwd):
    with pytest.raises(TypeError, match="must be True or False, not '(no|False)'"):
        runs.open_run("EBM", **flag)


def updates_with(settings, path):
    history = {"loss": []}
    for _ in runs.training_steps(1, path, settings, history, {}, lines=0):
        history["loss"].append(torch.zeros([]))


def test_a_run_with_numpy_settings_can_be_resumed(tmp_path):
    path = tmp_path / "run.pt"
    updates_with({"rate": np.float32(0.5), "folder": tmp_path}, path)
    assert runs.load_checkpoint(path, "run")["settings"]["rate"] == 0.5


def test_settings_that_no_checkpoint_can_hold_are_named_before_training(tmp_path):
    with pytest.raises(TypeError, match="must be numbers or text, not Tensor: convert it"):
        updates_with({"rate": torch.zeros(1)}, tmp_path / "run.pt")


def test_numpy_numbers_are_written_as_json(tmp_path):
    runs.write_json({"n": np.int64(3)}, tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text() == '{\n "n": 3\n}\n'


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    with pytest.raises(TypeError, match="not set"):
        runs.write_json({"a": {1}}, tmp_path / "a.json")
    with pytest.raises(RuntimeError), runs.whole_file(tmp_path / "b") as temporary:
        temporary.touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("device", ["cpu:3", "gpu", "cuda:7"])
def test_a_device_that_is_not_there_does_not_blame_the_file(device):
    try:
        model, _ = helpers.load_pretrained("EBM", device)
        assert next(model.parameters()).device.type == "cpu"
    except ValueError as error:
        assert (
            str(error)
            == f'device must be available on this machine, but {device} is not: pass device="cpu"'
        )


def test_a_seed_in_place_of_a_generator_is_named():
    with pytest.raises(TypeError) as caught:
        helpers.langevin_dynamics(helpers.EnergyNetwork(4), IMAGES, 1, generator=0)
    assert str(caught.value) == (
        "generator must be a torch.Generator, not int: pass seed_everything(0), or None"
    )


def test_sigmas_turned_round_in_numpy_are_taken():
    sigmas = np.array([0.5, 1.0, 2.0])[::-1]
    x = helpers.annealed_langevin_dynamics(lambda x, s, y: -x, None, sigmas, n=1, steps=1)
    assert x.shape == (1, 1, 28, 28)


def test_features_with_a_graph_are_taken():
    features = torch.rand(9, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert metrics.frechet_distance(features, features) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("share", [25, -1, math.nan])
def test_a_share_of_noise_levels_lies_in_0_to_1(share):
    with pytest.raises(ValueError, match="uniform_share must be finite and at least 0"):
        helpers.training_sigmas(4, uniform_share=share)


def test_a_home_folder_is_looked_up(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(data, "download_mnist", lambda root: f"tried {root}")
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "mnist")):
        helpers.load_mnist("~/mnist")


def test_an_archive_with_a_broken_stream_is_named(tmp_path, monkeypatch):
    def broken(contents):
        raise zlib.error("invalid block type")

    monkeypatch.setattr(data.gzip, "decompress", broken)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(b"anything")
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte\.gz is damaged or not MNIST"):
        data.read_idx(path, "train-labels-idx1-ubyte")


@pytest.mark.parametrize("measure", [metrics.psnr, metrics.pixel_quality])
def test_images_on_another_scale_have_no_psnr(measure):
    with pytest.raises(ValueError, match=r"clean images must lie in \[0, 1\].*divide by 255"):
        measure(255 * IMAGES, 255 * IMAGES.flip(0))


def test_images_on_another_scale_have_no_likelihood():
    with pytest.raises(ValueError, match=r"x must lie in \[0, 1\].*divide by 255"):
        likelihood.log_likelihood(lambda x, s, y: -x, 255 * IMAGES)


def test_bytes_are_drawn_as_the_pixels_they_stand_for():
    grid = plots.image_grid((255 * IMAGES).round().byte(), 2)
    assert torch.allclose(grid, plots.image_grid(IMAGES, 2), atol=1 / 255)


def test_fewer_real_features_than_samples_are_refused():
    features = torch.rand(8, 128, generator=torch.Generator().manual_seed(0))
    images = IMAGES.repeat(3, 1, 1, 1)
    with pytest.raises(ValueError) as caught:
        metrics.evaluate_samples(metrics.load_classifier("cpu"), images, features)
    message = "the number of real features must be at least 12, not 8: pass more of them"
    assert str(caught.value) == message
