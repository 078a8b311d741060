"""Guidance, rules for noise levels against published numbers, samplers on scores that are known.

Bounds are five standard errors unless they say otherwise.
"""

import functools
import itertools
import math

import pytest
import torch

import helpers
from dgm import samplers

SOLVERS = {"heun": samplers.heun, "dpm_solver": functools.partial(samplers.dpm_solver, order=2)}
NOISY = {
    f"dpm_solver of order {order} with noise": functools.partial(
        samplers.dpm_solver, order=order, eta=1.0
    )
    for order in (2, 3)
}
SAMPLERS = {
    **SOLVERS,
    **NOISY,
    "heun with churn": functools.partial(samplers.heun, churn=40.0),
    "consistent": samplers.consistent_annealed,
    "predictor_corrector": samplers.predictor_corrector,
}
LEVELS = {"consistent": 400, "predictor_corrector": 400}  # first order: they take more levels

# ---------------------------------------------------------------------------------- guidance


def label_score(x, sigma, labels):
    """Return the label itself as the score, 1 where there is none."""
    value = torch.where(labels == helpers.ScoreNetwork.NO_LABEL, 1.0, labels.float())
    return value[:, None].expand_as(x)


@pytest.mark.parametrize(("weight", "expected"), [(1, [4.0, 7.0]), (2, [7.0, 13.0])])
def test_guidance_extrapolates_from_no_label_to_the_label(weight, expected):
    guide = samplers.guided(label_score, weight)
    found = guide(torch.zeros(2, 3), 1.0, torch.tensor([4, 7]))
    assert torch.equal(found, torch.tensor(expected)[:, None].expand(2, 3))


def test_without_labels_there_is_nothing_to_guide():
    x = torch.zeros(2, 3)
    assert torch.equal(samplers.guided(lambda x, *_: x, 2)(x, 1.0, None), x)


def test_guidance_of_many_images_at_once_is_that_of_few():
    def score(x, sigma, labels):
        return -x / (1 + sigma**2) + labels.view(-1, 1)

    x, labels = torch.linspace(-1, 1, 600).view(600, 1), torch.arange(600) % 10
    guide = samplers.guided(score, 1.4)
    halves = zip(x.split(300), labels.split(300), strict=True)
    few = torch.cat([guide(x_half, 2.0, labels_half) for x_half, labels_half in halves])
    assert torch.allclose(guide(x, 2.0, labels), few)


def gaussian_score(variance):
    def score(x, sigma, labels=None):
        return -x / (variance + torch.as_tensor(sigma) ** 2)

    return score


@pytest.mark.parametrize(("weight", "expected"), [(0.0, -0.2), (1.0, -0.5), (2.0, -0.8)])
def test_autoguidance_extrapolates_from_the_guide_to_the_network(weight, expected):
    score = samplers.Autoguidance(gaussian_score(1.0), gaussian_score(4.0), weight)
    assert score(torch.ones(1, 1), 1.0).item() == pytest.approx(expected)


def test_autoguided_samples_of_two_gaussians_are_those_of_the_closed_form():
    """The ODE keeps x (1 + sigma^2)^(-w/2) (4 + sigma^2)^((w-1)/2) for variances 1 and 4."""
    w, first, last = 2.0, 10.0, 0.01
    score = samplers.Autoguidance(gaussian_score(1.0), gaussian_score(4.0), w)
    start = torch.tensor([[3.0], [-20.0]], dtype=torch.float64)

    def width(sigma):
        return (1 + sigma**2) ** (w / 2) * (4 + sigma**2) ** ((1 - w) / 2)

    sigmas = samplers.karras_sigmas(first, last, 200)
    found = samplers.heun(score, None, sigmas, start=start)
    assert torch.allclose(found, start * width(last) / width(first), rtol=2e-3)


@pytest.mark.parametrize("guide", [None, 2.0, lambda x: x])
def test_a_guide_that_is_no_score_is_named(guide):
    with pytest.raises(TypeError, match="guide must"):
        samplers.Autoguidance(gaussian_score(1.0), guide)


def test_a_guide_with_scores_of_another_shape_is_refused():
    def mean_only(x, sigma, labels):
        return -x.mean(1, keepdim=True)

    score = samplers.Autoguidance(gaussian_score(1.0), mean_only)
    with pytest.raises(ValueError, match="the guide's score must have the shape of x"):
        samplers.dpm_solver(score, None, [1.0, 0.1], start=torch.ones(2, 3))


def test_autoguidance_leaves_the_networks_as_they_were():
    networks = [helpers.ScoreNetwork(width=8).train() for _ in range(2)]
    samplers.dpm_solver(samplers.Autoguidance(*networks), None, [1.0, 0.1], n=1)
    parameters = [p for network in networks for p in network.parameters()]
    assert all(network.training for network in networks)
    assert all(p.requires_grad for p in parameters)


# ------------------------------------------------------------------------------ noise levels


@pytest.mark.parametrize(
    ("first", "levels", "steps", "expected", "tolerance"),
    [
        (15.0, 94, 5, 1.111e-5, 3e-3),
        (10.0, 89, 3, 1.26e-5, 0.015),
        (50.0, 232, 5, 6.2e-6, 5e-3),
    ],
)
def test_step_size_is_that_of_song_and_ermon_2020(first, levels, steps, expected, tolerance):
    sigmas = samplers.geometric_sigmas(first, 0.01, levels)
    assert samplers.annealed_step(sigmas, steps) == pytest.approx(expected, rel=tolerance)


@pytest.fixture(scope="module")
def geometric():
    return samplers.geometric_sigmas(10.0, 0.01, 89)


def test_geometric_levels_start_at_the_first(geometric):
    assert geometric[0].item() == pytest.approx(10)


def test_geometric_levels_end_at_the_last(geometric):
    assert geometric[-1].item() == pytest.approx(0.01)


def test_geometric_levels_descend_by_one_ratio(geometric):
    ratios = geometric[:-1] / geometric[1:]
    assert torch.allclose(ratios, ratios[:1].expand(88), rtol=1e-4)


def test_geometric_levels_descend_by_the_known_ratio(geometric):
    assert (geometric[0] / geometric[1]).item() == pytest.approx(1.0817, abs=1e-3)


def test_karras_levels_start_and_end_where_asked():
    sigmas = samplers.karras_sigmas(20.0, 0.005, 12)
    assert [sigmas[0].item(), sigmas[-1].item()] == pytest.approx([20.0, 0.005])


def test_karras_levels_descend_evenly_in_their_root():
    roots = samplers.karras_sigmas(20.0, 0.005, 12).double() ** (1 / 7)
    steps = roots[:-1] - roots[1:]
    assert torch.allclose(steps, steps.mean().expand(11), rtol=1e-4)


def test_ratio_of_levels_is_that_of_song_and_ermon_2020():
    assert samplers.level_ratio(784) == pytest.approx(1.0820, abs=5e-5)


def test_levels_of_this_ratio_overlap_by_half():
    assert samplers.level_overlap(samplers.level_ratio(784), 784) == pytest.approx(0.5)


@pytest.mark.parametrize(("first", "levels"), [(10.0, 88.7), (15.0, 93.8), (20.0, 97.5)])
def test_number_of_levels_is_that_of_song_and_ermon_2020(first, levels):
    number = samplers.number_of_levels(first, 0.01, samplers.level_ratio(784))
    assert number == pytest.approx(levels, abs=0.06)


def test_published_levels_of_cifar_overlap_by_half():
    published = 5_000 ** (1 / 231)  # 232 levels from 50 to 0.01
    assert samplers.level_overlap(published, 3 * 32 * 32) == pytest.approx(0.5, abs=0.07)


def test_largest_distance_does_not_depend_on_the_blocks(generator):
    images = torch.rand(50, 1, 28, 28, generator=generator)
    expected = max((a - b).norm().item() for a, b in itertools.combinations(images, 2))
    assert samplers.largest_distance(images, 7) == pytest.approx(expected, rel=1e-5)


def test_largest_distance_of_unit_vectors_is_the_root_of_two():
    images = torch.eye(3).view(3, 1, 1, 3)
    assert samplers.largest_distance(images) == pytest.approx(math.sqrt(2))


# ---------------------------------------------------------------------------- every sampler


@pytest.fixture(scope="module", params=SAMPLERS)
def samples(request, mixture):
    """20,000 samples of the mixture by each sampler."""
    name, generator = request.param, torch.Generator().manual_seed(0)
    start = 20 * torch.randn(20_000, 1, dtype=torch.float64, generator=generator)
    sigmas = samplers.karras_sigmas(20.0, 0.005, LEVELS.get(name, 60))
    noise = {} if name in SOLVERS else {"generator": generator}
    return SAMPLERS[name](mixture.score, None, sigmas, start=start, **noise)[:, 0]


@pytest.fixture(scope="module")
def components(samples):
    return samples[samples < 0.5], samples[samples >= 0.5]


def test_recovers_the_shares_of_a_mixture(samples, components):
    n, share = len(samples), len(components[0]) / len(samples)
    start = 0.01  # the start's mean is off by 1/20
    assert abs(share - 0.7) < 5 * math.sqrt(0.7 * 0.3 / n) + start


@pytest.mark.parametrize("part", [0, 1])
def test_recovers_the_means_of_a_mixture(part, components, mixture):
    found, mean = components[part], mixture.means[part]
    assert abs(found.mean() - mean) < 5 * mixture.spread / math.sqrt(len(found)) + 0.005


@pytest.mark.parametrize("part", [0, 1])
def test_recovers_the_widths_of_a_mixture(part, components, mixture):
    found = components[part]
    assert abs(found.std() / mixture.spread - 1) < 5 / math.sqrt(2 * len(found)) + 0.02


@pytest.fixture
def counting():
    """(score, calls): a score that notes how many images each call has."""
    calls = []

    def score(x, sigma, labels):
        calls.append(len(x))
        return -x / (1 + sigma**2)

    return score, calls


EVALUATIONS = {
    "heun": 13,
    "dpm_solver": 7,
    **dict.fromkeys(NOISY, 7),
    "heun with churn": 13,
    "consistent": 7,
    "predictor_corrector": 13,
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_have_the_shape_of_images(name, counting, generator):
    score, _ = counting
    sigmas = samplers.karras_sigmas(levels=7)
    x = SAMPLERS[name](score, torch.arange(10), sigmas, guidance=1, generator=generator)
    assert x.shape == (10, 1, 28, 28)


@pytest.mark.parametrize(("name", "evaluations"), EVALUATIONS.items())
def test_seven_levels_take_as_many_evaluations_as_said(name, evaluations, counting, generator):
    score, calls = counting
    sigmas = samplers.karras_sigmas(levels=7)
    SAMPLERS[name](score, torch.arange(10), sigmas, guidance=1, generator=generator)
    assert calls == [10] * evaluations


@pytest.mark.parametrize(("name", "evaluations"), EVALUATIONS.items())
def test_guidance_takes_both_scores_in_one_call(name, evaluations, counting, generator):
    score, calls = counting
    sigmas = samplers.karras_sigmas(levels=7)
    SAMPLERS[name](score, torch.arange(10), sigmas, generator=generator)
    assert calls == [20] * evaluations


@pytest.mark.parametrize("name", SAMPLERS)
def test_levels_that_ascend_are_refused(name):
    with pytest.raises(ValueError, match="descend"):
        SAMPLERS[name](helpers.ScoreNetwork(width=8), torch.tensor([1]), [0.1, 1.0])


@pytest.mark.parametrize("name", SAMPLERS)
def test_labels_above_nine_are_refused(name):
    with pytest.raises(ValueError, match=r"0\.\.9"):
        SAMPLERS[name](helpers.ScoreNetwork(width=8), torch.tensor([11]), [1.0, 0.1])


@pytest.mark.parametrize("name", SAMPLERS)
def test_without_labels_the_number_must_be_said(name):
    with pytest.raises(ValueError, match="n must be given"):
        SAMPLERS[name](helpers.ScoreNetwork(width=8), None, [1.0, 0.1])


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_that_diverge_say_so(name):
    with pytest.raises(FloatingPointError, match="diverged"):
        SAMPLERS[name](lambda x, sigma, labels: x / 0, None, [1.0, 0.1], n=1)


# ------------------------------------------------------------------------- what one promises


@pytest.mark.parametrize("name", SOLVERS)
def test_converges_in_second_order(name):
    """For one Gaussian the ODE keeps x / sqrt(tau^2 + sigma^2); half the steps, 4x the error."""
    tau, start = 0.5, torch.tensor([[1.0], [-2.0]], dtype=torch.float64)

    def score(x, sigma, labels=None):
        return -x / (tau**2 + sigma.double() ** 2)

    errors = []
    for levels in (33, 65, 129):
        sigmas = samplers.karras_sigmas(2.0, 0.2, levels)
        first, last = sigmas[0].double(), sigmas[-1].double()
        at_last = start * torch.sqrt((tau**2 + last**2) / (tau**2 + first**2))
        exact = at_last + last**2 * score(at_last, last)  # the last step is Tweedie's
        found = SOLVERS[name](score, None, sigmas, start=start)
        errors.append((found - exact).abs().max().item())
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(1.8 < order < 2.3 for order in orders), (errors, orders)


SNR = 0.16
EPSILON = 2 * SNR**2  # of a score as long as the noise


@pytest.fixture(scope="module")
def correction():
    """What the corrector adds to 500 images, where |score| = 28, as |z| is on average."""
    seen = []

    def score(x, sigma, labels):
        seen.append(x.clone())
        return torch.ones_like(x)

    generator = torch.Generator().manual_seed(0)
    samplers.predictor_corrector(
        score, None, torch.tensor([2.0, 1.0]), n=500, snr=SNR, guidance=1, generator=generator
    )
    _, before, after = seen  # scores of the predictor, the corrector, the last denoising
    return after - before


def test_the_corrector_moves_by_the_step_asked_for(correction):
    error = math.sqrt(2 * EPSILON / correction.numel())
    assert correction.mean().item() == pytest.approx(EPSILON, abs=5 * error)


def test_the_corrector_spreads_by_the_step_asked_for(correction):
    error = 5 * math.sqrt(2 / correction.numel())
    length = 2e-3  # |z| is 28 but for a thousandth
    assert correction.var().item() == pytest.approx(2 * EPSILON, rel=error + length)


@pytest.mark.parametrize("eta", [1.0, 1.5, 3.0])
def test_consistent_annealed_sampling_is_consistent(eta, generator):
    """Towards a single point each level has exactly its noise, whatever eta."""
    sigmas, n, seen = samplers.geometric_sigmas(2.0, 0.5, 6), 50_000, []

    def score(x, sigma, labels=None):
        seen.append(x)
        return -x / sigma**2

    start = 2 * torch.randn(n, 1, generator=generator)
    samplers.consistent_annealed(score, None, sigmas, eta=eta, start=start, generator=generator)
    widths = torch.stack([x.std() for x in seen])
    assert ((widths / sigmas - 1).abs() < 5 / math.sqrt(2 * n)).all()


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("eta", [0.3, 1.0, 2.0])
def test_dpm_solver_adds_the_noise_of_each_level(order, eta, generator):
    """Towards a single point each level has exactly its noise, whatever order and eta."""
    sigmas, n, seen = samplers.geometric_sigmas(2.0, 0.5, 6), 50_000, []

    def score(x, sigma, labels=None):
        seen.append(x)
        return -x / sigma**2

    start = 2 * torch.randn(n, 1, generator=generator)
    options = {"order": order, "eta": eta, "start": start, "generator": generator}
    samplers.dpm_solver(score, None, sigmas, **options)
    widths = torch.stack([x.std() for x in seen])
    assert ((widths / sigmas - 1).abs() < 5 / math.sqrt(2 * n)).all()


@pytest.mark.parametrize(("which", "expected"), [(0, 3.0), (1, 2.0)])
def test_derivatives_of_a_parabola_are_exact(which, expected):
    """D' and D'' / 2 of D = 2 t^2 + 3 t at t = 0, from unequal steps, in units of h = 1."""
    t = torch.tensor([0.0, -0.4, -1.1], dtype=torch.float64)
    found = samplers.derivatives(2 * t**2 + 3 * t, 1.0, 0.4, 0.7)
    assert float(found[which]) == pytest.approx(expected)


def test_order_two_without_noise_is_algorithm_2(mixture):
    """Lu et al. 2022 extrapolate D by r / 2 (D - D before), r the ratio of the two steps."""
    sigmas, x, before = (
        samplers.karras_sigmas(levels=6),
        torch.linspace(-9.0, 9.0, 7)[:, None],
        None,
    )
    found = samplers.dpm_solver(mixture.score, None, sigmas, order=2, start=x)
    for i in range(5):
        clean = x + sigmas[i] ** 2 * mixture.score(x, sigmas[i])
        ahead = clean
        if before is not None:
            r = torch.log(sigmas[i] / sigmas[i + 1]) / torch.log(sigmas[i - 1] / sigmas[i])
            ahead = clean + r / 2 * (clean - before)
        shrink, before = sigmas[i + 1] / sigmas[i], clean
        x = shrink * x + (1 - shrink) * ahead
    expected = x + sigmas[-1] ** 2 * mixture.score(x, sigmas[-1])
    assert torch.allclose(found, expected, atol=1e-5)


def test_dpm_solver_without_noise_draws_no_noise():
    def score(x, sigma, labels=None):
        return -x / (1 + sigma**2)

    state = torch.get_rng_state()
    samplers.dpm_solver(score, None, [2.0, 1.0, 0.5], start=torch.ones(3, 1))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("order", [0, 4, 2.0, None, True])
def test_other_orders_are_refused(order):
    with pytest.raises((TypeError, ValueError), match="order must be"):
        samplers.dpm_solver(label_score, None, [2.0, 0.5], start=torch.zeros(3, 1), order=order)


def test_with_eta_one_nothing_random_is_added():
    def score(x, sigma, labels=None):
        return -x / (1 + sigma**2)

    def sample(seed):
        sigmas, start = samplers.geometric_sigmas(2.0, 0.5, 6), torch.ones(3, 1)
        generator = torch.Generator().manual_seed(seed)
        return samplers.consistent_annealed(
            score, None, sigmas, eta=1.0, start=start, generator=generator
        )

    assert torch.allclose(sample(1), sample(2), atol=0.01)  # the root of float32's rounding


def test_eta_below_one_is_refused():
    def score(x, sigma, labels=None):
        return -x / sigma**2

    with pytest.raises(ValueError, match="eta"):
        samplers.consistent_annealed(score, None, [2.0, 0.5], eta=0.9, start=torch.zeros(3, 1))
