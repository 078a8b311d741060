"""The two phases of the energy's training: their weights, and chains after each of them."""

from pathlib import Path

from dgm import plots, runs
from experiments.chains import evaluate_chains
from experiments.floors import floor_of
from experiments.names import label
from experiments.training import BEST, SECOND, train_energy, train_into_checkpoints
from helpers import load_pretrained

FIRST = "EBM-first-phase"
PHASES = {"both": "EBM-BestPractice", "first": FIRST}
LINES = {  # colours and lines of the figure
    "first_from_noise": ("tab:red", ".-"),
    "first_from_test_digits": ("tab:red", ".--"),
    "both_from_noise": ("tab:orange", ".-"),
    "both_from_test_digits": ("tab:orange", ".--"),
    "other_seed_from_noise": ("tab:orange", "x:"),
}


def first_phase(lab):
    """Train an energy with BEST and write its weights to checkpoints/."""
    train_into_checkpoints(lab, FIRST, BEST)


def second_phase(lab):
    """Continue the first phase with SECOND; write the replay-buffer energy to checkpoints/."""
    first = load_pretrained(FIRST, lab.device)
    train_into_checkpoints(lab, PHASES["both"], SECOND, first)


def old_chains(
    lab,
    seed=7,
    n=500,
    lengths=(60, 200, 500, 1_000, 2_000, 5_000),
    recipe=SECOND,
    root="runs/experiments/old-chains",
):
    """Measure chains after both phases and after the first, from two starts.

    It also trains the second phase with another seed and measures its chains from noise.
    """
    n, result, networks = min(n, lab.max_samples), {"training": {}, "chains": {}}, {}
    for key, name in PHASES.items():
        networks[key], record = load_pretrained(name, lab.device)
        result["training"][key] = runs.provenance(record)
    first = networks["first"], record
    networks["other_seed"], _ = train_energy(recipe, lab.digits, Path(root) / "2.pt", 2, first)
    for name in LINES:
        key, start = name.split("_from_")
        images = lab.digits.test_images[:n] if start == "test_digits" else None
        arguments = BEST, seed, n, list(lengths), name, images
        result["chains"][name] = evaluate_chains(lab, networks[key], *arguments)
    return {"seed": seed, "n": n, "floor": lab.floor(n), **result}


def draw_old_chains(results, folder):
    """Draw distance against chain length, from noise and from test digits."""
    import matplotlib.pyplot as plt

    measured = results["old-chains"]
    figure, ax = plt.subplots(figsize=(7, 3.4))
    for name, (color, line) in LINES.items():
        found = measured["chains"][name]
        distances = [metrics["frechet_distance"] for metrics in found.values()]
        ax.plot([int(k) for k in found], distances, line, color=color, label=label(name))
    floor = floor_of(results, measured["n"])["mean"]
    ax.axhline(floor, color="gray", linestyle=":", label=f"floor: {floor:.1f}")
    ax.set(xscale="log", yscale="log", xlabel="chain length")
    ax.set_ylabel(f"Fréchet distance (n = {measured['n']})")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=7, bbox_to_anchor=(1.01, 1), loc="upper left")
    plots.write_figure(figure, folder / "ebm_old_chains.png")
    plt.close(figure)
