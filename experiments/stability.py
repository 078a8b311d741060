"""Training stability: replay buffer against baseline, and the effect of squared energies."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from dgm import plots, runs
from dgm.checks import IMAGE_SHAPE
from dgm.device import seed_everything
from experiments.chains import evaluate_chains
from experiments.laboratory import mean_and_std, open_laboratory
from experiments.names import label
from experiments.training import BEST, Recipe, train_energy
from helpers import EnergyNetwork, langevin_dynamics, load_pretrained

DIVERGED = 1.0  # threshold of the energy gap, averaged over 50 updates in a run's second half
SHOWN, WINDOW = 2_500, 50  # drawn updates of the committed runs, and window of their mean
GAP_LABEL = "energy gap $E(x^-) - E(x^+)$"

# ------------------------------------------------------------------------- energies over seeds


def one_core_each(function, jobs):
    """Return [function(job) for job in jobs], computed on all cores, one job per core."""
    os.environ.update(OMP_NUM_THREADS="1", TQDM_DISABLE="1")
    options = get_context("spawn"), torch.set_num_threads, (1,)
    with ProcessPoolExecutor(os.cpu_count(), *options) as pool:
        return list(pool.map(function, jobs))


def train_and_evaluate(recipe, seed, n, lengths, path):
    """Train one energy; return (history, metrics of n fresh chains by steps, minutes)."""
    lab = open_laboratory()
    model, history = train_energy(recipe, lab.digits, path, seed)
    found = evaluate_chains(lab, model, recipe, 1_000 + seed, n, lengths, path.stem)
    return history, found, runs.load_checkpoint(path, "run")["seconds"] / 60


def running_mean(values, window):
    return np.convolve(values, np.ones(window) / window, mode="valid")


def autocorrelation(values, lag):
    """Return the autocorrelation of a series at `lag`."""
    centred = values - values.mean()
    return float((centred[lag:] * centred[:-lag]).mean() / centred.var())


def gap_of(history):
    """Return the energy gap E(x-) - E(x+) of every update."""
    return np.array(history["e_minus"]) - np.array(history["e_plus"])


def gap_statistics(history):
    """Return size and oscillation of the energy gap in a run's second half."""
    gap = gap_of(history)
    late = gap[len(gap) // 2 :]
    lags = [lag for lag in (1, 10, 50) if lag < len(late) // 2]
    smooth = running_mean(late, min(50, len(late)))
    return {
        "gap_mean": float(late.mean()),
        "gap_mean_size": float(np.abs(late).mean()),
        "gap_std": float(late.std()),
        "gap_autocorrelation": {str(lag): autocorrelation(late, lag) for lag in lags},
        "diverged": bool(np.abs(smooth).max() > DIVERGED),
    }


def stability_run(arguments):
    """Train and evaluate one energy with the baseline's settings, with or without a buffer."""
    seed, buffered, updates, n, root = arguments
    recipe = Recipe(updates=updates, buffer_size=10_000 if buffered else 0)
    path = Path(root) / f"{'buffer' if buffered else 'no-buffer'}-{seed}.pt"
    history, found, minutes = train_and_evaluate(recipe, seed, n, [60, 200, 500], path)
    window = max(updates // 40, 1)
    curves = {"loss": history["loss"], "gap": gap_of(history)}
    curves = {name: running_mean(v, window)[::window].tolist() for name, v in curves.items()}
    return {
        "seed": seed,
        "buffered": buffered,
        "training_minutes": minutes,
        **gap_statistics(history),
        "chains": found,
        "window": window,
        "curves": curves,
    }


def summary_of(seeds):
    """Return mean and standard deviation over the results of `stability_run`."""
    keys = ("gap_mean", "gap_mean_size", "gap_std")
    summary = {key: mean_and_std([run[key] for run in seeds]) for key in keys}
    summary["gap_autocorrelation"] = {
        lag: mean_and_std([run["gap_autocorrelation"][lag] for run in seeds])
        for lag in seeds[0]["gap_autocorrelation"]
    }
    summary["frechet_distance"] = {
        steps: mean_and_std([run["chains"][steps]["frechet_distance"] for run in seeds])
        for steps in seeds[0]["chains"]
    }
    summary["diverged"] = sum(run["diverged"] for run in seeds)
    return summary


def stability(lab, updates=1_200, n=1_000, seeds=range(1, 6), root="runs/experiments/stability"):
    """Measure stability over five seeds with and without a buffer, at equal cost."""
    jobs = [(seed, buffered, updates, n, root) for seed in seeds for buffered in (True, False)]
    found = one_core_each(stability_run, jobs)
    report = {
        "n": n,
        "updates": updates,
        "gradient_evaluations": updates * Recipe().langevin_steps,
        "minutes": round(sum(run["training_minutes"] for run in found), 1),  # on one core
    }
    for side, buffered in (("replay_buffer", True), ("no_buffer", False)):
        seeds_of_side = [run for run in found if run["buffered"] == buffered]
        report[side] = {"summary": summary_of(seeds_of_side), "runs": seeds_of_side}
    return report


def draw_committed_runs(axes):
    """Draw loss and energy gap of the committed runs: updates faint, running mean bold."""
    runs = {"EBM": ("no_buffer", "tab:blue"), "EBM-BestPractice": ("replay_buffer", "tab:orange")}
    for name, (side, color) in runs.items():
        history = load_pretrained(name, "cpu")[1]["history"]
        for ax, values in zip(axes, (history["loss"], gap_of(history)), strict=True):
            values = np.asarray(values, dtype=float)[:SHOWN]
            smooth = running_mean(values, WINDOW)
            ax.plot(values, color=color, alpha=0.3, linewidth=0.5)
            ax.plot(np.arange(len(smooth)) + WINDOW / 2, smooth, color=color, label=label(side))


def draw_seeds(ax, measured):
    """Draw median (line) and range (band) of the energy gap over the seeds."""
    for side, color in (("no_buffer", "tab:blue"), ("replay_buffer", "tab:orange")):
        seeds = measured[side]["runs"]
        gaps = np.array([run["curves"]["gap"] for run in seeds])
        update = (np.arange(gaps.shape[1]) + 0.5) * seeds[0]["window"]
        name = label("one_buffer" if side == "replay_buffer" else side)
        ax.fill_between(update, gaps.min(0), gaps.max(0), color=color, alpha=0.3, linewidth=0)
        ax.plot(update, np.median(gaps, axis=0), color=color, label=name)


def draw_stability(results, folder):
    """Draw loss and energy gap of the committed runs, and the gap over the seeds."""
    import matplotlib.pyplot as plt

    measured = results["stability"]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8))
    draw_committed_runs(axes[:2])
    draw_seeds(axes[2], measured)
    seeds = len(measured["no_buffer"]["runs"])
    panels = (
        ("loss", "Loss of the committed runs\n(axis cut at -1 and 1)", (-1, 1)),
        (GAP_LABEL, "Energy gap of the committed runs\n(axis cut at -1 and 1)", (-1, 1)),
        (
            GAP_LABEL,
            f"Energy gap, median and range of {seeds} seeds\n(axis cut at 0.45)",
            (-0.05, 0.45),
        ),
    )
    for ax, (quantity, title, limits) in zip(axes, panels, strict=True):
        ax.set_title(title, fontsize=10)
        ax.set(xlabel="update", ylabel=quantity, ylim=limits)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8, loc="upper right")
    for ax in axes[:2]:
        ax.set_xlabel(f"update (the first {SHOWN:,})")
        ax.legend(fontsize=8, loc="lower center")
    figure.tight_layout()
    plots.write_figure(figure, folder / "training_stability.png")
    plt.close(figure)


# -------------------------------------------------------------------------------- divergence


def where_chains_go(energy, recipe, seed, n, steps, device):
    """Return {steps: {energy, mean pixel}} of n chains from noise."""
    generator = seed_everything(seed, device)
    start = torch.rand(n, *IMAGE_SHAPE, device=device, generator=generator)
    options = {**recipe.chain, "snapshots": steps, "generator": generator}
    _, frames = langevin_dynamics(energy, start, steps[-1], **options)
    found = {}
    for k, x in zip(steps, frames, strict=True):
        found[str(k)] = {"energy": energy(x).detach().mean().item(), "mean_pixel": x.mean().item()}
    return found


def break_away(lab, updates=6_000, n=64, seed=1, root="runs/experiments"):
    """Measure the first phase of the full recipe with squared energies of the samples.

    It is compared with the committed run over the updates in which both have the same constant
    learning rate.
    """
    recipe = BEST._replace(updates=updates, fall=0.0, regularise_samples=True)
    path = Path(root) / "break-away.pt"
    _, history = train_energy(recipe, lab.digits, path, seed)
    run = runs.load_checkpoint(path, "run", lab.device)
    model = EnergyNetwork(recipe.width).to(lab.device)
    model.load_state_dict(run["state"]["model"])
    committed, record = load_pretrained("EBM-first-phase", lab.device)
    sides = {
        "samples_squared_too": (model, history),
        "data_squared_only": (committed, record["history"]),
    }
    window, steps = max(updates // 120, 1), [0, 5, 20, 100]
    report = {
        "minutes": round(run["seconds"] / 60, 1),  # of training, even if it was resumed
        "seed": seed,
        "n": n,
        "updates": updates,
        "window": window,
        "regularisation": recipe.regularisation,
        "gap": {},
        "from_noise": {},
    }
    for name, (energy, curves) in sides.items():
        gap = gap_of(curves)[:updates]
        report["gap"][name] = running_mean(gap, window)[::window].tolist()
        report["from_noise"][name] = where_chains_go(energy, recipe, seed, n, steps, lab.device)
    return report


def draw_break_away(results, folder):
    """Draw the energy gap and the energy of chains with and without squared sample energies."""
    import matplotlib.pyplot as plt

    measured = results["break-away"]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    for (key, gaps), color in zip(measured["gap"].items(), ("tab:red", "tab:orange"), strict=True):
        update = (np.arange(len(gaps)) + 0.5) * measured["window"]
        axes[0].plot(update, gaps, color=color, label=label(key))
        from_noise = measured["from_noise"][key]
        energies = [found["energy"] for found in from_noise.values()]
        axes[1].plot([int(k) for k in from_noise], energies, ".-", color=color, label=label(key))
    axes[0].set(xlabel="update", ylabel=GAP_LABEL)
    axes[0].set_title("Energy gap during training", fontsize=10)
    plateau = 1 / (2 * measured["regularisation"])
    axes[1].axhline(plateau, color="gray", linestyle=":", label=r"$1 / 2\alpha = 5$")
    axes[1].set(xlabel="steps from noise", ylabel="mean energy (logarithmic above 1)")
    axes[1].set_title(f"{measured['n']} chains from noise after training", fontsize=10)
    axes[1].set_yscale("symlog", linthresh=1)
    axes[1].set_ylim(-0.5, 400)
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    figure.tight_layout()
    plots.write_figure(figure, folder / "ebm_break_away.png")
    plt.close(figure)
