"""The CUDA path, rehearsed on any machine with tensors that have a device and no numbers.

PyTorch's fake mode holds "cuda" tensors without a GPU and raises where two devices meet in one
operation. `Rehearsal`, on top of it, counts what would make the host wait for a GPU: a number that
is read, and a copy from one device to the other. What it cannot see: numbers, time, memory,
generators (there is no fake one on CUDA) and the compiled gradient (here it is the plain one).
"""

import importlib

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import helpers
from dgm import fast_gradient, inverse, likelihood, metrics, runs, samplers

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
CUDA, META = torch.device("cuda:0"), torch.device("meta")
aten, device_asked_by_cpp = torch.ops.aten, torch.ops.prim.device.default
run_engine = torch.autograd._engine_run_backward
COPIES = (aten._to_copy, aten.copy_)


class FakeMode(FakeTensorMode):
    """A fake mode that is not copied along with its tensors.

    Samplers freeze a deep copy of the network. A parameter is cloned then, but a buffer (the
    frequencies of ScoreNetwork) is copied attribute by attribute, its fake mode too, and what
    belongs to two fake modes cannot be multiplied: "Mixing fake modes NYI". This is what Heun's
    method, like every sampler of a ScoreNetwork, crashed on. It is no fault of the sampler.
    """

    def __deepcopy__(self, memo):
        return self


def tensors_of(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class Rehearsal(TorchDispatchMode):
    """Count in `waits` what the host would wait for, and answer as for sound values.

    "Are all ...?" is answered by yes, every other question by no, a number is 0.5.

    Autograd's engine, in C++, looks up a stream for each node on a CUDA device, which needs a
    driver. So C++ is told "meta" where it asks for the device of a node: of the last result, of a
    leaf, and of anything during a backward pass. Python, and the fake mode's own comparison of
    devices, still see "cuda".
    """

    def __init__(self):
        super().__init__()
        self.waits, self.backward, self.results, self.nodes = 0, False, [], []

    def train(self, model):
        """Make the gradients' nodes of a model, which autocast must see on CUDA later."""
        self.backward = True
        edges = [torch.autograd.graph.get_gradient_edge(p) for p in model.parameters()]
        self.nodes += [edge.node for edge in edges]
        self.backward = False
        return model

    def run_backward(self, *args, **kwargs):
        self.backward = True
        try:
            return run_engine(*args, **kwargs)
        finally:
            self.backward = False

    def is_of_a_node(self, x):
        leaf = x.is_leaf and x.requires_grad and not isinstance(x, nn.Parameter)
        return self.backward or leaf or any(x is result for result in self.results)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is device_asked_by_cpp:
            cuda = args[0].device.type == "cuda"
            return META if cuda and self.is_of_a_node(args[0]) else func(*args)
        if func is aten._local_scalar_dense.default:
            self.waits += args[0].device.type == "cuda"
            is_question = args[0].dtype == torch.bool
            return getattr(args[0], "is_all", False) if is_question else 0.5
        if self.backward and kwargs.get("device") == META:
            kwargs["device"] = CUDA
        out = func(*args, **kwargs)
        if func.overloadpacket in COPIES:
            self.waits += len({x.device.type for x in tensors_of((args, out))}) > 1
        if func.overloadpacket is aten.all:
            out.is_all = True
        self.results = tensors_of(out) if torch.is_grad_enabled() else []
        return out


@pytest.fixture
def gpu(monkeypatch):
    """An H100 as far as PyTorch can be told: bfloat16, autocast, optimizers in few launches."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    optimizers = importlib.import_module("torch.optim.optimizer")
    supported = [*optimizers._foreach_supported_types, FakeTensor]
    monkeypatch.setattr(optimizers, "_foreach_supported_types", supported)
    monkeypatch.setattr(fast_gradient, "gradient_on", lambda _: fast_gradient.input_gradient)
    rehearsal = Rehearsal()
    monkeypatch.setattr(torch.autograd, "_engine_run_backward", rehearsal.run_backward)
    with FakeMode(), rehearsal:
        yield rehearsal


def on_gpu(make):
    with CUDA:
        return make()


def score_network():
    return on_gpu(lambda: helpers.ScoreNetwork(8, 16))


def energy_network():
    return on_gpu(lambda: helpers.EnergyNetwork(4))


def images(n=4):
    return torch.rand(n, 1, 28, 28, device=CUDA)


def sigmas(levels):
    return torch.linspace(2, 1, levels, device=CUDA)


def waits_of(gpu, call, *args):
    before = gpu.waits
    call(*args)
    return gpu.waits - before


# ---------------------------------------------------------------------- the rehearsal itself


def test_a_tensor_left_on_the_cpu_is_caught(gpu):
    forgotten = torch.ones(4, 1, 28, 28)
    with pytest.raises(RuntimeError, match="devices, cuda:0 and cpu|devices cuda:0, cpu"):
        samplers.heun(lambda x, sigma, labels: -x * forgotten, None, sigmas(2), start=images())


def test_a_tensor_left_on_the_cpu_is_caught_in_a_backward_pass(gpu):
    y = 2 * images().requires_grad_(True)
    y.register_hook(lambda gradient: gradient * torch.ones(4, 1, 28, 28))
    with pytest.raises(RuntimeError, match="devices"):
        y.sum().backward()


def test_a_number_read_in_every_evaluation_is_counted(gpu):
    def score(x, sigma, labels):
        return -x / x.square().mean().item()

    few, many = (waits_of(gpu, chain, score, levels) for levels in (2, 6))
    assert many - few == 2 * 4  # Heun's method: two evaluations a level


def test_a_copy_to_the_cpu_in_every_evaluation_is_counted(gpu):
    def score(x, sigma, labels):
        x.cpu()
        return -x

    few, many = (waits_of(gpu, chain, score, levels) for levels in (2, 6))
    assert many - few == 2 * 4


def test_a_copy_from_the_cpu_in_every_evaluation_is_counted(gpu):
    def score(x, sigma, labels):
        return -x * torch.tensor([0.5], device=CUDA)

    few, many = (waits_of(gpu, chain, score, levels) for levels in (2, 6))
    assert many - few == 2 * 4


def test_a_length_that_depends_on_numbers_is_caught(gpu):
    x = images()
    with pytest.raises(Exception, match="nonzero"):
        x[x > 0.5]


def chain(score, levels):
    return samplers.heun(score, None, sigmas(levels), start=images())


# ---------------------------------------------------------------------------------- samplers


def digits():
    return torch.arange(4)  # on the CPU, as a user writes them


def mask():
    return torch.arange(28, device=CUDA) < 14


def churned(model, labels, sigmas):
    return samplers.heun(model, labels, sigmas, churn=2.0)


class GaussianScore(nn.Module):
    """A score in few operations; it has a parameter, so that samplers know its device."""

    def __init__(self):
        super().__init__()
        self.variance = nn.Parameter(torch.ones([]))

    def forward(self, x, sigma, labels):
        return -x / (self.variance + sigma**2)


def posterior(model, labels, sigmas):
    return inverse.posterior_sampling(model, images(), 0.5, labels, levels=len(sigmas))


def inpainted(model, labels, sigmas):
    return inverse.inpaint(model, labels, sigmas, images(), mask())


def inpainted_by_replacement(model, labels, sigmas):
    return inverse.inpaint_by_replacement(model, labels, sigmas, images(), mask(), steps=1)


def latent(model, labels, sigmas):
    return inverse.to_latent(model, labels, sigmas, images())


def likelihood_of(model, labels, sigmas):
    return likelihood.log_likelihood(model, images(), labels, sigmas=sigmas)


def annealed(model, labels, sigmas):
    return helpers.annealed_langevin_dynamics(model, labels, sigmas, steps=1)


SAMPLERS = [
    annealed,
    samplers.heun,
    churned,
    samplers.dpm_solver,
    samplers.consistent_annealed,
    samplers.predictor_corrector,
    posterior,
    inpainted,
    inpainted_by_replacement,
    latent,
    likelihood_of,
]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_a_sampler_returns_is_on_the_gpu(sampler, gpu):
    assert sampler(score_network(), digits(), sigmas(2)).device == CUDA


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_waits_no_more_often_over_more_levels(sampler, gpu):
    model = on_gpu(GaussianScore)
    few, many = (waits_of(gpu, sampler, model, digits(), sigmas(n)) for n in (2, 6))
    assert many == few


def test_annealed_langevin_waits_no_more_often_over_more_steps(gpu):
    model = on_gpu(GaussianScore)

    def sample(steps):
        helpers.annealed_langevin_dynamics(model, None, sigmas(2), n=4, steps=steps)

    assert waits_of(gpu, sample, 2) == waits_of(gpu, sample, 6)


def test_no_evaluation_of_a_score_network_waits(gpu):
    assert waits_of(gpu, score_network(), images(), sigmas(2)[0], on_gpu(digits)) == 0


def test_no_evaluation_of_an_energy_network_waits(gpu):
    assert waits_of(gpu, energy_network(), images()) == 0


def energy_of(x):
    return x.square().flatten(1).sum(1)


@pytest.mark.parametrize("energy", [energy_network, lambda: energy_of], ids=["network", "function"])
@pytest.mark.parametrize("n", [4, 8])  # images: in float32, and in bfloat16
def test_langevin_dynamics_waits_once_over_any_number_of_steps(energy, n, gpu):
    model, start = energy(), images(n)
    waits = [waits_of(gpu, helpers.langevin_dynamics, model, start, steps) for steps in (2, 6)]
    assert waits == [1, 1]


def test_the_frames_of_langevin_dynamics_are_on_the_gpu(gpu):
    x, frames = helpers.langevin_dynamics(energy_network(), images(), 2, snapshots=[0, 2])
    assert (x.device, frames.device) == (CUDA, CUDA)


# ---------------------------------------------------------------------------------- training


def batches(n=8):
    while True:
        yield images(n), torch.randint(10, (n,), device=CUDA)


def energy_training(gpu, model):
    """Return (state, history, update) of an energy as experiments/training.py trains it."""
    buffer = helpers.ReplayBuffer(100, device=CUDA)
    ema = helpers.ema_of(gpu.train(model), 0.99)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.0, 0.999))
    data, history = batches(), {"loss": [], "e_plus": [], "e_minus": []}

    def update(number):
        helpers.set_learning_rate(optimizer, 1e-3, number, 100)
        x_plus, _ = next(data)
        x_plus = x_plus + 0.015 * torch.randn(x_plus.shape, device=CUDA)
        x_minus = helpers.langevin_dynamics(model, buffer.sample(len(x_plus)), 2, check=False)
        buffer.write_back(x_minus)
        values = helpers.contrastive_divergence_loss(model, x_plus, x_minus)
        descend(model, ema, optimizer, values[0], 0.1)
        for name, value in zip(history, values, strict=True):
            history[name].append(value.detach())

    state = {"model": model, "ema": ema, "optimizer": optimizer, "replay_buffer": buffer}
    return state, history, update


def score_training(gpu, model):
    """Return (state, history, update) of a score as experiments/training.py trains it."""
    ema = helpers.ema_of(gpu.train(model), 0.99)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99))
    data, history = batches(), {"loss": []}

    def update(number):
        helpers.set_learning_rate(optimizer, 1e-3, number, 100)
        x, labels = next(data)
        hidden = torch.rand(len(x), device=CUDA) < 0.25
        labels = labels.masked_fill(hidden, helpers.ScoreNetwork.NO_LABEL)
        sigma = helpers.training_sigmas(len(x), device=CUDA)
        weight = helpers.edm_weight
        loss = helpers.denoising_score_matching_loss(model, x, sigma, labels, weight)
        descend(model, ema, optimizer, loss, 1.0)
        history["loss"].append(loss.detach())

    return {"model": model, "ema": ema, "optimizer": optimizer}, history, update


def descend(model, ema, optimizer, loss, longest):
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), longest)
    optimizer.step()
    ema.update_parameters(model)


def which_updates_wait(gpu, total, state, history, update, **options):
    """Return for each of `total` updates whether it waits, or runs.training_steps behind it."""
    steps = runs.training_steps(total + 1, "none", {}, history, state, lines=0, **options)
    waits, before = [], gpu.waits
    for number in steps:
        if number:
            waits.append(gpu.waits > before)
            before = gpu.waits
        if number == total:
            steps.close()
            return waits
        update(number)


def test_of_a_score_network_only_the_updates_that_are_checked_wait(gpu):
    training = score_training(gpu, score_network())
    assert which_updates_wait(gpu, 4, *training, check_every=2) == [False, True, False, True]


def test_of_an_energy_only_the_updates_that_are_checked_wait(gpu):
    training = energy_training(gpu, energy_network())
    assert which_updates_wait(gpu, 4, *training, check_every=2) == [False, True, False, True]


def test_by_default_one_update_in_fifty_is_checked(gpu):
    history = {"loss": []}

    def update(number):
        history["loss"].append(torch.ones([], device=CUDA))

    waits = which_updates_wait(gpu, 100, {}, history, update)
    assert [number for number, waited in enumerate(waits, start=1) if waited] == [50, 100]


@pytest.mark.parametrize("average", [False, True])
def test_trained_weights_stay_on_the_gpu_in_float32(average, gpu):
    state, _, update = score_training(gpu, score_network())
    update(0)
    weights = state["ema"].module.parameters() if average else state["model"].parameters()
    assert {(p.device, p.dtype) for p in weights} == {(CUDA, torch.float32)}


# ---------------------------------------------------------------------------- replay buffer


def test_a_buffer_keeps_its_chains_on_the_gpu(gpu):
    assert helpers.ReplayBuffer(100, device="cuda").chains.device == CUDA


def test_bytes_from_the_cpu_become_chains_on_the_gpu(gpu):
    chains = torch.zeros(8, 1, 28, 28, dtype=torch.uint8)
    assert helpers.ReplayBuffer(chains=chains, device="cuda").chains.device == CUDA


def test_chains_are_drawn_and_written_back_without_waiting(gpu):
    buffer = helpers.ReplayBuffer(100, (0.05, 0.001), device="cuda")
    assert waits_of(gpu, lambda: buffer.write_back(buffer.sample(8))) == 0


def test_chains_written_back_from_the_cpu_are_refused(gpu):
    buffer = helpers.ReplayBuffer(100, device="cuda")
    samples = buffer.sample(8).cpu()
    with pytest.raises(ValueError, match="samples must be on cuda:0, not cpu"):
        buffer.write_back(samples)


# ---------------------------------------------------------------------------------- metrics


def classifier():
    return on_gpu(metrics.DigitClassifier).eval()


def test_features_of_images_on_the_gpu_come_to_the_cpu(gpu):
    features, probabilities = metrics.classifier_outputs(classifier(), images())
    assert (features.device.type, probabilities.device.type) == ("cpu", "cpu")


def test_features_of_more_batches_make_no_more_waits(gpu):
    model = classifier()

    def outputs(n):
        metrics.classifier_outputs(model, images(n), batch_size=2)

    assert waits_of(gpu, outputs, 2) == waits_of(gpu, outputs, 6)


def test_accuracy_takes_labels_from_the_gpu(gpu):
    assert metrics.accuracy(classifier(), images(), on_gpu(digits)) == 0.5


def test_nearest_neighbours_are_found_on_the_gpu(gpu):
    distances, index = metrics.nearest_neighbours(images(), images(20))
    assert (distances.device, index.device) == (CUDA, CUDA)


def test_nearest_neighbours_in_more_blocks_make_no_more_waits(gpu):
    arguments = metrics.nearest_neighbours, images(), images(20)
    assert waits_of(gpu, *arguments, 4) == waits_of(gpu, *arguments, 1)


def test_psnr_waits_for_its_checks_and_one_number(gpu):
    assert waits_of(gpu, metrics.psnr, images(), images()) == 6


# ------------------------------------------------------------------------------ checkpoints


@pytest.fixture
def saved(monkeypatch):
    """What runs.save_run would write."""
    files = []
    monkeypatch.setattr(runs, "save_atomically", lambda contents, path: files.append(contents))
    return files


TRAININGS = [(energy_training, energy_network), (score_training, score_network)]


@pytest.mark.parametrize(("training", "network"), TRAININGS, ids=["energy", "score"])
def test_a_run_saved_on_the_gpu_goes_on_there_from_a_file_read_to_the_cpu(
    training, network, gpu, saved, monkeypatch
):
    state, _, update = training(gpu, network())
    update(0)
    runs.save_run("run.pt", 1, 0.0, {}, {}, state)
    read = tree_map_only(torch.Tensor, lambda x: x.cpu(), saved[0])
    monkeypatch.setattr(runs, "load_checkpoint", lambda path, kind: read)
    state, _, update = training(gpu, network())
    runs.restore("run.pt", {}, {}, state)
    update(1)
    assert next(state["model"].parameters()).device == CUDA


def test_a_record_is_read_to_the_device_that_was_asked_for(monkeypatch):
    asked = []

    def read(path, map_location, weights_only):
        asked.append(map_location)
        record = {"kind": "pretrained", "history": {}, "minutes": 1.0}
        return {**record, "preset": "full", "hardware": "none"}

    monkeypatch.setattr(torch, "load", read)
    runs.load_record("EBM", CUDA)
    assert asked == [CUDA]


def test_chains_on_the_gpu_are_kept_as_bytes_on_the_cpu(gpu):
    chains = runs.as_bytes(images(20), n=8)
    assert (chains.device.type, chains.dtype, len(chains)) == ("cpu", torch.uint8, 8)
