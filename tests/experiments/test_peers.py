"""experiments/peers.py: every peer runs the same chain as the plain loop, on its own."""

import ast
from pathlib import Path

import pytest
import torch

from dgm.checks import IMAGE_SHAPE
from experiments import peers, speed
from helpers import EnergyNetwork

MODULES = {"ebmkit": "ebm", "torchebm": "torchebm"}


@pytest.fixture(scope="module", params=peers.PEERS)
def peer(request):
    """A peer's chain; its tests are skipped where its library is not installed."""
    if request.param in speed.LIBRARIES:
        pytest.importorskip(MODULES[request.param])
    return peers.PEERS[request.param]


@pytest.fixture(scope="module")
def chain(peer):
    """(network, start, the plain chain, the peer's)."""
    torch.manual_seed(0)
    network = EnergyNetwork(8)
    x = torch.rand(4, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(0))
    plain = speed.plain_chain(network, x, 5, noise=1e-12)
    return network, x, plain, peer(network.layers, x, 5, 1e-12)


def test_a_peer_runs_the_plain_chain(chain):
    _, _, plain, theirs = chain
    assert torch.allclose(theirs, plain, atol=0.02)


def test_a_peers_chain_moves(chain):
    _, x, _, theirs = chain
    assert (theirs - x).abs().max() > 1e-3


def test_a_peer_leaves_the_network_trainable(chain):
    assert all(p.requires_grad for p in chain[0].parameters())


def test_noise_has_the_same_size_in_every_peer(peer):
    network = EnergyNetwork(8)
    for p in network.parameters():
        torch.nn.init.zeros_(p)
    torch.manual_seed(0)
    x, n = torch.full((8, *IMAGE_SHAPE), 0.5), 8 * 784
    spread = (peer(network.layers, x, 4, peers.NOISE) - x).std().item()
    expected = 2 * peers.NOISE  # four steps
    assert spread == pytest.approx(expected, abs=5 * expected / (2 * n) ** 0.5)


def test_peers_do_not_import_our_memory_settings():
    tree = ast.parse(Path(peers.__file__).read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert not {name.split(".")[0] for name in imported} & {"helpers", "dgm", "experiments"}


def test_every_contender_starts_from_the_same_images():
    assert torch.equal(peers.start_images(3, "cpu"), peers.start_images(3, "cpu"))


def test_a_request_is_answered_with_seconds():
    request = {"peer": "tutorial_float32", "batch": 1, "steps": 1, "noise": 0.0, "device": "cpu"}
    assert peers.answer(EnergyNetwork(4).layers, request)["seconds"] > 0


def test_a_request_to_save_leaves_the_images(tmp_path):
    request = {"peer": "tutorial_float32", "batch": 2, "steps": 1, "noise": 0.0, "device": "cpu"}
    peers.answer(EnergyNetwork(4).layers, {**request, "save": str(tmp_path / "x.pt")})
    assert torch.load(tmp_path / "x.pt").shape == (2, *IMAGE_SHAPE)
