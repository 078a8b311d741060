"""README does what it says: its code runs, its figures exist and come from a notebook, its weights keep its promises."""

import os
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

import evaluation
import helpers
import tables

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = [
    "samples = replay_buffer.sample(batch_size)\nfinal_images = langevin_dynamics(model, samples)",
    "labels = torch.tensor([5] * batch_size)\nsamples = annealed_langevin_dynamics(model, labels, sigmas)",
]


def python_blocks():
    return re.findall(r"```python\n(.*?)```", README, re.S)


def test_the_promised_lines_are_in_readme_verbatim():
    for snippet in SNIPPETS:
        assert any(snippet in block for block in python_blocks())


@pytest.mark.parametrize("block", python_blocks(), ids=lambda block: block.splitlines()[-1][:40])
def test_code_blocks_run_each_on_its_own(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # one of them saves a picture
    monkeypatch.setattr(helpers, "download_mnist", lambda root: "tests stay offline")
    torch.manual_seed(0)
    plt.close("all")  # the block begins with no figure, whatever other tests left
    names = {}
    exec(block, names)
    if SNIPPETS[0] in block:
        assert names["final_images"].shape == names["samples"].shape
    if SNIPPETS[1] in block:
        judge = evaluation.load_classifier(names["samples"].device)
        assert len(names["samples"]) == 100
        assert evaluation.accuracy(judge, names["samples"], names["labels"]) >= 0.95


def test_every_figure_exists_and_is_written_by_a_notebook_or_a_script():
    figures = set(re.findall(r"assets/([\w.-]+\.(?:png|gif))", README))
    notebooks = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("*.ipynb"))
    scripts = [*ROOT.glob("benchmarks/*.py"), ROOT / "tools" / "hero.py"]
    scripts = "".join(path.read_text(encoding="utf-8") for path in scripts)
    assert len(figures) >= 6
    for name in figures:
        assert (ROOT / "assets" / name).stat().st_size < 2_000_000
        assert f'\\"{name}\\"' in notebooks or f'"{name}"' in scripts


def test_tables_are_those_of_the_committed_results():
    for part, written in tables.readme_parts(ROOT / "assets" / "results").items():
        begin, end = tables.MARKS[part]
        assert README[README.index(begin) + len(begin) : README.index(end)].strip() == written


def test_a_colab_badge_waits_for_a_public_address(monkeypatch):
    monkeypatch.setattr(tables, "REPOSITORY", "somebody/somewhere")
    table = tables.readme_parts(ROOT / "assets" / "results")["notebooks"]
    for name in tables.NOTEBOOKS:
        assert f"colab.research.google.com/github/somebody/somewhere/blob/main/{name}.ipynb)" in table
    assert "colab.research" not in README


def test_every_local_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


@pytest.mark.parametrize("name", ["EBM", "EBM-BestPractice", "EBM-tutorial-settings", "score-based-model"])
def test_committed_weights_say_where_they_come_from(name):
    _, record = helpers.load_pretrained(name, "cpu")
    assert record["preset"] == "full" and record["settings"]["data"] == "MNIST"
    assert record["minutes"] > 1 and record["hardware"]
    assert all(len(values) == record["updates"] for values in record["history"].values())


def test_checkpoints_stay_small():
    assert sum(os.path.getsize(path) for path in (ROOT / "checkpoints").iterdir()) < 10_000_000
