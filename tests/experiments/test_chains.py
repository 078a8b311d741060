"""experiments/chains.py: chains from noise are evaluated at every length, and once only."""

import pytest
import torch

from experiments import chains
from experiments.training import Recipe
from helpers import EnergyNetwork

SMALLEST = {"tutorial": (2, 4)}  # the smallest of the energies


@pytest.fixture(scope="module")
def measured(lab):
    return chains.chains(lab, lengths=dict.fromkeys(chains.ENERGIES, (2, 4)), later=(4, 6))


@pytest.mark.parametrize("energy", ["replay_buffer", "no_buffer", "tutorial"])
def test_many_chains_are_evaluated_at_every_length(measured, energy):
    assert list(measured["energies"][energy]["many"]) == ["2", "4"]


@pytest.mark.parametrize("energy", ["replay_buffer", "no_buffer", "tutorial"])
def test_few_chains_go_on_and_are_evaluated_later_too(measured, energy):
    assert list(measured["energies"][energy]["few"]) == ["2", "4", "6"]


@pytest.mark.parametrize("energy", ["replay_buffer", "no_buffer", "tutorial"])
def test_as_many_chains_as_there_are_look_for_their_nearest_training_image(measured, energy):
    assert measured["energies"][energy]["nearest"]["n"] == 20


@pytest.mark.parametrize("energy", ["replay_buffer", "no_buffer", "tutorial"])
def test_a_chain_counts_once_in_the_histogram_of_distances(measured, energy):
    nearest = measured["energies"][energy]["nearest"]
    assert sum(nearest["histogram"]["samples"]) <= nearest["n"]


def test_three_energies_are_measured(measured):
    assert list(measured["energies"]) == ["replay_buffer", "no_buffer", "tutorial"]


def test_all_numbers_of_the_chains_are_finite(measured, finite):
    assert finite(measured)


def test_the_same_weights_are_not_sampled_again(lab, monkeypatch):
    first = chains.chains(lab, lengths=SMALLEST, later=())
    monkeypatch.setattr(chains, "langevin_dynamics", None)  # whoever samples now, fails
    assert chains.chains(lab, lengths=SMALLEST, later=())["energies"] == first["energies"]


def test_other_weights_are_sampled_anew(lab, monkeypatch):
    chains.chains(lab, lengths=SMALLEST, later=())
    model, record = chains.load_pretrained("EBM-tutorial-settings", "cpu")
    other = model, {**record, "digest": "of other weights"}
    monkeypatch.setattr(chains, "load_pretrained", lambda *_: other)
    monkeypatch.setattr(chains, "langevin_dynamics", None)
    with pytest.raises(TypeError):
        chains.chains(lab, lengths=SMALLEST, later=())


def test_fresh_chains_of_one_seed_are_the_same(lab):
    torch.manual_seed(0)
    model, arguments = EnergyNetwork(8), (Recipe(), 5, 10, [1, 2], "an energy")
    first = chains.evaluate_chains(lab, model, *arguments)
    assert chains.evaluate_chains(lab, model, *arguments) == first


def test_fresh_chains_are_evaluated_by_their_length(lab):
    found = chains.evaluate_chains(lab, EnergyNetwork(8), Recipe(), 5, 10, [1, 2], "an energy")
    assert list(found) == ["1", "2"]
