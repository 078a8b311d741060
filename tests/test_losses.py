"""Losses and what training needs beside them, against known minimisers and distributions."""

import math

import pytest
import torch
from torch import nn

import helpers
from dgm.checks import PIXEL_MEAN, PIXEL_STD

# -------------------------------------------------------------------- contrastive divergence


@pytest.fixture
def halves():
    """Data of mean energy 1/2 and samples of energy 1, where the energy sums the pixels."""
    data, samples = torch.zeros(2, 1, 28, 28), torch.full((2, 1, 28, 28), 1 / 784)
    data[0, 0, 0, 0] = 1
    return data, samples


def sum_of_pixels(x):
    return x.flatten(1).sum(1)


def test_contrastive_divergence_tells_the_energy_of_the_data(halves):
    _, e_data, _ = helpers.contrastive_divergence_loss(sum_of_pixels, *halves)
    assert e_data.item() == pytest.approx(0.5)


def test_contrastive_divergence_tells_the_energy_of_the_samples(halves):
    _, _, e_samples = helpers.contrastive_divergence_loss(sum_of_pixels, *halves)
    assert e_samples.item() == pytest.approx(1.0)


def test_contrastive_divergence_is_the_difference_plus_both_squares(halves):
    loss, _, _ = helpers.contrastive_divergence_loss(sum_of_pixels, *halves, regularisation=0.1)
    assert loss.item() == pytest.approx(0.5 - 1.0 + 0.1 * (0.5 + 1.0), abs=1e-5)


def test_the_square_of_the_samples_energy_can_be_left_out(halves):
    loss, _, _ = helpers.contrastive_divergence_loss(
        sum_of_pixels, *halves, 0.1, regularise_samples=False
    )
    assert loss.item() == pytest.approx(0.5 - 1.0 + 0.1 * 0.5, abs=1e-5)


@pytest.mark.parametrize(("regularise_samples", "push"), [(True, 0.0), (False, -1.0)])
def test_squared_energies_take_away_the_push_on_samples_of_energy_five(regularise_samples, push):
    # 1 / (2 * 0.1) is the energy of every sample, data being at zero
    height = torch.tensor(5.0, requires_grad=True)

    def energy(x):
        return height * x.flatten(1).amax(1)

    data, samples = torch.zeros(4, 1, 28, 28), torch.ones(4, 1, 28, 28)
    loss, _, _ = helpers.contrastive_divergence_loss(energy, data, samples, 0.1, regularise_samples)
    loss.backward()
    assert height.grad.item() == pytest.approx(push, abs=1e-6)


def test_contrastive_divergence_gradient_vanishes_where_samples_are_data(generator):
    torch.manual_seed(0)
    x = torch.rand(32, 1, 28, 28, generator=generator)
    model = helpers.EnergyNetwork(8)
    loss, _, _ = helpers.contrastive_divergence_loss(model, x, x.clone(), regularisation=0.0)
    loss.backward()
    # the two halves of the batch may round differently, nothing else
    assert max(p.grad.abs().max().item() for p in model.parameters()) < 1e-2


IMAGES = torch.zeros(4, 1, 28, 28)
WRONG_IMAGES = [IMAGES[:, 0], IMAGES[..., :14, :14], IMAGES.half(), IMAGES.to(torch.uint8)]


@pytest.mark.parametrize("wrong", WRONG_IMAGES)
def test_contrastive_divergence_refuses_wrong_samples(wrong):
    with pytest.raises(ValueError, match="must (be|have)"):
        helpers.contrastive_divergence_loss(helpers.EnergyNetwork(8), IMAGES, wrong)


@pytest.mark.parametrize("wrong", WRONG_IMAGES)
def test_contrastive_divergence_refuses_wrong_data(wrong):
    with pytest.raises(ValueError, match="must (be|have)"):
        helpers.contrastive_divergence_loss(helpers.EnergyNetwork(8), wrong, IMAGES)


# ------------------------------------------------------------------ denoising score matching


@pytest.fixture(scope="module")
def gradients_at_the_minimum():
    """400 gradients of the loss at the analytic score of N(mean, spread^2), in both of these.

    The score of the blurred data is -(x - mean) / (spread^2 + sigma^2).
    """
    generator = torch.Generator().manual_seed(0)
    mean, spread, n = 0.7, 1.5, 4000
    centre = torch.tensor(mean, requires_grad=True)
    variance = torch.tensor(spread**2, requires_grad=True)

    def score(x, sigma, labels=None):
        return -(x - centre) / (variance + sigma.view(-1, 1) ** 2)

    gradients = []
    for _ in range(400):
        x = mean + spread * torch.randn(n, 1, generator=generator)
        sigma = 0.3 + torch.rand(n, generator=generator)
        loss = helpers.denoising_score_matching_loss(score, x, sigma, generator=generator)
        gradients.append(torch.stack(torch.autograd.grad(loss, (centre, variance))))
    return torch.stack(gradients)


def standard_error(gradients):
    return gradients.std(0) / math.sqrt(len(gradients))


def test_denoising_score_matching_is_minimised_by_the_analytic_score(gradients_at_the_minimum):
    gradients = gradients_at_the_minimum
    assert (gradients.mean(0).abs() < 5 * standard_error(gradients)).all()


def test_the_minimum_is_known_to_one_per_cent(gradients_at_the_minimum):
    """Tight enough for the test above to fail if the target were off by as much."""
    assert (standard_error(gradients_at_the_minimum) < 1e-3).all()


ZEROS, SIGMA_TWO = torch.zeros(100, 5), torch.full((100,), 2.0)


def test_the_loss_of_the_target_itself_is_zero(generator):
    def exact(x, sigma, labels):
        return -x / sigma.view(-1, 1) ** 2  # of data that are all zero

    loss = helpers.denoising_score_matching_loss(exact, ZEROS, SIGMA_TWO, generator=generator)
    assert loss.item() < 1e-10


def test_the_loss_of_a_zero_score_is_one():
    def zero(x, sigma, labels):
        return torch.zeros_like(x)

    generator = torch.Generator().manual_seed(1)
    loss = helpers.denoising_score_matching_loss(zero, ZEROS, SIGMA_TWO, generator=generator)
    # sigma^2 |z / sigma|^2 / dimensions
    assert loss.item() == pytest.approx(1.0, abs=5 * math.sqrt(2 / 500))


@pytest.mark.parametrize("sigma", [0.01, 0.1, 1.0, 10.0])
def test_under_the_weight_every_level_starts_with_the_same_loss(sigma, generator):
    """Untrained, the network is the score of N(mean, std^2) pixels, of which these are."""
    torch.manual_seed(0)
    network = helpers.ScoreNetwork(width=8)
    x = PIXEL_MEAN + PIXEL_STD * torch.randn(100, 1, 28, 28, generator=generator)
    sigmas, weight = torch.full((100,), sigma), helpers.edm_weight
    with torch.no_grad():
        loss = helpers.denoising_score_matching_loss(
            network, x, sigmas, weight=weight, generator=generator
        )
    assert loss.item() == pytest.approx(1.0, abs=5 * math.sqrt(2 / x.numel()))


CENTRES, SPREAD = torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), 0.3


def draw_mixture(n, generator):
    component = (torch.rand(n, generator=generator) < 0.3).long()
    return CENTRES[component] + SPREAD * torch.randn(n, 2, generator=generator)


def mixture_score(x, variance):
    offset = CENTRES - x[:, None]
    log_p = torch.tensor([0.7, 0.3]).log() - offset.square().sum(-1) / (2 * variance)
    return (log_p.softmax(1)[..., None] * offset).sum(1) / variance


class TinyScore(nn.Module):
    def __init__(self):
        super().__init__()
        hidden = [nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU()]
        self.layers = nn.Sequential(*hidden, nn.Linear(64, 2))

    def forward(self, x, sigma, labels=None):
        s = sigma.view(-1, 1)
        return self.layers(torch.cat([x, s.log()], dim=1)) / s


@pytest.fixture(scope="module")
def tiny_network():
    """A tiny network trained on the mixture, at noise levels from 0.2 to 1."""
    generator = torch.manual_seed(0)
    model = TinyScore()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2500)
    for _ in range(2500):
        sigma = torch.exp(math.log(0.2) + math.log(5) * torch.rand(512, generator=generator))
        x = draw_mixture(512, generator)
        loss = helpers.denoising_score_matching_loss(model, x, sigma, generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


@pytest.mark.parametrize("sigma", [0.25, 0.5])
def test_a_tiny_network_learns_the_score_of_a_mixture(sigma, tiny_network, generator):
    x = draw_mixture(20_000, generator)
    x = x + sigma * torch.randn(x.shape, generator=generator)
    exact = mixture_score(x, SPREAD**2 + sigma**2)
    # the best single Gaussian
    gaussian = -torch.linalg.solve(torch.cov(x.T), (x - x.mean(0)).T).T
    with torch.no_grad():
        error = (tiny_network(x, torch.full((len(x),), sigma)) - exact).square().mean()
    assert error < 0.1 * (gaussian - exact).square().mean()


# --------------------------------------------------------------------------- levels and rates


@pytest.fixture(scope="module")
def sigmas():
    return helpers.training_sigmas(100_000, generator=torch.Generator().manual_seed(0))


def test_training_levels_are_positive(sigmas):
    assert sigmas.min() > 0


@pytest.mark.parametrize("level", [0.01, 0.0498, 0.183, 1.0, 5.0])
def test_training_levels_have_their_distribution(level, sigmas):
    """Three quarters N(-1.7, 1.2^2) in ln sigma, one quarter log-uniform from 0.002 to 20."""
    normal = 0.5 * (1 + math.erf((math.log(level) + 1.7) / 1.2 / math.sqrt(2)))
    expected = 0.75 * normal + 0.25 * math.log(level / 0.002) / math.log(20 / 0.002)
    share = (sigmas < level).double().mean().item()
    error = math.sqrt(expected * (1 - expected) / len(sigmas))
    assert share == pytest.approx(expected, abs=5 * error)


@pytest.mark.parametrize(("low", "high"), [(0.005, 0.01), (0.1, 0.3), (8.0, 12.0)])
def test_training_levels_cover_what_samplers_visit(low, high, sigmas):
    share = ((sigmas > low) & (sigmas < high)).double().mean().item()
    assert share > 0.25 * math.log(high / low) / math.log(20 / 0.002) * 0.9


@pytest.fixture
def optimizer():
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)


@pytest.mark.parametrize(
    ("update", "rate"),
    [
        pytest.param(0, 0.001, id="warms up"),
        pytest.param(150, 0.1, id="holds"),
        pytest.param(600, 0.05, id="falls"),
        pytest.param(999, 0.002, id="ends above zero"),
    ],
)
def test_learning_rate_warms_up_holds_and_falls(update, rate, optimizer):
    helpers.set_learning_rate(optimizer, 0.1, update, 1000)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)


def test_learning_rate_can_stay_to_the_end(optimizer):
    helpers.set_learning_rate(optimizer, 0.1, 999, 1000, fall=0)
    assert optimizer.param_groups[0]["lr"] == 0.1


def towards_grey(x):
    return 0.02 * (x - 0.5).square().flatten(1).sum(1)


def test_for_grey_images_an_energy_that_pulls_to_grey_takes_all_steps(generator):
    clean = torch.full((4, 1, 28, 28), 0.5)
    steps = helpers.choose_denoising_steps(towards_grey, clean, 0.2, most=7, generator=generator)
    assert steps == 7


def test_for_black_images_an_energy_that_pulls_to_grey_takes_no_step(generator):
    clean = torch.zeros(4, 1, 28, 28)
    steps = helpers.choose_denoising_steps(towards_grey, clean, 1e-4, most=7, generator=generator)
    assert steps == 0
