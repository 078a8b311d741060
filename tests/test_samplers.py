"""Samplers and replay buffer against closed forms. Bounds are five standard errors unless they say otherwise."""

import itertools
import math

import pytest
import torch
from torch import nn

import fast
import helpers
import samplers

STEP = 0.5


def gaussian_energy(x):
    return x.square().flatten(1).sum(1) / 2


def test_unadjusted_langevin_has_the_discretised_stationary_variance(generator):
    n = 400_000  # x <- (1 - e) x + sqrt(2 e) z has stationary variance 2 e / (1 - (1 - e)^2) = 1 / (1 - e / 2)
    x = helpers.langevin_dynamics(gaussian_energy, torch.zeros(n // 100, 100), 60, STEP, math.sqrt(2 * STEP), None, None,
                                  generator=generator)  # fmt: skip
    expected = 1 / (1 - STEP / 2)
    assert abs(x.var().item() - expected) < 5 * expected * math.sqrt(2 / n)
    assert abs(x.mean().item()) < 5 * math.sqrt(expected / n)


def test_without_noise_langevin_is_gradient_descent():
    x = helpers.langevin_dynamics(gaussian_energy, torch.ones(2, 3), 4, STEP, noise=0.0, clip=None, bounds=None)
    assert torch.allclose(x, torch.full((2, 3), (1 - STEP) ** 4))


def test_clip_and_bounds_limit_the_move():
    x = helpers.langevin_dynamics(gaussian_energy, torch.full((1, 4), 0.9), 1, step_size=2.0, noise=0.0, clip=0.1)
    assert torch.allclose(x, torch.full((1, 4), 0.7))
    x = helpers.langevin_dynamics(gaussian_energy, torch.full((1, 4), 0.9), 1, step_size=2.0, noise=0.0, clip=None)
    assert torch.equal(x, torch.zeros(1, 4))  # 0.9 - 1.8, clamped


def test_a_diverging_chain_says_so():
    with pytest.raises(FloatingPointError, match="diverged.*smaller step"):
        helpers.langevin_dynamics(gaussian_energy, torch.ones(2, 3), 500, 1e3, clip=None, bounds=None)


MIX_WEIGHTS, MIX_MEANS, MIX_SPREADS = torch.tensor([0.7, 0.3]), torch.tensor([-3.0, 3.0]), torch.tensor([1.0, 0.5])


def mixture_score(x, sigma, labels=None):
    variance = MIX_SPREADS**2 + sigma**2
    offset = MIX_MEANS - x  # [B, 1] against [2]
    log_p = MIX_WEIGHTS.log() - variance.log() / 2 - offset**2 / (2 * variance)
    return (log_p.softmax(1) * offset / variance).sum(1, keepdim=True)


def test_annealed_langevin_recovers_an_unequal_mixture(generator):
    n, sigmas = 20_000, helpers.geometric_sigmas(20.0, 0.02, levels=150)
    start = sigmas[0] * torch.randn(n, 1, generator=generator)
    x = helpers.annealed_langevin_dynamics(mixture_score, None, sigmas, start=start, steps=20, generator=generator)
    left = x[:, 0] < 0.75  # where the two densities are both below 1e-4 of their peaks
    share = left.double().mean().item()
    assert abs(share - 0.7) < 5 * math.sqrt(0.7 * 0.3 / n)
    for side, mean, spread in ((left, -3.0, 1.0), (~left, 3.0, 0.5)):
        found, count = x[side, 0], int(side.sum())
        assert abs(found.mean().item() - mean) < 5 * spread / math.sqrt(count)
        assert abs(found.std().item() - spread) < 5 * spread / math.sqrt(2 * count)


def test_final_step_of_annealed_langevin_is_tweedie(generator):
    sigmas, start = torch.tensor([1.0, 0.5]), torch.randn(5, 1, generator=generator)
    noisy, clean = (
        helpers.annealed_langevin_dynamics(mixture_score, None, sigmas, start=start, denoise=denoise,
                                           generator=torch.Generator().manual_seed(1))
        for denoise in (False, True)
    )  # fmt: skip
    assert torch.allclose(clean, noisy + 0.25 * mixture_score(noisy, 0.5))


@pytest.mark.parametrize(("first", "levels", "steps", "expected"), [(15.0, 93.8, 5, 1.111e-5), (10.0, 88.7, 3, 1.26e-5),
                                                                    (50.0, 232, 5, 6.2e-6)])  # fmt: skip
def test_step_size_is_that_of_song_and_ermon_2020(first, levels, steps, expected):
    sigmas = helpers.geometric_sigmas(first, 0.01, round(levels))
    assert helpers.annealed_step(sigmas, steps) == pytest.approx(expected, rel=0.015)


def test_geometric_sigmas_descend_by_one_ratio():
    sigmas = helpers.geometric_sigmas(10.0, 0.01, 89)
    ratios = sigmas[:-1] / sigmas[1:]
    assert sigmas[0].item() == pytest.approx(10) and sigmas[-1].item() == pytest.approx(0.01)
    assert torch.allclose(ratios, ratios[:1].expand(88), rtol=1e-4) and ratios[0].item() == pytest.approx(1.0817, abs=1e-3)


def test_guidance_extrapolates_from_no_label_to_the_label():
    def score(x, sigma, labels):
        return torch.where(labels == helpers.ScoreNetwork.NO_LABEL, 1.0, labels.float())[:, None].expand_as(x)

    x, labels = torch.zeros(2, 3), torch.tensor([4, 7])
    assert torch.equal(helpers.guided(score, 1)(x, 1.0, labels), torch.tensor([[4.0] * 3, [7.0] * 3]))
    assert torch.equal(helpers.guided(score, 2)(x, 1.0, labels), torch.tensor([[7.0] * 3, [13.0] * 3]))
    assert torch.equal(helpers.guided(lambda x, *_: x, 2)(x, 1.0, None), x)


def networks():
    return [helpers.EnergyNetwork(8), helpers.ScoreNetwork(8, 16)]


def run_sampler(model, generator=None, **options):
    if isinstance(model, helpers.EnergyNetwork):
        start = torch.full((3, 1, 28, 28), 0.5)
        return helpers.langevin_dynamics(model, start, 3, generator=generator, **options)
    return helpers.annealed_langevin_dynamics(model, [1, 2, 3], [2.0, 1.0, 0.5], steps=1, generator=generator, **options)


@pytest.mark.parametrize("model", networks(), ids=["energy", "score"])
@pytest.mark.parametrize("training", [True, False])
def test_samplers_leave_no_trace(model, training, generator):
    model.train(training)
    next(model.parameters()).requires_grad_(False)
    before = [(p.clone(), p.requires_grad, p.grad) for p in model.parameters()]
    global_state = torch.get_rng_state()
    x = run_sampler(model, generator)
    assert torch.equal(torch.get_rng_state(), global_state)
    assert model.training == training and not x.requires_grad
    for p, (value, requires_grad, grad) in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, value) and p.requires_grad == requires_grad and p.grad is grad
    with torch.no_grad():
        assert run_sampler(model, generator).shape == x.shape  # also where gradients are switched off around it


def test_guidance_of_many_images_at_once_is_that_of_few():
    def score(x, sigma, labels):
        return -x / (1 + sigma**2) + labels.view(-1, 1)

    x, labels = torch.linspace(-1, 1, 600).view(600, 1), torch.arange(600) % 10
    guide = samplers.guided(score, 1.4)
    few = torch.cat([guide(*part) for part in zip(x.split(300), (2.0, 2.0), labels.split(300), strict=True)])
    assert torch.allclose(guide(x, 2.0, labels), few)


@pytest.mark.parametrize("snapshots", [[3, 0], [1, 1], [], [5], [-1]])
def test_snapshots_ascend_within_the_chain(snapshots):
    with pytest.raises(ValueError, match=r"snapshots must be step numbers in 0\.\.4, each once, in ascending order"):
        helpers.langevin_dynamics(gaussian_energy, torch.ones(2, 3), 4, snapshots=snapshots)


@pytest.mark.parametrize("model", networks(), ids=["energy", "score"])
def test_samplers_repeat_with_the_seed_and_keep_snapshots(model):
    first = run_sampler(model, torch.Generator().manual_seed(7))
    again, frames = run_sampler(model, torch.Generator().manual_seed(7), snapshots=[0, 2, 3])
    assert torch.equal(first, again) and frames.shape == (3, 3, 1, 28, 28)
    with pytest.raises(ValueError, match=r"snapshots.*0\.\.3"):
        run_sampler(model, snapshots=[4])


def plain_gradient(model, x):
    """Of the energy in float32, through autograd: what everything faster is held against."""
    leaf = x.clone().requires_grad_(True)
    return torch.autograd.grad(model.layers(2 * leaf - 1).sum(), leaf)[0]


def test_chain_network_matches_the_plain_one(generator):
    model = helpers.EnergyNetwork(16)
    x = torch.rand(64, 1, 28, 28, generator=generator)
    frozen = torch.autograd.grad(helpers.frozen_energy(model)(leaf := x.clone().requires_grad_(True)).sum(), leaf)[0]
    plain = plain_gradient(model, x)
    assert (plain - frozen).norm() < 0.02 * plain.norm()  # bfloat16 rounds to 1 part in 256


@pytest.mark.parametrize("width", [8, 16, 32])
@pytest.mark.parametrize("batch", [1, 7, 33])
def test_gradient_by_hand_is_the_gradient(width, batch, generator):
    torch.manual_seed(width)
    model, x = helpers.EnergyNetwork(width), torch.rand(batch, 1, 28, 28, generator=generator)
    plain = plain_gradient(model, x)
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.float32, 1e-5), (torch.bfloat16, 0.02)):
        by_hand = fast.input_gradient(x, fast.weights_of(model.layers, dtype))
        assert by_hand.dtype == torch.float32 and by_hand.shape == x.shape
        assert (by_hand - plain).norm() < tolerance * plain.norm()
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_fast_chain_follows_the_plain_one(generator):
    torch.manual_seed(0)
    model, x = helpers.EnergyNetwork(16), torch.rand(33, 1, 28, 28, generator=generator)
    seeds = [torch.Generator().manual_seed(3) for _ in range(2)]
    quick = helpers.langevin_dynamics(model, x, 30, 50.0, generator=seeds[0])  # 50: an untrained network is nearly flat
    plain = helpers.langevin_dynamics(lambda x: model(x), x, 30, 50.0, generator=seeds[1])
    assert torch.allclose(quick, plain, atol=0.02) and (quick - x).abs().mean() > 0.05


@pytest.mark.parametrize("path", ["fast", "plain"])
def test_both_paths_move_by_the_slope_and_spread_by_the_noise(path):
    """Over 4,000 chains a step moves each pixel by -step grad E on average, and spreads it by the noise."""
    torch.manual_seed(0)
    network, start = helpers.EnergyNetwork(8), torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    model, n, noise = network if path == "fast" else lambda x: network(x), 4_000, 0.01
    step = 0.02 / plain_gradient(network, start).abs().max().item()
    x = helpers.langevin_dynamics(model, start.expand(n, 1, 28, 28), 1, step, noise, clip=None, bounds=None,
                                  generator=torch.Generator().manual_seed(2))  # fmt: skip
    moved = (x - start).double()
    expected = -step * plain_gradient(network, start).double()
    assert (moved.mean(0, keepdim=True) - expected).abs().max() < 5 * noise / n**0.5 + 0.02 * 0.02  # bfloat16: 2 % of a step
    variance = moved.var(0).mean().item()
    assert abs(variance / noise**2 - 1) < 5 * (2 / (n * 784)) ** 0.5


@pytest.mark.parametrize("edit", ["activation", "stride", "one more layer", "no bias", "subclass"])
def test_an_edited_network_goes_through_autograd(edit, generator):
    class Doubled(helpers.EnergyNetwork):
        def forward(self, x):
            return 2 * super().forward(x)

    model, x = (Doubled if edit == "subclass" else helpers.EnergyNetwork)(8), torch.rand(4, 1, 28, 28, generator=generator)
    if edit == "activation":
        model.layers[3] = torch.nn.Softplus()
    elif edit == "stride":
        model.layers[6] = torch.nn.Conv2d(32, 32, 3, stride=1, padding=1)
        model.layers[9] = torch.nn.Linear(32 * 16, 32)
    elif edit == "no bias":
        model.layers[2] = torch.nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
    elif edit == "one more layer":
        model.layers.append(torch.nn.Linear(1, 1))
    expected = plain_gradient(model, x) * (2 if edit == "subclass" else 1)
    assert (helpers.energy_gradient(model, x)(x) - expected).norm() < 0.02 * expected.norm()


def test_without_a_compiler_cuda_goes_on_plainly(monkeypatch, generator, capsys):
    def broken(*_, **__):
        raise RuntimeError("no Triton")

    monkeypatch.setattr(torch, "compile", lambda function, **_: broken)
    fast.gradient_on.cache_clear()
    model, x = helpers.EnergyNetwork(8), torch.rand(4, 1, 28, 28, generator=generator)
    weights, gradient = fast.weights_of(model.layers, torch.float32), fast.gradient_on("cuda")
    expected = fast.input_gradient(x, weights)
    assert all(torch.equal(gradient(x, weights), expected) for _ in range(2))
    assert capsys.readouterr().out.count("RuntimeError") == 1  # said once
    fast.gradient_on.cache_clear()


def test_average_of_weights_can_be_sampled(generator):
    ema = helpers.ema_of(helpers.EnergyNetwork(8), 0.9)
    assert torch.equal(run_sampler(ema.module, torch.Generator().manual_seed(1)),
                       helpers.langevin_dynamics(ema, torch.full((3, 1, 28, 28), 0.5), 3,
                                                 generator=torch.Generator().manual_seed(1)))  # fmt: skip


def test_buffer_redraws_a_binomial_share(generator):
    buffer = helpers.ReplayBuffer(2000, redraw=0.05, chains=torch.zeros(2000, 1, 28, 28), generator=generator)
    redrawn = sum(int((buffer.sample(500).flatten(1).sum(1) > 0).sum()) for _ in range(40))
    n = 40 * 500
    assert abs(redrawn - 0.05 * n) < 5 * math.sqrt(n * 0.05 * 0.95)
    assert buffer.chains.sum() == 0  # nothing is stored before write_back


def test_buffer_with_a_pair_of_rates_holds_chains_of_every_age(generator):
    """A slot re-drawn with probability r holds a chain that ran 1/r times on average, with variance (1 - r)/r^2."""
    buffer = helpers.ReplayBuffer(600, redraw=(0.5, 0.05), generator=generator)
    for _ in range(300):  # the slowest slot is re-drawn 15 times
        buffer.write_back(buffer.sample(600) + 1)
    age = buffer.chains.amin((1, 2, 3)).floor().double()  # noise lies in [0, 1)
    rate = 0.5 * 0.1 ** torch.linspace(0, 1, 600).double()
    for part in (slice(0, 200), slice(200, 400), slice(400, 600)):
        r = rate[part]
        error = ((1 - r) / r**2).sum().sqrt() / len(r)
        assert abs(age[part].mean() - (1 / r).mean()) < 4 * error
    assert helpers.ReplayBuffer(3, redraw=0.05).redraw.eq(0.05).all()


@pytest.mark.parametrize("redraw", [-0.1, 1.5, (0.01, 0.1), (0.1, 0.0)])
def test_buffer_refuses_what_is_no_probability(redraw):
    with pytest.raises(ValueError, match="redraw is a probability"):
        helpers.ReplayBuffer(4, redraw=redraw)


def test_buffer_writes_back_to_the_slots_it_drew(generator):
    buffer = helpers.ReplayBuffer(50, redraw=0.0, generator=generator)
    before = buffer.chains.clone()
    start = buffer.sample(20)
    assert buffer.slots.unique().numel() == 20 and torch.equal(start, before[buffer.slots])
    new = torch.rand(20, 1, 28, 28, generator=generator)
    buffer.write_back(new)
    rest = torch.ones(50, dtype=torch.bool)
    rest[buffer.slots] = False
    assert torch.equal(buffer.chains[buffer.slots], new) and torch.equal(buffer.chains[rest], before[rest])
    assert torch.equal(buffer.sample(50).sum((1, 2, 3)).sort().values, buffer.chains.sum((1, 2, 3)).sort().values)


def test_buffer_takes_committed_bytes_and_refuses_what_does_not_fit(generator):
    buffer = helpers.ReplayBuffer(chains=torch.full((4, 1, 28, 28), 255, dtype=torch.uint8))
    assert len(buffer) == 4 and buffer.chains.max() == 1
    with pytest.raises(ValueError, match="5 distinct chains from a buffer of 4"):
        buffer.sample(5)
    with pytest.raises(ValueError, match="last sample"):
        buffer.write_back(torch.rand(2, 1, 28, 28))
    with pytest.raises(ValueError, match=r"\[B, 1, 28, 28\]"):
        helpers.ReplayBuffer(chains=torch.rand(4, 28, 28))


@pytest.mark.parametrize("labels", [[10], [-1], [0.5], [[1]], [True]])
def test_labels_that_are_no_digits_are_refused(labels):
    with pytest.raises(ValueError, match="labels must"):
        helpers.annealed_langevin_dynamics(mixture_score, torch.tensor(labels), [1.0])


def test_number_of_samples_must_be_known_and_agree():
    with pytest.raises(ValueError, match="2 labels were given for 3 images"):
        helpers.annealed_langevin_dynamics(mixture_score, [1, 2], [1.0], start=torch.zeros(3, 1))
    with pytest.raises(ValueError, match="2 labels were given for 4 images"):
        helpers.annealed_langevin_dynamics(mixture_score, [1, 2], [1.0], n=4)
    with pytest.raises(ValueError, match="say how many"):
        helpers.annealed_langevin_dynamics(mixture_score, None, [1.0])


@pytest.mark.parametrize(("sigmas", "message"), [([0.1, 1.0], "descend"), ([1.0, 1.0], "descend"), ([1.0, 0.0], "positive"),
                                                 ([1.0, -1.0], "positive"), ([], "positive"), ([[1.0]], "1-D"),
                                                 ([math.nan], "finite")])  # fmt: skip
def test_sigmas_must_be_positive_and_descend(sigmas, message):
    with pytest.raises(ValueError, match=message):
        helpers.annealed_langevin_dynamics(mixture_score, None, sigmas, n=1)


def test_a_model_on_no_device_is_a_plain_function():
    class Energy(nn.Module):
        def forward(self, x):
            return gaussian_energy(x)

    x = helpers.langevin_dynamics(Energy(), torch.ones(2, 3), 1, STEP, noise=0.0, clip=None, bounds=None)
    assert torch.allclose(x, torch.full((2, 3), 0.5))


def test_posterior_samples_of_a_gaussian_have_its_posterior_and_twice_tweedies_error(generator):
    """Prior N(m, tau^2), y = x + sigma n: the posterior is Gaussian, and the sampler's own moments follow by recursion."""
    m, tau, sigma, levels = 0.3, 0.4, 0.5, 100
    shape = (200, *helpers.IMAGE_SHAPE)
    clean = m + tau * torch.randn(shape, generator=generator)
    noisy = clean + sigma * torch.randn(shape, generator=generator)
    samples = helpers.posterior_sampling(
        lambda x, s, labels: -(x - m) / (tau**2 + s**2), noisy, sigma, levels=levels, generator=generator)  # fmt: skip

    weight, variance = 1.0, 0.0  # x - m = weight (y - m) + noise of this variance
    s = helpers.geometric_sigmas(sigma, 0.01, levels).double()
    for i, j in itertools.pairwise(s):
        shrink = 1 - (i**2 - j**2) / (tau**2 + i**2)
        weight, variance = weight * shrink, variance * shrink**2 + (i**2 - j**2) * j / i
    shrink = 1 - s[-1] ** 2 / (tau**2 + s[-1] ** 2)
    weight, variance = float(weight * shrink), float(variance * shrink**2)
    exact_weight = tau**2 / (tau**2 + sigma**2)
    exact_variance = exact_weight * sigma**2
    assert weight == pytest.approx(exact_weight, rel=0.01) and variance == pytest.approx(exact_variance, rel=0.02)

    n, residual = samples.numel(), samples - m - weight * (noisy - m)
    assert abs(residual.mean()) < 5 * (variance / n) ** 0.5
    assert abs(residual.var() - variance) < 5 * variance * (2 / n) ** 0.5
    tweedie = (m + exact_weight * (noisy - m) - clean).square().mean()
    bias = (weight - exact_weight) ** 2 * (tau**2 + sigma**2)
    expected = (exact_variance + variance + bias) / exact_variance
    assert (samples - clean).square().mean() / tweedie == pytest.approx(expected, rel=0.02)
    assert expected == pytest.approx(2, rel=0.01)


def test_posterior_sampling_checks_what_it_is_given(generator):
    model = helpers.ScoreNetwork(width=8)
    y = torch.rand(2, *helpers.IMAGE_SHAPE, generator=generator)
    with pytest.raises(ValueError, match="above last"):
        helpers.posterior_sampling(model, y, 0.01)
    with pytest.raises(ValueError, match="images must be"):
        helpers.posterior_sampling(model, y[0], 0.5)
    with pytest.raises(ValueError, match="labels"):
        helpers.posterior_sampling(model, y, 0.5, [1, 12])
    assert not helpers.posterior_sampling(model, y, 0.5, [1, 2], levels=3, generator=generator).requires_grad
