"""Any input at all: a public function returns what it promises, or says itself what is wrong.

Hypothesis draws shapes, dtypes, ranges and numbers, most of them wrong. An error is allowed if it
is a ValueError or a TypeError, or a FloatingPointError of a chain that diverged, and if it was
raised in helpers.py or dgm/: not in PyTorch, half-way.
"""

import math
import traceback
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import helpers
from dgm import inverse, likelihood, metrics, plots, samplers

SOURCES = Path(helpers.__file__).resolve().parent
EXAMPLES = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
ENERGY, SCORE = helpers.EnergyNetwork(4), helpers.ScoreNetwork(8, 16)
CLASSIFIER = metrics.DigitClassifier().eval()
FLOATS = (torch.float32, torch.float64, torch.float16)
DTYPES = (*[torch.float32] * 4, *FLOATS, torch.uint8, torch.bool, torch.int64)


def quadratic_energy(x):
    return x.square().reshape(len(x), -1).sum(1)


def gaussian_score(x, sigma, labels):
    s = torch.as_tensor(sigma).to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))
    return -x / (1 + s**2)


# --------------------------------------------------------------------------- what is allowed


def raised_by_us(error):
    last = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    return last == SOURCES / "helpers.py" or last.parent == SOURCES / "dgm"


def attempt(call, *args, **kwargs):
    """Return what the call returns, None where it says itself what is wrong."""
    torch.manual_seed(0)
    try:
        return call(*args, **kwargs)
    except (ValueError, TypeError, FloatingPointError) as error:
        if not raised_by_us(error):
            raise
        assert isinstance(error, FloatingPointError) or " must " in str(error)
        return None


def check_like(result, shape, dtype=torch.float32):
    """Assert that a result, if there is one, is finite and of this shape and dtype."""
    if result is not None:
        assert (tuple(result.shape), result.dtype) == (tuple(shape), dtype)
        assert torch.isfinite(result).all()


# ------------------------------------------------------------------------------- what is fed


def tensor(shape, dtype, scale, special, seed):
    x = scale * torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    if special is not None and x.numel():
        x.view(-1)[0] = special
    return x.to(dtype)


def tensors(*shapes):
    return st.builds(
        tensor,
        st.sampled_from(shapes),
        st.sampled_from(DTYPES),
        st.sampled_from([1, 1, 1, 255, -1]),
        st.sampled_from([None, None, None, None, math.nan, math.inf, -math.inf]),
        st.integers(0, 3),
    )


def right(*shape):
    return st.builds(lambda seed: tensor(shape, torch.float32, 1, None, seed), st.integers(0, 3))


def usually(good, *wild):
    """Draw from `good` three times out of four, so that one wrong thing meets right ones."""
    wild = st.one_of(*wild)
    return st.sampled_from([good, good, good, wild]).flatmap(lambda strategy: strategy)


def values(*choices):
    return st.sampled_from(choices)


GOOD = (2, 1, 28, 28)
SHAPES = (GOOD, (5, 1, 28, 28), (2, 28, 28), (2, 3, 28, 28), (2, 784), (3,), (), (0, 1, 28, 28))
NOT_TENSORS = values(None, 3, "x", [1.0, 2.0], torch.zeros(GOOD).numpy())
IMAGES = usually(right(*GOOD), tensors(*SHAPES), NOT_TENSORS)
NUMBERS = usually(
    values(0.5, 1.0, 1, 2.5, torch.tensor(0.5)),
    values(0, None, math.nan, math.inf, -math.inf, 1e30, -1, True, "1", [1], 1j, 10**400),
    st.just(torch.ones(2)),
)
COUNTS = usually(
    values(1, 2, torch.tensor(2)),
    values(0, -1, 2.0, None, math.nan, True, "2", torch.ones(2)),
)
LABELS = usually(
    values(None, [3, 7], torch.tensor([1, 2]), torch.tensor([9, 10])),
    values([], 3, "3", [[1, 2]], [-1, 2], [3, 11], [1.5, 2.0], [None, 1], [1, "2"], [10**400, 1]),
    values(torch.tensor([0, 11]), torch.tensor([1, 2, 3]), torch.tensor([[1], [2]])),
    tensors((2,), (3,), (2, 1), ()),
)
SIGMAS = usually(
    values([2.0, 1.0], torch.tensor([2.0, 1.0], dtype=torch.float64)),
    values([1.0, 2.0], [1.0, 0.0], [math.nan, 1.0], [math.inf, 1.0], [], 1.0, "1", None, [1.0]),
    values([[2.0, 1.0]], [1.0, 1.0], [1e30, 1e-30], [None, 1.0], ["2", "1"], [10**400, 1]),
    tensors((2,), (3,), (2, 1), ()),
)
MODELS = values(SCORE, gaussian_score)


# -------------------------------------------------------------------- Langevin dynamics, buffer

BOUNDS = usually(
    values((0.0, 1.0), None),
    values((1.0, 0.0), (0.0, math.nan), (0.0,), 3, "01", ("0", "1"), (None, 1.0)),
)


@EXAMPLES
@given(
    st.sampled_from([ENERGY, quadratic_energy]),
    IMAGES,
    usually(values(0, 1, 2), values(-1, 1.5, None, "2", True)),
    st.fixed_dictionaries(
        {}, optional={"step_size": NUMBERS, "noise": NUMBERS, "clip": NUMBERS, "bounds": BOUNDS}
    ),
)
def test_langevin_dynamics(model, start, steps, options):
    result = attempt(helpers.langevin_dynamics, model, start, steps, **options)
    if result is not None:
        check_like(result, start.shape, start.dtype)
        assert start.is_floating_point()


@EXAMPLES
@given(st.one_of(st.none(), IMAGES), COUNTS, st.one_of(NUMBERS, st.tuples(NUMBERS, NUMBERS)))
def test_a_replay_buffer_is_made(chains, size, redraw):
    buffer = attempt(helpers.ReplayBuffer, size, redraw, chains)
    if buffer is not None:
        check_like(buffer.chains, (size if chains is None else len(chains), 1, 28, 28))
        assert ((buffer.redraw >= 0) & (buffer.redraw <= 1)).all()


@EXAMPLES
@given(COUNTS)
def test_a_replay_buffer_is_sampled(batch_size):
    buffer = helpers.ReplayBuffer(2)
    result = attempt(buffer.sample, batch_size)
    check_like(result, (batch_size, 1, 28, 28))


@EXAMPLES
@given(IMAGES)
def test_a_replay_buffer_is_written(samples):
    buffer = helpers.ReplayBuffer(4)
    buffer.sample(2)
    attempt(buffer.write_back, samples)
    assert (tuple(buffer.chains.shape), buffer.chains.dtype) == ((4, 1, 28, 28), torch.float32)


# --------------------------------------------------------------------------- score samplers

SAMPLERS = {
    helpers.annealed_langevin_dynamics: {"steps": COUNTS, "epsilon": NUMBERS},
    samplers.heun: {"churn": NUMBERS},
    samplers.dpm_solver: {"order": COUNTS, "eta": NUMBERS},
    samplers.consistent_annealed: {"eta": NUMBERS},
    samplers.predictor_corrector: {"snr": NUMBERS},
}
ANYWHERE = {"n": COUNTS, "start": IMAGES, "guidance": NUMBERS}


@pytest.mark.parametrize("sampler", SAMPLERS)
@EXAMPLES
@given(st.data(), MODELS, LABELS, SIGMAS)
def test_a_sampler(sampler, data, model, labels, sigmas):
    optional = {**SAMPLERS[sampler], **ANYWHERE}
    options = data.draw(st.fixed_dictionaries({}, optional=optional))
    result = attempt(sampler, model, labels, sigmas, **options)
    if result is not None:
        start, n = options.get("start"), options.get("n")
        n = len(labels) if labels is not None else n
        like = torch.zeros(n, 1, 28, 28) if start is None else start
        check_like(result, like.shape, like.dtype)


@EXAMPLES
@given(
    MODELS,
    IMAGES,
    NUMBERS,
    LABELS,
    st.fixed_dictionaries(
        {"levels": usually(values(2), values(0, -1, 2.5, None))}, optional={"last": NUMBERS}
    ),
)
def test_posterior_sampling(model, noisy, sigma, labels, options):
    result = attempt(inverse.posterior_sampling, model, noisy, sigma, labels, **options)
    if result is not None:
        check_like(result, noisy.shape)


MASKS = usually(
    values(torch.ones(1, 28, 28, dtype=torch.bool), torch.zeros(GOOD, dtype=torch.bool)),
    tensors((28, 28), (28,), (3, 28, 28), (1, 2, 1, 28, 28), (), (2,)),
    NOT_TENSORS,
)


@pytest.mark.parametrize(
    ("method", "setting", "values"),
    [(inverse.inpaint, "spread", NUMBERS), (inverse.inpaint_by_replacement, "steps", COUNTS)],
)
@EXAMPLES
@given(st.data(), MODELS, LABELS, SIGMAS, IMAGES, MASKS)
def test_inpainting(method, setting, values, data, model, labels, sigmas, images, known):
    options = {setting: values, "guidance": NUMBERS}
    options = data.draw(st.fixed_dictionaries({}, optional=options))
    result = attempt(method, model, labels, sigmas, images, known, **options)
    if result is not None:
        check_like(result, images.shape, images.dtype)


@EXAMPLES
@given(MODELS, IMAGES, LABELS, SIGMAS, COUNTS)
def test_log_likelihood(model, x, labels, sigmas, probes):
    sigmas = [2.0, 1.0] if sigmas is None else sigmas
    result = attempt(likelihood.log_likelihood, model, x, labels, sigmas=sigmas, probes=probes)
    if result is not None:
        check_like(result, (len(x),), x.dtype)


@EXAMPLES
@given(IMAGES, st.one_of(NUMBERS, SIGMAS), LABELS)
def test_denoise(x, sigma, labels):
    with torch.no_grad():
        result = attempt(SCORE.denoise, x, sigma, labels)
    if result is not None and torch.isfinite(x).all():
        check_like(result, x.shape)


# ------------------------------------------------------------------------------------ losses


def check_loss(loss, *inputs):
    """Assert that a loss is one float, and finite where all that went in is finite."""
    assert loss.shape == () and loss.is_floating_point()
    if all(torch.isfinite(torch.as_tensor(x)).all() for x in inputs):
        assert torch.isfinite(loss)


@EXAMPLES
@given(st.sampled_from([ENERGY, quadratic_energy]), IMAGES, IMAGES, NUMBERS)
def test_contrastive_divergence_loss(model, data, samples, regularisation):
    arguments = model, data, samples, regularisation
    result = attempt(helpers.contrastive_divergence_loss, *arguments)
    if result is not None:
        check_loss(result[0], data, samples)


@EXAMPLES
@given(MODELS, IMAGES, st.one_of(NUMBERS, SIGMAS), LABELS, st.one_of(st.none(), IMAGES))
def test_denoising_score_matching_loss(model, x, sigma, labels, z):
    loss = helpers.denoising_score_matching_loss
    result = attempt(loss, model, x, sigma, labels, z=z)
    if result is not None and (torch.as_tensor(sigma) > 0.01).all():
        check_loss(result, x, sigma, 0.0 if z is None else z)


# ----------------------------------------------------------------------------------- metrics

FEATURES = usually(
    right(6, 3),
    tensors((6, 3), (6, 128), (6, 1), (2, 3), (1, 3), (3,), (), (0, 3)),
    values(None, 3, "x", [[1.0, 2.0], [2.0, 1.0]], [[1.0], [1.0, 2.0]]),
)
REAL = torch.rand(8, 128, generator=torch.Generator().manual_seed(0))


def check_numbers(*values):
    assert all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)


@EXAMPLES
@given(usually(right(5, 1, 28, 28), IMAGES), usually(st.just(REAL), FEATURES))
def test_evaluate_samples(images, real_features):
    result = attempt(metrics.evaluate_samples, CLASSIFIER, images, real_features)
    if result is not None:
        check_numbers(*result.values())


@EXAMPLES
@given(IMAGES, LABELS)
def test_accuracy(images, labels):
    result = attempt(metrics.accuracy, CLASSIFIER, images, labels)
    if result is not None:
        assert 0 <= result <= 1


@EXAMPLES
@given(FEATURES, FEATURES)
def test_frechet_distance(a, b):
    result = attempt(metrics.frechet_distance, a, b)
    if result is not None:
        check_numbers(result)


@EXAMPLES
@given(FEATURES, FEATURES, COUNTS)
def test_precision_recall(real, generated, k):
    result = attempt(metrics.precision_recall, real, generated, k)
    if result is not None:
        assert all(0 <= share <= 1 for share in result)


@EXAMPLES
@given(IMAGES, IMAGES)
def test_psnr(images, clean):
    result = attempt(metrics.psnr, images, clean)
    if result is not None:
        assert isinstance(result, float) and (result == math.inf) == torch.equal(images, clean)
        assert not math.isnan(result) and result > -math.inf


@EXAMPLES
@given(IMAGES, IMAGES)
def test_pixel_quality(images, clean):
    result = attempt(metrics.pixel_quality, images, clean)
    if result is not None:
        assert not any(math.isnan(value) for value in result.values())


@EXAMPLES
@given(IMAGES, IMAGES)
def test_nearest_neighbours(images, training_images):
    result = attempt(metrics.nearest_neighbours, images, training_images)
    if result is not None:
        distances, index = result
        check_like(distances, (len(images),))
        assert ((index >= 0) & (index < len(training_images))).all()


SCORES = usually(
    right(4),
    tensors((4,), (1,), (0,), (2, 2), ()),
    values([1.0, 2.0], None, "x", [None], [1.0, [2.0]]),
)


@EXAMPLES
@given(SCORES, SCORES)
def test_auroc(inside, outside):
    result = attempt(metrics.auroc, inside, outside)
    if result is not None:
        assert 0 <= result <= 1


# --------------------------------------------------------------------- noise levels, figures


@pytest.mark.parametrize(
    ("rule", "optional"),
    [(samplers.geometric_sigmas, {}), (samplers.karras_sigmas, {"rho": NUMBERS})],
)
@EXAMPLES
@given(st.data(), NUMBERS, NUMBERS, COUNTS)
def test_noise_levels(rule, optional, data, first, last, levels):
    options = data.draw(st.fixed_dictionaries({}, optional=optional))
    result = attempt(rule, first, last, levels, **options)
    check_like(result, (levels,))
    if result is not None:
        assert (result > 0).all() and (result.diff() < 0).all()


@EXAMPLES
@given(IMAGES, COUNTS)
def test_show_images(images, columns):
    figure, ax = plt.subplots()
    attempt(plots.show_images, ax, images, columns)
    plt.close(figure)
