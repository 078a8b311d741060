"""experiments/speed.py: rates and operations are counted right, contenders take turns."""

import pytest
import torch

import dgm.device
from dgm.checks import IMAGE_SHAPE
from experiments import peers, speed
from helpers import EnergyNetwork

# ----------------------------------------------------------------------------------- stopwatch


def test_operations_of_a_known_product():
    a, b = torch.rand(8, 16), torch.rand(16, 32)
    assert speed.operations(lambda: a @ b) == 2 * 8 * 16 * 32


def test_a_step_costs_two_passes_through_the_network():
    network, x = EnergyNetwork(8), torch.rand(2, *IMAGE_SHAPE)
    with torch.no_grad():
        forward = speed.operations(lambda: network(x))
    assert speed.chain_operations(network, x) == 2 * forward


def test_a_rate_is_the_median_of_work_over_time():
    assert speed.rate([0.5, 1.0, 0.25], 2)["median"] == 4


def test_a_rate_says_how_often_it_was_measured():
    assert speed.rate([0.5, 1.0, 0.25], 2)["repetitions"] == 3


@pytest.fixture(scope="module")
def turns():
    """(who was called, one after the other; the times of both)."""
    calls = []
    contenders = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = speed.side_by_side(contenders, 3)
    return "".join(calls), times


def test_contenders_take_turns_after_one_call_each(turns):
    assert turns[0] == "ab" + "ababab"


@pytest.mark.parametrize("name", ["a", "b"])
def test_each_repetition_has_a_time(turns, name):
    assert len(turns[1][name]) == 3


def test_a_contender_that_times_itself_is_believed():
    assert speed.side_by_side({"a": lambda: {"seconds": 5}}, 2) == {"a": [5, 5]}


def test_in_float32_no_chip_has_native_bfloat16():
    with speed.float32_only():
        assert not dgm.device.has_native_bf16(torch.device("cpu"))


def test_in_float32_chains_run_in_float32():
    with speed.float32_only():
        assert dgm.device.chain_dtype(torch.device("cpu")) == torch.float32


def test_float32_only_is_undone():
    before = dgm.device.has_native_bf16
    with speed.float32_only():
        pass
    assert dgm.device.has_native_bf16 is before


def test_a_product_spends_its_time_on_matrix_products():
    a = torch.rand(512, 512)
    shares = speed.time_shares(lambda: a @ a)
    assert max(shares, key=shares.get) == "matrix products"


def test_the_shares_of_the_time_add_up_to_one():
    shares = speed.time_shares(lambda: torch.randn(1_000).exp())
    assert sum(shares.values()) == pytest.approx(1)


# ----------------------------------------------------------------------------------- our chains


def one_chain(chain, noise):
    """Return (network, start, end) of a chain of 5 steps on a seeded network."""
    torch.manual_seed(0)
    network = EnergyNetwork(8)
    x = torch.rand(4, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(0))
    return network, x, chain(network, x, 5, noise)


def test_our_chain_is_the_plain_one():
    _, _, plain = one_chain(speed.plain_chain, 1e-12)
    _, _, ours = one_chain(speed.ours, 1e-12)
    assert torch.allclose(ours, plain, atol=0.02)


def test_the_plain_chain_moves():
    _, x, plain = one_chain(speed.plain_chain, 1e-12)
    assert (plain - x).abs().max() > 1e-3


@pytest.mark.parametrize("chain", [speed.ours, speed.plain_chain])
def test_a_chain_leaves_the_network_trainable(chain):
    network, _, _ = one_chain(chain, 1e-12)
    assert all(p.requires_grad for p in network.parameters())


def test_our_noise_has_the_size_it_says():
    network = EnergyNetwork(8)
    for p in network.parameters():
        torch.nn.init.zeros_(p)
    torch.manual_seed(0)
    x, n = torch.full((8, *IMAGE_SHAPE), 0.5), 8 * 784
    spread = (speed.ours(network, x, 4, peers.NOISE) - x).std().item()
    expected = 2 * peers.NOISE  # four steps
    assert spread == pytest.approx(expected, abs=5 * expected / (2 * n) ** 0.5)


# ------------------------------------------------------------------------ a process of their own


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """(network, first answer, second answer, what the peer saved) of a peer's own process."""
    torch.manual_seed(0)
    network, path = EnergyNetwork(8), tmp_path_factory.mktemp("peer") / "peer.pt"
    request = {"peer": "tutorial_float32", "batch": 2, "steps": 3, "noise": 1e-12, "device": "cpu"}
    with speed.peers_of_their_own(network) as ask:
        saved, timed = ask(**request, save=str(path)), ask(**request)
    return network, saved, timed, torch.load(path)


def test_a_peer_that_saves_answers_nothing(answers):
    assert answers[1] == {}


def test_a_peer_answers_with_its_seconds(answers):
    assert 0 < answers[2]["seconds"] < 60


def test_a_peer_in_its_own_process_runs_the_same_chain(answers):
    expected = speed.plain_chain(answers[0], peers.start_images(2, "cpu"), 3, 1e-12)
    assert torch.allclose(answers[3], expected, atol=1e-6)


def test_a_peer_that_fails_is_not_waited_for():
    request = {"peer": "nobody", "batch": 1, "steps": 1, "noise": 0.0, "device": "cpu"}
    with speed.peers_of_their_own(EnergyNetwork(8)) as ask, pytest.raises(RuntimeError) as error:
        ask(**request)
    assert "has died" in str(error.value)


# ----------------------------------------------------------------------------------------- growth


def test_the_growth_figure_is_drawn(tmp_path):
    slow = {"seconds": 1.0, "image_steps_per_second": 1e3}
    fast = {"seconds": 2.0, "image_steps_per_second": 2e4}
    growth = {kind: {"1": slow, "10": fast} for kind in ("batch", "steps", "width", "buffer")}
    measured = {"growth": growth, "hardware": "a chip", "dtype": "torch.float32"}
    speed.draw_growth({"benchmarks": measured}, tmp_path)
    assert (tmp_path / "speed_growth.png").stat().st_size > 5_000
