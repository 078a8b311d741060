"""Every notebook of the repository: executed in smoke mode in a folder of its own, and fit to be read as committed."""

import base64
import io
import json
import re
import shutil
import statistics
from pathlib import Path

import nbformat
import numpy as np
import papermill
import pytest
import torch
from PIL import Image

import helpers
import studies
import tables
from tools import shrink_notebooks

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("*.ipynb"))  # the order of the runs: EBM-BestPractice, EBM, score-based-model
EXPORTS = {
    "EBM": ["ebm_baseline_samples.png", "ebm_baseline_denoising.png"],
    "EBM-BestPractice": ["ebm_generation_evolution.png", "training_stability.png", "ebm_denoising.png", "ebm_evolution.gif"],
    "score-based-model": ["sbm_conditional_grid.png", "sbm_unconditional_grid.png", "denoising_results.png",
                          "sbm_inpainting.png", "sbm_interpolation.png"],
}  # fmt: skip
DRAWN_FROM_RESULTS = {
    "EBM": [],
    "EBM-BestPractice": ["ebm_chain_length.png", "ebm_out_of_distribution.png"],
    "score-based-model": ["denoising_curves.png", "posterior_sampling.png", "memorisation.png", "sbm_label_accuracy.png",
                          "sbm_guidance.png", "sbm_noise_scales.png", "sbm_samplers.png", "sbm_likelihood.png",
                          "sbm_energy_behind.png"],
}  # fmt: skip


def code_cells(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


def stderr_of(path):
    outputs = [output for cell in code_cells(path) for output in cell["outputs"]]
    assert not any(output["output_type"] == "error" for output in outputs)
    return "".join("".join(output["text"]) for output in outputs if output.get("name") == "stderr")


def test_all_three_notebooks_are_found():
    assert {path.stem for path in NOTEBOOKS} == set(EXPORTS)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A folder with the notebooks and what they import; the notebooks run in it one after another."""
    folder = tmp_path_factory.mktemp("workshop")
    for path in [*NOTEBOOKS, *(ROOT / name for name in ("helpers.py", "samplers.py", "fast.py", "evaluation.py"))]:
        shutil.copy(path, folder)
    shutil.copytree(ROOT / "checkpoints", folder / "checkpoints")
    return folder


def execute(path, workshop, monkeypatch, **parameters):
    monkeypatch.setenv("MNIST_ROOT", str(workshop / "no-mnist-here"))
    monkeypatch.delenv("PUBLISH", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(workshop))
    output = workshop / f"executed-{path.name}"
    papermill.execute_notebook(workshop / path.name, output, {"preset": "smoke", **parameters}, cwd=workshop,
                               progress_bar=False, kernel_name="python3")  # fmt: skip
    assert "warning" not in stderr_of(output).lower()
    return output


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_trains_and_exports_in_smoke_mode(path, workshop, monkeypatch):
    output = execute(path, workshop, monkeypatch)
    text = output.read_text(encoding="utf-8")
    assert "NO MNIST" in text and "update 6/6" in text
    for name in EXPORTS[path.stem]:
        assert (workshop / "runs" / "smoke-uci-digits" / "assets" / name).stat().st_size > 1000
    assert not (workshop / "assets").exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_with_committed_weights(path, workshop, monkeypatch):
    """With the committed results beside them, whose figures are then drawn too."""
    shutil.copytree(ROOT / "assets" / "results", workshop / "assets" / "results", dirs_exist_ok=True)
    output = execute(path, workshop, monkeypatch, pretrained=True)
    assert "Trained for" in output.read_text(encoding="utf-8")
    assert "this panel is left out" not in output.read_text(encoding="utf-8")
    for name in EXPORTS[path.stem] + DRAWN_FROM_RESULTS[path.stem]:
        assert (workshop / "runs" / "demo-smoke-uci-digits" / "assets" / name).stat().st_size > 1000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebook_is_executed_clean_and_small(path):
    cells = [cell for cell in code_cells(path) if source(cell).strip()]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert stderr_of(path) == ""
    assert path.stat().st_size < 2_000_000
    lengths = [len(source(cell).splitlines()) for cell in cells]
    assert max(lengths) <= 40 and statistics.median(lengths) <= 12
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert "widgets" not in notebook["metadata"] and "papermill" not in notebook["metadata"]
    assert not any({"papermill", "execution"} & set(cell["metadata"]) for cell in notebook["cells"])
    outputs = json.dumps([cell["outputs"] for cell in cells])
    assert "widget-view" not in outputs and "preset full, MNIST" in outputs


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_cell_has_the_defaults_of_a_newcomer(path):
    tagged = [source(cell) for cell in code_cells(path) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    assert re.search(r'^preset = "auto"', tagged[0], re.M) and re.search(r"^pretrained = False", tagged[0], re.M)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_colab_without_the_modules_gets_told_what_to_do(path, tmp_path, monkeypatch):
    import sys
    import types

    setup = next(source(cell) for cell in code_cells(path) if "google.colab" in source(cell))
    monkeypatch.chdir(tmp_path)
    exec(setup, {})  # outside Colab it does nothing
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    with pytest.raises(FileNotFoundError, match=r"upload helpers\.py, samplers\.py, fast\.py and evaluation\.py"):
        exec(setup, {})


def test_without_its_judge_the_score_notebook_says_so_before_it_trains(tmp_path, monkeypatch):
    cells = code_cells(ROOT / "score-based-model.ipynb")
    parameters = next(i for i, cell in enumerate(cells) if "parameters" in cell["metadata"].get("tags", []))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNIST_ROOT", str(tmp_path))
    monkeypatch.setattr(helpers, "CHECKPOINTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="the classifier that judges samples"):
        exec(source(cells[parameters + 1]), {"preset": "smoke", "pretrained": False})


def test_the_public_address_is_the_same_everywhere():
    for path in NOTEBOOKS:
        address = re.search(r'^REPOSITORY = "(.*)"', "\n".join(source(cell) for cell in code_cells(path)), re.M)[1]
        assert address == (f"https://github.com/{tables.REPOSITORY}" if tables.REPOSITORY else "")


OURS = {"EBM": {"buffer_size": 0}, "EBM-BestPractice": {
    "buffer_size": 200, "old_share": 0.25, "regularise_samples": False, "ema_decay": 0.998}}  # fmt: skip


@pytest.mark.parametrize("name", OURS)
def test_studies_train_as_the_notebooks_do(name, workshop, tmp_path):
    """The loop of studies.py is the notebooks' own, to the bit; uses the smoke runs of the test above."""
    digits = helpers.uci_digits()
    recipe = studies.Recipe(updates=6, batch_size=16, langevin_steps=5, **OURS[name])
    studies.train_energy(recipe, digits, tmp_path / "run.pt", seed=1)
    theirs = helpers.load_checkpoint(workshop / "runs" / "smoke-uci-digits" / f"{name}-resume.pt", "run")["state"]["ema"]
    ours = helpers.load_checkpoint(tmp_path / "run.pt", "run")["state"]["ema"]
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_pictures_in_notebooks_get_a_palette_and_stay_the_same():
    x = torch.randint(0, 256, (64, 64, 1), generator=torch.Generator().manual_seed(0)).byte().expand(-1, -1, 3).numpy()
    buffer = io.BytesIO()
    Image.fromarray(x).save(buffer, "PNG")
    before = base64.b64encode(buffer.getvalue()).decode()
    after = shrink_notebooks.with_palette(before)
    shrunk = torch.from_numpy(np.array(Image.open(io.BytesIO(base64.b64decode(after))).convert("RGB")))
    assert len(after) < len(before) and (shrunk.int() - torch.from_numpy(x).int()).abs().max() <= 4
    assert shrink_notebooks.with_palette(after) == after  # no smaller a second time


def test_controls_are_left_out_of_published_notebooks(tmp_path):
    view = nbformat.v4.new_output("display_data", {shrink_notebooks.WIDGET: {"model_id": "1"}, "text/plain": "interactive"})
    text = nbformat.v4.new_output("stream", text="kept")
    cell = nbformat.v4.new_code_cell("play()", outputs=[view, text])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "a.ipynb")
    shrink_notebooks.shrink(tmp_path / "a.ipynb")
    assert nbformat.read(tmp_path / "a.ipynb", as_version=4).cells[0].outputs == [text]
