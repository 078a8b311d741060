"""Figures: grids of images, histories, files with the data's name on them, films, captions."""

from pathlib import Path

import IPython.display
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from dgm import plots, runs

SIGNATURE = b"\x89PNG\r\n\x1a\n"  # of a PNG: enough of a picture here


@pytest.fixture
def axis():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


# -------------------------------------------------------------------------- grids and curves


def test_images_are_drawn_as_one_grid(axis):
    plots.show_images(axis, torch.zeros(6, 1, 28, 28), columns=3)
    assert axis.images[0].get_array().shape == (2 * 29 + 1, 3 * 29 + 1)


def test_pixels_are_drawn_clamped(axis):
    plots.show_images(axis, torch.full((1, 1, 28, 28), 1.5), columns=1)
    assert axis.images[0].get_array().max() == 1


def test_a_grid_of_images_has_its_title(axis):
    plots.show_images(axis, torch.zeros(1, 1, 28, 28), columns=1, title="Samples")
    assert axis.get_title() == "Samples"


def test_a_grid_of_images_has_no_ticks(axis):
    plots.show_images(axis, torch.zeros(1, 1, 28, 28), columns=1)
    assert len(axis.get_xticks()) == len(axis.get_yticks()) == 0


def test_the_bold_line_of_a_history_is_its_running_mean(axis):
    plots.plot_history(axis, np.arange(80.0), "black", "loss")  # 1/40 of it is 2
    assert axis.lines[1].get_ydata() == pytest.approx(np.arange(79) + 0.5)


def test_a_history_in_the_legend_is_the_bold_line(axis):
    plots.plot_history(axis, np.arange(80.0), "black", "loss")
    assert axis.get_legend_handles_labels() == ([axis.lines[1]], ["loss"])


def test_panels_of_denoised_images_tell_their_psnr():
    clean = torch.full((12, 1, 28, 28), 0.5)
    figure = plots.denoising_figure([(0.1, {"Clean": clean, "Noisy": clean + 0.1})])
    titles = [ax.get_title() for ax in figure.axes]
    plt.close(figure)
    assert titles == ["Clean", "Noisy\n20.0 dB"]


# -------------------------------------------------------------------------------------- files


@pytest.fixture
def run(tmp_cwd):
    return runs.open_run("EBM", "smoke", data="UCI digits")


def texts_on_saved_figure(run, axis, data):
    plots.save_figure(axis.figure, run, "figure.png", data)
    return [text.get_text() for text in axis.figure.texts]


def test_other_data_are_named_on_figures(run, axis):
    assert texts_on_saved_figure(run, axis, "UCI digits") == ["data: UCI digits, not MNIST"]


def test_mnist_is_not_named_on_figures(run, axis):
    assert texts_on_saved_figure(run, axis, "MNIST") == []


def test_figures_are_written_to_the_runs_folder(run, axis):
    plots.save_figure(axis.figure, run, "figure.png", "UCI digits")
    assert (run.figures / "figure.png").stat().st_size > 0


@pytest.fixture
def film(run, generator):
    frames = torch.rand(3, 4, 1, 28, 28, generator=generator)
    plots.save_animation(frames, run, "film.gif", columns=2)
    return run.figures / "film.gif"


def test_films_are_gifs(film):
    assert film.read_bytes()[:3] == b"GIF"


def test_films_have_all_their_frames(film):
    with Image.open(film) as image:
        assert image.n_frames == 3


# --------------------------------------------------------------- pictures drawn by experiments


@pytest.fixture
def displayed(monkeypatch):
    """What was displayed."""
    shown = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    return shown


@pytest.fixture
def picture(tmp_cwd):
    """A picture in assets/, and a run that shows it."""
    Path("assets").mkdir()
    Path("assets/guidance.png").write_bytes(SIGNATURE)
    return runs.Run("score-based-model", "full", True, True, Path("runs/full"))


def test_a_picture_is_shown(picture, displayed):
    plots.show_figure(picture, "guidance.png")
    assert displayed[0].data == SIGNATURE


def test_a_picture_is_captioned(picture, displayed):
    plots.show_figure(picture, "guidance.png")
    assert displayed[1].data == "*Committed weights, preset full.*"


def test_a_picture_is_shown_without_further_words(picture, displayed, capsys):
    plots.show_figure(picture, "guidance.png")
    assert (len(displayed), capsys.readouterr().out) == (2, "")


NOT_SHOWN = [
    pytest.param("smoke", "MNIST", "guidance.png", id="smoke run"),
    pytest.param("full", "UCI digits", "guidance.png", id="other data"),
    pytest.param("full", "MNIST", "missing.png", id="missing file"),
]


@pytest.mark.parametrize(("preset", "data", "filename"), NOT_SHOWN)
def test_elsewhere_no_picture_is_shown(preset, data, filename, picture, displayed, capsys):
    plots.show_figure(picture._replace(preset=preset), filename, data)
    assert displayed == []


@pytest.mark.parametrize(("preset", "data", "filename"), NOT_SHOWN)
def test_elsewhere_one_line_says_why(preset, data, filename, picture, displayed, capsys):
    plots.show_figure(picture._replace(preset=preset), filename, data)
    path = Path("assets") / filename
    line = f"{path} is not shown: it belongs to the committed weights on MNIST.\n"
    assert capsys.readouterr().out == line
