"""The stopwatch: contenders do the same work, operations are counted right, rates are what they say."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import helpers
import studies
from benchmarks import bench, peers, quality


def installed(name):
    """Skip a test of a peer library that is not there."""
    if name in bench.LIBRARIES:
        pytest.importorskip({"ebmkit": "ebm", "torchebm": "torchebm"}[name])


@pytest.mark.parametrize("name", ["ours", *peers.PEERS])
def test_every_contender_runs_the_same_chain(name, generator):
    installed(name)
    torch.manual_seed(0)
    network = helpers.EnergyNetwork(8)
    x = torch.rand(4, *helpers.IMAGE_SHAPE, generator=generator)
    plain = bench.plain_chain(network, x, 5, noise=1e-12)
    other = bench.ours(network, x, 5, 1e-12) if name == "ours" else peers.PEERS[name](network.layers, x, 5, 1e-12)
    assert (plain - x).abs().max() > 1e-3  # it moved
    assert torch.allclose(other, plain, atol=0.02)
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("name", ["ours", *peers.PEERS])
def test_noise_has_the_same_size_in_every_contender(name):
    installed(name)
    network = helpers.EnergyNetwork(8)
    for p in network.parameters():
        torch.nn.init.zeros_(p)
    x, n = torch.full((8, *helpers.IMAGE_SHAPE), 0.5), 8 * 784
    chain = bench.ours if name == "ours" else lambda network, *rest: peers.PEERS[name](network.layers, *rest)
    spread = (chain(network, x, 4, bench.NOISE) - x).std().item()
    expected = 2 * bench.NOISE  # four steps
    assert spread == pytest.approx(expected, abs=5 * expected / (2 * n) ** 0.5)


def test_peers_answer_from_a_process_of_their_own(tmp_path):
    torch.manual_seed(0)
    network, request = helpers.EnergyNetwork(8), {"peer": "tutorial loop, float32", "batch": 2, "steps": 3, "noise": 1e-12}
    with bench.peers_of_their_own(network) as ask:
        assert ask(**request, device="cpu", save=str(tmp_path / "peer.pt")) == {}
        assert 0 < ask(**request, device="cpu")["seconds"] < 60
    expected = bench.plain_chain(network, peers.start_images(2, "cpu"), 3, 1e-12)
    assert torch.allclose(torch.load(tmp_path / "peer.pt"), expected, atol=1e-6)


def test_a_peer_that_fails_is_not_waited_for():
    with bench.peers_of_their_own(helpers.EnergyNetwork(8)) as ask, pytest.raises(RuntimeError, match="has died"):
        ask(peer="nobody", batch=1, steps=1, noise=0.0, device="cpu")


def test_peers_do_not_import_our_memory_settings():
    source = Path(peers.__file__).read_text(encoding="utf-8")
    assert "import helpers" not in source


def test_operations_of_a_known_product():
    a, b = torch.rand(8, 16), torch.rand(16, 32)
    assert bench.operations(lambda: a @ b) == 2 * 8 * 16 * 32


def test_rates_are_medians_and_contenders_take_turns():
    assert bench.rate([0.5, 1.0, 0.25], 2)["median"] == 4
    calls = []
    times = bench.side_by_side({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert "".join(calls) == "abababab" and len(times["a"]) == len(times["b"]) == 3
    assert bench.side_by_side({"a": lambda: {"seconds": 5}}, 2) == {"a": [5, 5]}  # who times itself is believed


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


def test_clock_of_time_to_quality_stands_still_while_samples_are_judged(tmp_cwd, generator, monkeypatch):
    monkeypatch.setattr(quality, "best_distance", lambda *_, **__: time.sleep(0.5) or {"best": 1.0})
    images, labels = torch.rand(64, *helpers.IMAGE_SHAPE, generator=generator), torch.zeros(64, dtype=torch.long)
    lab = studies.Laboratory(helpers.Digits(images, labels, images, labels, "noise"), None, None, 64)
    recipe = studies.Recipe(width=4, batch_size=2, langevin_steps=1, buffer_size=8)
    before = time.perf_counter()
    points = list(quality.on_the_clock(lab, recipe, (1e-9, 2e-9, 3e-9), n=8))
    assert [p["updates"] for p in points] == [1, 2, 3]  # each is due after every update
    assert time.perf_counter() - before > 1.5 + 60 * points[-1]["minutes"]
    assert points[0]["minutes"] < points[1]["minutes"] < points[2]["minutes"]


def test_time_to_compares_with_the_best_the_reference_reached():
    runs = {"tutorial settings": [{"minutes": 10, "best": 300}, {"minutes": 20, "best": 200}],
            "replay buffer": [{"minutes": 1, "best": 400}, {"minutes": 2, "best": 190}, {"minutes": 3, "best": 90}]}
    assert quality.time_to(runs) == {"reference_best": 200, "reference_minutes": 20, "our_minutes": 2, "times_sooner": 10}
    runs["replay buffer"] = runs["replay buffer"][:1]
    assert quality.time_to(runs)["our_minutes"] is None and quality.time_to(runs)["times_sooner"] is None


def test_time_to_quality_is_written_as_it_comes(tmp_path):
    points = [{"minutes": 1.0, "updates": 9, "best": 300.0}]
    digits = helpers.Digits(*[torch.zeros(100, 1, 28, 28), torch.arange(10).repeat(10)] * 2, "none")
    lab = SimpleNamespace(digits=digits, most=100, judge=lambda images: {"frechet_distance": 7.0})
    quality.write({"replay buffer": points}, lab, 10, tmp_path / "results", tmp_path / "unfinished")
    path = tmp_path / "results" / "time-to-quality.json"
    assert not path.exists() and json.loads((tmp_path / "unfinished" / path.name).read_text())["time_to"] is None
    quality.write(dict.fromkeys(quality.RECIPES, points), lab, 10, tmp_path / "results", tmp_path / "unfinished")
    assert json.loads(path.read_text())["time_to"]["times_sooner"] == 1 and (tmp_path / "time_to_quality.png").exists()


def test_best_distance_judges_one_chain_at_three_lengths(generator):
    lab = SimpleNamespace(device="cpu", judge=lambda images: {"frechet_distance": float(len(images))})
    found = quality.best_distance(lab, helpers.EnergyNetwork(4), studies.Recipe(), 3, seed=0)
    assert found == {"distances": {60: 3.0, 200: 3.0, 500: 3.0}, "best": 3.0}


def test_growth_figure_is_drawn(tmp_path):
    rates = {"1": {"seconds": 1.0, "image_steps_per_second": 1e3}, "10": {"seconds": 2.0, "image_steps_per_second": 2e4}}
    growth = dict.fromkeys(("batch", "steps", "width", "buffer"), rates)
    bench.draw_growth({"growth": growth, "hardware": "a chip", "dtype": "torch.float32"}, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 5_000
