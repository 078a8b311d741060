"""README and docs/RESULTS.md: code runs, links and figures exist, weights are what is promised."""

import functools
import os
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

import helpers
from dgm import data, metrics
from experiments import tables

ROOT = Path(__file__).parents[2]
DOCUMENTS = {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/RESULTS.md")
}
README = DOCUMENTS["README.md"]
BUFFER_SNIPPET = (
    "samples = replay_buffer.sample(batch_size)\nfinal_images = langevin_dynamics(model, samples)"
)
SCORE_SNIPPET = (
    "labels = torch.tensor([5] * batch_size)\n"
    "samples = annealed_langevin_dynamics(model, labels, sigmas)"
)
FIGURES = sorted(set(re.findall(r"assets/([\w.-]+\.(?:png|gif))", "".join(DOCUMENTS.values()))))
WEIGHTS = ["EBM", "EBM-BestPractice", "EBM-tutorial-settings", "score-based-model"]


def python_blocks():
    return re.findall(r"```python\n(.*?)```", README, re.S)


def block_with(snippet):
    return next(block for block in python_blocks() if snippet in block)


@pytest.fixture(scope="module")
def run_block(tmp_path_factory):
    """A function that runs a code block of README, once, and returns its names."""

    @functools.cache
    def run(block):
        names = {}
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.mktemp("readme"))  # one of them saves a picture
            patch.setattr(data, "download_mnist", lambda root: "tests stay offline")
            torch.manual_seed(0)
            plt.close("all")  # the block begins with no figure, whatever other tests left
            exec(block, names)
        return names

    return run


def local_links(name):
    """Return (path, heading) of a document's links to files of the repository."""
    links = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", DOCUMENTS[name])
    folder = (ROOT / name).parent
    local = [link for link in links if not link[0].startswith("http")]
    return [(folder / path if path else ROOT / name, heading) for path, heading in local]


def headings(path):
    """Return the anchors of a Markdown file's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("snippet", [BUFFER_SNIPPET, SCORE_SNIPPET])
def test_the_promised_lines_are_in_readme_verbatim(snippet):
    assert any(snippet in block for block in python_blocks())


@pytest.mark.parametrize("block", python_blocks(), ids=lambda block: block.splitlines()[-1][:40])
def test_code_blocks_run_each_on_its_own(block, run_block):
    run_block(block)


def test_chains_of_the_buffer_keep_their_shape(run_block):
    names = run_block(block_with(BUFFER_SNIPPET))
    assert names["final_images"].shape == names["samples"].shape


def test_the_score_model_draws_the_digit_it_is_asked_for(run_block):
    names = run_block(block_with(SCORE_SNIPPET))
    classifier = metrics.load_classifier(names["samples"].device)
    assert len(names["samples"]) == 100
    assert metrics.accuracy(classifier, names["samples"], names["labels"]) >= 0.95


def test_readme_has_figures():
    assert len(set(re.findall(r"assets/([\w.-]+\.(?:png|gif))", README))) >= 6


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_exists_and_is_small(name):
    assert (ROOT / "assets" / name).stat().st_size < 2_000_000


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_written_by_a_notebook_or_a_script(name):
    paths = [*ROOT.glob("*.ipynb"), *ROOT.glob("extras/*.ipynb")]
    notebooks = "".join(path.read_text(encoding="utf-8") for path in paths)
    paths = ROOT.glob("experiments/*.py")
    scripts = "".join(path.read_text(encoding="utf-8") for path in paths)
    assert f'\\"{name}\\"' in notebooks or f'"{name}"' in scripts


def test_the_page_of_results_is_that_of_the_committed_results():
    assert DOCUMENTS["docs/RESULTS.md"] == tables.results_page(ROOT / "assets" / "results")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_local_link_leads_somewhere(name):
    for path, _ in local_links(name):
        assert path.exists(), path


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_to_a_heading_finds_it(name):
    for path, heading in local_links(name):
        assert not heading or heading in headings(path), heading


@pytest.mark.parametrize("name", WEIGHTS)
def test_committed_weights_are_of_a_full_run_on_mnist(name):
    _, record = helpers.load_pretrained(name, "cpu")
    assert record["preset"] == "full"
    assert record["settings"]["data"] == "MNIST"


@pytest.mark.parametrize("name", WEIGHTS)
def test_committed_weights_say_how_long_they_trained_and_on_what(name):
    _, record = helpers.load_pretrained(name, "cpu")
    assert record["minutes"] > 1
    assert record["hardware"]


@pytest.mark.parametrize("name", WEIGHTS)
def test_committed_histories_cover_every_update(name):
    _, record = helpers.load_pretrained(name, "cpu")
    assert all(len(values) == record["updates"] for values in record["history"].values())


def test_checkpoints_stay_small():
    assert sum(os.path.getsize(path) for path in (ROOT / "checkpoints").iterdir()) < 10_000_000
