"""Wrong input, function by function and kind by kind: what the error says, word for word."""

import functools
import math
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import helpers
from dgm import data, inverse, likelihood, metrics, plots, runs, samplers
from dgm.runs import CHECKPOINTS
from dgm.samplers import geometric_sigmas, karras_sigmas

x = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
meta = torch.zeros(4, 1, 28, 28, device="meta")  # a device that is on every machine
nan = torch.full((4, 1, 28, 28), math.nan)
three = torch.tensor([2.0, 1.0, 0.5])
energy = helpers.EnergyNetwork(4)
score = helpers.ScoreNetwork(8, 16)
known = torch.ones(1, 28, 28, dtype=torch.bool)
judge = metrics.load_classifier("cpu")
feats = torch.rand(20, 128, generator=torch.Generator().manual_seed(1))


class Case(NamedTuple):
    function: str
    kind: str
    call: object
    error: type
    message: str


CASES = []
DIVERGED = {
    "annealed_langevin_dynamics": "Annealed Langevin",
    "heun": "Heun's method",
    "dpm_solver": "DPM-Solver++",
    "consistent_annealed": "Consistent annealed sampling",
    "predictor_corrector": "Predictor-corrector",
}


def case(*arguments):
    CASES.append(Case(*arguments))


def E(x):
    return x.square().flatten(1).sum(1)


def S(x, sigma, labels):
    return -x / (1 + sigma**2)


def ax():
    return plt.figure().add_subplot()


def diverged(name):
    cure = (
        "try a smaller step size or clip the gradient, "
        "and check that the weights of the network are finite"
    )
    return f"{DIVERGED[name]} diverged (NaN or infinity): {cure}"


case(
    "EnergyNetwork",
    "type",
    lambda: energy(x.numpy()),
    TypeError,
    "images must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
)
case(
    "EnergyNetwork",
    "dtype",
    lambda: energy((255 * x).byte()),
    ValueError,
    "images must be float32, not torch.uint8: call .float() / 255",
)
case(
    "EnergyNetwork",
    "shape",
    lambda: energy(x[:, 0]),
    ValueError,
    "images must have shape [B, 1, 28, 28], not [4, 28, 28]: add the channel with [:, None]",
)
case(
    "EnergyNetwork",
    "empty",
    lambda: energy(x[:0]),
    ValueError,
    "images must not be empty (shape [0, 1, 28, 28]): pass at least one",
)
case(
    "EnergyNetwork",
    "device",
    lambda: energy(meta),
    ValueError,
    'images must be on cpu, not meta: call .to("cpu")',
)
case(
    "ScoreNetwork",
    "type",
    lambda: score(x.numpy(), 0.5),
    TypeError,
    "images must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
)
case(
    "ScoreNetwork",
    "dtype",
    lambda: score(x.double(), 0.5),
    ValueError,
    "images must be float32, not torch.float64: call .float()",
)
case(
    "ScoreNetwork",
    "shape",
    lambda: score(x.expand(4, 3, 28, 28), 0.5),
    ValueError,
    "images must have shape [B, 1, 28, 28], not [4, 3, 28, 28]: reshape it",
)
case(
    "ScoreNetwork",
    "empty",
    lambda: score(x[:0], 0.5),
    ValueError,
    "images must not be empty (shape [0, 1, 28, 28]): pass at least one",
)
case(
    "ScoreNetwork",
    "device",
    lambda: score(meta, 0.5),
    ValueError,
    'images must be on cpu, not meta: call .to("cpu")',
)
for name in ("score", "denoise"):
    f = functools.partial(getattr(score, name))
    case(
        f"ScoreNetwork.{name}",
        "type",
        lambda f=f: f(x.numpy(), 0.5),
        TypeError,
        "x must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
    )
    case(
        f"ScoreNetwork.{name}",
        "shape",
        lambda f=f: f(x, torch.ones(4, 1)),
        ValueError,
        "sigma must be a number or [4], not [4, 1]: pass one per image",
    )
    case(
        f"ScoreNetwork.{name}",
        "range",
        lambda f=f: f(x, -0.5),
        ValueError,
        "sigma must be positive and finite: pass a number or one per image",
    )
    case(
        f"ScoreNetwork.{name}",
        "NaN",
        lambda f=f: f(x, math.inf),
        ValueError,
        "sigma must be positive and finite: pass a number or one per image",
    )
    case(
        f"ScoreNetwork.{name}",
        "length",
        lambda f=f: f(x, torch.ones(3)),
        ValueError,
        "sigma must be a number or [4], not [3]: pass one per image",
    )
    case(
        f"ScoreNetwork.{name}",
        "labels range",
        lambda f=f: f(x, 0.5, [11, 1, 1, 1]),
        ValueError,
        "labels must lie in 0..9, but they span 1..11: pass digits",
    )
    case(
        f"ScoreNetwork.{name}",
        "labels length",
        lambda f=f: f(x, 0.5, [1, 1]),
        ValueError,
        "labels must have length 4, one per image, not 2: pass one per image",
    )
    case(
        f"ScoreNetwork.{name}",
        "labels empty",
        lambda f=f: f(x, 0.5, []),
        ValueError,
        "labels must not be empty: pass None and n=64 for samples without labels",
    )
    case(
        f"ScoreNetwork.{name}",
        "labels dtype",
        lambda f=f: f(x, 0.5, [0.5, 1, 1, 1]),
        ValueError,
        "labels must be a 1-D tensor of whole numbers, not torch.float32 [4]: pass for "
        "example [5, 5, 5]",
    )
case(
    "ReplayBuffer",
    "type",
    lambda: helpers.ReplayBuffer(chains=x.numpy()),
    TypeError,
    "chains must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
)
case(
    "ReplayBuffer",
    "dtype",
    lambda: helpers.ReplayBuffer(chains=x.double()),
    ValueError,
    "chains must be float32, not torch.float64: call .float()",
)
case(
    "ReplayBuffer",
    "shape",
    lambda: helpers.ReplayBuffer(chains=x[:, 0]),
    ValueError,
    "chains must have shape [B, 1, 28, 28], not [4, 28, 28]: add the channel with [:, None]",
)
case(
    "ReplayBuffer",
    "range",
    lambda: helpers.ReplayBuffer(chains=255 * x),
    ValueError,
    "chains must lie in [0, 1], but they span [0.0203, 255]: divide by 255",
)
case(
    "ReplayBuffer",
    "empty",
    lambda: helpers.ReplayBuffer(size=0),
    ValueError,
    "size must be at least 1, not 0: pass a larger number",
)
case(
    "ReplayBuffer",
    "NaN",
    lambda: helpers.ReplayBuffer(chains=nan),
    ValueError,
    "chains must be finite, but they contain NaN or infinity: check where they come from",
)
case(
    "ReplayBuffer",
    "redraw range",
    lambda: helpers.ReplayBuffer(4, redraw=1.5),
    ValueError,
    "redraw must be a probability or a pair of positive probabilities, the larger first, "
    "not 1.5: pass for example 0.05",
)
case(
    "ReplayBuffer.sample",
    "range",
    lambda: helpers.ReplayBuffer(4).sample(5),
    ValueError,
    "batch_size must be at most 4, not 5: pass a smaller number",
)
case(
    "ReplayBuffer.sample",
    "type",
    lambda: helpers.ReplayBuffer(4).sample(2.5),
    TypeError,
    "batch_size must be a whole number, not float: pass an int",
)


def write(y, n=2):
    b = helpers.ReplayBuffer(4)
    b.sample(n)
    b.write_back(y)


case(
    "ReplayBuffer.write_back",
    "type",
    lambda: write(x.numpy()),
    TypeError,
    "samples must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
)
case(
    "ReplayBuffer.write_back",
    "dtype",
    lambda: write(x[:2].double()),
    ValueError,
    "samples must be float32, not torch.float64: call .float()",
)
case(
    "ReplayBuffer.write_back",
    "shape",
    lambda: write(x[:2, 0]),
    ValueError,
    "samples must have shape [B, 1, 28, 28], not [2, 28, 28]: add the channel with [:, None]",
)
case(
    "ReplayBuffer.write_back",
    "length",
    lambda: write(x),
    ValueError,
    "samples must have length 2, like the last sample(), not 4: pass all of them",
)
case(
    "ReplayBuffer.write_back",
    "device",
    lambda: write(meta[:2]),
    ValueError,
    'samples must be on cpu, not meta: call .to("cpu")',
)
case(
    "ReplayBuffer.write_back",
    "before sample",
    lambda: helpers.ReplayBuffer(4).write_back(x),
    ValueError,
    "samples must have length 0, like the last sample(), not 4: pass all of them",
)
L = helpers.langevin_dynamics
case(
    "langevin_dynamics",
    "type",
    lambda: L(E, x.numpy()),
    TypeError,
    "samples must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
)
case(
    "langevin_dynamics",
    "model type",
    lambda: L(3, x),
    TypeError,
    "model must be a network or a function of (x), not int",
)
case(
    "langevin_dynamics",
    "model arguments",
    lambda: L(lambda x, y: x, x),
    TypeError,
    "model must take (x), but missing a required argument: 'y': wrap it in a lambda that does",
)
case(
    "langevin_dynamics",
    "energy type",
    lambda: L(lambda x: x.detach().numpy(), x),
    TypeError,
    "an energy must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
)
case(
    "langevin_dynamics",
    "energy shape",
    lambda: L(lambda x: x.square().mean(), x),
    ValueError,
    "an energy must have shape [4], one number per image, not []: sum over all but "
    "the first dimension",
)
case(
    "langevin_dynamics",
    "energy shape of pixels",
    lambda: L(lambda x: x.square(), x),
    ValueError,
    "an energy must have shape [4], one number per image, not [4, 1, 28, 28]: sum "
    "over all but the first dimension",
)
case(
    "langevin_dynamics",
    "shape",
    lambda: L(energy, x[:, 0]),
    ValueError,
    "images must have shape [B, 1, 28, 28], not [4, 28, 28]: add the channel with [:, None]",
)
case(
    "langevin_dynamics",
    "dtype",
    lambda: L(energy, x.double()),
    ValueError,
    "images must be float32, not torch.float64: call .float()",
)
case(
    "langevin_dynamics",
    "empty",
    lambda: L(E, x[:0]),
    ValueError,
    "samples must not be empty (shape [0, 1, 28, 28]): pass at least one",
)
case(
    "langevin_dynamics",
    "NaN",
    lambda: L(E, nan, 1, bounds=None),
    FloatingPointError,
    "The Langevin chain diverged (NaN or infinity): try a smaller step size or clip "
    "the gradient, and check that the weights of the network are finite",
)
case(
    "langevin_dynamics",
    "steps range",
    lambda: L(E, x, -1),
    ValueError,
    "steps must be at least 0, not -1: pass a larger number",
)
case(
    "langevin_dynamics",
    "steps type",
    lambda: L(E, x, 2.5),
    TypeError,
    "steps must be a whole number, not float: pass an int",
)
case(
    "langevin_dynamics",
    "step_size range",
    lambda: L(E, x, 1, step_size=-1),
    ValueError,
    "step_size must be finite and at least 0, not -1: pass another number",
)
case(
    "langevin_dynamics",
    "step_size NaN",
    lambda: L(E, x, 1, step_size=math.nan),
    ValueError,
    "step_size must be finite and at least 0, not nan: pass another number",
)
case(
    "langevin_dynamics",
    "noise range",
    lambda: L(E, x, 1, noise=-0.1),
    ValueError,
    "noise must be finite and at least 0, not -0.1: pass another number",
)
case(
    "langevin_dynamics",
    "clip range",
    lambda: L(E, x, 1, clip=-0.1),
    ValueError,
    "clip must be finite and greater than 0, not -0.1: pass another number",
)
case(
    "langevin_dynamics",
    "bounds range",
    lambda: L(E, x, 1, bounds=(1, 0)),
    ValueError,
    "bounds must be a pair of numbers, the smaller first, not (1, 0): pass (0.0, 1.0) or None",
)
case(
    "langevin_dynamics",
    "snapshots range",
    lambda: L(E, x, 2, snapshots=[3]),
    ValueError,
    "snapshots must be step numbers in 0..2, each once, in ascending order, not [3]: "
    "sort them and remove the others",
)
A = helpers.annealed_langevin_dynamics
SAMPLERS = {
    "annealed_langevin_dynamics": A,
    "heun": samplers.heun,
    "dpm_solver": samplers.dpm_solver,
    "consistent_annealed": samplers.consistent_annealed,
    "predictor_corrector": samplers.predictor_corrector,
}
for name, f in SAMPLERS.items():
    case(
        name,
        "model type",
        lambda f=f: f(None, [1], three),
        TypeError,
        "model must be a network or a function of (x, sigma, labels), not NoneType",
    )
    case(
        name,
        "model arguments",
        lambda f=f: f(lambda x, s: x, [1], three),
        TypeError,
        "model must take (x, sigma, labels), but too many positional arguments: wrap it "
        "in a lambda that does",
    )
    case(
        name,
        "score type",
        lambda f=f: f(lambda x, s, y: x.numpy(), [1], three),
        TypeError,
        "a score must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
    )
    case(
        name,
        "score shape",
        lambda f=f: f(lambda x, s, y: x.mean(), [1], three),
        ValueError,
        "a score must have the shape of x, [2, 1, 28, 28], not []: return one number per pixel",
    )
    case(
        name,
        "labels dtype",
        lambda f=f: f(S, [0.5], three),
        ValueError,
        "labels must be a 1-D tensor of whole numbers, not torch.float32 [1]: pass for "
        "example [5, 5, 5]",
    )
    case(
        name,
        "labels shape",
        lambda f=f: f(S, [[1]], three),
        ValueError,
        "labels must be a 1-D tensor of whole numbers, not torch.int64 [1, 1]: pass for "
        "example [5, 5, 5]",
    )
    case(
        name,
        "labels range",
        lambda f=f: f(S, [11], three),
        ValueError,
        "labels must lie in 0..9, but they span 11..11: pass digits",
    )
    case(
        name,
        "labels empty",
        lambda f=f: f(S, [], three),
        ValueError,
        "labels must not be empty: pass None and n=64 for samples without labels",
    )
    case(
        name,
        "labels length",
        lambda f=f: f(S, [1, 2], three, n=3),
        ValueError,
        "labels must have length 3, one per image, not 2: pass one per image",
    )
    case(
        name,
        "number of samples missing",
        lambda f=f: f(S, None, three),
        ValueError,
        "n must be given if there are no labels: pass n=64, or start",
    )
    case(
        name,
        "n range",
        lambda f=f: f(S, None, three, n=0),
        ValueError,
        "n must be at least 1, not 0: pass a larger number",
    )
    case(
        name,
        "start type",
        lambda f=f: f(S, None, three, start=x.numpy()),
        TypeError,
        "start must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
    )
    case(
        name,
        "start empty",
        lambda f=f: f(S, None, three, start=x[:0]),
        ValueError,
        "start must not be empty (shape [0, 1, 28, 28]): pass at least one",
    )
    case(
        name,
        "sigmas shape",
        lambda f=f: f(S, [1], 1.0),
        ValueError,
        "sigmas must be a 1-D tensor of noise levels, not of shape []: pass for example "
        "geometric_sigmas()",
    )
    case(
        name,
        "sigmas empty",
        lambda f=f: f(S, [1], []),
        ValueError,
        "sigmas must be a 1-D tensor of noise levels, not of shape [0]: pass for example "
        "geometric_sigmas()",
    )
    case(
        name,
        "sigmas range",
        lambda f=f: f(S, [1], [1.0, 0.0]),
        ValueError,
        "sigmas must be positive and finite: leave out zero, the samplers add the last step",
    )
    case(
        name,
        "sigmas NaN",
        lambda f=f: f(S, [1], [math.nan]),
        ValueError,
        "sigmas must be positive and finite: leave out zero, the samplers add the last step",
    )
    case(
        name,
        "sigmas order",
        lambda f=f: f(S, [1], [0.5, 1.0]),
        ValueError,
        "sigmas must descend, from the largest noise to the smallest: pass sigmas.flip(0)",
    )
    case(
        name,
        "guidance NaN",
        lambda f=f: f(S, [1], three, guidance=math.nan),
        ValueError,
        "guidance must be finite, not nan: pass another number",
    )
    case(
        name,
        "NaN",
        lambda f=f: f(lambda x, s, y: x * math.nan, [1], three),
        FloatingPointError,
        diverged(name),
    )
case(
    "annealed_langevin_dynamics",
    "steps range",
    lambda: A(S, [1], three, steps=0),
    ValueError,
    "steps must be at least 1, not 0: pass a larger number",
)
case(
    "annealed_langevin_dynamics",
    "epsilon range",
    lambda: A(S, [1], three, epsilon=-1.0),
    ValueError,
    "epsilon must be finite and greater than 0, not -1: pass another number",
)
case(
    "annealed_langevin_dynamics",
    "snapshots range",
    lambda: A(S, [1], three, snapshots=[4]),
    ValueError,
    "snapshots must be step numbers in 0..3, each once, in ascending order, not [4]: "
    "sort them and remove the others",
)
case(
    "heun",
    "churn range",
    lambda: samplers.heun(S, [1], three, churn=-5),
    ValueError,
    "churn must be finite and at least 0, not -5: pass another number",
)
case(
    "consistent_annealed",
    "eta range",
    lambda: samplers.consistent_annealed(S, [1], three, eta=0.5),
    ValueError,
    "eta must be finite and at least 1, not 0.5: pass another number",
)
case(
    "predictor_corrector",
    "snr range",
    lambda: samplers.predictor_corrector(S, [1], three, snr=-0.16),
    ValueError,
    "snr must be finite and greater than 0, not -0.16: pass another number",
)
for name, f in {"geometric_sigmas": geometric_sigmas, "karras_sigmas": karras_sigmas}.items():
    case(
        name,
        "range",
        lambda f=f: f(10.0, -0.01),
        ValueError,
        "last must be finite and greater than 0, not -0.01: pass another number",
    )
    case(
        name,
        "NaN",
        lambda f=f: f(math.inf),
        ValueError,
        "first must be finite and greater than 0, not inf: pass another number",
    )
    case(
        name,
        "order",
        lambda f=f: f(0.01, 10.0),
        ValueError,
        "sigmas must descend, from the largest noise to the smallest: pass sigmas.flip(0)",
    )
    case(
        name,
        "levels range",
        lambda f=f: f(levels=0),
        ValueError,
        "levels must be at least 1, not 0: pass a larger number",
    )
    case(
        name,
        "levels type",
        lambda f=f: f(levels=2.5),
        TypeError,
        "levels must be a whole number, not float: pass an int",
    )
case(
    "karras_sigmas",
    "rho range",
    lambda: karras_sigmas(rho=0),
    ValueError,
    "rho must be finite and greater than 0, not 0: pass another number",
)
P = inverse.posterior_sampling
case(
    "posterior_sampling",
    "type",
    lambda: P(S, x.numpy(), 0.5),
    TypeError,
    "noisy must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
)
case(
    "posterior_sampling",
    "dtype",
    lambda: P(S, x.double(), 0.5),
    ValueError,
    "noisy must be float32, not torch.float64: call .float()",
)
case(
    "posterior_sampling",
    "shape",
    lambda: P(S, x[:, 0], 0.5),
    ValueError,
    "noisy must have shape [B, 1, 28, 28], not [4, 28, 28]: add the channel with [:, None]",
)
case(
    "posterior_sampling",
    "empty",
    lambda: P(S, x[:0], 0.5),
    ValueError,
    "noisy must not be empty (shape [0, 1, 28, 28]): pass at least one",
)
case(
    "posterior_sampling",
    "range",
    lambda: P(S, x, 0.005),
    ValueError,
    "sigma must be finite and greater than 0.01, not 0.005: pass another number",
)
case(
    "posterior_sampling",
    "NaN",
    lambda: P(S, x, math.nan),
    ValueError,
    "sigma must be finite and greater than 0.01, not nan: pass another number",
)
case(
    "posterior_sampling",
    "levels range",
    lambda: P(S, x, 0.5, levels=1),
    ValueError,
    "levels must be at least 2, not 1: pass a larger number",
)
case(
    "posterior_sampling",
    "labels length",
    lambda: P(S, x, 0.5, [1]),
    ValueError,
    "labels must have length 4, one per image, not 1: pass one per image",
)
case(
    "posterior_sampling",
    "model arguments",
    lambda: P(lambda x: x, x, 0.5),
    TypeError,
    "model must take (x, sigma, labels), but too many positional arguments: wrap it "
    "in a lambda that does",
)
case(
    "posterior_sampling",
    "score shape",
    lambda: P(lambda x, s, y: x[:1], x, 0.5),
    ValueError,
    "a score must have the shape of x, [4, 1, 28, 28], not [1, 1, 28, 28]: return one "
    "number per pixel",
)
for name, f in {
    "inpaint": inverse.inpaint,
    "inpaint_by_replacement": inverse.inpaint_by_replacement,
}.items():
    case(
        name,
        "type",
        lambda f=f: f(S, None, three, x.numpy(), known),
        TypeError,
        "images must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
    )
    case(
        name,
        "mask type",
        lambda f=f: f(S, None, three, x, known.numpy()),
        TypeError,
        "known must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
    )
    case(
        name,
        "mask dtype",
        lambda f=f: f(S, None, three, x, known.float()),
        ValueError,
        "known must be a boolean mask, not torch.float32: pass known.bool()",
    )
    case(
        name,
        "mask shape",
        lambda f=f: f(S, None, three, x, known[:, :3]),
        ValueError,
        "known must fit images of shape [4, 1, 28, 28], not [1, 3, 28]: pass one mask for "
        "all images, or one per image",
    )
    case(
        name,
        "empty",
        lambda f=f: f(S, None, three, x[:0], known),
        ValueError,
        "images must not be empty (shape [0, 1, 28, 28]): pass at least one",
    )
    case(
        name,
        "labels length",
        lambda f=f: f(S, [1], three, x, known),
        ValueError,
        "labels must have length 4, one per image, not 1: pass one per image",
    )
    case(
        name,
        "sigmas order",
        lambda f=f: f(S, None, three.flip(0), x, known),
        ValueError,
        "sigmas must descend, from the largest noise to the smallest: pass sigmas.flip(0)",
    )
case(
    "inpaint",
    "spread range",
    lambda: inverse.inpaint(S, None, three, x, known, spread=-1),
    ValueError,
    "spread must be finite and greater than 0, not -1: pass another number",
)
case(
    "inpaint_by_replacement",
    "steps range",
    lambda: inverse.inpaint_by_replacement(S, None, three, x, known, steps=0),
    ValueError,
    "steps must be at least 1, not 0: pass a larger number",
)
case(
    "to_latent",
    "type",
    lambda: inverse.to_latent(S, None, three, x.numpy()),
    TypeError,
    "x must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
)
case(
    "to_latent",
    "empty",
    lambda: inverse.to_latent(S, None, three, x[:0]),
    ValueError,
    "x must not be empty (shape [0, 1, 28, 28]): pass at least one",
)
case(
    "to_latent",
    "sigmas order",
    lambda: inverse.to_latent(S, None, three.flip(0), x),
    ValueError,
    "sigmas must descend, from the largest noise to the smallest: pass sigmas.flip(0)",
)
case(
    "spherical",
    "type",
    lambda: inverse.spherical(x.numpy(), x, 0.5),
    TypeError,
    "the first latents must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
)
case(
    "spherical",
    "shape",
    lambda: inverse.spherical(x, x[:1], 0.5),
    ValueError,
    "the first latents and the second latents must have the same shape, not [4, 1, "
    "28, 28] and [1, 1, 28, 28]: pass tensors of the same shape",
)
case(
    "spherical",
    "range",
    lambda: inverse.spherical(x, x, 1.5),
    ValueError,
    "share must be finite and at least 0 and at most 1, not 1.5: pass another number",
)
K = likelihood.log_likelihood
case(
    "log_likelihood",
    "type",
    lambda: K(S, x.numpy()),
    TypeError,
    "x must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
)
case(
    "log_likelihood",
    "empty",
    lambda: K(S, x[:0]),
    ValueError,
    "x must not be empty (shape [0, 1, 28, 28]): pass at least one",
)
case(
    "log_likelihood",
    "length",
    lambda: K(S, x, sigmas=[1.0]),
    ValueError,
    "the number of sigmas must be at least 2, not 1: pass more of them",
)
case(
    "log_likelihood",
    "probes range",
    lambda: K(S, x, probes=0),
    ValueError,
    "probes must be at least 1, not 0: pass a larger number",
)
case(
    "log_likelihood",
    "labels length",
    lambda: K(S, x, [1]),
    ValueError,
    "labels must have length 4, one per image, not 1: pass one per image",
)
case(
    "log_likelihood",
    "score shape",
    lambda: K(lambda x, s, y: x.mean(), x),
    ValueError,
    "a score must have the shape of x, [4, 1, 28, 28], not []: return one number per pixel",
)
case(
    "bits_per_dimension",
    "range",
    lambda: likelihood.bits_per_dimension(1.0, levels=0),
    ValueError,
    "levels must be finite and greater than 1, not 0: pass another number",
)
D = helpers.denoising_score_matching_loss
CD = helpers.contrastive_divergence_loss
case(
    "contrastive_divergence_loss",
    "type",
    lambda: CD(energy, x.numpy(), x),
    TypeError,
    "data must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
)
case(
    "contrastive_divergence_loss",
    "dtype",
    lambda: CD(energy, x, x.double()),
    ValueError,
    "samples must be float32, not torch.float64: call .float()",
)
case(
    "contrastive_divergence_loss",
    "shape",
    lambda: CD(energy, x[:, 0], x),
    ValueError,
    "data must have shape [B, 1, 28, 28], not [4, 28, 28]: add the channel with [:, None]",
)
case(
    "contrastive_divergence_loss",
    "empty",
    lambda: CD(energy, x, x[:0]),
    ValueError,
    "samples must not be empty (shape [0, 1, 28, 28]): pass at least one",
)
case(
    "contrastive_divergence_loss",
    "device",
    lambda: CD(energy, x, meta),
    ValueError,
    'samples must be on cpu, not meta: call .to("cpu")',
)
case(
    "contrastive_divergence_loss",
    "energy shape",
    lambda: CD(lambda x: x.mean(), x, x),
    ValueError,
    "an energy must have shape [8], one number per image, not []: sum over all but "
    "the first dimension",
)
case(
    "denoising_score_matching_loss",
    "type",
    lambda: D(score, x.numpy(), 0.5),
    TypeError,
    "x must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
)
case(
    "denoising_score_matching_loss",
    "empty",
    lambda: D(score, x[:0], 0.5),
    ValueError,
    "x must not be empty (shape [0, 1, 28, 28]): pass at least one",
)
case(
    "denoising_score_matching_loss",
    "sigma type",
    lambda: D(score, x, "0.5"),
    TypeError,
    "sigma must be numbers, not str: pass one number, or one per image",
)
case(
    "denoising_score_matching_loss",
    "sigma length",
    lambda: D(score, x, [0.5, 0.5]),
    ValueError,
    "sigma must be a number or [4], not [2]: pass one per image",
)
case(
    "denoising_score_matching_loss",
    "score shape",
    lambda: D(lambda x, s, y: x.mean(), x, 0.5),
    ValueError,
    "a score must have the shape of x, [4, 1, 28, 28], not []: return one number per pixel",
)
case(
    "training_sigmas",
    "range",
    lambda: helpers.training_sigmas(0),
    ValueError,
    "n must be at least 1, not 0: pass a larger number",
)
case(
    "training_sigmas",
    "type",
    lambda: helpers.training_sigmas(2.5),
    TypeError,
    "n must be a whole number, not float: pass an int",
)
CH = helpers.choose_denoising_steps
case(
    "choose_denoising_steps",
    "type",
    lambda: CH(energy, x.numpy(), 0.5),
    TypeError,
    "clean must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
)
case(
    "choose_denoising_steps",
    "dtype",
    lambda: CH(energy, x.double(), 0.5),
    ValueError,
    "clean must be float32, not torch.float64: call .float()",
)
case(
    "choose_denoising_steps",
    "range",
    lambda: CH(energy, 255 * x, 0.5),
    ValueError,
    "clean must lie in [0, 1], but they span [0.0203, 255]: divide by 255",
)
case(
    "choose_denoising_steps",
    "sigma range",
    lambda: CH(energy, x, -0.5),
    ValueError,
    "sigma must be finite and at least 0, not -0.5: pass another number",
)
case(
    "choose_denoising_steps",
    "empty",
    lambda: CH(energy, x[:0], 0.5),
    ValueError,
    "clean must not be empty (shape [0, 1, 28, 28]): pass at least one",
)
case(
    "choose_denoising_steps",
    "NaN",
    lambda: CH(energy, nan, 0.5),
    ValueError,
    "clean must be finite, but they contain NaN or infinity: check where they come from",
)
case(
    "load_pretrained",
    "name",
    lambda: helpers.load_pretrained("EBM.pt", "cpu"),
    FileNotFoundError,
    f"there is no {CHECKPOINTS}/EBM.pt.pt: pass one of these names: EBM, "
    f"EBM-BestPractice, EBM-first-phase, EBM-tutorial-settings, noise-energy, "
    f"score-based-model, score-guide",
)
case(
    "load_pretrained",
    "device",
    lambda: helpers.load_pretrained("EBM", "cuda"),
    ValueError,
    'device must be available on this machine, but cuda is not: pass device="cpu"',
)
case(
    "load_classifier",
    "device",
    lambda: metrics.load_classifier("cuda"),
    ValueError,
    'device must be available on this machine, but cuda is not: pass device="cpu"',
)
case(
    "minibatches",
    "type",
    lambda: next(data.minibatches(x.numpy(), [1] * 4, 2)),
    TypeError,
    "images must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
)
case(
    "minibatches",
    "range",
    lambda: next(data.minibatches(255 * x, [1] * 4, 2)),
    ValueError,
    "images must lie in [0, 1], but they span [0.0203, 255]: divide by 255",
)
case(
    "minibatches",
    "NaN",
    lambda: next(data.minibatches(nan, [1] * 4, 2)),
    ValueError,
    "images must be finite, but they contain NaN or infinity: check where they come from",
)
case(
    "minibatches",
    "labels length",
    lambda: next(data.minibatches(x, [1] * 3, 2)),
    ValueError,
    "labels must have length 4, one per image, not 3: pass one per image",
)
case(
    "minibatches",
    "labels range",
    lambda: next(data.minibatches(x, [10] * 4, 2)),
    ValueError,
    "labels must lie in 0..9, but they span 10..10: pass digits",
)
case(
    "minibatches",
    "batch_size range",
    lambda: next(data.minibatches(x, torch.ones(4).long(), 0)),
    ValueError,
    "batch_size must be at least 1, not 0: pass a larger number",
)
EV = metrics.evaluate_samples
for name, f in {
    "classifier_outputs": lambda y: metrics.classifier_outputs(judge, y),
    "evaluate_samples": lambda y: EV(judge, y, feats),
}.items():
    case(
        name,
        "type",
        lambda f=f: f(x.numpy()),
        TypeError,
        "images must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
    )
    case(
        name,
        "dtype",
        lambda f=f: f((255 * x).byte()),
        ValueError,
        "images must be float32, not torch.uint8: call .float() / 255",
    )
    case(
        name,
        "shape",
        lambda f=f: f(x[:, 0]),
        ValueError,
        "images must have shape [B, 1, 28, 28], not [4, 28, 28]: add the channel with [:, None]",
    )
    case(
        name,
        "range 0..255",
        lambda f=f: f(255 * x),
        ValueError,
        "images must lie in [0, 1], but they span [0.0203, 255]: divide by 255",
    )
    case(
        name,
        "range -1..1",
        lambda f=f: f(torch.full((4, 1, 28, 28), -1.0)),
        ValueError,
        "images must lie in [0, 1], but they span [-1, -1]: take (x + 1) / 2",
    )
    case(
        name,
        "empty",
        lambda f=f: f(x[:0]),
        ValueError,
        "images must not be empty (shape [0, 1, 28, 28]): pass at least one",
    )
    case(
        name,
        "NaN",
        lambda f=f: f(nan),
        ValueError,
        "images must be finite, but they contain NaN or infinity: check where they come from",
    )
    case(
        name,
        "device",
        lambda f=f: f(meta),
        ValueError,
        'images must be on cpu, not meta: call .to("cpu")',
    )
case(
    "evaluate_samples",
    "length",
    lambda: EV(judge, x[:3], feats),
    ValueError,
    "the number of images must be at least 4, not 3: pass more of them",
)
case(
    "evaluate_samples",
    "features length",
    lambda: EV(judge, x, feats[:3]),
    ValueError,
    "the number of real features must be at least 4, not 3: pass more of them",
)
case(
    "accuracy",
    "labels length",
    lambda: metrics.accuracy(judge, x, [1]),
    ValueError,
    "labels must have length 4, one per image, not 1: pass one per image",
)
case(
    "accuracy",
    "labels range",
    lambda: metrics.accuracy(judge, x, [10] * 4),
    ValueError,
    "labels must lie in 0..9, but they span 10..10: pass digits",
)
case(
    "frechet_distance",
    "shape",
    lambda: metrics.frechet_distance(np.zeros(3), np.zeros((3, 2))),
    ValueError,
    "features must have shape [N, D], not [3]: reshape them",
)
case(
    "frechet_distance",
    "features of different length",
    lambda: metrics.frechet_distance(np.zeros((3, 3)), np.zeros((3, 2))),
    ValueError,
    "both sets must have the same number of features, not 3 and 2: "
    "use the same classifier for both",
)
case(
    "frechet_distance",
    "length",
    lambda: metrics.frechet_distance(np.zeros((1, 2)), np.zeros((3, 2))),
    ValueError,
    "the number of features must be at least 2, not 1: pass more of them",
)
case(
    "frechet_distance",
    "NaN",
    lambda: metrics.frechet_distance(np.full((3, 2), np.nan), np.zeros((3, 2))),
    ValueError,
    "features must be finite, but they contain NaN or infinity: check the images",
)
case(
    "precision_recall",
    "type",
    lambda: metrics.precision_recall(feats.numpy(), feats),
    TypeError,
    "features must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
)
case(
    "precision_recall",
    "length",
    lambda: metrics.precision_recall(feats[:3], feats),
    ValueError,
    "the number of features must be at least 4, not 3: pass more of them",
)
case(
    "precision_recall",
    "k range",
    lambda: metrics.precision_recall(feats, feats, k=0),
    ValueError,
    "k must be at least 1, not 0: pass a larger number",
)
case(
    "nearest_neighbours",
    "type",
    lambda: metrics.nearest_neighbours(x.numpy(), x),
    TypeError,
    "images must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
)
case(
    "nearest_neighbours",
    "shape",
    lambda: metrics.nearest_neighbours(x[:, 0], x),
    ValueError,
    "images must have shape [B, 1, 28, 28], not [4, 28, 28]: add the channel with [:, None]",
)
case(
    "nearest_neighbours",
    "empty",
    lambda: metrics.nearest_neighbours(x, x[:0]),
    ValueError,
    "training_images must not be empty (shape [0, 1, 28, 28]): pass at least one",
)
for name in ("psnr", "pixel_quality"):
    f = getattr(metrics, name)
    case(
        name,
        "type",
        lambda f=f: f(x.numpy(), x),
        TypeError,
        "images must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
    )
    case(
        name,
        "shape",
        lambda f=f: f(x, x[:1]),
        ValueError,
        "images and clean images must have the same shape, not [4, 1, 28, 28] and [1, 1, "
        "28, 28]: pass tensors of the same shape",
    )
    case(
        name,
        "empty",
        lambda f=f: f(x[:0], x[:0]),
        ValueError,
        "images must not be empty (shape [0, 1, 28, 28]): pass at least one",
    )
    case(
        name,
        "device",
        lambda f=f: f(x, meta),
        ValueError,
        'images must be on meta, not cpu: call .to("meta")',
    )
case(
    "auroc",
    "empty",
    lambda: metrics.auroc([], [1.0]),
    ValueError,
    "inside must be one or more finite numbers [N], not [0]: pass scores",
)
case(
    "auroc",
    "NaN",
    lambda: metrics.auroc([math.nan], [1.0]),
    ValueError,
    "inside must be one or more finite numbers [N], not [1]: pass scores",
)
case(
    "auroc",
    "shape",
    lambda: metrics.auroc([[1.0]], [1.0]),
    ValueError,
    "inside must be one or more finite numbers [N], not [1, 1]: pass scores",
)
case(
    "show_images",
    "type",
    lambda: plots.show_images(ax(), x.numpy(), 2),
    TypeError,
    "images must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
)
case(
    "show_images",
    "shape",
    lambda: plots.show_images(ax(), x.expand(4, 3, 28, 28), 2),
    ValueError,
    "images must have shape [N, 1, H, W], not [4, 3, 28, 28]: average over the colour channels",
)
case(
    "show_images",
    "empty",
    lambda: plots.show_images(ax(), x[:0], 2),
    ValueError,
    "images must not be empty (shape [0, 1, 28, 28]): pass at least one",
)
case(
    "show_images",
    "columns range",
    lambda: plots.show_images(ax(), x, 0),
    ValueError,
    "columns must be at least 1, not 0: pass a larger number",
)
case(
    "plot_history",
    "empty",
    lambda: plots.plot_history(ax(), [], "k", "loss"),
    ValueError,
    "values must be one or more numbers [N], not [0]: pass a history",
)
case(
    "open_run",
    "preset",
    lambda: runs.open_run("EBM", "fast"),
    ValueError,
    "preset must be auto, smoke, quick or full, not 'fast': choose one of these",
)


case(
    "precision_recall",
    "dimensions",
    lambda: metrics.precision_recall(feats, feats[:, :64]),
    ValueError,
    "both sets must have the same number of features, not 128 and 64: "
    "use the same classifier for both",
)
case(
    "langevin_dynamics",
    "bytes",
    lambda: L(energy, (255 * x).byte()),
    ValueError,
    "samples must be floating point, not torch.uint8: call .float() / 255",
)
case(
    "langevin_dynamics",
    "scale",
    lambda: L(energy, 255 * x),
    ValueError,
    "samples must lie in [0, 1], but they span [0.0203, 255]: divide by 255",
)
case(
    "annealed_step",
    "sigmas order",
    lambda: samplers.annealed_step(three.flip(0), 8),
    ValueError,
    "sigmas must descend, from the largest noise to the smallest: pass sigmas.flip(0)",
)
case(
    "annealed_step",
    "steps range",
    lambda: samplers.annealed_step(three, 0),
    ValueError,
    "steps must be at least 1, not 0: pass a larger number",
)
case(
    "largest_distance",
    "type",
    lambda: samplers.largest_distance(x.numpy()),
    TypeError,
    "images must be a torch tensor, not ndarray: pass torch.from_numpy(array)",
)
case(
    "level_overlap",
    "ratio range",
    lambda: samplers.level_overlap(0.9, 784),
    ValueError,
    "ratio must be finite and at least 1, not 0.9: pass another number",
)
case(
    "level_overlap",
    "dimensions range",
    lambda: samplers.level_overlap(1.1, 0),
    ValueError,
    "dimensions must be at least 1, not 0: pass a larger number",
)
case(
    "level_ratio",
    "overlap range",
    lambda: samplers.level_ratio(784, 1.5),
    ValueError,
    "overlap must be between 0 and 0.997 in 784 dimensions, not 1.5: pass another number",
)
case(
    "number_of_levels",
    "ratio range",
    lambda: samplers.number_of_levels(10.0, 0.01, 1.0),
    ValueError,
    "ratio must be finite and greater than 1, not 1: pass another number",
)
optimizer = torch.optim.Adam(energy.parameters())
case(
    "set_learning_rate",
    "total range",
    lambda: helpers.set_learning_rate(optimizer, 1e-3, 0, 0),
    ValueError,
    "total must be at least 1, not 0: pass a larger number",
)
case(
    "set_learning_rate",
    "warmup range",
    lambda: helpers.set_learning_rate(optimizer, 1e-3, 0, 10, warmup=0),
    ValueError,
    "warmup must be at least 1, not 0: pass a larger number",
)
case(
    "set_learning_rate",
    "fall range",
    lambda: helpers.set_learning_rate(optimizer, 1e-3, 0, 10, fall=1.5),
    ValueError,
    "fall must be finite and at least 0 and at most 1, not 1.5: pass another number",
)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.function}-{c.kind.replace(' ', '_')}")
def test_wrong_input_is_named(case):
    with pytest.raises(case.error) as caught:
        case.call()
    plt.close("all")
    assert str(caught.value) == case.message
