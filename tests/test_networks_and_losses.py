"""Networks and losses: shapes, known minimisers, messages for wrong input."""

import math

import pytest
import torch
from torch import nn

import helpers


def test_energy_network_gives_one_energy_an_image():
    model = helpers.EnergyNetwork(8)
    assert model(torch.rand(5, 1, 28, 28)).shape == (5,) and model(torch.rand(5, 1, 28, 28)).dtype == torch.float32


def test_untrained_score_network_is_the_score_of_a_gaussian(generator):
    model = helpers.ScoreNetwork(8, 16)
    x = torch.randn(6, 1, 28, 28, generator=generator)
    sigma = torch.tensor([1e-3, 0.01, 0.1, 1.0, 10.0, 50.0])
    variance = (helpers.PIXEL_STD**2 + sigma**2).view(-1, 1, 1, 1)
    assert torch.allclose(model.score(x, sigma), -(x - helpers.PIXEL_MEAN) / variance, rtol=1e-4)


def test_score_network_depends_on_sigma_and_label_and_knows_none(generator):
    model = helpers.ScoreNetwork(8, 16)
    for parameter in model.parameters():  # away from the start, where F = 0
        nn.init.normal_(parameter, std=0.2, generator=generator)
    x = torch.randn(2, 1, 28, 28, generator=generator)
    none, one, two = model.score(x, 0.5), model.score(x, 0.5, [1, 1]), model.score(x, 0.5, [2, 2])
    assert not torch.allclose(none, one) and not torch.allclose(one, two)
    assert not torch.allclose(model.score(x, 0.5), model.score(x, 0.4))
    assert torch.equal(none, model(x, 0.5, torch.tensor([model.NO_LABEL] * 2)))
    assert torch.allclose(model.denoise(x, 0.5, [1, 1]), x + 0.25 * one)


@pytest.mark.parametrize("arguments", [(torch.rand(2, 28, 28), 1.0, None), (torch.rand(2, 1, 28, 28).double(), 1.0, None),
                                       (torch.rand(2, 1, 28, 28), 0.0, None), (torch.rand(2, 1, 28, 28), 1.0, [3]),
                                       (torch.rand(2, 1, 28, 28), 1.0, [3, 10])])  # fmt: skip
def test_score_refuses_what_does_not_fit(arguments):
    with pytest.raises(ValueError, match="images must|sigma must|labels"):
        helpers.ScoreNetwork(8, 16).score(*arguments)


def test_contrastive_divergence_is_the_difference_plus_penalty():
    def energy(x):
        return x.flatten(1).sum(1)

    data, samples = torch.zeros(2, 1, 28, 28), torch.full((2, 1, 28, 28), 1 / 784)
    data[0, 0, 0, 0] = 1
    loss, e_data, e_samples = helpers.contrastive_divergence_loss(energy, data, samples, regularisation=0.1)
    assert e_data.item() == pytest.approx(0.5) and e_samples.item() == pytest.approx(1.0)
    assert loss.item() == pytest.approx(0.5 - 1.0 + 0.1 * (0.5 + 1.0), abs=1e-5)
    loss, _, _ = helpers.contrastive_divergence_loss(energy, data, samples, 0.1, regularise_samples=False)
    assert loss.item() == pytest.approx(0.5 - 1.0 + 0.1 * 0.5, abs=1e-5)


@pytest.mark.parametrize(("regularise_samples", "push"), [(True, 0.0), (False, -1.0)])
def test_squared_energies_of_samples_take_away_the_push_on_samples_of_energy_five(regularise_samples, push):
    height = torch.tensor(5.0, requires_grad=True)  # 1 / (2 * 0.1): the energy of every sample, data being at zero

    def energy(x):
        return height * x.flatten(1).amax(1)

    data, samples = torch.zeros(4, 1, 28, 28), torch.ones(4, 1, 28, 28)
    loss, _, _ = helpers.contrastive_divergence_loss(energy, data, samples, 0.1, regularise_samples)
    loss.backward()
    assert height.grad.item() == pytest.approx(push, abs=1e-6)


def test_contrastive_divergence_gradient_vanishes_where_samples_are_data(generator):
    x = torch.rand(32, 1, 28, 28, generator=generator)
    model = helpers.EnergyNetwork(8)
    loss, _, _ = helpers.contrastive_divergence_loss(model, x, x.clone(), regularisation=0.0)
    loss.backward()
    # the two halves of the batch may round differently, nothing else
    assert max(p.grad.abs().max().item() for p in model.parameters()) < 1e-2


@pytest.mark.parametrize("wrong", [torch.rand(4, 28, 28), torch.rand(4, 1, 14, 14), torch.rand(4, 1, 28, 28).half(),
                                   torch.zeros(4, 1, 28, 28, dtype=torch.uint8)])  # fmt: skip
def test_losses_refuse_images_of_wrong_shape_or_type(wrong):
    with pytest.raises(ValueError, match="images must be"):
        helpers.contrastive_divergence_loss(helpers.EnergyNetwork(8), torch.rand(4, 1, 28, 28), wrong)


@pytest.mark.parametrize("wrong", [torch.rand(4, 28, 28), torch.rand(4, 3, 28, 28), torch.rand(4, 1, 28, 28).double()])
def test_chains_from_wrong_images_say_so(wrong):
    with pytest.raises(ValueError, match="images must be"):
        helpers.langevin_dynamics(helpers.EnergyNetwork(8), wrong, 1)
    with pytest.raises(ValueError, match="images must be"):
        helpers.annealed_langevin_dynamics(helpers.ScoreNetwork(8, 16), None, [1.0], start=wrong)


def test_noisy_images_may_leave_the_range_clean_ones_may_not(generator):
    noisy = torch.full((4, 1, 28, 28), 1.5)
    helpers.check_images(noisy)
    with pytest.raises(ValueError, match=r"\[0, 1\].*1\.5"):
        helpers.check_images(noisy, clean=True)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        next(helpers.minibatches(255 * torch.rand(4, 1, 28, 28), torch.arange(4), 2, generator))
    with pytest.raises(ValueError, match="3 labels were given for 4 images"):
        next(helpers.minibatches(torch.rand(4, 1, 28, 28), torch.arange(3), 2, generator))


def test_denoising_score_matching_is_minimised_by_the_analytic_score(generator):
    mean, spread, n = 0.7, 1.5, 4000  # data N(mean, spread^2), so the score is -(x - mean) / (spread^2 + sigma^2)
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
    gradients = torch.stack(gradients)
    standard_error = gradients.std(0) / math.sqrt(len(gradients))
    assert (gradients.mean(0).abs() < 5 * standard_error).all()
    assert (standard_error < 1e-3).all()  # tight enough to fail if the target were off by one per cent


def test_denoising_score_matching_weights(generator):
    x, sigma = torch.zeros(100, 5), torch.full((100,), 2.0)

    def exact(x, sigma, labels):
        return -x / sigma.view(-1, 1) ** 2  # all data at zero: the target itself, loss 0

    def zero(x, sigma, labels):
        return torch.zeros_like(x)

    assert helpers.denoising_score_matching_loss(exact, x, sigma, generator=generator).item() < 1e-10
    loss = helpers.denoising_score_matching_loss(zero, x, sigma, generator=torch.Generator().manual_seed(1))
    assert loss.item() == pytest.approx(1.0, abs=5 * math.sqrt(2 / 500))  # sigma^2 |z / sigma|^2 / dimensions


@pytest.mark.parametrize("sigma", [0.01, 0.1, 1.0, 10.0])
def test_under_the_weight_every_level_starts_with_the_same_loss(sigma, generator):
    torch.manual_seed(0)
    network = helpers.ScoreNetwork(width=8)  # untrained it is the score of N(mean, std^2) pixels, of which these are
    x = helpers.PIXEL_MEAN + helpers.PIXEL_STD * torch.randn(100, 1, 28, 28, generator=generator)
    with torch.no_grad():
        loss = helpers.denoising_score_matching_loss(
            network, x, torch.full((100,), sigma), weight=helpers.edm_weight, generator=generator)
    assert loss.item() == pytest.approx(1.0, abs=5 * math.sqrt(2 / x.numel()))


class TinyScore(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x, sigma, labels=None):
        s = sigma.view(-1, 1)
        return self.layers(torch.cat([x, s.log()], dim=1)) / s


def test_a_tiny_network_learns_the_score_of_a_mixture(generator):
    torch.manual_seed(0)
    means, spread = torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), 0.3

    def draw(n):
        return means[(torch.rand(n, generator=generator) < 0.3).long()] + spread * torch.randn(n, 2, generator=generator)

    def exact_score(x, variance):
        log_p = torch.tensor([0.7, 0.3]).log() - (x[:, None] - means).square().sum(-1) / (2 * variance)
        return (log_p.softmax(1)[..., None] * (means - x[:, None])).sum(1) / variance

    model = TinyScore()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2500)
    for _ in range(2500):
        sigma = torch.exp(math.log(0.2) + math.log(5) * torch.rand(512, generator=generator))
        loss = helpers.denoising_score_matching_loss(model, draw(512), sigma, generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    for sigma in (0.25, 0.5):
        x = draw(20_000)
        x = x + sigma * torch.randn(x.shape, generator=generator)
        exact = exact_score(x, spread**2 + sigma**2)
        gaussian = -torch.linalg.solve(torch.cov(x.T), (x - x.mean(0)).T).T  # the best single Gaussian
        with torch.no_grad():
            error = (model(x, torch.full((len(x),), sigma)) - exact).square().mean()
        assert error < 0.1 * (gaussian - exact).square().mean()


def test_training_sigmas_cover_what_samplers_visit(generator):
    sigmas = helpers.training_sigmas(100_000, generator=generator)
    assert sigmas.min() > 0
    # three quarters N(-1.7, 1.2^2) in ln sigma and one log-uniform from 0.002 to 20, both by their distribution functions
    for level in (0.01, 0.0498, 0.183, 1.0, 5.0):
        normal = 0.5 * (1 + math.erf((math.log(level) + 1.7) / 1.2 / math.sqrt(2)))
        expected = 0.75 * normal + 0.25 * math.log(level / 0.002) / math.log(20 / 0.002)
        share = (sigmas < level).double().mean().item()
        assert share == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / len(sigmas)))
    for low, high in ((0.005, 0.01), (0.1, 0.3), (8.0, 12.0)):
        share = ((sigmas > low) & (sigmas < high)).double().mean().item()
        assert share > 0.25 * math.log(high / low) / math.log(20 / 0.002) * 0.9


def test_learning_rate_warms_up_holds_and_falls():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    rates = []
    for update in range(1000):
        helpers.set_learning_rate(optimizer, 0.1, update, 1000)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.001) and rates[150] == pytest.approx(0.1)
    assert rates[600] == pytest.approx(0.05) and rates[-1] == pytest.approx(0.002)
    helpers.set_learning_rate(optimizer, 0.1, 999, 1000, fall=0)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_denoising_steps_are_tuned_to_the_best(generator):
    def energy(x):  # pulls every pixel to 0.5: for grey images more steps are better, until the limit
        return 0.02 * (x - 0.5).square().flatten(1).sum(1)

    clean = torch.full((4, 1, 28, 28), 0.5)
    assert helpers.choose_denoising_steps(energy, clean, 0.2, most=7, generator=generator) == 7
    assert helpers.choose_denoising_steps(energy, torch.zeros(4, 1, 28, 28), 1e-4, most=7, generator=generator) == 0
