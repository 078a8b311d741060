"""README and docs/: code runs, links and figures exist, weights are what is promised."""

import functools
import json
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
PAGES = ("README.md", "docs/RESULTS.md", "docs/USAGE.md", "docs/TROUBLESHOOTING.md")
DOCUMENTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
README = DOCUMENTS["README.md"]
BUFFER_SNIPPET = (
    "samples = replay_buffer.sample(batch_size)\nfinal_images = langevin_dynamics(model, samples)"
)
SCORE_SNIPPET = (
    "labels = torch.tensor([5] * batch_size)\n"
    "samples = annealed_langevin_dynamics(model, labels, sigmas)"
)
FIGURES = sorted(set(re.findall(r"assets/([\w.-]+\.(?:png|gif))", "".join(DOCUMENTS.values()))))
SCREENSHOT = "app.png"  # the app's page in a browser, which no notebook draws
WEIGHTS = [
    "EBM",
    "EBM-BestPractice",
    "EBM-first-phase",
    "EBM-tutorial-settings",
    "noise-energy",
    "score-based-model",
]


def python_blocks(*names):
    return [b for name in names for b in re.findall(r"```python\n(.*?)```", DOCUMENTS[name], re.S)]


def block_with(snippet):
    return next(block for block in python_blocks("README.md") if snippet in block)


@pytest.fixture(scope="module")
def run_block(tmp_path_factory):
    """A function that runs a code block of a document, once, and returns its names."""

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
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("snippet", [BUFFER_SNIPPET, SCORE_SNIPPET])
def test_the_promised_lines_are_in_readme_verbatim(snippet):
    assert any(snippet in block for block in python_blocks("README.md"))


@pytest.mark.parametrize("block", python_blocks(*PAGES), ids=lambda b: b.splitlines()[-1][:40])
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


def test_the_caption_of_the_grid_says_how_many_of_its_digits_are_misread():
    path = ROOT / "assets" / "results" / "score-based-model.json"
    said = re.search(r"The classifier misreads (\w+) of them", README).group(1)
    found = json.loads(path.read_text(encoding="utf-8"))["misread_in_grid"]
    assert {"none": 0, "one": 1}[said] == found


def test_readme_has_figures():
    assert len(set(re.findall(r"assets/([\w.-]+\.(?:png|gif))", README))) >= 6


def test_every_figure_of_readme_but_the_app_is_in_the_results():
    figures = set(re.findall(r"assets/([\w.-]+\.(?:png|gif))", README)) - {SCREENSHOT}
    assert figures <= set(re.findall(r"assets/([\w.-]+)", DOCUMENTS["docs/RESULTS.md"]))


@pytest.mark.parametrize("name", PAGES)
def test_every_figure_has_a_text_that_says_what_is_seen(name):
    for text in re.findall(r"!\[([^\]]*)\]\((?!http)", DOCUMENTS[name]):
        assert len(text.split()) >= 5, text


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_exists_and_is_small(name):
    assert (ROOT / "assets" / name).stat().st_size < 2_000_000


@pytest.mark.parametrize("name", [name for name in FIGURES if name != SCREENSHOT])
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


@pytest.mark.parametrize("name", PAGES[1:])
def test_every_section_of_a_long_page_is_in_its_contents(name):
    _, *sections = re.findall(r"^##+ (.*)$", DOCUMENTS[name], re.M)
    contents = DOCUMENTS[name].split("\n## ")[0]
    for title in sections:
        assert f"](#{title.lower().replace(' ', '-')})" in contents, title


def test_messages_in_troubleshooting_are_those_of_the_code():
    files = [*ROOT.glob("*.py"), *ROOT.glob("dgm/*.py"), *ROOT.glob("*.ipynb")]
    code = "".join(path.read_text(encoding="utf-8") for path in files)
    for message in re.findall(r"\*\*`([^`]*)`\*\*", DOCUMENTS["docs/TROUBLESHOOTING.md"]):
        assert message in code, message


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
