"""Every notebook: executed in smoke mode in a folder of its own, and fit to be committed."""

import base64
import importlib.metadata
import io
import json
import re
import shutil
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from dgm import data, metrics, runner, runs
from experiments import tables, training
from tools import shrink_notebooks

ROOT = Path(__file__).parents[2]
NOTEBOOKS = [*sorted(ROOT.glob("*.ipynb")), *sorted(ROOT.glob("extras/*.ipynb"))]
EXPORTS = {
    "EBM": ["ebm_baseline_samples.png", "ebm_baseline_denoising.png"],
    "EBM-BestPractice": [
        "ebm_generation_evolution.png",
        "ebm_samples.png",
        "ebm_denoising.png",
        "ebm_evolution.gif",
    ],
    "score-based-model": [
        "sbm_two_modes.png",
        "sbm_conditional_grid.png",
        "sbm_unconditional_grid.png",
        "sbm_generation_evolution.png",
        "sbm_few_steps.png",
        "denoising_results.png",
        "posterior_samples.png",
    ],
    "what-else-a-score-can-do": ["sbm_inpainting.png", "sbm_interpolation.png"],
    "energy-meets-score": ["energy_mixture.png", "energy_samples.png", "energy_halves.png"],
}
MODELS = ["EBM", "EBM-BestPractice", "score-based-model"]  # what the notebooks of these names train
LIMITS = {"EBM-BestPractice": 250, "score-based-model": 340}  # lines of code but the set-up cell's
LOOPS = {  # {run: (notebook, its recipe in smoke mode)}
    "EBM": ("EBM", training.Recipe(buffer_size=0)),
    "EBM-first-phase": ("EBM-BestPractice", training.BEST._replace(buffer_size=200)),
}

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_name = pytest.mark.parametrize("name", [path.stem for path in NOTEBOOKS])
either_way = pytest.mark.parametrize("pretrained", [False, True], ids=["training", "pretrained"])
each_export = pytest.mark.parametrize(
    "name, filename", [(name, filename) for name in EXPORTS for filename in EXPORTS[name]]
)


# ----------------------------------------------------------------------------- what a file holds


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def source(cell):
    return "".join(cell["source"])


def code_cells(path):
    cells = [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    return [cell for cell in cells if source(cell).strip()]


def outputs_of(path):
    return [output for cell in code_cells(path) for output in cell["outputs"]]


def text_of(path, stream):
    outputs = [output for output in outputs_of(path) if output.get("name") == stream]
    return "".join("".join(output["text"]) for output in outputs)


def tagged_parameters(path):
    cells = code_cells(path)
    return [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]


def set_up_cell(path):
    return source(code_cells(path)[0])


def test_every_notebook_is_known_here():
    assert {path.stem for path in NOTEBOOKS} == set(EXPORTS)


# ------------------------------------------------------------------------------------- execution


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A folder with the notebooks and what they import."""
    folder = tmp_path_factory.mktemp("workshop")
    for path in [*ROOT.glob("*.ipynb"), ROOT / "helpers.py"]:
        shutil.copy(path, folder)
    for name in ("dgm", "checkpoints", "extras"):
        ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def executed(workshop):
    """A function that executes a notebook in smoke mode, once, and returns the executed file."""
    paths = {path.stem: workshop / path.relative_to(ROOT) for path in NOTEBOOKS}
    done = {}

    def execute(name, pretrained=False, data="MNIST"):
        if (name, pretrained, data) not in done:
            output = workshop / f"executed-{pretrained}-{Path(data).stem}-{name}.ipynb"
            parameters = {"preset": "smoke", "pretrained": pretrained, "data": data}
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("MNIST_ROOT", str(workshop / "no-mnist-here"))
                patch.delenv("PUBLISH", raising=False)
                patch.delenv("PYTHONPATH", raising=False)
                runner.execute(paths[name], output, parameters)
            done[name, pretrained, data] = output
        return done[name, pretrained, data]

    return execute


@either_way
@each_name
def test_notebook_runs_in_smoke_mode_without_errors(name, pretrained, executed):
    outputs = outputs_of(executed(name, pretrained))
    assert not any(output["output_type"] == "error" for output in outputs)


@either_way
@each_name
def test_notebook_runs_in_smoke_mode_without_warnings(name, pretrained, executed):
    assert "warning" not in text_of(executed(name, pretrained), "stderr").lower()


@each_name
def test_notebook_says_that_there_is_no_mnist(name, executed):
    assert "NO MNIST" in text_of(executed(name), "stdout")


@pytest.mark.parametrize("name", MODELS)
def test_notebook_trains(name, executed):
    assert "update 6/6" in text_of(executed(name), "stdout")


@pytest.mark.parametrize("name", MODELS)
def test_notebook_with_committed_weights_says_how_long_they_were_trained(name, executed):
    assert "Trained for" in text_of(executed(name, pretrained=True), "stdout")


@pytest.mark.parametrize("name", MODELS)
def test_notebook_with_committed_weights_does_not_train(name, executed):
    assert "update 6/6" not in text_of(executed(name, pretrained=True), "stdout")


def test_further_uses_load_the_committed_network(executed):
    text = text_of(executed("what-else-a-score-can-do", pretrained=True), "stdout")
    assert "The network: score-based-model, preset full" in text


def test_energy_meets_score_loads_the_committed_energy(executed):
    assert "noise-energy, preset full" in text_of(executed("energy-meets-score"), "stdout")


@each_export
def test_training_run_writes_its_figures(name, filename, executed, workshop):
    executed(name)
    figure = workshop / "runs" / "smoke-uci-digits" / "assets" / filename
    assert figure.stat().st_size > 1000


@each_export
def test_run_with_committed_weights_writes_its_figures(name, filename, executed, workshop):
    executed(name, pretrained=True)
    figure = workshop / "runs" / "demo-smoke-uci-digits" / "assets" / filename
    assert figure.stat().st_size > 1000


@either_way
@each_name
def test_smoke_run_leaves_assets_alone(name, pretrained, executed, workshop):
    executed(name, pretrained)
    assert not (workshop / "assets").exists()


@pytest.mark.parametrize("name", LOOPS)
def test_experiments_train_as_the_notebooks_do(name, executed, workshop, tmp_path):
    """The loop of experiments/training.py is the notebooks' own, to the bit."""
    notebook, recipe = LOOPS[name]
    executed(notebook)
    recipe = recipe._replace(updates=6, batch_size=16, langevin_steps=5)
    training.train_energy(recipe, data.uci_digits(), tmp_path / "run.pt", seed=1)
    notebook = workshop / "runs" / "smoke-uci-digits" / f"{name}-resume.pt"
    paths = {"ours": tmp_path / "run.pt", "theirs": notebook}
    weights = {k: runs.load_checkpoint(path, "run")["state"]["ema"] for k, path in paths.items()}
    assert weights["ours"].keys() == weights["theirs"].keys()
    for key, value in weights["ours"].items():
        assert torch.equal(value, weights["theirs"][key])


def test_the_second_phase_has_the_settings_of_the_experiments(executed, workshop):
    executed("EBM-BestPractice")
    path = workshop / "runs" / "smoke-uci-digits" / "EBM-BestPractice-resume.pt"
    theirs, ours = runs.load_checkpoint(path, "run")["settings"], training.SECOND._asdict()
    smaller = {"updates", "batch_size", "langevin_steps", "buffer_size"}  # in smoke mode
    shared = (set(theirs) & set(ours)) - smaller
    assert {key: theirs[key] for key in shared} == {key: ours[key] for key in shared}


# ----------------------------------------------------------------------------- your own images

OWN = [  # notebooks and the file of images that each is run on
    ("EBM-BestPractice", "unlabelled"),
    ("score-based-model", "labelled"),
    ("score-based-model", "unlabelled"),
    ("what-else-a-score-can-do", "unlabelled"),
]
LABELS_ONLY = "sbm_conditional_grid.png"
on_own_images = pytest.mark.parametrize("name, file", OWN, ids=lambda value: value)


@pytest.fixture(scope="module")
def on_own(executed, workshop):
    """A function that executes a notebook on a file and returns what it printed and its figures."""
    digits = data.uci_digits()
    pixels = (255 * digits.train_images[:, 0]).byte().numpy()
    np.savez(workshop / "unlabelled.npz", x=pixels)
    np.savez(workshop / "labelled.npz", x=pixels, y=digits.train_labels.numpy())

    def execute(name, file):
        if name == "what-else-a-score-can-do":
            executed("score-based-model", data=f"{file}.npz")
        output = executed(name, data=f"{file}.npz")
        (folder,) = (workshop / "runs").glob(f"smoke-{file}-*")
        return output, folder / "assets"

    return execute


@on_own_images
def test_notebook_runs_on_own_images(name, file, on_own):
    output, _ = on_own(name, file)
    assert not any(output["output_type"] == "error" for output in outputs_of(output))
    assert "warning" not in text_of(output, "stderr").lower()


@on_own_images
def test_own_images_get_all_figures_but_those_of_labels(name, file, on_own):
    _, figures = on_own(name, file)
    missing = {filename for filename in EXPORTS[name] if not (figures / filename).exists()}
    assert missing == ({LABELS_ONLY} & set(EXPORTS[name]) if file == "unlabelled" else set())


@pytest.mark.parametrize("name, file", OWN[:3], ids=lambda value: value)
def test_notebook_on_own_images_says_that_metrics_are_left_out(name, file, on_own):
    text = text_of(on_own(name, file)[0], "stdout")
    assert text.count(metrics.NO_CLASSIFIER) == 1
    assert "Fréchet distance " not in text.replace(metrics.NO_CLASSIFIER, "")


def test_without_labels_the_score_notebook_says_what_is_left_out(on_own):
    output, _ = on_own("score-based-model", "unlabelled")
    assert text_of(output, "stdout").count(data.NO_LABELS) == 3


def test_with_labels_nothing_of_them_is_left_out(on_own):
    output, _ = on_own("score-based-model", "labelled")
    assert data.NO_LABELS not in text_of(output, "stdout")


def test_own_images_need_a_score_network_of_their_own(on_own, executed, workshop):
    pixels = np.load(workshop / "unlabelled.npz")["x"]
    np.savez(workshop / "others.npz", x=pixels[:200])
    with pytest.raises(runner.Failure) as failure:
        executed("what-else-a-score-can-do", data="others.npz")
    assert "no score network of others-" in failure.value.said


# ---------------------------------------------------------------------------------- as committed


@each_notebook
def test_committed_notebook_is_executed_from_first_to_last(path):
    counts = [cell["execution_count"] for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))


@each_notebook
def test_committed_notebook_has_no_errors(path):
    assert not any(output["output_type"] == "error" for output in outputs_of(path))


@each_notebook
def test_committed_notebook_has_no_warnings(path):
    assert text_of(path, "stderr") == ""


@each_notebook
def test_committed_notebook_shows_the_reference_run(path):
    assert "preset full, MNIST" in text_of(path, "stdout")


@each_notebook
def test_committed_notebook_is_small(path):
    assert path.stat().st_size < 2_000_000


@each_notebook
def test_committed_notebook_has_no_widgets(path):
    assert "widgets" not in read(path)["metadata"]
    assert "widget-view" not in json.dumps(outputs_of(path))


@each_notebook
def test_committed_notebook_has_no_traces_of_its_execution(path):
    assert "papermill" not in read(path)["metadata"]
    for cell in read(path)["cells"]:
        assert not {"papermill", "execution"} & set(cell["metadata"])


@each_notebook
def test_cells_are_short(path):
    lengths = [len(source(cell).splitlines()) for cell in code_cells(path)]
    assert max(lengths) <= 40
    assert statistics.median(lengths) <= 12


@pytest.mark.parametrize("name", LIMITS)
def test_notebook_is_short(name):
    _, *cells = code_cells(ROOT / f"{name}.ipynb")
    assert sum(len(source(cell).splitlines()) for cell in cells) <= LIMITS[name]


@pytest.mark.parametrize("word", ["load_results", "read_result", "import json", ".json"])
@each_notebook
def test_notebook_reads_no_results_file(path, word):
    assert not any(word in source(cell) for cell in code_cells(path))


@each_notebook
def test_one_cell_has_the_parameters(path):
    assert len(tagged_parameters(path)) == 1


@pytest.mark.parametrize("default", ['preset = "auto"', "pretrained = False", 'data = "MNIST"'])
@each_notebook
def test_parameters_have_the_defaults_of_a_newcomer(path, default):
    assert re.search(f"^{default}", source(tagged_parameters(path)[0]), re.M)


@each_notebook
def test_parameters_are_the_same_everywhere(path):
    assert source(tagged_parameters(path)[0]) == source(tagged_parameters(NOTEBOOKS[0])[0])


# ------------------------------------------------------------------------------- the set-up cell


SET_UP = source(code_cells(NOTEBOOKS[0])[0])


class FakeColab:
    """The module google.colab and get_ipython(), as far as the set-up cell uses them."""

    def __init__(self):
        self.files, self.uploaded, self.commands, self.asked = self, {}, [], 0

    def upload(self):
        self.asked += 1
        return self.uploaded

    def system(self, command):
        self.commands.append(command)
        if command.startswith("git"):
            subprocess.run(command, shell=True, capture_output=True)

    def run_cell(self, address=""):
        cell = re.sub(r'^REPOSITORY = ".*"', f'REPOSITORY = "{address}"', SET_UP, flags=re.M)
        exec(cell, {"get_ipython": lambda: self})


@pytest.fixture
def colab(tmp_path, monkeypatch):
    """A session of Colab in an empty folder, where all requirements but torch are installed."""
    colab = FakeColab()
    (tmp_path / "content").mkdir()
    monkeypatch.chdir(tmp_path / "content")
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    return colab


def zipped(names, top="dgm-mnist-main/"):
    """Return a zip as bytes, of small files with these names below a folder."""
    contents = io.BytesIO()
    with zipfile.ZipFile(contents, "w") as archive:
        for name in names:
            archive.writestr(top + name, (ROOT / "requirements.txt").read_bytes())
    return contents.getvalue()


REPOSITORY_FILES = ["dgm/checks.py", "helpers.py", "requirements.txt"]
OUTSIDE = {"parent": "../helpers.py", "absolute": "/tmp/helpers.py"}
WRONG_UPLOADS = {
    "nothing": ({}, "Got nothing instead of one zip"),
    "two files": ({"a.zip": zipped(REPOSITORY_FILES), "b": b""}, "Got a.zip, b instead of one zip"),
    "no zip": ({"helpers.py": b"import torch"}, "Got helpers.py instead of one zip"),
    "an empty file": ({"a.zip": b""}, "Got a.zip instead of one zip"),
    "another zip": ({"a.zip": zipped(["README.md"])}, "Got a.zip, which lacks helpers.py"),
    "a cut zip": ({"a.zip": zipped(REPOSITORY_FILES)[:-9]}, "Got a.zip instead of one zip"),
    "a damaged zip": (
        {"a.zip": zipped(REPOSITORY_FILES).replace(b"torch>=", b"torch==")},
        "Got a.zip, which is damaged or unsafe",
    ),
    **{
        f"a path outside, {name}": (
            {"a.zip": zipped(["helpers.py", path], top="")},
            "Got a.zip, which is damaged or unsafe",
        )
        for name, path in OUTSIDE.items()
    },
}


@each_notebook
def test_set_up_cell_is_the_same_everywhere(path):
    assert "google.colab" in set_up_cell(path)
    assert set_up_cell(path) == set_up_cell(NOTEBOOKS[0])


@each_notebook
def test_set_up_cell_is_folded_away(path):
    metadata = code_cells(path)[0]["metadata"]
    assert set_up_cell(path).startswith("# @title")
    assert metadata["cellView"] == "form"
    assert metadata["jupyter"]["source_hidden"]


@each_notebook
def test_public_address_is_the_same_everywhere(path):
    address = re.search(r'^REPOSITORY = "(.*)"', set_up_cell(path), re.M)[1]
    assert address == tables.repository_url(ROOT)


def test_outside_colab_the_set_up_cell_does_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(SET_UP, {})
    assert Path.cwd() == tmp_path
    assert not list(tmp_path.iterdir())


def test_set_up_cell_goes_from_extras_to_the_root(tmp_path, monkeypatch):
    (tmp_path / "helpers.py").touch()
    (tmp_path / "extras").mkdir()
    monkeypatch.chdir(tmp_path / "extras")
    exec(SET_UP, {})
    assert Path.cwd() == tmp_path


def test_set_up_cell_goes_from_extras_to_the_root_in_colab_too(colab, monkeypatch):
    for name in ("helpers.py", "requirements.txt"):
        Path(name).touch()
    Path("extras").mkdir()
    monkeypatch.chdir("extras")
    colab.run_cell()
    assert (Path.cwd().name, colab.asked) == ("content", 0)


@pytest.mark.parametrize("top", ["dgm-mnist-main/", "", "a/b/"], ids=["usual", "none", "two"])
def test_colab_asks_for_one_zip_and_works_in_what_it_holds(top, colab):
    colab.uploaded = {"a.zip": zipped(REPOSITORY_FILES, top)}
    colab.run_cell()
    assert colab.asked == 1
    assert {path.name for path in Path().iterdir()} == {"dgm", "helpers.py", "requirements.txt"}


def test_colab_asks_only_once(colab, monkeypatch):
    colab.uploaded = {"a.zip": zipped(REPOSITORY_FILES)}
    before = Path.cwd()
    colab.run_cell()
    colab.run_cell()
    monkeypatch.chdir(before)  # as after a restart of the runtime
    colab.run_cell()
    assert colab.asked == 1


@pytest.mark.parametrize("name", WRONG_UPLOADS)
def test_colab_says_what_is_wrong_with_an_upload(name, colab):
    colab.uploaded, message = WRONG_UPLOADS[name]
    with pytest.raises(ValueError, match=f"{message}.*Upload one file: the zip"):
        colab.run_cell()
    assert not list(Path().iterdir())


def test_colab_takes_the_right_zip_after_a_wrong_one(colab):
    with pytest.raises(ValueError, match="Got nothing"):
        colab.run_cell()
    colab.uploaded = {"a.zip": zipped(REPOSITORY_FILES)}
    colab.run_cell()
    assert Path("helpers.py").exists()


@pytest.fixture
def address(tmp_path):
    """The address of a git repository with a few files."""
    for name in REPOSITORY_FILES:
        (tmp_path / "hub" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "hub" / name)
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init"], ["add", "."], [*author, "commit", "-m", "a"]):
        subprocess.run(["git", *command], cwd=tmp_path / "hub", check=True, capture_output=True)
    return (tmp_path / "hub").as_posix()


def test_colab_with_an_address_clones_it(colab, address):
    colab.run_cell(address)
    assert (Path.cwd().name, colab.asked) == ("repository", 0)
    assert Path("dgm/checks.py").exists()


def test_colab_asks_for_the_zip_where_cloning_fails(colab, tmp_path):
    colab.uploaded = {"a.zip": zipped(REPOSITORY_FILES)}
    colab.run_cell(tmp_path / "nothing-here")
    assert (Path("helpers.py").exists(), colab.asked) == (True, 1)


def test_colab_installs_nothing_where_nothing_is_missing(colab):
    shutil.copy(ROOT / "requirements.txt", ".")
    Path("helpers.py").touch()
    colab.run_cell()
    assert colab.commands == []


def test_colab_installs_what_is_missing_and_never_torch(colab, monkeypatch):
    shutil.copy(ROOT / "requirements.txt", ".")
    Path("helpers.py").touch()
    lacking = {"rich", "scikit-image", "torch", "torchvision", "jupyter"}
    there = importlib.metadata.distributions

    def installed(name):
        return [] if name in lacking else there(name=name)

    monkeypatch.setattr(importlib.metadata, "distributions", installed)
    colab.run_cell()
    assert colab.commands == [f"{sys.executable} -m pip install --quiet rich scikit-image"]


@pytest.mark.parametrize("name", MODELS)
def test_without_its_classifier_a_notebook_says_so_before_it_trains(name, tmp_path, monkeypatch):
    cells = [source(cell) for cell in code_cells(ROOT / f"{name}.ipynb")]
    after_parameters = cells[2]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNIST_ROOT", str(tmp_path))
    monkeypatch.setattr(runs, "CHECKPOINTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="the classifier that evaluates samples"):
        exec(after_parameters, {"preset": "smoke", "pretrained": False, "data": "MNIST"})


# ------------------------------------------------------------------------- tools/shrink_notebooks


@pytest.fixture(scope="module")
def picture():
    generator = torch.Generator().manual_seed(0)
    grey = torch.randint(0, 256, (64, 64, 1), generator=generator).byte()
    return grey.expand(-1, -1, 3).numpy()


def encoded(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_palette_makes_a_picture_smaller(picture):
    before = encoded(picture)
    assert len(shrink_notebooks.with_palette(before)) < len(before)


def test_palette_leaves_a_picture_as_it_looks(picture):
    png = base64.b64decode(shrink_notebooks.with_palette(encoded(picture)))
    shrunk = np.array(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    assert np.abs(shrunk - picture).max() <= 4


def test_palette_changes_nothing_a_second_time(picture):
    once = shrink_notebooks.with_palette(encoded(picture))
    assert shrink_notebooks.with_palette(once) == once


def test_controls_are_left_out_of_published_notebooks(tmp_path):
    bundle = {shrink_notebooks.WIDGET: {"model_id": "1"}, "text/plain": "interactive"}
    view = nbformat.v4.new_output("display_data", bundle)
    text = nbformat.v4.new_output("stream", text="kept")
    cell = nbformat.v4.new_code_cell("play()", outputs=[view, text])
    path = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    shrink_notebooks.shrink(path)
    assert nbformat.read(path, as_version=4).cells[0].outputs == [text]


def test_pictures_in_published_notebooks_get_a_palette(picture, tmp_path):
    png = encoded(picture)
    figure = nbformat.v4.new_output("display_data", {"image/png": png})
    cell = nbformat.v4.new_code_cell("draw()", outputs=[figure])
    path = tmp_path / "a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    shrink_notebooks.shrink(path)
    shrunk = nbformat.read(path, as_version=4).cells[0].outputs[0]["data"]["image/png"]
    assert shrunk.strip() == shrink_notebooks.with_palette(png).strip()
