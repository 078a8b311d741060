"""Time to quality: `make bench-quality`. Trains three energies on the clock and judges their samples as they train.

Writes assets/results/time-to-quality.json and assets/time_to_quality.png. The clock counts training
only: it stands still while samples are drawn and judged. About 40 minutes on one core.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import helpers
import studies
import tables

RECIPES = {"replay buffer": studies.Recipe(), "no buffer": studies.Recipe(buffer_size=0),
           "tutorial settings": studies.TUTORIAL}  # fmt: skip
COLORS = {"replay buffer": "tab:orange", "no buffer": "tab:blue", "tutorial settings": "tab:green"}
MINUTES = {"replay buffer": (1, 2, 3, 4, 6), "no buffer": (1, 3), "tutorial settings": (3, 10, 20, 30)}
LENGTHS = (60, 200, 500)  # steps of the fresh chains that are judged; the best of the three counts, for each recipe


def best_distance(lab, model, recipe, n, seed):
    """{chain length: distance} of n fresh chains, and the smallest."""
    generator = torch.Generator(lab.device).manual_seed(seed)
    start = torch.rand(n, *helpers.IMAGE_SHAPE, device=lab.device, generator=generator)
    chain = {**recipe.chain, "snapshots": LENGTHS, "generator": generator}
    _, frames = helpers.langevin_dynamics(model, start, LENGTHS[-1], **chain)
    distances = {k: lab.judge(frame)["frechet_distance"] for k, frame in zip(LENGTHS, frames, strict=True)}
    return {"distances": distances, "best": min(distances.values())}


def on_the_clock(lab, recipe, minutes, n, seed=1):
    """Yield one judgement for each of `minutes` of training, with the updates done and the minutes spent by then."""
    due, spent, updates = list(minutes), 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        for model, _ in studies.energy_updates(recipe._replace(updates=10**6), lab.digits, Path(folder) / "run.pt", seed):
            updates += 1
            now = spent + time.perf_counter() - started
            if now < 60 * due[0]:
                continue
            spent = now
            judgement = best_distance(lab, model, recipe, n, seed=7)
            yield {"minutes": spent / 60, "updates": updates, **judgement}
            due.pop(0)
            if not due:
                return
            started = time.perf_counter()


def time_to(runs, reference="tutorial settings", ours="replay buffer"):
    """What the reference had reached at best, when our recipe was first as good, and how many times sooner."""
    best = min(runs[reference], key=lambda point: point["best"])
    reached = next((point["minutes"] for point in runs[ours] if point["best"] <= best["best"]), None)
    return {"reference_best": best["best"], "reference_minutes": best["minutes"], "our_minutes": reached,
            "times_sooner": reached and best["minutes"] / reached}  # fmt: skip


def draw(result, floor, path):
    """Distance against minutes of training, a line a recipe, the floor (as many real training images) below them."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(7, 3.6))
    for name, points in result["runs"].items():
        shape = {"marker": "s", "markersize": 9, "fillstyle": "none"} if name == "tutorial settings" else {"marker": "o"}
        minutes, distances = [p["minutes"] for p in points], [p["best"] for p in points]
        ax.loglog(minutes, distances, **shape, color=COLORS[name], label=tables.one_buffer(name))
    ax.axhline(floor, color="black", linestyle=":", label="real training images (the floor)")
    ticks = (0.5, 1, 2, 3, 5, 10, 20, 30)
    ax.set_xticks(ticks, ticks)
    ax.minorticks_off()
    ax.set(xlabel="minutes of training", ylabel="Fréchet distance, best chain length")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, bbox_to_anchor=(1.01, 1), loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight", facecolor="white")


def write(runs, lab, n, folder, unfinished="runs/time-to-quality"):
    """time-to-quality.json and its figure from what the recipes gave; in the folder `unfinished` while one is missing."""
    result = {"command": "make bench-quality", "hardware": helpers.hardware_name(), "date": time.strftime("%Y-%m-%d"),
              "seed": 1, "n": n, "runs": {name: runs[name] for name in RECIPES if name in runs}}  # fmt: skip
    whole = len(runs) == len(RECIPES)
    result["time_to"] = time_to(runs) if whole else None
    path = Path(folder if whole else unfinished) / "time-to-quality.json"
    helpers.write_json(result, path)
    if not whole:
        return
    floor = studies.floors(lab, sizes=(n,))["sizes"][str(n)]["as they come"]["mean"]
    draw(result, floor, path.parent.parent / "time_to_quality.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", help=f"train these anew and keep the others' results: {', '.join(RECIPES)}")
    parser.add_argument("--folder", default="assets/results")
    parser.add_argument("--n", type=int, default=1_000, help="samples a judgement")
    arguments = parser.parse_args()
    unknown = set(arguments.recipes) - set(RECIPES)
    if unknown:
        parser.error(f"there is no recipe {', '.join(sorted(unknown))}")
    lab, path, runs = studies.laboratory(), Path(arguments.folder) / "time-to-quality.json", {}
    if arguments.recipes and path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if (before["hardware"], before["n"]) != (helpers.hardware_name(), arguments.n):
            parser.error(f"{path} is of {before['hardware']} and n = {before['n']}: measure all recipes anew")
        runs = before["runs"]
    for name in arguments.recipes or RECIPES:
        runs[name] = []
        for point in on_the_clock(lab, RECIPES[name], MINUTES[name], arguments.n):
            runs[name].append(point)
            print(f"{name}: {point['minutes']:.1f} minutes, {point['updates']:,} updates, {point['distances']}", flush=True)
        write(runs, lab, arguments.n, arguments.folder)


if __name__ == "__main__":
    main()
