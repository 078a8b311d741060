"""Time to quality: Fréchet distance of three energies against training time.

The clock counts training only and stops during sampling and evaluation.
"""

import tempfile
import time
from pathlib import Path

import torch

from dgm import plots
from dgm.checks import IMAGE_SHAPE
from experiments.chains import COLORS
from experiments.floors import floor_of
from experiments.laboratory import recall
from experiments.names import label
from experiments.training import TUTORIAL, Recipe, energy_updates
from helpers import langevin_dynamics

RECIPES = {"replay_buffer": Recipe(), "no_buffer": Recipe(buffer_size=0), "tutorial": TUTORIAL}
MINUTES = {"replay_buffer": (1, 2, 3, 4, 6), "no_buffer": (1, 3), "tutorial": (3, 10, 20, 30)}
LENGTHS = (60, 200, 500)  # lengths of the evaluated chains, of which the best counts


def best_distance(lab, model, recipe, n, seed):
    """Return the Fréchet distances of n fresh chains by length, and the smallest."""
    generator = torch.Generator(lab.device).manual_seed(seed)
    start = torch.rand(n, *IMAGE_SHAPE, device=lab.device, generator=generator)
    chain = {**recipe.chain, "snapshots": LENGTHS, "generator": generator}
    _, frames = langevin_dynamics(model, start, LENGTHS[-1], **chain)
    found = [lab.evaluate(frame)["frechet_distance"] for frame in frames]
    return {"distances": dict(zip(LENGTHS, found, strict=True)), "best": min(found)}


def on_the_clock(lab, recipe, minutes, n, seed=1):
    """Yield an evaluation after each of the `minutes` of training, with updates and minutes."""
    due, spent, updates = list(minutes), 0.0, 0
    recipe = recipe._replace(updates=10**6)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        for model, _ in energy_updates(recipe, lab.digits, Path(folder) / "run.pt", seed):
            updates += 1
            now = spent + time.perf_counter() - started
            if now < 60 * due[0]:
                continue
            spent = now
            found = best_distance(lab, model, recipe, n, seed=7)
            yield {"minutes": spent / 60, "updates": updates, **found}
            due.pop(0)
            if not due:
                return
            started = time.perf_counter()


def points_of(key, lab, name, n):
    """Return the evaluations of one recipe."""
    points = []
    for point in on_the_clock(lab, RECIPES[name], MINUTES[name], n):
        points.append(point)
        spent = f"{point['minutes']:.1f} minutes, {point['updates']:,} updates"
        print(f"{name}: {spent}, {point['distances']}", flush=True)
    return points


def time_to(runs, reference="tutorial", ours="replay_buffer"):
    """Return the best distance of the reference and when our recipe first reached it."""
    best = min(runs[reference], key=lambda point: point["best"])
    as_good = (point["minutes"] for point in runs[ours] if point["best"] <= best["best"])
    reached = next(as_good, None)
    return {
        "reference_best": best["best"],
        "reference_minutes": best["minutes"],
        "our_minutes": reached,
        "times_sooner": reached and best["minutes"] / reached,
    }


def time_to_quality(lab, n=1_000):
    """Measure the samples of three energies after given minutes of training."""
    n = min(n, lab.max_samples)
    runs = {name: recall(points_of, lab, name, n)[0] for name in RECIPES}
    return {"seed": 1, "n": n, "runs": runs, "time_to": time_to(runs)}


def draw_time_to_quality(results, folder):
    """Draw the Fréchet distance of each recipe against training time, with the floor."""
    import matplotlib.pyplot as plt

    measured = results["time-to-quality"]
    figure, ax = plt.subplots(figsize=(7, 3.6))
    for name, points in measured["runs"].items():
        style = {"marker": "o", "color": COLORS[name]}
        if name == "tutorial":
            style |= {"marker": "s", "markersize": 9, "fillstyle": "none"}
        minutes, distances = [p["minutes"] for p in points], [p["best"] for p in points]
        shown = "one_buffer" if name == "replay_buffer" else name
        ax.loglog(minutes, distances, label=label(shown), **style)
    floor = floor_of(results, measured["n"])["mean"]
    ax.axhline(floor, color="black", linestyle=":", label=f"floor (n = {measured['n']:,})")
    ticks = (0.5, 1, 2, 3, 5, 10, 20, 30)
    ax.set_xticks(ticks, ticks)
    ax.minorticks_off()
    ax.set(xlabel="training time (minutes)")
    ax.set_ylabel("Fréchet distance (best chain length)")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, bbox_to_anchor=(1.01, 1), loc="upper left")
    plots.write_figure(figure, folder / "time_to_quality.png")
    plt.close(figure)
