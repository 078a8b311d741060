"""experiments/phases.py: the second phase, and chains after both phases, on few updates."""

import pytest
import torch

from dgm import runs
from experiments import phases
from experiments.training import SECOND, train_energy
from helpers import load_pretrained

SMALL = SECOND._replace(updates=2, batch_size=8, langevin_steps=2, buffer_size=50, old_size=20)


@pytest.fixture(scope="module")
def old(lab, tmp_path_factory):
    root = tmp_path_factory.mktemp("old-chains")
    return phases.old_chains(lab, n=20, lengths=(2, 5), recipe=SMALL, root=root)


@pytest.mark.parametrize("name", phases.LINES)
def test_chains_of_both_phases_are_evaluated_at_every_length(old, name):
    assert list(old["chains"][name]) == ["2", "5"]


def test_phases_seeds_and_starts_have_different_distances(old):
    distances = {found["5"]["frechet_distance"] for found in old["chains"].values()}
    assert len(distances) == len(phases.LINES)


def test_all_numbers_of_old_chains_are_finite(old, finite):
    assert finite(old)


@pytest.fixture(scope="module")
def continued(lab, tmp_path_factory):
    path = tmp_path_factory.mktemp("second-phase") / "run.pt"
    first = load_pretrained("EBM-first-phase", lab.device)
    recipe = SMALL._replace(learning_rate=0.0)
    model, _ = train_energy(recipe, lab.digits, path, seed=1, first=first)
    return first, model, runs.load_checkpoint(path, "run")["state"]


def test_the_second_phase_starts_from_the_weights_of_the_first(continued):
    (first, _), second, _ = continued
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.allclose(a, b) for a, b in pairs)


def test_the_second_phase_continues_the_chains_of_the_first(continued):
    (_, record), _, state = continued
    chains = record["chains"].float() / 255
    assert torch.isclose(state["replay_buffer"]["chains"], chains).float().mean() > 0.9


def test_the_old_chains_of_the_second_phase_start_from_training_digits(continued, lab):
    chains = continued[2]["old_chains"]["chains"].flatten(1)
    nearest = torch.cdist(chains, lab.digits.train_images.flatten(1)).amin(1)
    assert nearest.median() < 1.0  # noise of 0.015 in 784 pixels: about 0.3


@pytest.fixture
def into_checkpoints(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "CHECKPOINTS", tmp_path / "checkpoints")
    monkeypatch.chdir(tmp_path)
    first = load_pretrained("EBM-first-phase", lab.device, phases_folder())
    phases.train_into_checkpoints(lab, "EBM-BestPractice", SMALL, first)
    return first[1], runs.load_record("EBM-BestPractice", "cpu", tmp_path / "checkpoints")[1]


def phases_folder():
    return runs.checkpoints_folder()


def test_updates_of_both_phases_are_counted(into_checkpoints):
    first, both = into_checkpoints
    assert both["updates"] == first["updates"] + 2


def test_the_history_is_that_of_both_phases(into_checkpoints):
    first, both = into_checkpoints
    assert len(both["history"]["loss"]) == len(first["history"]["loss"]) + 2
