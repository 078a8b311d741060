"""Seeds, precision, memory and the hardware's name."""

import platform
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dgm import device


def test_freed_memory_is_kept_where_glibc_is_there():
    assert device.keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


def test_elsewhere_freed_memory_is_not_kept(monkeypatch):
    monkeypatch.setattr(device.sys, "platform", "win32")
    assert device.keep_freed_memory() is False


def test_the_returned_generator_repeats_with_the_seed():
    first, second = (torch.rand(3, generator=device.seed_everything(5)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("draw", [random.random, np.random.random, lambda: torch.rand(1).item()])
def test_global_generators_repeat_with_the_seed(draw):
    values = set()
    for _ in range(2):
        device.seed_everything(5)
        values.add(draw())
    assert len(values) == 1


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_chains_run_in_bfloat16_where_the_chip_has_it(native, dtype, monkeypatch):
    monkeypatch.setattr(device, "has_native_bf16", lambda _: native)
    assert device.chain_dtype(torch.device("cpu")) == dtype


def test_peak_memory_counts_what_was_used():
    before = device.peak_memory()["ram"]
    if before is None:
        pytest.skip("this system cannot be asked")
    block = torch.ones(100, 10**6)  # 0.4 GB, all of it written
    after = device.peak_memory()["ram"]
    del block
    assert max(0.4, before) <= after < 100  # in GB, not MB


def test_a_gpu_is_called_by_its_name(monkeypatch):
    gpu = SimpleNamespace(is_available=lambda: True, get_device_name=lambda: "NVIDIA H100")
    monkeypatch.setattr(torch, "cuda", gpu)
    assert device.hardware_name() == "NVIDIA H100"


def test_a_cpu_is_called_by_its_cores_and_chip(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.hardware_name().startswith(f"{torch.get_num_threads()} of ")
