import pytest
import torch

import helpers


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def tmp_cwd(tmp_path, monkeypatch):
    """A folder of the test's own to run in, so that no test touches assets/, runs/ or checkpoints/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(helpers, "CHECKPOINTS", tmp_path / "checkpoints")
    return tmp_path
