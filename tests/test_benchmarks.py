"""The stopwatch: contenders do the same work, operations are counted right, rates are what they say."""

import pytest
import torch

import helpers
from benchmarks import bench


@pytest.mark.parametrize("name", [name for name in bench.CHAINS if name != "tutorial loop, float32"])
def test_every_contender_runs_the_same_chain(name, generator):
    if name in ("ebmkit", "torchebm"):
        pytest.importorskip({"ebmkit": "ebm", "torchebm": "torchebm"}[name])
    torch.manual_seed(0)
    network = helpers.EnergyNetwork(8)
    x = torch.rand(4, *helpers.IMAGE_SHAPE, generator=generator)
    plain = bench.tutorial(network, x, 5, noise=1e-12)
    assert (plain - x).abs().max() > 1e-3  # it moved
    assert torch.allclose(bench.CHAINS[name](network, x, 5, noise=1e-12), plain, atol=0.02)
    assert all(p.requires_grad for p in network.parameters())


def test_noise_has_the_same_size_in_every_contender():
    network = helpers.EnergyNetwork(8)
    for p in network.parameters():
        torch.nn.init.zeros_(p)
    x, n = torch.full((8, *helpers.IMAGE_SHAPE), 0.5), 8 * 784
    for name, chain in bench.CHAINS.items():
        if name in ("ebmkit", "torchebm"):
            pytest.importorskip({"ebmkit": "ebm", "torchebm": "torchebm"}[name])
        spread = (chain(network, x, 4, bench.NOISE) - x).std().item()
        expected = 2 * bench.NOISE  # four steps
        assert spread == pytest.approx(expected, abs=5 * expected / (2 * n) ** 0.5), name


def test_operations_of_a_known_product():
    a, b = torch.rand(8, 16), torch.rand(16, 32)
    assert bench.operations(lambda: a @ b) == 2 * 8 * 16 * 32


def test_rates_are_medians_and_contenders_take_turns():
    assert bench.rate([0.5, 1.0, 0.25], 2)["median"] == 4
    calls = []
    times = bench.side_by_side({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert "".join(calls) == "abababab" and len(times["a"]) == len(times["b"]) == 3


def test_float32_only_is_undone():
    before = helpers.has_native_bf16
    with bench.float32_only():
        assert not helpers.has_native_bf16(torch.device("cpu"))
    assert helpers.has_native_bf16 is before


def test_a_step_costs_two_passes_through_the_network():
    network, x = helpers.EnergyNetwork(8), torch.rand(2, *helpers.IMAGE_SHAPE)
    with torch.no_grad():
        forward = bench.operations(lambda: network(x))
    assert bench.chain_operations(network, x) == 2 * forward
