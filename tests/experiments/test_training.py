"""experiments/training.py: recipes, and the loops that train energies and scores."""

import pytest
import torch

from dgm.checks import IMAGE_SHAPE
from experiments import training
from experiments.training import BEST, SMALLER, TUTORIAL, Recipe
from helpers import ScoreNetwork

# --------------------------------------------------------------------------------------- energies

SMALL = Recipe(updates=4, width=4, batch_size=8, langevin_steps=2, buffer_size=50)


def shares_of(recipe):
    return {name: share for name, (_, share) in training.buffers_of(recipe, "cpu", None).items()}


def test_a_recipe_without_buffer_has_none():
    assert shares_of(Recipe(buffer_size=0)) == {}


def test_by_default_the_whole_batch_comes_from_one_buffer():
    assert shares_of(Recipe()) == {"replay_buffer": 128}


@pytest.mark.parametrize("recipe", [BEST, SMALLER])
def test_a_quarter_of_the_best_batch_is_old_chains(recipe):
    assert shares_of(recipe) == {"replay_buffer": 48, "old_chains": 16}


def test_a_batch_may_be_old_chains_alone():
    assert shares_of(BEST._replace(old_share=1.0)) == {"old_chains": 64}


def test_the_tutorial_keeps_as_many_chains_as_published():
    assert TUTORIAL.buffer_size == 8_192


def test_chains_are_run_with_the_step_and_noise_of_the_recipe():
    assert TUTORIAL.chain == {"step_size": 2.5, "noise": 0.0025}


@pytest.fixture(scope="module")
def trained(lab, tmp_path_factory):
    """(averaged network, history) of one small training."""
    path = tmp_path_factory.mktemp("energy") / "run.pt"
    return training.train_energy(SMALL, lab.digits, path, seed=1)


@pytest.mark.parametrize("name", ["loss", "e_plus", "e_minus"])
def test_an_energy_has_one_entry_of_history_for_each_update(trained, name):
    assert trained[1][name].shape == (4,)


def test_an_energy_trained_again_from_the_same_seed_is_the_same(lab, trained, tmp_path):
    _, history = training.train_energy(SMALL, lab.digits, tmp_path / "run.pt", seed=1)
    assert history["loss"].tolist() == trained[1]["loss"].tolist()


def test_an_energy_trained_from_another_seed_is_another(lab, trained, tmp_path):
    _, history = training.train_energy(SMALL, lab.digits, tmp_path / "run.pt", seed=2)
    assert history["loss"].tolist() != trained[1]["loss"].tolist()


def test_an_energy_is_given_after_every_update_and_at_the_end(lab, tmp_path):
    updates = training.energy_updates(SMALL, lab.digits, tmp_path / "run.pt", seed=1)
    assert len([len(history["loss"]) for _, history in updates]) == SMALL.updates + 1


def test_an_energy_that_is_trained_is_not_trained_again(lab, tmp_path, monkeypatch):
    first, _ = training.train_energy(SMALL, lab.digits, tmp_path / "run.pt", seed=1)
    monkeypatch.setattr(training, "langevin_dynamics", None)  # whoever trains now, fails
    again, _ = training.train_energy(SMALL, lab.digits, tmp_path / "run.pt", seed=1)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


# ---------------------------------------------------------------------------------------- scores


@pytest.fixture(scope="module")
def falling_and_constant(lab, tmp_path_factory):
    """(raw, averaged) networks trained with a learning rate that falls, and with one that stays."""
    folder = tmp_path_factory.mktemp("score")
    pairs = []
    for falling in (True, False):
        arguments = lab.digits, 7, folder / f"{falling}.pt", 6, 8
        pairs.append(training.train_quick_score(*arguments, falling=falling))
    return pairs


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_averaged_score_lags_behind_the_raw_one(falling_and_constant):
    raw, averaged = falling_and_constant[0]
    assert not torch.equal(flat(raw), flat(averaged))


def test_a_falling_learning_rate_trains_other_weights(falling_and_constant):
    (falling, _), (constant, _) = falling_and_constant
    assert not torch.equal(flat(falling), flat(constant))


def test_a_score_that_is_trained_is_not_trained_again(lab, tmp_path, monkeypatch):
    arguments = lab.digits, 7, tmp_path / "run.pt", 2, 8
    _, first = training.train_quick_score(*arguments)
    monkeypatch.setattr(training, "denoising_score_matching_loss", None)
    _, again = training.train_quick_score(*arguments)
    assert torch.equal(flat(first), flat(again))


def loss_of(model, share, settings=(("hide_label", 0.25),)):
    """The loss of a seeded batch of 8, by one of several processes."""
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(8, *IMAGE_SHAPE, generator=generator)
    loss = training.conditional_loss(model, dict(settings), generator, share)
    return loss(x, torch.arange(8)).item()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = ScoreNetwork(width=8)
    for p in model.parameters():  # its last layer starts at zero
        torch.nn.init.normal_(p, std=0.1)
    return model


def test_the_losses_of_all_processes_average_to_that_of_the_whole_batch(network):
    shares = [loss_of(network, slice(rank, None, 2)) for rank in (0, 1)]
    assert sum(shares) / 2 == pytest.approx(loss_of(network, slice(None)), rel=1e-2)


def test_each_process_has_the_loss_of_its_own_share(network):
    first, second = (loss_of(network, slice(rank, None, 2)) for rank in (0, 1))
    assert first != pytest.approx(second, rel=0.01)


def labels_seen(hide_label):
    """The labels that a network is given, of a batch of 400 zeros."""
    seen = []

    def network(x, sigma, labels):
        seen.append(labels)
        return torch.zeros_like(x)

    generator = torch.Generator().manual_seed(0)
    settings = {"hide_label": hide_label}
    loss = training.conditional_loss(network, settings, generator)
    loss(torch.zeros(400, *IMAGE_SHAPE), torch.zeros(400, dtype=torch.long))
    return seen[0]


def test_as_many_labels_are_hidden_as_the_settings_say():
    hidden = (labels_seen(0.25) == ScoreNetwork.NO_LABEL).double().mean().item()
    assert hidden == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 400) ** 0.5)


def test_labels_that_are_not_hidden_are_those_of_the_images():
    assert not labels_seen(0.0).any()
