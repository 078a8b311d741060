"""The few-step samplers on a mixture of two Gaussians, whose score is known exactly."""

import itertools
import math

import pytest
import torch

import helpers
import samplers

SHARES, MEANS, SPREAD = torch.tensor([0.7, 0.3], dtype=torch.float64), torch.tensor([-1.0, 2.0], dtype=torch.float64), 0.3
SAMPLERS = {"heun": samplers.heun, "dpm_solver": samplers.dpm_solver}


def mixture_score(x, sigma, labels=None):
    """Of a one-dimensional mixture, x [B, 1]."""
    variance = SPREAD**2 + sigma.double() ** 2
    log_p = SHARES.log() - (x - MEANS).square() / (2 * variance)
    return (log_p.softmax(1) * (MEANS - x)).sum(1, keepdim=True) / variance


@pytest.mark.parametrize("name", SAMPLERS)
def test_recovers_a_mixture(name, generator):
    n = 20_000
    start = 20 * torch.randn(n, 1, dtype=torch.float64, generator=generator)
    x = SAMPLERS[name](mixture_score, None, samplers.karras_sigmas(20.0, 0.005, 60), start=start)[:, 0]
    first = x < 0.5
    assert abs(first.double().mean() - 0.7) < 5 * math.sqrt(0.7 * 0.3 / n) + 0.01  # the start's mean is off by 1/20
    for part, mean in ((x[first], -1.0), (x[~first], 2.0)):
        assert abs(part.mean() - mean) < 5 * SPREAD / math.sqrt(len(part)) + 0.005
        assert abs(part.std() / SPREAD - 1) < 5 / math.sqrt(2 * len(part)) + 0.02


@pytest.mark.parametrize("name", SAMPLERS)
def test_converges_in_second_order(name, generator):
    """For one Gaussian the ODE keeps x / sqrt(tau^2 + sigma^2) as it is; halving the steps quarters the error."""
    tau, start = 0.5, torch.tensor([[1.0], [-2.0]], dtype=torch.float64)

    def score(x, sigma, labels=None):
        return -x / (tau**2 + sigma.double() ** 2)

    errors = []
    for levels in (33, 65, 129):
        sigmas = samplers.karras_sigmas(2.0, 0.2, levels)
        last = sigmas[-1].double()
        exact_at_last = start * torch.sqrt((tau**2 + last**2) / (tau**2 + sigmas[0].double() ** 2))
        exact = exact_at_last + last**2 * score(exact_at_last, last)  # the last step is Tweedie's in every case
        errors.append((SAMPLERS[name](score, None, sigmas, start=start) - exact).abs().max().item())
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(1.8 < order < 2.3 for order in orders), (errors, orders)


@pytest.mark.parametrize(("name", "evaluations"), [("heun", 2 * 7 - 1), ("dpm_solver", 7)])
def test_number_of_evaluations_and_the_network(name, evaluations, generator):
    calls = []

    def counting(x, sigma, labels):
        calls.append(len(x))
        return -x / (1 + sigma**2)

    labels = torch.arange(10)
    x = SAMPLERS[name](counting, labels, samplers.karras_sigmas(levels=7), guidance=1, generator=generator)
    assert x.shape == (10, 1, 28, 28) and calls == [10] * evaluations
    calls.clear()
    SAMPLERS[name](counting, labels, samplers.karras_sigmas(levels=7), generator=generator)
    assert calls == [20] * evaluations  # guidance: both scores in one call


@pytest.mark.parametrize("name", SAMPLERS)
def test_refuses_what_it_cannot_use(name):
    model = helpers.ScoreNetwork(width=8)
    with pytest.raises(ValueError, match="descend"):
        SAMPLERS[name](model, torch.tensor([1]), [0.1, 1.0])
    with pytest.raises(ValueError, match="0..9"):
        SAMPLERS[name](model, torch.tensor([10]), [1.0, 0.1])
    with pytest.raises(ValueError, match="say how many"):
        SAMPLERS[name](model, None, [1.0, 0.1])
    with pytest.raises(FloatingPointError, match="diverged"):
        SAMPLERS[name](lambda x, sigma, labels: x / 0, None, [1.0, 0.1], n=1)
