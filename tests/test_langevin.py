"""Langevin dynamics on an energy. Bounds are five standard errors unless they say otherwise."""

import math

import pytest
import torch
from torch import nn

import helpers

STEP = 0.5


def gaussian_energy(x):
    return x.square().flatten(1).sum(1) / 2


# ------------------------------------------------------------------------------ closed forms


@pytest.fixture(scope="module")
def stationary():
    """The end of 400,000 unadjusted chains on the standard normal."""
    start = torch.zeros(4_000, 100)
    noise = math.sqrt(2 * STEP)
    generator = torch.Generator().manual_seed(0)
    return helpers.langevin_dynamics(
        gaussian_energy, start, 60, STEP, noise, None, None, generator=generator
    )


# x <- (1 - e) x + sqrt(2 e) z has the stationary variance 2 e / (1 - (1 - e)^2) = 1 / (1 - e / 2)
VARIANCE = 1 / (1 - STEP / 2)


def test_unadjusted_langevin_has_the_discretised_stationary_variance(stationary):
    error = VARIANCE * math.sqrt(2 / stationary.numel())
    assert abs(stationary.var().item() - VARIANCE) < 5 * error


def test_unadjusted_langevin_has_the_stationary_mean(stationary):
    assert abs(stationary.mean().item()) < 5 * math.sqrt(VARIANCE / stationary.numel())


def test_without_noise_langevin_is_gradient_descent():
    x = helpers.langevin_dynamics(
        gaussian_energy, torch.ones(2, 3), 4, STEP, noise=0.0, clip=None, bounds=None
    )
    assert torch.allclose(x, torch.full((2, 3), (1 - STEP) ** 4))


def test_clip_limits_the_move():
    start = torch.full((1, 4), 0.9)
    x = helpers.langevin_dynamics(gaussian_energy, start, 1, step_size=2.0, noise=0.0, clip=0.1)
    assert torch.allclose(x, torch.full((1, 4), 0.7))


def test_pixels_are_clamped_to_the_bounds():
    start = torch.full((1, 4), 0.9)  # 0.9 - 1.8 is below zero
    x = helpers.langevin_dynamics(gaussian_energy, start, 1, step_size=2.0, noise=0.0, clip=None)
    assert torch.equal(x, torch.zeros(1, 4))


def test_a_network_without_parameters_is_a_plain_function():
    class Energy(nn.Module):
        def forward(self, x):
            return gaussian_energy(x)

    x = helpers.langevin_dynamics(
        Energy(), torch.ones(2, 3), 1, STEP, noise=0.0, clip=None, bounds=None
    )
    assert torch.allclose(x, torch.full((2, 3), 0.5))


# ---------------------------------------------------------------------------- wrong arguments


def test_a_diverging_chain_says_so():
    with pytest.raises(FloatingPointError, match=r"diverged.*smaller step"):
        helpers.langevin_dynamics(gaussian_energy, torch.ones(2, 3), 500, 1e3, 0.0, None, None)


@pytest.mark.parametrize("snapshots", [[3, 0], [1, 1], [], [5], [-1]])
def test_snapshots_ascend_within_the_chain(snapshots):
    message = r"snapshots must be step numbers in 0\.\.4, each once, in ascending order"
    with pytest.raises(ValueError, match=message):
        helpers.langevin_dynamics(gaussian_energy, torch.ones(2, 3), 4, snapshots=snapshots)


WRONG_IMAGES = [
    torch.zeros(4, 28, 28),
    torch.zeros(4, 3, 28, 28),
    torch.zeros(4, 1, 28, 28, dtype=torch.float64),
]


@pytest.mark.parametrize("wrong", WRONG_IMAGES)
def test_chains_of_a_network_from_wrong_images_say_so(wrong):
    with pytest.raises(ValueError, match="images must"):
        helpers.langevin_dynamics(helpers.EnergyNetwork(8), wrong, 1)


# ------------------------------------------------------------------------------ side effects


@pytest.fixture(params=[True, False], ids=["training", "evaluation"])
def network(request):
    """A network in either mode, one of its parameters without gradients."""
    torch.manual_seed(0)
    model = helpers.EnergyNetwork(8).train(request.param)
    next(model.parameters()).requires_grad_(False)
    return model


def run(model, seed=0, **options):
    start = torch.full((3, 1, 28, 28), 0.5)
    generator = torch.Generator().manual_seed(seed)
    return helpers.langevin_dynamics(model, start, 3, generator=generator, **options)


def test_a_chain_leaves_the_network_as_it_was(network, state_of):
    before = state_of(network)
    run(network)
    assert state_of(network) == before


def test_a_chain_draws_nothing_from_the_global_generator(network):
    before = torch.get_rng_state()
    run(network)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_chain_returns_images_without_gradients(network):
    assert not run(network).requires_grad


def test_a_chain_runs_where_gradients_are_switched_off(network):
    with torch.no_grad():
        assert run(network).shape == (3, 1, 28, 28)


def test_a_chain_repeats_with_the_seed_whether_or_not_it_keeps_snapshots(network):
    again, _ = run(network, seed=7, snapshots=[0, 2, 3])
    assert torch.equal(run(network, seed=7), again)


def test_snapshots_come_as_one_frame_each(network):
    _, frames = run(network, snapshots=[0, 2, 3])
    assert frames.shape == (3, 3, 1, 28, 28)


def test_snapshots_of_a_network_end_with_the_chain(network):
    with pytest.raises(ValueError, match=r"snapshots.*0\.\.3"):
        run(network, snapshots=[4])


def test_the_average_of_weights_can_be_sampled(network):
    average = helpers.ema_of(network, 0.9)
    assert torch.equal(run(average.module, seed=1), run(average, seed=1))


# ------------------------------------------------------------------------- the faster gradient


@pytest.fixture(scope="module", params=[33, 130], ids=["whole", "in halves"])
def fast_and_plain(request):
    """(start, end of the fast chains, end of the same chains through autograd)."""
    torch.manual_seed(0)
    model = helpers.EnergyNetwork(16)
    x = torch.rand(request.param, 1, 28, 28, generator=torch.Generator().manual_seed(0))

    def chain(energy):  # step 50: an untrained network is nearly flat
        return helpers.langevin_dynamics(energy, x, 30, 50.0, noise=0.0)

    return x, chain(model), chain(lambda x: model(x))


def test_the_fast_chain_follows_the_plain_one(fast_and_plain):
    _, fast, plain = fast_and_plain
    assert torch.allclose(fast, plain, atol=0.02)


def test_the_compared_chains_move_by_more_than_their_difference(fast_and_plain):
    start, fast, _ = fast_and_plain
    assert (fast - start).abs().mean() > 0.05


NOISE = 0.01


@pytest.fixture(scope="module", params=["fast", "plain"])
def one_step(request, plain_gradient):
    """(moves of 4,000 chains in one step from one image, the move expected of their mean)."""
    torch.manual_seed(0)
    network = helpers.EnergyNetwork(8)
    start = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    model = network if request.param == "fast" else lambda x: network(x)
    gradient = plain_gradient(network, start)
    step = 0.02 / gradient.abs().max().item()
    generator = torch.Generator().manual_seed(2)
    starts = start.expand(4_000, 1, 28, 28)
    x = helpers.langevin_dynamics(model, starts, 1, step, NOISE, None, None, generator=generator)
    return (x - start).double(), -step * gradient.double()


def test_a_step_moves_pixels_down_the_gradient_on_average(one_step):
    moved, expected = one_step
    error = (moved.mean(0, keepdim=True) - expected).abs().max()
    rounding = 0.02 * 0.02  # bfloat16: 2 % of a step
    assert error < 5 * NOISE / len(moved) ** 0.5 + rounding


def test_a_step_spreads_pixels_by_the_noise(one_step):
    moved, _ = one_step
    variance = moved.var(0).mean().item()
    assert abs(variance / NOISE**2 - 1) < 5 * (2 / moved.numel()) ** 0.5


def test_a_chain_that_is_not_checked_may_diverge():
    options = {"step_size": 1e3, "clip": None, "bounds": None, "check": False}
    x = helpers.langevin_dynamics(gaussian_energy, torch.ones(2, 3), 500, **options)
    assert not torch.isfinite(x).any()
