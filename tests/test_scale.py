"""Several processes: the same training as one, and noise of their own in sampling."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("accelerate")
import helpers
import scale

ROOT = Path(scale.__file__).parent
LEAVING = """
import glob, runpy
runpy.run_path("scale.py", run_name="__main__")
left = [open(name).read() for name in glob.glob("/proc/self/task/*/comm")]
assert not [name for name in left if "gloo" in name], f"threads that outlive the training: {left}"
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What one process and two give for the same command."""
    found = {}
    for processes in (1, 2):
        folder = tmp_path_factory.mktemp(f"scale-{processes}")
        (folder / "leaving.py").write_text(LEAVING)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
                   str(folder / "leaving.py"), "--updates", "6", "--batch-size", "8", "--width", "8", "--samples", "40",
                   "--steps", "1", "--folder", str(folder)]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
                       "TQDM_DISABLE": "1", "MNIST_ROOT": str(folder)}  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert f"{processes} processes, 6 updates" in done.stdout
        found[processes] = torch.load(folder / "scale.pt")
    return found


def test_two_processes_train_as_one_does(results):
    one, two = results[1]["losses"], results[2]["losses"]
    assert len(one) == 6 and torch.allclose(one, two, atol=2e-3)  # bfloat16, and sums in another order
    assert one.std() > 0.05  # the curve has something to tell


def test_the_weights_it_leaves_are_those_of_one_process(results):
    helpers.seed_everything(1)  # as scale.py's default
    start = helpers.ScoreNetwork(width=8).state_dict()
    one, two = ({name: results[n]["model"][name] - value for name, value in start.items()} for n in (1, 2))
    moved = torch.cat([value.flatten() for value in one.values()])
    apart = torch.cat([(one[name] - two[name]).flatten() for name in start])
    assert moved.norm() > 0 and apart.norm() < 0.2 * moved.norm()  # sums in another order, through Adam's division


def test_no_two_processes_draw_the_same_noise(results):
    samples = results[2]["samples"].float().flatten(1)
    assert sorted(results[2]["labels"].tolist()) == sorted(list(range(10)) * 4)
    first, second = samples[:20], samples[20:]
    correlation = torch.corrcoef(torch.stack([(half - half.mean(0)).flatten() for half in (first, second)]))[0, 1]
    assert abs(correlation) < 0.05  # of n = 15,680 pixels: 6 standard errors; the same noise would give almost 1


def test_a_batch_that_cannot_be_shared_out_is_refused():
    accelerator = SimpleNamespace(process_index=0, num_processes=3, device=torch.device("cpu"))
    with pytest.raises(ValueError, match="3 processes cannot share out a batch of 128"):
        scale.train(accelerator, None, {"batch_size": 128}, ".")
