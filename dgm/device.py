"""Device, seeds, precision, memory settings and hardware name."""

import ctypes
import os
import platform
import random
import sys
from pathlib import Path

import numpy as np
import torch


def keep_freed_memory():
    """Make glibc keep freed memory for the next step; return whether this was possible.

    By default, large blocks return to the kernel, which clears every page before reuse. Systems
    without glibc (macOS, Windows, Alpine) are left unchanged.
    """
    on_linux = sys.platform == "linux"
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if on_linux else None
    if mallopt is None:
        return False
    no_mmap, no_trim = (-4, 0), (-1, 2**31 - 1)  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
    return bool(mallopt(*no_mmap)) and bool(mallopt(*no_trim))


def available(device):
    """Return a torch.device, or raise ValueError if this machine has no such device."""
    try:
        found = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError):  # no such name, chip or driver
        raise ValueError(
            f'device must be available on this machine, but {device} is not: pass device="cpu"'
        ) from None
    return torch.device("cpu") if found.type == "cpu" else torch.device(device)


def pick_device(wanted=None):
    """Return the device of a run: the requested one, else cuda, then mps, then cpu.

    Raises ValueError if this machine has no such device.
    """
    if wanted is not None:
        return available(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def seed_everything(seed, device="cpu"):
    """Seed Python, NumPy and PyTorch, and return a generator on `device` for the run."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return torch.Generator(device).manual_seed(seed)


def has_native_bf16(device):
    """Return whether the chip has native bfloat16; emulated, it is slower than float32."""
    if device.type == "cuda":  # is_bf16_supported() is also true for chips that emulate it
        return torch.cuda.get_device_capability(device)[0] >= 8
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return device.type == "cpu" and supported()


def chain_dtype(device):
    """Return the dtype in which the network of a chain runs fastest on this device."""
    return torch.bfloat16 if has_native_bf16(device) else torch.float32


def fast_math(device):
    """Return an autocast context to bfloat16, enabled if the chip supports it natively."""
    device = torch.device(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=has_native_bf16(device))


def hardware_name():
    """Return the name of the hardware, for example "2 of 2 cores, AMD EPYC"."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    chip = names[0] if names else platform.processor() or platform.machine()
    return f"{torch.get_num_threads()} of {os.cpu_count()} cores, {chip}"


def peak_memory():
    """Return the peak memory of this process in GB.

    The keys are "ram" (None if the system does not report it) and, with CUDA, "gpu".
    """
    try:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kilobytes elsewhere
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        peak = {"ram": round(used / 1e9, 2)}
    except ImportError:  # Windows
        peak = {"ram": None}
    if torch.cuda.is_available():
        peak["gpu"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return peak
