"""Annealed Langevin dynamics on scores that are known. Bounds are five standard errors."""

import math

import pytest
import torch

import helpers
from dgm.samplers import geometric_sigmas

SHARES, MEANS = torch.tensor([0.7, 0.3]), torch.tensor([-3.0, 3.0])
SPREADS = torch.tensor([1.0, 0.5])


def mixture_score(x, sigma, labels=None):
    variance = SPREADS**2 + sigma**2
    offset = MEANS - x  # [B, 1] against [2]
    log_p = SHARES.log() - variance.log() / 2 - offset**2 / (2 * variance)
    return (log_p.softmax(1) * offset / variance).sum(1, keepdim=True)


@pytest.fixture(scope="module")
def samples():
    """20,000 samples of the mixture."""
    generator = torch.Generator().manual_seed(0)
    sigmas = geometric_sigmas(20.0, 0.02, levels=150)
    start = sigmas[0] * torch.randn(20_000, 1, generator=generator)
    return helpers.annealed_langevin_dynamics(
        mixture_score, None, sigmas, start=start, steps=20, generator=generator
    )[:, 0]


@pytest.fixture(scope="module")
def components(samples):
    """The samples of each component: at 0.75 both densities are below 1e-4 of their peaks."""
    return samples[samples < 0.75], samples[samples >= 0.75]


def test_recovers_the_unequal_shares_of_a_mixture(samples, components):
    share = len(components[0]) / len(samples)
    assert abs(share - 0.7) < 5 * math.sqrt(0.7 * 0.3 / len(samples))


@pytest.mark.parametrize("side", [0, 1])
def test_recovers_the_means_of_a_mixture(side, components):
    found, spread = components[side], SPREADS[side].item()
    assert abs(found.mean().item() - MEANS[side].item()) < 5 * spread / math.sqrt(len(found))


@pytest.mark.parametrize("side", [0, 1])
def test_recovers_the_widths_of_a_mixture(side, components):
    found, spread = components[side], SPREADS[side].item()
    assert abs(found.std().item() - spread) < 5 * spread / math.sqrt(2 * len(found))


def test_at_one_level_the_chain_has_the_discretised_stationary_variance(generator):
    """x <- (1 - e) x + sqrt(2 e) z has the stationary variance 1 / (1 - e / 2)."""
    n, epsilon = 400_000, 0.5
    x = helpers.annealed_langevin_dynamics(
        lambda x, sigma, labels: -x,
        None,
        [1.0],
        start=torch.zeros(n, 1),
        steps=40,
        epsilon=epsilon,
        denoise=False,
        generator=generator,
    )
    expected = 1 / (1 - epsilon / 2)
    assert abs(x.var().item() - expected) < 5 * expected * math.sqrt(2 / n)


def test_the_last_step_is_tweedies(generator):
    sigmas, start = torch.tensor([1.0, 0.5]), torch.randn(5, 1, generator=generator)
    noisy, clean = (
        helpers.annealed_langevin_dynamics(
            mixture_score,
            None,
            sigmas,
            start=start,
            denoise=denoise,
            generator=torch.Generator().manual_seed(1),
        )
        for denoise in (False, True)
    )
    assert torch.allclose(clean, noisy + 0.25 * mixture_score(noisy, 0.5))


# ---------------------------------------------------------------------------- wrong arguments


@pytest.mark.parametrize("labels", [[11], [-1], [0.5], [[1]], [True]])
def test_labels_that_are_no_digits_are_refused(labels):
    with pytest.raises(ValueError, match="labels must"):
        helpers.annealed_langevin_dynamics(mixture_score, torch.tensor(labels), [1.0])


def test_labels_must_be_as_many_as_the_starts():
    with pytest.raises(ValueError, match="length 3, one per image, not 2"):
        helpers.annealed_langevin_dynamics(mixture_score, [1, 2], [1.0], start=torch.zeros(3, 1))


def test_labels_must_be_as_many_as_asked_for():
    with pytest.raises(ValueError, match="length 4, one per image, not 2"):
        helpers.annealed_langevin_dynamics(mixture_score, [1, 2], [1.0], n=4)


def test_without_labels_the_number_must_be_said():
    with pytest.raises(ValueError, match="n must be given if there are no labels"):
        helpers.annealed_langevin_dynamics(mixture_score, None, [1.0])


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([0.1, 1.0], "descend"),
        ([1.0, 1.0], "descend"),
        ([1.0, 0.0], "positive"),
        ([1.0, -1.0], "positive"),
        ([], "1-D tensor"),
        ([[1.0]], "1-D"),
        ([math.nan], "finite"),
    ],
)
def test_sigmas_must_be_positive_and_descend(sigmas, message):
    with pytest.raises(ValueError, match=message):
        helpers.annealed_langevin_dynamics(mixture_score, None, sigmas, n=1)


WRONG_IMAGES = [
    torch.zeros(4, 28, 28),
    torch.zeros(4, 3, 28, 28),
    torch.zeros(4, 1, 28, 28, dtype=torch.float64),
]


@pytest.mark.parametrize("wrong", WRONG_IMAGES)
def test_chains_of_a_network_from_wrong_images_say_so(wrong):
    model = helpers.ScoreNetwork(8, 16)
    with pytest.raises(ValueError, match="images must"):
        helpers.annealed_langevin_dynamics(model, None, [1.0], start=wrong)


# ------------------------------------------------------------------------------ side effects


@pytest.fixture(params=[True, False], ids=["training", "evaluation"])
def network(request):
    """A network in either mode, one of its parameters without gradients."""
    torch.manual_seed(0)
    model = helpers.ScoreNetwork(8, 16).train(request.param)
    next(model.parameters()).requires_grad_(False)
    return model


def run(model, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return helpers.annealed_langevin_dynamics(
        model, [1, 2, 3], [2.0, 1.0, 0.5], steps=1, generator=generator, **options
    )


def test_sampling_leaves_the_network_as_it_was(network, state_of):
    before = state_of(network)
    run(network)
    assert state_of(network) == before


def test_sampling_draws_nothing_from_the_global_generator(network):
    before = torch.get_rng_state()
    run(network)
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_come_without_gradients(network):
    assert not run(network).requires_grad


def test_sampling_runs_where_gradients_are_switched_off(network):
    with torch.no_grad():
        assert run(network).shape == (3, 1, 28, 28)


def test_sampling_repeats_with_the_seed_whether_or_not_it_keeps_snapshots(network):
    again, _ = run(network, seed=7, snapshots=[0, 2, 3])
    assert torch.equal(run(network, seed=7), again)


def test_snapshots_come_as_one_frame_each(network):
    _, frames = run(network, snapshots=[0, 2, 3])
    assert frames.shape == (3, 3, 1, 28, 28)


def test_snapshots_are_level_numbers(network):
    with pytest.raises(ValueError, match=r"snapshots.*0\.\.3"):
        run(network, snapshots=[4])
