"""The app: its answers called directly, and its page used in headless Chromium."""

import importlib.util
import os
import re
import shutil

import numpy as np
import pytest
import torch

REQUIRED = os.environ.get("REQUIRE_BROWSER") == "1"  # a skip becomes a failure
if not REQUIRED:
    pytest.importorskip("gradio", reason="gradio is missing: the app was not tested")

import app  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")


def last(answer):
    """Return an answer's last frame."""
    return list(answer)[-1]


def stroke(background=None):
    """Return a drawing of one thick vertical stroke."""
    layer = np.zeros((280, 280, 4), np.uint8)
    layer[60:220, 130:150] = 255
    return {"background": background, "layers": [layer], "composite": None}


# --------------------------------------------------------------------------------- the answers


def one_digit(**changes):
    asked = {"digit": "3", "count": 2, "sampler": "DPM-Solver++", "levels": 4}
    return app.generated(**{**asked, "guidance": 1.4, "seed": 0, **changes})


@pytest.mark.parametrize("sampler", app.SAMPLERS)
@pytest.mark.parametrize("digit", ["any", "7"])
def test_every_sampler_gives_as_many_images_as_asked(sampler, digit):
    samples, chain, text = last(one_digit(sampler=sampler, digit=digit, count=3))
    assert samples.dtype == np.uint8
    assert samples.shape == (4 * 30, 4 * (3 * 29 + 1))
    assert chain.shape[0] == 4 * 30
    assert "network evaluations" in text


def test_the_picture_follows_the_seed():
    first, again, other = (last(one_digit(seed=seed))[0] for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("seed", [None, 2**32])
def test_an_empty_seed_is_seed_0_and_a_large_one_no_error(seed):
    assert (last(one_digit(seed=seed))[0] == last(one_digit(seed=0))[0]).all()


def test_a_negative_seed_is_a_seed():
    assert (last(one_digit(seed=-1))[0] != last(one_digit(seed=0))[0]).any()


def test_the_chain_is_seen_as_it_runs():
    frames = list(one_digit(sampler="annealed Langevin", levels=10))
    assert len(frames) > 2
    assert frames[0][0].std() > 0 and (frames[0][0] != frames[-1][0]).any()


def test_the_result_is_what_the_sampler_gives():
    generator = torch.Generator().manual_seed(5)
    start = 10 * torch.randn(2, 1, 28, 28, generator=generator)
    score, sigmas = app.load_models()[1], app.samplers.karras_sigmas(levels=4)
    expected = app.samplers.dpm_solver(score.cpu(), [3, 3], sigmas, start=start)
    shown = last(one_digit(seed=5))[0]
    difference = shown.astype(int) - app.picture(expected, 2).astype(int)
    assert abs(difference).max() <= 1


def test_a_run_ends_when_nobody_reads_on():
    calls = []

    def endless(score, start):
        while True:
            calls.append(score(start, 1.0))

    running = app.stream(endless, torch.zeros(1, 1, 28, 28), n=1)
    next(running)
    running.close()  # returns once the thread has ended
    assert len(calls) > 0


def test_a_diverging_sampler_gives_a_message():
    def diverges(score, start):
        raise FloatingPointError("diverged: try fewer steps")

    with pytest.raises(app.gr.Error, match="try fewer steps"):
        list(app.stream(diverges, None, n=1))


def test_the_energy_of_chains_from_noise_falls():
    frames = list(app.descended("noise", None, 60, 0))
    (line,) = frames[-1][1].axes[0].lines
    steps, energies = line.get_data()
    assert frames[-1][0].shape == (4 * (2 * 29 + 1), 4 * (8 * 29 + 1))
    assert list(steps) == [0, 1, 2, 4, 7, 12, 20, 40, 60]
    assert energies[-1] < 0.01 * energies[0]
    assert "step 60 of 60" in frames[-1][2]


def test_a_chain_from_a_sketch_is_seen_beside_it():
    images, _, _ = last(app.descended("my sketch", stroke(), 20, 0))
    assert images.shape == (4 * 30, 4 * (2 * 29 + 1))


def titles(figure):
    return [ax.get_title() for ax in figure.axes]


def test_both_models_answers_come_first_with_psnr_and_posterior_samples_after():
    frames = list(app.denoised(stroke(), 0.25, 0))
    captions = [caption.split("\n") for caption in titles(frames[1][0])[1:]]
    names, numbers = zip(*((name, float(psnr.split()[0])) for name, psnr in captions), strict=True)
    assert names == ("noisy", "replay buffer", "score network")
    assert numbers[0] < min(numbers[1:])
    assert frames[-1][1].shape == (4 * 30, 4 * (8 * 29 + 1))
    assert "step 100 of 100" in frames[-1][2]


def test_the_noisy_sketch_is_seen_before_any_answer():
    figure, samples, _ = next(app.denoised(stroke(), 0.25, 0))
    assert [title.split("\n")[0] for title in titles(figure)] == ["sketch", "noisy", "", ""]
    assert samples is None


def test_completions_differ_where_pixels_are_missing_only():
    digit = app.fresh_digit("1", seed=0)["background"]
    frames = list(app.completed(stroke(digit), "any", 0))
    cells = frames[-1][0].reshape(-1)  # two rows of four
    grid = cells.reshape(4 * 59, 4 * 117)[::4, ::4]
    images = [
        grid[1 + 29 * i : 29 + 29 * i, 1 + 29 * j : 29 + 29 * j] for i in (0, 1) for j in range(4)
    ]
    spread = np.std(images, axis=0)
    assert spread[6:22, 13:15].max() > 0
    assert spread[:6].max() == 0 and spread[:, :13].max() == 0
    assert "32 pixels missing" in frames[-1][1]


def test_another_digit_is_another_one_each_time():
    first, second = (app.fresh_digit("any")["background"] for _ in range(2))
    assert first.shape == (280, 280, 3)
    assert (first != second).any()


EMPTY = {"layers": [np.zeros((280, 280, 4), np.uint8)], "background": None}


@pytest.mark.parametrize("drawing", [None, EMPTY], ids=["none", "blank"])
def test_an_empty_drawing_gives_a_message(drawing):
    assert last(app.descended("my sketch", drawing, 20, 0))[-1] == app.NOTHING_DRAWN
    assert last(app.denoised(drawing, 0.25, 0))[-1] == app.NOTHING_DRAWN
    assert last(app.completed(drawing, "any", 0))[-1] == app.NOTHING_ERASED


# ---------------------------------------------------------------------------------- the browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
OFF = ("gpu", "quic", "background-networking", "component-update", "sync")
FLAGS = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in OFF)]


def need_browser():
    """Skip, or fail where a browser is required."""
    if CHROMIUM and importlib.util.find_spec("playwright"):
        return
    message = f"{'Playwright' if CHROMIUM else 'Chromium'} is missing: the page was not tested"
    pytest.fail(message) if REQUIRED else pytest.skip(message)


@pytest.fixture(scope="module")
def address():
    need_browser()
    page = app.build_page()
    yield app.start(page)[0]
    page.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium with an empty folder of its own."""
    need_browser()
    from playwright.sync_api import sync_playwright

    options = {"executable_path": CHROMIUM, "args": FLAGS, "headless": True}
    with sync_playwright() as playwright:
        folder = tmp_path_factory.mktemp("chromium")
        context = playwright.chromium.launch_persistent_context(folder, **options)
        context.set_default_timeout(60_000)
        yield context
        context.close()


@pytest.fixture
def page(browser, address):
    """The page, opened anew; in the end it has asked for nothing elsewhere and had no errors."""
    page, asked, errors = browser.new_page(), [], []
    page.set_viewport_size({"width": 1000, "height": 720})
    page.on("request", lambda sent: asked.append(sent.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.get_by_role("tab", name="Generate").wait_for()
    yield page
    page.close()
    local = (address, address.replace("http", "ws", 1), "data:", "blob:")
    assert [url for url in asked if not url.startswith(local)] == []
    assert errors == []


def open_tab(page, name):
    page.get_by_role("tab", name=name).click()


def press(page, name):
    page.get_by_role("button", name=name, exact=True).filter(visible=True).click()


def says(page, text):
    """Wait until the page says so."""
    page.get_by_text(text).filter(visible=True).first.wait_for()


SEEN = "[...document.querySelectorAll('img')].filter(image => image.offsetParent)"


def pictures(page, n):
    """Return the addresses of all pictures that are seen, as soon as there are n."""
    page.wait_for_function(f"n => {SEEN}.length == n", arg=n)
    return page.evaluate(f"{SEEN}.map(image => image.src)")


def all_change(page, before):
    """Wait until none of the pictures is what it was."""
    page.wait_for_function(f"before => {SEEN}.every(i => !before.includes(i.src))", arg=before)


def draw(page, *points):
    """Draw along points given in shares of the canvas."""
    press(page, "Brush")
    box = page.locator("canvas").filter(visible=True).first.bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place)
    page.mouse.up()
    page.get_by_role("button", name="Undo").filter(visible=True).and_(
        page.locator(":enabled")
    ).wait_for()


THREE = ((0.3, 0.2), (0.7, 0.2), (0.5, 0.45), (0.7, 0.6), (0.6, 0.8), (0.3, 0.8))
BAND = ((0.2, 0.3), (0.8, 0.3), (0.2, 0.4), (0.8, 0.4))


def test_generate(page):
    press(page, "Generate")
    says(page, "12 network evaluations")
    before = pictures(page, 2)
    page.get_by_label("Seed").filter(visible=True).fill("1")
    press(page, "Generate")
    all_change(page, before)


def test_a_sampler_brings_its_number_of_steps(page):
    page.get_by_label("Sampler").click()
    page.get_by_role("option", name="consistent annealed").click()
    steps = page.get_by_label("number input for Steps (noise levels)")
    page.wait_for_function("field => field.value == '20'", arg=steps.element_handle())


def test_a_field_left_empty_gives_no_traceback(page):
    for field in ("Number of samples", "Steps (noise levels)", "Guidance (with a digit)"):
        page.get_by_label(f"number input for {field}").fill("")
    page.get_by_label("Seed").filter(visible=True).fill("")
    press(page, "Generate")
    says(page, "network evaluations")


STREAMS = {
    "Energy": ("Run chains", (), r"step [\d,]+ of 1,?000", 2),
    "Complete": ("Complete", BAND, r"step \d+ of 50", 1),
}


@pytest.mark.parametrize("tab", STREAMS)
def test_pictures_change_while_the_chain_runs_until_it_is_stopped(page, tab):
    button, points, text, n = STREAMS[tab]
    open_tab(page, tab)
    if points:
        press(page, button)
        says(page, app.NOTHING_ERASED)
        draw(page, *points)
    press(page, button)
    says(page, re.compile(text))
    all_change(page, pictures(page, n))
    press(page, "Stop")


def test_energy_from_a_sketch(page):
    open_tab(page, "Energy")
    page.get_by_label("my sketch").check()
    press(page, "Run chains")
    says(page, app.NOTHING_DRAWN)
    draw(page, *THREE)
    page.get_by_label("number input for Langevin steps").fill("100")
    press(page, "Run chains")
    says(page, "step 100 of 100")
    pictures(page, 2)


def test_draw_and_denoise(page):
    open_tab(page, "Draw and denoise")
    press(page, "Denoise")
    says(page, app.NOTHING_DRAWN)
    draw(page, *THREE)
    page.get_by_label("number input for Noise level").fill("0.5")
    press(page, "Denoise")
    says(page, "Posterior samples: step 100 of 100")
    pictures(page, 2)
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/app.png", full_page=True)


def test_another_digit_is_seen(page):
    open_tab(page, "Complete")
    canvas = page.locator("canvas").filter(visible=True).first
    page.wait_for_timeout(1_000)  # until the first digit is there
    before = canvas.screenshot()
    press(page, "Another digit")
    while canvas.screenshot() == before:
        page.wait_for_timeout(200)
