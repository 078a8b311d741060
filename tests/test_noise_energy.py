"""NoiseEnergy's gradient and symmetry; Metropolis steps on densities that are known.

Bounds are five standard errors unless they say otherwise.
"""

import math

import pytest
import torch
from torch import nn

import helpers
from dgm import samplers
from dgm.checks import IMAGE_SHAPE, NO_LABEL, PIXEL_MEAN, PIXEL_STD
from dgm.noise_energy import NoiseEnergy, annealed_mala, mala

IMAGES = torch.zeros(2, *IMAGE_SHAPE)

# ----------------------------------------------------------------------------- the network


@pytest.fixture
def model(generator):
    """A network away from its start, where F = 0, in evaluation mode: float32 throughout."""
    trunk = helpers.ScoreNetwork(8, 16)
    for parameter in trunk.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return NoiseEnergy(trunk).eval()


@pytest.fixture
def x(model, generator):
    return torch.rand(3, *IMAGE_SHAPE, generator=generator)


@pytest.fixture
def direction(x, generator):
    return torch.randn(x.shape, generator=generator)


SIGMA, LABELS = torch.tensor([0.1, 0.5, 2.0]), torch.tensor([3, NO_LABEL, 7])


def dot(a, b):
    return (a * b).flatten(1).sum(1)


def test_the_untrained_network_is_the_energy_of_a_gaussian(x):
    found = NoiseEnergy(helpers.ScoreNetwork(8, 16)).energy(x, SIGMA)
    variance = SIGMA**2 + PIXEL_STD**2
    assert torch.allclose(found, (x - PIXEL_MEAN).square().flatten(1).sum(1) / (2 * variance))


def test_there_is_one_energy_per_image_in_float32(model, x):
    energy = model.energy(x, SIGMA, LABELS)
    assert (energy.shape, energy.dtype) == ((3,), torch.float32)


def test_the_score_is_minus_the_gradient_of_the_energy(model, x, direction):
    """By central differences along a random direction; their own error is below 1 %."""
    step = 1e-2 * direction
    ahead, behind = (model.energy(x + d, SIGMA, LABELS) for d in (step, -step))
    expected = -(ahead - behind) / 2e-2
    assert torch.allclose(dot(model(x, SIGMA, LABELS), direction), expected, rtol=0.01, atol=0.05)


def test_the_jacobian_of_the_score_is_symmetric(model, x, direction, generator):
    other = torch.randn(x.shape, generator=generator)
    leaf = x.clone().requires_grad_(True)
    score = model(leaf, SIGMA, LABELS)
    one = torch.autograd.grad(dot(score, direction).sum(), leaf, retain_graph=True)[0]
    two = torch.autograd.grad(dot(score, other).sum(), leaf)[0]
    assert torch.allclose(dot(one, other), dot(two, direction), rtol=1e-3, atol=1e-2)


def test_the_jacobian_of_a_score_network_is_not(model, x, direction, generator):
    other = torch.randn(x.shape, generator=generator)
    leaf = x.clone().requires_grad_(True)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        score = model.trunk(leaf, SIGMA, LABELS)
        one = torch.autograd.grad(dot(score, direction).sum(), leaf, retain_graph=True)[0]
        two = torch.autograd.grad(dot(score, other).sum(), leaf)[0]
    assert (dot(one, other) - dot(two, direction)).abs().max() > 1


def test_training_differentiates_twice(model, x, direction):
    """The loss changes with a weight in front of the attention as its gradient says, to 2 %."""
    weight = model.trunk.attention[0].qkv.weight

    def loss():
        return helpers.denoising_score_matching_loss(model, x, SIGMA, LABELS, z=direction)

    (gradient,) = torch.autograd.grad(loss(), weight)
    step = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        weight += step
        ahead = loss()
        weight -= 2 * step
        behind = loss()
    assert (ahead - behind).item() / 2e-2 == pytest.approx(gradient.norm().item(), rel=0.02)


def test_the_score_without_gradients_needs_no_graph(model, x):
    with torch.no_grad():
        assert not model(x, SIGMA).requires_grad


def test_the_score_can_be_taken_in_inference_mode(model, x):
    with torch.inference_mode():
        found = model(x.clone(), SIGMA, LABELS)
    assert torch.allclose(found, model(x, SIGMA, LABELS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", [samplers.dpm_solver, helpers.annealed_langevin_dynamics])
def test_samplers_of_a_score_take_the_energy(model, sampler, state_of):
    before = state_of(model)
    options = {"generator": torch.Generator().manual_seed(0)}
    found = sampler(model, [3, 5], samplers.karras_sigmas(2.0, 0.1, 4), **options)
    assert found.shape == IMAGES.shape
    assert state_of(model) == before


@pytest.mark.parametrize(
    ("images", "sigma", "labels", "message"),
    [
        (
            IMAGES[:, 0],
            1.0,
            None,
            r"x must have shape \[B, 1, 28, 28\], not \[2, 28, 28\]: add",
        ),
        (IMAGES.double(), 1.0, None, "x must be float32, not torch.float64: call .float()"),
        (IMAGES, torch.ones(3), None, r"sigma must be a number or \[2\], not \[3\]: pass one"),
        (IMAGES, 1.0, [3], "labels must have length 2, one per image, not 1: pass one per image"),
        (IMAGES, 1.0, [3, 11], "labels must lie in 0..9, but they span 3..11: pass digits"),
    ],
)
def test_the_energy_refuses_what_does_not_fit(model, images, sigma, labels, message):
    with pytest.raises(ValueError, match=message):
        model.energy(images, sigma, labels)


def test_a_trunk_without_a_unet_is_refused():
    message = "trunk must be a ScoreNetwork, not Linear: pass helpers.ScoreNetwork"
    with pytest.raises(TypeError, match=message):
        NoiseEnergy(nn.Linear(2, 2))


# ---------------------------------------------------------------- Metropolis-adjusted Langevin

N = 20_000  # chains
SHARES, MEANS, SPREAD = (0.7, 0.3), (-1.0, 1.5), 0.5


def mixture_energy(x):
    """A mixture of two Gaussians in one dimension, x [B, 1]."""
    log_p = torch.tensor(SHARES).log() - (x - torch.tensor(MEANS)).square() / (2 * SPREAD**2)
    return -log_p.logsumexp(1)


@pytest.fixture(scope="module")
def from_the_mixture():
    """Exact samples, then 100 steps from them with and without adjustment."""
    generator = torch.Generator().manual_seed(0)
    second = torch.rand(N, 1, generator=generator) < SHARES[1]
    means = torch.where(second, MEANS[1], MEANS[0])
    start = means + SPREAD * torch.randn(N, 1, generator=generator)
    options = {"steps": 100, "step_size": 0.3, "generator": generator}
    adjusted, acceptance = mala(mixture_energy, start, **options)
    unadjusted, _ = mala(mixture_energy, start, adjust=False, **options)
    return adjusted, unadjusted, acceptance


def deviations(x, exact):
    """Return by how many standard errors the mean of x [N] differs from the exact one."""
    return abs(x.mean() - exact) / (x.std() / len(x) ** 0.5)


def moments_of_the_mixture(x):
    mean = sum(w * m for w, m in zip(SHARES, MEANS, strict=True))
    square = sum(w * (m**2 + SPREAD**2) for w, m in zip(SHARES, MEANS, strict=True))
    x = x.double()[:, 0]
    return deviations(x, mean), deviations(x.square(), square)


def test_metropolis_steps_leave_a_mixture_as_it_is(from_the_mixture):
    assert max(moments_of_the_mixture(from_the_mixture[0])) < 5


def test_the_same_steps_without_adjustment_do_not(from_the_mixture):
    assert max(moments_of_the_mixture(from_the_mixture[1])) > 20


def test_metropolis_steps_keep_the_weights_of_a_mixture(from_the_mixture):
    """Both components have mass on either side of the middle; the share is in closed form."""
    normal = torch.distributions.Normal(torch.tensor(MEANS), SPREAD)
    exact = (torch.tensor(SHARES) * normal.cdf(torch.tensor(0.25))).sum()
    lower = (from_the_mixture[0][:, 0] < 0.25).double()
    assert deviations(lower, exact) < 5


def test_the_step_on_the_mixture_is_large_enough_to_be_refused(from_the_mixture):
    assert 0.5 < from_the_mixture[2].mean() < 0.95


def quartic(x):
    return (x**4).sum(1) / 4


@pytest.mark.parametrize("adjust", [True, False])
def test_an_anharmonic_density_is_reached_only_with_adjustment(adjust, generator):
    """For exp(-x^4 / 4), the mean of x^2 is 2 Gamma(3/4) / Gamma(1/4) and that of x^4 is 1."""
    start = 0.1 * torch.randn(N, 10, generator=generator)
    found, _ = mala(quartic, start, 200, 0.1, adjust=adjust, generator=generator)
    square = found.double().flatten().square()
    exact = 2 * math.gamma(0.75) / math.gamma(0.25)
    worst = max(deviations(square, exact), deviations(square.square(), 1.0))
    assert worst < 5 if adjust else worst > 15


def test_acceptance_goes_to_one_as_the_step_goes_to_zero(generator):
    start = torch.randn(1_000, 50, generator=generator)
    rates = []
    for step_size in (0.1, 0.03, 0.01, 0.0003):
        _, acceptance = mala(quartic, start, 5, step_size, generator=generator)
        rates.append(acceptance.mean().item())
    assert rates == sorted(rates)
    assert rates[0] < 0.9 and rates[-1] > 0.999


def test_acceptance_on_a_gaussian_is_that_of_its_closed_form(generator):
    """There log a = step / 4 (|x|^2 - |y|^2), so the mean of min(1, a) is that of other draws."""
    step, start = 0.4, torch.randn(N, 20, generator=generator)
    _, acceptance = mala(lambda x: dot(x, x) / 2, start, 1, step, generator=generator)
    x = torch.randn(N, 20, generator=generator)
    y = (1 - step) * x + math.sqrt(2 * step) * torch.randn(N, 20, generator=generator)
    expected = torch.exp(step / 4 * (dot(x, x) - dot(y, y))).clamp(max=1)
    error = math.sqrt(acceptance.var() / N + expected.var() / N)
    assert abs(acceptance.mean() - expected.mean()) < 5 * error


def test_a_sum_of_energies_is_sampled_as_the_product_of_densities(generator):
    """N(0, 1) times N(3, 1/2): precision 3, mean 2."""

    def product(x):
        return dot(x, x) / 2 + dot(x - 3, x - 3)

    start = torch.randn(N, 1, generator=generator)
    found, _ = mala(product, start, 50, 0.2, generator=generator)
    x = found.double()[:, 0]
    assert deviations(x, 2) < 5
    assert deviations((x - 2).square(), 1 / 3) < 5


def test_a_chain_without_steps_stays_where_it_starts():
    start = torch.ones(3, 1)
    assert torch.equal(mala(quartic, start, 0, 0.1)[0], start)


def test_metropolis_steps_are_reproducible_and_leave_the_global_state_alone():
    state = torch.random.get_rng_state()
    start = torch.ones(30, 1)
    seeds = (torch.Generator().manual_seed(s) for s in (1, 1, 2))
    one, same, other = (mala(quartic, start, 3, 0.3, generator=g)[0] for g in seeds)
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(start, torch.ones(30, 1))


def test_a_proposal_without_a_finite_energy_is_refused(generator):
    """A wall at zero, as an infinite energy."""

    def half_gaussian(x):
        return torch.where(x > 0, x.square() / 2, math.inf).sum(1)

    found, _ = mala(half_gaussian, torch.ones(1_000, 1), 100, 0.5, generator=generator)
    assert (found > 0).all()


def test_a_chain_that_diverges_is_told(generator):
    start = 10 * torch.ones(4, 1)
    with pytest.raises(FloatingPointError, match="The Langevin chain diverged"):
        mala(quartic, start, 10, 0.1, adjust=False, generator=generator)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"energy": 3}, TypeError, r"model must be a network or a function of \(x\), not int"),
        ({"energy": lambda x: x}, ValueError, r"an energy must have shape \[4\], one number per"),
        ({"energy": lambda x: x.sum(1) / 0}, ValueError, "start must have finite energies, but"),
        ({"start": 2.0}, TypeError, "start must be a torch tensor, not float: pass torch.as"),
        ({"start": torch.ones(4, 2).long()}, ValueError, "start must be floating point, not"),
        ({"steps": 1.5}, TypeError, "steps must be a whole number, not float: pass an int"),
        ({"step_size": 0.0}, ValueError, "step_size must be finite and greater than 0, not 0"),
        ({"adjust": 1}, TypeError, "adjust must be True or False, not 1: pass one of them"),
        ({"generator": 3}, TypeError, "generator must be a torch.Generator, not int: pass seed"),
    ],
)
def test_metropolis_steps_refuse_what_does_not_fit(change, error, message):
    arguments = {"energy": quartic, "start": torch.ones(4, 2), "steps": 1, "step_size": 0.1}
    with pytest.raises(error, match=message):
        mala(**{**arguments, **change})


# -------------------------------------------------------------------- annealing an energy


def noisy_mixture(x, sigma, labels=None):
    """The mixture above, blurred with N(0, sigma^2)."""
    variance = SPREAD**2 + sigma**2
    distance = (x - 2 * torch.tensor(MEANS)).square()
    return -(torch.tensor(SHARES).log() - distance / (2 * variance)).logsumexp(1)


SIGMAS = samplers.geometric_sigmas(5.0, 0.1, 20)


def test_annealing_with_metropolis_steps_finds_the_weights_of_a_mixture(generator):
    start = 5 * torch.randn(5_000, 1, generator=generator)
    options = {"steps": 30, "generator": generator}
    found, acceptance = annealed_mala(noisy_mixture, None, SIGMAS, start, **options)
    lower = (found[:, 0] < 0.5).double()
    assert (
        abs(lower.mean() - SHARES[0]) < 0.035
    )  # five standard errors; annealing itself is not exact
    assert acceptance.shape == (20,)
    assert (acceptance > 0.5).all() and (acceptance <= 1).all()


def test_annealing_without_adjustment_is_annealed_langevin_dynamics(generator):
    """The same noise gives the same images."""

    def score(x, sigma, labels=None):
        return -x / (1 + sigma**2)

    def energy(x, sigma, labels=None):
        return dot(x, x) / (2 * (1 + sigma**2))

    start = 5 * torch.randn(10, 3, generator=generator)
    theirs = helpers.annealed_langevin_dynamics(
        score, None, SIGMAS, start=start, generator=torch.Generator().manual_seed(3)
    )
    options = {"adjust": False, "generator": torch.Generator().manual_seed(3)}
    ours, acceptance = annealed_mala(energy, None, SIGMAS, start, **options)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert (acceptance == 1).all()


def test_annealing_hands_the_labels_to_the_energy():
    seen = []

    def energy(x, sigma, labels):
        seen.append(labels)
        return dot(x, x) / 2

    annealed_mala(energy, [4, 5], SIGMAS[:2], torch.ones(2, 3))
    assert all(labels.tolist() == [4, 5] for labels in seen)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [3]}, "labels must have length 2, one per image, not 1: pass one per image"),
        ({"sigmas": [0.1, 1.0]}, "sigmas must descend, from the largest noise to the smallest"),
        ({"steps": 0}, "steps must be at least 1, not 0: pass a larger number"),
        ({"epsilon": 0}, "epsilon must be finite and greater than 0, not 0: pass another number"),
    ],
)
def test_annealing_refuses_what_does_not_fit(change, message):
    arguments = {"energy": noisy_mixture, "labels": None, "sigmas": SIGMAS}
    with pytest.raises(ValueError, match=message):
        annealed_mala(**{**arguments, "start": torch.ones(2, 1), **change})
