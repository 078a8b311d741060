"""Ablation of the energy's training recipe, and training with more old chains."""

from pathlib import Path

import numpy as np

from dgm import plots, runs
from experiments.chains import evaluate_chains
from experiments.names import label
from experiments.stability import gap_statistics, one_core_each, train_and_evaluate
from experiments.training import BEST, SMALLER, train_energy
from helpers import load_pretrained

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
OLDER = {"old_share": 0.5, "old_size": 512, "fall": 0.25, "ema_decay": 0.999}


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


def older_chains(
    lab,
    n=500,
    lengths=(60, 200, 500, 1_000, 2_000, 5_000, 10_000),
    seed=1,
    root="runs/experiments",
):
    """Measure training with half of each batch from old chains against the committed energy."""
    path, found = Path(root) / "older-chains.pt", {}
    model, _ = train_energy(BEST._replace(**OLDER), lab.digits, path, seed)
    committed, _ = load_pretrained("EBM-BestPractice", lab.device)
    n = min(n, lab.max_samples)
    for name, energy in (("half_old", model), ("quarter_old", committed)):
        found[name] = evaluate_chains(lab, energy, BEST, 1_000 + seed, n, list(lengths), name)
    minutes = runs.load_checkpoint(path, "run")["seconds"] / 60
    return {
        "minutes": round(minutes, 1),
        "seed": seed,
        "n": n,
        "floor": lab.floor(n),
        "chains": found,
        "changed": as_text(OLDER),
    }
