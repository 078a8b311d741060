"""experiments/several_gpus.py: trains as one process does, samples with noise of its own."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("accelerate")
from dgm.device import seed_everything
from experiments import several_gpus
from experiments.results import ROOT
from helpers import ScoreNetwork

LEAVING = """
import glob, runpy
runpy.run_module("experiments.several_gpus", run_name="__main__")
left = [open(name).read() for name in glob.glob("/proc/self/task/*/comm")]
assert not [name for name in left if "gloo" in name], f"threads that outlive the training: {left}"
"""
SMALL = "--updates 6 --batch-size 8 --width 8 --samples 40 --steps 1"


def launch(processes, folder):
    """Train and sample with so many processes; return how it ended."""
    (folder / "leaving.py").write_text(LEAVING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(processes), str(folder / "leaving.py")]
    command += [*SMALL.split(), "--folder", str(folder)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
        "MNIST_ROOT": str(folder),
    }
    options = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True}
    return subprocess.run(command, **options, timeout=300)


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """How one process and two end for the same command, and what they leave."""
    found = {}
    for processes in (1, 2):
        folder = tmp_path_factory.mktemp(f"processes-{processes}")
        found[processes] = launch(processes, folder), folder / "several-gpus.pt"
    return found


@pytest.fixture(scope="module")
def results(launched):
    return {processes: torch.load(path) for processes, (_, path) in launched.items()}


@pytest.mark.parametrize("processes", [1, 2])
def test_processes_end_without_a_thread_of_theirs_left(launched, processes):
    done, _ = launched[processes]
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("processes", [1, 2])
def test_the_number_of_processes_is_told(launched, processes):
    assert f"{processes} processes, 6 updates" in launched[processes][0].stdout


def test_every_update_has_a_loss(results):
    assert len(results[1]["losses"]) == 6


def test_two_processes_train_as_one_does(results):
    one, two = results[1]["losses"], results[2]["losses"]
    assert torch.allclose(one, two, atol=2e-3)  # bfloat16, and sums in another order


def test_the_losses_that_are_compared_have_something_to_tell(results):
    assert results[1]["losses"].std() > 0.05


@pytest.fixture(scope="module")
def start():
    seed_everything(1)  # as several_gpus.py's default
    return ScoreNetwork(width=8).state_dict()


def moved(start, weights):
    return torch.cat([(weights[name] - value).flatten() for name, value in start.items()])


def test_training_moves_the_weights(results, start):
    assert moved(start, results[1]["model"]).norm() > 0


def test_the_weights_of_two_processes_are_those_of_one(results, start):
    one, two = (moved(start, results[n]["model"]) for n in (1, 2))
    assert (one - two).norm() < 0.2 * one.norm()  # sums in another order, through Adam's division


def test_two_processes_together_draw_each_digit_equally_often(results):
    assert sorted(results[2]["labels"].tolist()) == sorted(list(range(10)) * 4)


def test_no_two_processes_draw_the_same_noise(results):
    samples = results[2]["samples"].float().flatten(1)
    halves = torch.stack([(half - half.mean(0)).flatten() for half in samples.split(20)])
    correlation = torch.corrcoef(halves)[0, 1]
    # n = 15,680 pixels: 6 standard errors; the same noise would give almost 1
    assert abs(correlation) < 0.05


def test_a_batch_that_cannot_be_shared_out_is_refused():
    accelerator = SimpleNamespace(process_index=0, num_processes=3, device=torch.device("cpu"))
    with pytest.raises(ValueError, match="3 processes cannot divide a batch of 128"):
        several_gpus.train(accelerator, None, {"batch_size": 128}, ".")
