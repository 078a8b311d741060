"""Sample quality of the energies against chain length, and nearest training images."""

import time

import torch

from dgm import plots, runs
from dgm.checks import IMAGE_SHAPE
from dgm.device import hardware_name, seed_everything
from experiments.floors import floor_of
from experiments.laboratory import nearest_training_digits, recall
from experiments.names import label
from experiments.training import TUTORIAL, train_into_checkpoints
from helpers import langevin_dynamics, load_pretrained

ENERGIES = {
    "replay_buffer": "EBM-BestPractice",
    "no_buffer": "EBM",
    "tutorial": "EBM-tutorial-settings",
}
# the lengths that all samples reach
LENGTHS = dict.fromkeys(ENERGIES, (20, 60, 200, 500)) | {"replay_buffer": (20, 60, 200, 500, 1_000)}
COLORS = {"no_buffer": "tab:blue", "replay_buffer": "tab:orange", "tutorial": "tab:green"}


def evaluate_chains(lab, model, recipe, seed, n, lengths, name, start=None):
    """Return {steps: metrics} of n chains of one energy, from noise or from images `start`."""
    generator = torch.Generator(lab.device).manual_seed(seed)
    if start is None:
        start = torch.rand(n, *IMAGE_SHAPE, device=lab.device, generator=generator)
    options = {**recipe.chain, "snapshots": lengths, "generator": generator}
    _, frames = langevin_dynamics(model, start, lengths[-1], **options)
    found = {str(k): lab.evaluate(x) for k, x in zip(lengths, frames, strict=True)}
    distances = [round(metrics["frechet_distance"]) for metrics in found.values()]
    print(f"{name}: distance {distances} at {lengths} steps", flush=True)
    return found


def chains_of(key, lab, name, digest, seed, lengths, later):
    """Evaluate fresh chains of one energy: many up to `lengths`, the first 1,000 up to `later`."""
    model, record = load_pretrained(name, lab.device)
    generator = seed_everything(seed, lab.device)
    options = {"step_size": record["settings"]["step_size"], "generator": generator}
    options["noise"] = record["settings"]["chain_noise"]
    few = min(1_000, lab.max_samples)
    batches = []
    for _ in range(lab.max_samples // few):
        start = torch.rand(few, *IMAGE_SHAPE, device=lab.device, generator=generator)
        shown = {"snapshots": lengths, "progress": True}
        batches.append(langevin_dynamics(model, start, lengths[-1], **options, **shown)[1])
    result = {
        "training": runs.provenance(record),
        "what": {
            "weights": digest,
            "seed": seed,
            "most": lab.max_samples,
            "lengths": [*lengths, *later],
        },
        "measured_on": f"{hardware_name()}, {time.strftime('%Y-%m-%d')}",
        "many": {},
        "few": {},
    }
    for i, steps in enumerate(lengths):
        result["many"][str(steps)] = lab.evaluate(torch.cat([frames[i] for frames in batches]))
        result["few"][str(steps)] = lab.evaluate(batches[0][i])
    result["nearest"] = nearest_training_digits(lab, batches[0][-1])
    x, done = batches[0][-1], lengths[-1]
    for steps in later:
        x = langevin_dynamics(model, x, steps - done, **options, progress=True)
        result["few"][str(steps)] = lab.evaluate(x)
        done = steps
    for n in ("many", "few"):
        distances = {k: round(v["frechet_distance"], 1) for k, v in result[n].items()}
        print(f"{name}, {n}:", distances, flush=True)
    return result


def chains(lab, seed=7, lengths=None, later=(1_000, 2_000, 5_000, 10_000)):
    """Measure the quality of fresh chains against their length for three energies."""
    few = min(1_000, lab.max_samples)
    many = lab.max_samples // few * few
    found = {}
    for key, first in (lengths or LENGTHS).items():
        name = ENERGIES[key]
        digest = load_pretrained(name, lab.device)[1]["digest"]
        after = tuple(steps for steps in later if steps > first[-1])
        found[key], _ = recall(chains_of, lab, name, digest, seed, first, after)
    return {
        "seed": seed,
        "n_many": many,
        "n_few": few,
        "floor": {"many": lab.floor(many), "few": lab.floor(few)},
        "energies": found,
    }


def draw_chain_length(results, folder):
    """Draw the Fréchet distance of the energies against chain length."""
    import matplotlib.pyplot as plt

    measured = results["chains"]
    figure, ax = plt.subplots(figsize=(7, 4))
    for kind, marker, line in (("few", ".", "-"), ("many", "d", "")):
        n = measured[f"n_{kind}"]
        for key, color in {k: COLORS[k] for k in measured["energies"]}.items():
            found = measured["energies"][key][kind]
            steps = [int(k) for k in found]
            distances = [metrics["frechet_distance"] for metrics in found.values()]
            style = {"marker": marker, "linestyle": line, "color": color}
            name = label(key) if kind == "few" else None
            ax.plot(steps, distances, label=name, **style)
        floor = floor_of(results, n)["mean"]
        style = {"color": "gray", "linestyle": "-" if kind == "few" else ":"}
        ax.axhline(floor, label=f"floor, n = {n:,}: {floor:.1f}", **style)
    for kind, marker, shape in (("few", ".", "dots"), ("many", "d", "diamonds")):
        ax.plot([], [], marker, color="gray", label=f"{shape}: n = {measured[f'n_{kind}']:,}")
    ax.set(xscale="log", yscale="log")
    ax.set(xlabel="chain length (steps from noise)", ylabel="Fréchet distance")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=7, bbox_to_anchor=(1.01, 1), loc="upper left")
    plots.write_figure(figure, folder / "ebm_chain_length.png")
    plt.close(figure)


def draw_memorisation(results, folder):
    """Draw the distances of samples and test digits to their nearest training images."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(7, 3))
    sources = {
        "score": (results["score-samples"]["nearest"], "tab:green"),
        "ebm_replay_buffer": (
            results["chains"]["energies"]["replay_buffer"]["nearest"],
            "tab:orange",
        ),
    }
    for name, (nearest, color) in sources.items():
        histogram = nearest["histogram"]
        options = {"label": f"samples, {label(name)}", "color": color, "linewidth": 1.5}
        ax.stairs(histogram["samples"], histogram["edges"], **options)
    options = {"label": label("test_digits"), "fill": True, "color": "gray", "alpha": 0.3}
    ax.stairs(histogram["test_digits"], histogram["edges"], **options)
    ax.set(xlabel="Euclidean distance to the nearest training image", xlim=(0.8, 8.2))
    ax.set(ylabel=f"number of images (of {nearest['n']:,})")
    ax.legend(fontsize=8)
    plots.write_figure(figure, folder / "memorisation.png")
    plt.close(figure)


def tutorial(lab):
    """Train an energy with the tutorial's settings and write its weights to checkpoints/."""
    recipe = TUTORIAL._replace(updates=1_900)
    train_into_checkpoints(lab, "EBM-tutorial-settings", recipe, chains=False)
