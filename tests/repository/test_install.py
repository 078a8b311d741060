"""The installed package: what its wheel holds, and that it samples away from the repository."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")
ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = sorted(path.name for path in (ROOT / "checkpoints").glob("*.pt"))
SAMPLE = """
import json
import helpers
from dgm.metrics import classifier_outputs, load_classifier
from dgm.samplers import dpm_solver, karras_sigmas

model, _ = helpers.load_pretrained("score-based-model", "cpu")
helpers.torch.manual_seed(0)
digit = dpm_solver(model, [3], karras_sigmas(levels=12))
read = classifier_outputs(load_classifier("cpu"), digit)[1].argmax(1).item()
print(json.dumps({"file": helpers.__file__, "shape": list(digit.shape), "read": read}))
"""


def pip(*arguments):
    """Run pip without a network; fail with what it says."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, ".")
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def contents(wheel):
    """The names of all files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """A folder with the installed package."""
    folder = tmp_path_factory.mktemp("site")
    pip("install", "--no-deps", "--no-index", "--target", folder, wheel)
    return folder


@pytest.fixture(scope="module")
def sampled(site, tmp_path_factory):
    """What a program elsewhere says of one digit that it samples with the installed package."""
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    options = {"cwd": tmp_path_factory.mktemp("elsewhere"), "env": environment}
    options |= {"capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run([sys.executable, "-c", SAMPLE], **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_wheel_holds_helpers(contents):
    assert "helpers.py" in contents


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "dgm").glob("*.py")))
def test_the_wheel_holds_every_module_of_dgm(contents, name):
    assert f"dgm/{name}" in contents


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_wheel_holds_the_committed_weights(contents, name):
    assert f"dgm/checkpoints/{name}" in contents


@pytest.mark.parametrize("folder", ["experiments", "tests", "assets", "report"])
def test_the_wheel_holds_nothing_that_only_the_repository_needs(contents, folder):
    assert not [name for name in contents if name.split("/")[0] == folder]


def test_the_wheel_leaves_the_repository_as_it_was(wheel):
    assert not (ROOT / "build").exists() and not list(ROOT.glob("*.egg-info"))


def test_the_installed_package_is_the_one_that_is_used(sampled, site):
    assert Path(sampled["file"]) == site / "helpers.py"


def test_the_installed_package_samples_one_digit(sampled):
    assert sampled["shape"] == [1, 1, 28, 28]


def test_the_installed_classifier_reads_the_digit_asked_for(sampled):
    assert sampled["read"] == 3
