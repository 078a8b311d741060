"""Fixtures that several test files share."""

from typing import NamedTuple

import pytest
import torch

from dgm import runs


class Mixture(NamedTuple):
    """A mixture of Gaussians in one dimension, its components of equal width."""

    shares: torch.Tensor
    means: torch.Tensor
    spread: float

    def score(self, x, sigma, labels=None):
        """Return the score of the mixture blurred with N(0, sigma^2), at x [B, 1]."""
        variance = self.spread**2 + sigma.double() ** 2
        log_p = self.shares.log() - (x - self.means).square() / (2 * variance)
        return (log_p.softmax(1) * (self.means - x)).sum(1, keepdim=True) / variance


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def tmp_cwd(tmp_path, monkeypatch):
    """A folder of the test's own to run in: none touches assets/, runs/ or checkpoints/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "CHECKPOINTS", tmp_path / "checkpoints")
    monkeypatch.delenv("PUBLISH", raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def mixture():
    shares = torch.tensor([0.7, 0.3], dtype=torch.float64)
    means = torch.tensor([-1.0, 2.0], dtype=torch.float64)
    return Mixture(shares, means, spread=0.3)


@pytest.fixture(scope="session")
def plain_gradient():
    """Of an energy in float32, through autograd: what everything faster is held against."""

    def gradient(model, x):
        leaf = x.clone().requires_grad_(True)
        return torch.autograd.grad(model.layers(2 * leaf - 1).sum(), leaf)[0]

    return gradient


@pytest.fixture(scope="session")
def state_of():
    """All that a sampler must leave alone of a network, as values that can be compared."""

    def values(tensor):
        return None if tensor is None else tensor.detach().numpy().tobytes()

    def state(model):
        parameters = [(values(p), p.requires_grad, values(p.grad)) for p in model.parameters()]
        return model.training, parameters

    return state
