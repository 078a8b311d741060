"""The models in a browser: generation, energies of chains, denoising, completion (`make app`)."""

import argparse
import contextlib
import functools
import itertools
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import gradio as gr
import numpy as np
import torch
from gradio import tunneling
from matplotlib.figure import Figure

import helpers
from dgm import samplers
from dgm.device import pick_device
from dgm.drawings import erased_digit, sketched_digit
from dgm.inverse import inpaint, posterior_sampling
from dgm.metrics import psnr
from dgm.plots import image_grid, show_images

SAMPLERS = {  # name: (sampler, noise schedule, default number of levels)
    "DPM-Solver++": (samplers.dpm_solver, samplers.karras_sigmas, 12),
    "Heun": (samplers.heun, samplers.karras_sigmas, 12),
    "consistent annealed": (samplers.consistent_annealed, samplers.geometric_sigmas, 20),
    "predictor-corrector": (samplers.predictor_corrector, samplers.geometric_sigmas, 30),
    "annealed Langevin": (helpers.annealed_langevin_dynamics, samplers.geometric_sigmas, 30),
}
ANY, NOISE, SKETCH = "any", "noise", "my sketch"
NOTHING_DRAWN = "Nothing is drawn yet: select the pen and draw a digit first."
NOTHING_ERASED = "Nothing is painted over yet: select the pen and paint over a part of the digit."


@functools.cache
def load_models():
    """Return the replay-buffer model, the score network, and chains of the former to tune on."""
    energy, record = helpers.load_pretrained("EBM-BestPractice")
    score, _ = helpers.load_pretrained("score-based-model")
    chains = record["chains"][:64].to(pick_device()).float() / 255
    return energy.requires_grad_(False), score.requires_grad_(False), chains


@functools.cache
def denoising_steps(sigma):
    """Return the number of noise-free Langevin steps that denoises the committed chains best."""
    energy, _, chains = load_models()
    return helpers.choose_denoising_steps(energy, chains, sigma, generator=seeded(0))


def seeded(seed):
    """Return a generator for any whole number; an empty field is seed 0."""
    return torch.Generator(pick_device()).manual_seed(int(seed or 0) % 2**32)


def labels_of(digit, n):
    return None if digit == ANY else torch.full((n,), int(digit))


def picture(images, columns):
    """Return images [N, 1, 28, 28] as one uint8 grid, each pixel four pixels wide."""
    grid = (255 * image_grid(images, columns)).round().byte().numpy()
    return grid.repeat(4, axis=0).repeat(4, axis=1)


def one_chain(frames, columns=12):
    """Return the first image at up to `columns` moments of its chain, in one row."""
    moments = torch.linspace(0, len(frames) - 1, min(columns, len(frames))).long()
    return picture(torch.stack([frames[k][0] for k in moments]), columns)


# ----------------------------------------------------------------------------------- the answers


def stream(sampler, *arguments, n, pause=0.1, **options):
    """Run a sampler of the score in a thread; yield the list of frames [n, 1, 28, 28] so far.

    The sampler gets the score as a plain function. It keeps each x that it is called with,
    stretched to [0, 1], and ends the run when the caller stops reading. The last frame is the
    result.
    """
    score, frames, unread = load_models()[1], [], threading.Event()

    def watched(x, sigma, labels=None):
        if unread.is_set():
            raise InterruptedError
        seen = x.detach()[:n]  # guidance passes x twice in one batch
        low, high = seen.amin((1, 2, 3), keepdim=True), seen.amax((1, 2, 3), keepdim=True)
        frames.append((seen - low) / (high - low))
        return score(x, sigma, labels)

    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(sampler, watched, *arguments, **options)
        try:
            while not wait([run], pause).done:
                if frames:
                    yield list(frames)
            yield [*frames, run.result()]
        except FloatingPointError as error:
            raise gr.Error(str(error), print_exception=False) from error
        finally:
            unread.set()


def generated(digit, count, sampler, levels, guidance, seed):
    """Yield (samples, one chain, a line of text) while a sampler of the score runs."""
    run, rule, _ = SAMPLERS[sampler]
    n, sigmas, generator = int(count), rule(levels=int(levels)), seeded(seed)
    start = sigmas[0] * torch.randn(n, 1, 28, 28, generator=generator, device=generator.device)
    options = {"start": start, "guidance": guidance, "generator": generator, "n": n}
    began = time.perf_counter()
    for frames in stream(run, labels_of(digit, n), sigmas, **options):
        text = f"{len(frames) - 1} network evaluations, {time.perf_counter() - began:.1f} s"
        yield picture(frames[-1], min(n, 8)), one_chain(frames), text


def energy_curve(curve):
    """Return a figure of (step, energy) pairs, both axes logarithmic beyond their first part."""
    figure = Figure(figsize=(6, 2.2), dpi=150, layout="constrained")
    ax = figure.add_subplot(xlabel="Langevin step", ylabel="mean energy")
    ax.set_xscale("symlog", linthresh=10)
    ax.set_yscale("symlog", linthresh=0.1)
    ax.plot(*zip(*curve, strict=True), marker=".")
    ax.set(xlim=(-1, max(20, curve[-1][0])), ylim=(min(-0.1, curve[-1][1]), max(1, curve[0][1])))
    ax.grid(alpha=0.3)
    return figure


def descended(origin, drawing, steps, seed):
    """Yield (images, energies, a line of text) while Langevin dynamics runs on the energy."""
    energy, sketch, generator = load_models()[0], sketched_digit(drawing), seeded(seed)
    noise = torch.rand(16, 1, 28, 28, generator=generator, device=generator.device)
    if (x := sketch if origin == SKETCH else noise) is None:
        yield None, None, NOTHING_DRAWN
        return
    curve, moments = [], [0, 0, 1, 2, 4, 7, 12, *range(20, int(steps) + 1, 20)]
    for last, step in itertools.pairwise(moments):
        x = helpers.langevin_dynamics(energy, x, step - last, generator=generator)
        curve.append((step, energy(x).mean().item()))
        shown = torch.cat([sketch.to(x), x]) if origin == SKETCH else x
        text = f"step {step} of {steps}: mean energy {curve[-1][1]:.3f}"
        yield picture(shown, 8), energy_curve(curve), text


def comparison(images):
    """Return a figure of named images side by side, with their PSNR against the first one."""
    figure, clean = (
        Figure(figsize=(6, 2.1), dpi=150, layout="constrained"),
        next(iter(images.values())),
    )
    axes = figure.subplots(1, 4)
    for ax, (name, x) in zip(axes, images.items(), strict=False):
        show_images(ax, x, 1, name if x is clean else f"{name}\n{psnr(x, clean):.1f} dB")
    for ax in axes[len(images) :]:
        ax.axis("off")
    return figure


def denoised(drawing, sigma, seed):
    """Yield (figure of the answers, posterior samples, a line of text) of a sketch with noise."""
    if (clean := sketched_digit(drawing)) is None:
        yield None, None, NOTHING_DRAWN
        return
    (energy, score, _), clean, generator = load_models(), clean.to(pick_device()), seeded(seed)
    noisy = clean + sigma * samplers.noise_like(clean, generator)
    shown = {"sketch": clean, "noisy": noisy}
    yield comparison(shown), None, "Denoising ..."
    steps = denoising_steps(sigma)
    shown["replay buffer"] = helpers.langevin_dynamics(energy, noisy, steps, noise=0.0)
    shown["score network"] = score.denoise(noisy, sigma)
    text = f"Replay buffer: {steps} Langevin steps. Posterior samples:"
    yield comparison(shown), None, f"{text} ..."
    options = {"generator": generator, "n": 8}
    for frames in stream(posterior_sampling, noisy.repeat(8, 1, 1, 1), sigma, **options):
        yield gr.skip(), picture(frames[-1], 8), f"{text} step {len(frames) - 1} of 100"


def completed(drawing, digit, seed):
    """Yield (completions, a line of text) of a partly painted-over digit."""
    image, known = erased_digit(drawing)
    if known is None or known.all():
        yield None, NOTHING_ERASED
        return
    n, sigmas = 8, samplers.karras_sigmas(levels=50)
    images, labels = image.repeat(n, 1, 1, 1).to(pick_device()), labels_of(digit, n)
    generator = seeded(seed)
    for frames in stream(inpaint, labels, sigmas, images, known, generator=generator, n=n):
        text = f"{(~known).sum()} pixels missing; step {len(frames) - 1} of 50"
        yield picture(frames[-1], 4), text


def fresh_digit(digit, seed=None):
    """Return a generated digit as the background of a drawing, ten times as wide."""
    generator = seeded(torch.Generator().seed() if seed is None else seed)
    labels, sigmas = labels_of(digit, 1), samplers.karras_sigmas(levels=12)
    x = samplers.dpm_solver(load_models()[1], labels, sigmas, n=1, generator=generator)
    grey = (255 * image_grid(x, 1)).round().byte().numpy()
    image = np.kron(grey[..., None], np.ones((10, 10, 3), np.uint8))
    return {"background": image, "layers": [], "composite": image}


# -------------------------------------------------------------------------------------- the page


def drawing_field(width, field=gr.Sketchpad, **options):
    """Return a field to draw in with one brush."""
    tools = {"brush": gr.Brush(width, ["#e8590c"], color_mode="fixed"), "sources": ()}
    look = {"show_label": False, "buttons": [], "layers": False, "transforms": ()}
    size = {"canvas_size": (280, 280), "fixed_canvas": True, "height": 400, "format": "png"}
    return field(**tools, **look, **size, **options)


def picture_field(title):
    gr.Markdown(f"**{title}**")
    return gr.Image(show_label=False, buttons=[], format="png")


def digit_field(label="Digit"):
    return gr.Dropdown([ANY, *"0123456789"], value=ANY, label=label)


def seed_field():
    return gr.Number(0, label="Seed", precision=0)


def add_buttons(column, text, answer, inputs, outputs):
    """Add a button that starts an answer, and one that stops it."""
    with column, gr.Row():
        start, stop = gr.Button(text, variant="primary"), gr.Button("Stop")
    running = start.click(answer, inputs, outputs, show_progress="minimal")
    stop.click(None, cancels=[running])


def generate_tab():
    with gr.Column(scale=1) as left:
        digit, count = digit_field(), gr.Slider(1, 32, 16, step=1, label="Number of samples")
        sampler = gr.Dropdown(list(SAMPLERS), value="DPM-Solver++", label="Sampler")
        levels = gr.Slider(4, 60, 12, step=1, label="Steps (noise levels)")
        guidance = gr.Slider(0, 4, samplers.GUIDANCE, step=0.1, label="Guidance (with a digit)")
        inputs = [digit, count, sampler, levels, guidance, seed_field()]
    with gr.Column(scale=2):
        text = gr.Markdown("Samples of the score network. Press *Generate*.")
        pictures = picture_field("Samples"), picture_field("First sample, from noise to digit")
    sampler.change(lambda name: SAMPLERS[name][2], sampler, levels)
    add_buttons(left, "Generate", generated, inputs, [*pictures, text])


def energy_tab():
    with gr.Column(scale=1) as left:
        origin = gr.Radio([NOISE, SKETCH], value=NOISE, label="Chains start from")
        drawing = drawing_field(12)
        steps = gr.Slider(20, 2000, 1000, step=20, label="Langevin steps")
        inputs = [origin, drawing, steps, seed_field()]
    with gr.Column(scale=2):
        text = gr.Markdown(
            "Langevin chains of the replay-buffer model. To start from a sketch, select the pen."
        )
        outputs = [picture_field("Chains (a sketch stands first)"), gr.Plot(show_label=False)]
    add_buttons(left, "Run chains", descended, inputs, [*outputs, text])


def denoise_tab():
    with gr.Column(scale=1) as left:
        drawing = drawing_field(12)
        sigma = gr.Slider(0.1, 1, 0.25, step=0.05, label="Noise level")
        inputs = [drawing, sigma, seed_field()]
    with gr.Column(scale=2):
        text = gr.Markdown("Select the pen, draw a digit, press *Denoise*.")
        gr.Markdown("**Answers of both models, with PSNR against the sketch**")
        answers = gr.Plot(show_label=False)
        samples = picture_field(
            "Posterior samples of the score network: what the noisy image could show"
        )
    add_buttons(left, "Denoise", denoised, inputs, [answers, samples, text])


def complete_tab():
    with gr.Column(scale=1) as left:
        drawing = drawing_field(20, gr.ImageEditor, value=fresh_digit("8", 8))
        wanted, another = digit_field("Digit to paint over"), gr.Button("Another digit")
        inputs = [drawing, digit_field("Complete as"), seed_field()]
    with gr.Column(scale=2):
        text = gr.Markdown("Select the pen, paint over a part, press *Complete*.")
        samples = picture_field("Completions")
    another.click(fresh_digit, wanted, drawing)
    add_buttons(left, "Complete", completed, inputs, [samples, text])


def build_page():
    names = ("Generate", "Energy", "Draw and denoise", "Complete")
    tabs = (generate_tab, energy_tab, denoise_tab, complete_tab)
    title = "Energy-based and score-based models on MNIST"
    with gr.Blocks(title=title, analytics_enabled=False, fill_width=True) as page:
        gr.Markdown(f"# {title}")
        for name, fill in zip(names, tabs, strict=True):
            with gr.Tab(name), gr.Row():
                fill()
    return page


def start(page, **options):
    """Serve the page in the background; return (local address, public address or None)."""
    theme = gr.themes.Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace",))
    look = {"theme": theme, "footer_links": [], "ssr_mode": False}  # nothing from elsewhere
    return page.launch(**look, prevent_thread_lock=True, quiet=True, **options)[1:]


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", action="store_true", help="serve at a public address too")
    parser.add_argument("--host", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    return parser.parse_args()


def main():
    asked = read_arguments()
    options = {"share": asked.share, "server_name": asked.host, "server_port": asked.port}
    page = build_page()
    try:
        local, public = start(page, **options)
    except OSError:
        sys.exit("The app cannot listen at this address: choose another --port or --host.")
    print(f"The app is at {public or local} until Ctrl-C.", flush=True)
    while True:
        time.sleep(1)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
    for tunnel in tunneling.CURRENT_TUNNELS:  # what --share has opened
        tunnel.kill()
    print("\nThe app has stopped.", flush=True)
    os._exit(0)  # does not wait for a sampler that still runs
