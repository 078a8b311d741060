"""experiments/noise_energy.py: both kinds of network train and resume."""

import pytest
import torch

from dgm import runs
from dgm.data import uci_digits
from experiments.noise_energy import train_noise_energy
from helpers import ScoreNetwork

SMALL = {"updates": 3, "batch_size": 4, "width": 8}


@pytest.mark.parametrize("energy", [True, False])
def test_training_returns_a_trunk_that_can_be_committed(energy, tmp_path):
    trunk = train_noise_energy(uci_digits(), tmp_path / "a.pt", energy=energy, **SMALL)
    assert isinstance(trunk, ScoreNetwork)
    assert runs.load_checkpoint(tmp_path / "a.pt", "run")["update"] == 3


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    once = train_noise_energy(uci_digits(), tmp_path / "a.pt", **SMALL)
    again = train_noise_energy(uci_digits(), tmp_path / "a.pt", **SMALL)
    for one, two in zip(once.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)


def test_training_changes_the_energy(tmp_path):
    trunk = train_noise_energy(uci_digits(), tmp_path / "a.pt", **SMALL)
    assert trunk.out[-1].weight.abs().max() > 0
