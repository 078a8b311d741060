"""Ablation of the energy's training recipe: one change at a time, at equal cost."""

from pathlib import Path

import numpy as np

from dgm import plots
from experiments.names import label
from experiments.stability import gap_statistics, one_core_each, train_and_evaluate
from experiments.training import SMALLER

CHANGES = {
    "recipe": {},
    "no_buffer": {"buffer_size": 0},
    "never_redrawn": {"redraw": 0.0},
    "no_old_chains": {"old_share": 0.0},
    "batch_128": {"batch_size": 128},
    "steps_10": {"langevin_steps": 10},
    "steps_40": {"langevin_steps": 40},
    "no_data_noise": {"data_noise": 0.0},
    "twice_the_noise": {"chain_noise": 0.01, "data_noise": 0.03},
    "falling_rate": {"fall": 0.5},
    "no_averaging": {"ema_decay": 0.0},
    "samples_squared_too": {"regularise_samples": True},
    "nothing_squared": {"regularisation": 0.0},
}


def as_text(change):
    return {key: str(value) for key, value in change.items()}


def ablation_run(arguments):
    """Train and evaluate one changed recipe with the given number of gradient evaluations."""
    name, seed, evaluations, n, root = arguments
    recipe = SMALLER._replace(**CHANGES[name])
    updates = evaluations // (recipe.langevin_steps * recipe.batch_size)
    recipe = recipe._replace(updates=updates)
    path, lengths = Path(root) / f"{name}-{seed}.pt", [60, 200, 500, 1_000]
    history, found, minutes = train_and_evaluate(recipe, seed, n, lengths, path)
    return {
        "name": name,
        "seed": seed,
        "updates": recipe.updates,
        "training_minutes": minutes,
        "diverged": gap_statistics(history)["diverged"],
        "chains": found,
    }


def ablation(lab, evaluations=1_280_000, n=500, seeds=(1, 2), root="runs/experiments/ablation"):
    """Measure one change of the recipe at a time, with equal gradient evaluations and two seeds."""
    jobs = [(name, seed, evaluations, n, root) for name in CHANGES for seed in seeds]
    return {
        "n": n,
        "gradient_evaluations": evaluations,
        "width": SMALLER.width,
        "floor": lab.floor(n),
        "changed": {name: as_text(change) for name, change in CHANGES.items()},
        "runs": one_core_each(ablation_run, jobs),
    }


def draw_ablation(results, folder):
    """Draw the Fréchet distance of each changed recipe after 60 and 500 steps."""
    import matplotlib.pyplot as plt

    measured = results["ablation"]
    names = list(measured["changed"])
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    for ax, steps in zip(axes, ("60", "500"), strict=True):
        for seed, marker in ((1, "o"), (2, "s")):
            seeds = [run for run in measured["runs"] if run["seed"] == seed]
            distances = [run["chains"][steps]["frechet_distance"] for run in seeds]
            rows = [names.index(run["name"]) for run in seeds]
            ax.plot(distances, rows, marker, alpha=0.8, label=f"seed {seed}")
        recipe = [run for run in measured["runs"] if run["name"] == names[0]]
        mean = np.mean([run["chains"][steps]["frechet_distance"] for run in recipe])
        name = f"{label('recipe')}, mean of the seeds"
        ax.axvline(mean, color="gray", linestyle=":", label=name)
        ax.set_title(f"Chains of {steps} steps", fontsize=10)
        ax.set(xlabel=f"Fréchet distance (n = {measured['n']})", xlim=(0, None))
        ax.grid(alpha=0.3)
    shown = [label("without_buffer" if name == "no_buffer" else name) for name in names]
    axes[0].set_yticks(range(len(names)), shown, fontsize=8)
    axes[0].invert_yaxis()
    figure.tight_layout(rect=(0, 0, 1, 0.96))
    entries = axes[0].get_legend_handles_labels()
    figure.legend(*entries, fontsize=8, ncols=3, loc="upper right")
    plots.write_figure(figure, folder / "ebm_ablation.png")
    plt.close(figure)
