"""The gradient by the chain rule written out, against autograd."""

import pytest
import torch
from torch import nn

import helpers
from dgm import fast_gradient


@pytest.fixture(params=[8, 16, 32], ids=lambda width: f"width {width}")
def network(request):
    torch.manual_seed(request.param)
    return helpers.EnergyNetwork(request.param)


@pytest.fixture(params=[1, 7, 33], ids=lambda batch: f"batch {batch}")
def images(request, generator):
    return torch.rand(request.param, 1, 28, 28, generator=generator)


@pytest.fixture(params=[torch.float64, torch.float32, torch.bfloat16], ids=str)
def dtype(request):
    return request.param


@pytest.fixture
def by_hand(network, images, dtype):
    return fast_gradient.input_gradient(images, fast_gradient.weights_of(network.layers, dtype))


def test_gradient_by_hand_is_the_gradient(by_hand, network, images, dtype, plain_gradient):
    plain = plain_gradient(network, images)
    tolerance = 0.02 if dtype == torch.bfloat16 else 1e-5
    assert (by_hand - plain).norm() < tolerance * plain.norm()


def test_gradient_by_hand_is_float32(by_hand):
    assert by_hand.dtype == torch.float32


def test_gradient_by_hand_has_the_shape_of_the_images(by_hand, images):
    assert by_hand.shape == images.shape


def test_parameters_still_ask_for_gradients(by_hand, network):
    assert all(p.requires_grad for p in network.parameters())


def test_parameters_are_given_no_gradients(by_hand, network):
    assert all(p.grad is None for p in network.parameters())


# ---------------------------------------------------------------------------- edited networks


class Doubled(helpers.EnergyNetwork):
    def forward(self, x):
        return 2 * super().forward(x)


def edited(edit):
    torch.manual_seed(0)
    model = (Doubled if edit == "subclass" else helpers.EnergyNetwork)(8)
    if edit == "activation":
        model.layers[3] = nn.Softplus()
    elif edit == "stride":
        model.layers[6] = nn.Conv2d(32, 32, 3, stride=1, padding=1)
        model.layers[9] = nn.Linear(32 * 16, 32)
    elif edit == "no bias":
        model.layers[2] = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
    elif edit == "colour":
        model.layers[0] = nn.Conv2d(3, 8, 5, stride=2, padding=4)
    elif edit == "one more layer":
        model.layers.append(nn.Linear(1, 1))
    return model


@pytest.mark.parametrize("edit", ["activation", "stride", "one more layer", "no bias", "subclass"])
def test_an_edited_network_goes_through_autograd(edit, generator, plain_gradient):
    model, x = edited(edit), torch.rand(4, 1, 28, 28, generator=generator)
    expected = plain_gradient(model, x) * (2 if edit == "subclass" else 1)
    found = helpers.energy_gradient(model, x)(x)
    assert (found - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("edit", ["activation", "stride", "one more layer", "no bias", "colour"])
def test_edited_layers_do_not_fit(edit):
    assert not fast_gradient.layers_fit(edited(edit).layers)


def test_layers_as_they_come_fit():
    assert fast_gradient.layers_fit(edited(None).layers)


# ------------------------------------------------------------------------- without a compiler


@pytest.fixture
def without_compiler(monkeypatch):
    """The function of a CUDA device where torch.compile fails at the first call."""

    def broken(*_, **__):
        raise RuntimeError("no Triton")

    monkeypatch.setattr(torch, "compile", lambda function, **_: broken)
    fast_gradient.gradient_on.cache_clear()
    yield fast_gradient.gradient_on("cuda")
    fast_gradient.gradient_on.cache_clear()


@pytest.fixture
def arguments(generator):
    weights = fast_gradient.weights_of(edited(None).layers, torch.float32)
    return torch.rand(4, 1, 28, 28, generator=generator), weights


def test_without_a_compiler_cuda_goes_on_plainly(without_compiler, arguments):
    expected = fast_gradient.input_gradient(*arguments)
    assert all(torch.equal(without_compiler(*arguments), expected) for _ in range(2))


def test_without_a_compiler_cuda_says_so_once(without_compiler, arguments, capsys):
    for _ in range(2):
        without_compiler(*arguments)
    assert capsys.readouterr().out.count("RuntimeError") == 1
