"""The `quick` recipes of the three notebooks with several seeds, before and now."""

from pathlib import Path

from dgm.device import seed_everything
from dgm.samplers import dpm_solver, karras_sigmas
from experiments.chains import evaluate_chains
from experiments.laboratory import (
    class_balanced,
    evaluate_conditional,
    in_batches,
    mean_and_std,
    recall,
)
from experiments.training import BEST, Recipe, train_energy, train_quick_score

LENGTHS = {"EBM": (20, 60, 200), "EBM-BestPractice": (60, 200, 500)}
# {notebook: {version: (recipe, number of seeds)}}
ENERGIES = {
    "EBM": {
        "before": (Recipe(updates=1_000, buffer_size=0), 3),
        "now": (Recipe(updates=1_400, batch_size=32, buffer_size=0), 3),
    },
    "EBM-BestPractice": {
        "now": (BEST._replace(updates=2_400, fall=0.0), 3),
        "ten steps per update": (
            BEST._replace(
                updates=3_200,
                langevin_steps=10,
                redraw=0.025,
                old_redraw=(0.025, 0.0005),
                fall=0.0,
            ),
            3,
        ),
        "batches of 32": (BEST._replace(updates=2_800, batch_size=32, fall=0.0), 3),
    },
}
# before: 2,000 updates, guidance 1.4; measured by the experiment score-seeds
SCORE = {"updates": 1_500, "guidance": 2.0}


def energy_of_seed(key, lab, name, recipe, seed, n, root):
    """Train an energy with one seed; return the metrics of n fresh chains by length."""
    path = Path(root) / f"{name}-{recipe.updates}-{seed}.pt"
    model, _ = train_energy(recipe, lab.digits, path, seed)
    return evaluate_chains(lab, model, recipe, 7, n, LENGTHS[name], f"{name}, seed {seed}")


def score_of_seed(key, lab, seed, n, updates, guidance, width, root):
    """Train a score network with one seed; return the metrics of n class-balanced samples."""
    path, labels = Path(root) / f"score-{updates}-{seed}.pt", class_balanced(lab, n)
    _, model = train_quick_score(lab.digits, seed, path, updates, width)
    options = {"guidance": guidance, "generator": seed_everything(7, lab.device)}

    def draw(part):
        return dpm_solver(model, part, karras_sigmas(levels=12), **options)

    return evaluate_conditional(lab, in_batches(draw, labels, 500), labels)


def at_the_best_length(found):
    """Return the metrics at the length with the smallest Fréchet distance, with this length."""
    steps = min(found, key=lambda steps: found[steps]["frechet_distance"])
    return {"steps": int(steps), **found[steps]}


def over_seeds(seeds, keys):
    return {key: mean_and_std([found[key] for found in seeds.values()]) for key in keys}


def quick_seeds(lab, n=1_000, energies=None, score=None, width=32, root="runs/experiments"):
    """Train each `quick` recipe with several seeds and evaluate n samples of each network."""
    n, result, seconds = min(n, lab.max_samples), {}, 0.0
    for name, recipes in (energies or ENERGIES).items():
        result[name] = {}
        for version, (recipe, seeds) in recipes.items():
            runs = {}
            for seed in range(1, seeds + 1):
                arguments = name, recipe, seed, n, str(root)
                runs[str(seed)], took = recall(energy_of_seed, lab, *arguments)
                seconds += took
            best = {seed: at_the_best_length(found) for seed, found in runs.items()}
            result[name][version] = {
                "updates": recipe.updates,
                "batch_size": recipe.batch_size,
                "seeds": runs,
                "best": best,
                "summary": over_seeds(best, ("frechet_distance", "share_confident")),
            }
    score, runs = score or SCORE, {}
    for seed in (1, 2, 3):
        arguments = seed, n, *score.values(), width, str(root)
        runs[str(seed)], took = recall(score_of_seed, lab, *arguments)
        seconds += took
    keys = ("frechet_distance", "label_accuracy", "share_confident")
    found = {"now": {**score, "seeds": runs, "summary": over_seeds(runs, keys)}}
    return {
        "minutes": round(seconds / 60, 1),
        "n": n,
        "seed": 7,
        "runs": {**result, "score-based-model": found},
    }
