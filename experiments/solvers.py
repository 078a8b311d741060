"""DPM-Solver++ of order 2 and 3, with and without noise, with guidance and with autoguidance."""

from pathlib import Path

import torch

from dgm import runs
from dgm.device import seed_everything
from dgm.samplers import Autoguidance, dpm_solver, karras_sigmas
from experiments.laboratory import class_balanced, evaluate_conditional, mean_and_std, recall
from experiments.training import train_quick_score
from helpers import load_pretrained

# name: (order, eta)
SOLVERS = {"2M": (2, 0.0), "3M": (3, 0.0), "2M SDE": (2, 1.0), "3M SDE": (3, 1.0)}
GUIDANCE_WEIGHTS = (1.2, 1.4, 1.7)
AUTOGUIDANCE_WEIGHTS = (1.0, 1.5, 2.0, 2.5)  # 1 is the network alone
CHOSEN = ("3M", 1.4)  # measured with several seeds
GUIDE = "score-guide"  # a narrower network after a short training


def samples(model, labels, n, levels, solver, seed, **options):
    """Return n samples in batches of 500; labels [n] or None."""
    order, eta = SOLVERS[solver]
    device = next(model.parameters()).device
    options |= {"order": order, "eta": eta, "generator": seed_everything(seed, device)}
    sigmas, parts = karras_sigmas(levels=levels), torch.arange(n, device=device).split(500)
    given = [None if labels is None else labels[part] for part in parts]
    pairs = zip(given, map(len, parts), strict=True)
    return torch.cat([dpm_solver(model, y, sigmas, n=size, **options) for y, size in pairs])


def with_labels(key, lab, n, levels, solver, weight, seed, digest):
    """Evaluate n class-balanced samples with guidance, at 2 x levels evaluations each."""
    model, _ = load_pretrained("score-based-model", lab.device)
    labels = class_balanced(lab, n)
    images = samples(model, labels, n, levels, solver, seed, guidance=weight)
    return evaluate_conditional(lab, images, labels)


def without_labels(key, lab, n, levels, solver, weight, seed, digests):
    """Evaluate n samples with autoguidance, at 2 x levels evaluations each."""
    model, _ = load_pretrained("score-based-model", lab.device)
    if weight != 1:
        model = Autoguidance(model, load_pretrained(GUIDE, lab.device)[0], weight)
    return lab.evaluate(samples(model, None, n, levels, solver, seed))


def solvers(lab, seed=7, n=1_000, levels=12, guided_levels=24, seeds=(7, 8, 9)):
    """Measure solvers with guidance weights, one of them with several seeds, and autoguidance."""
    record, guide = (load_pretrained(name, lab.device)[1] for name in ("score-based-model", GUIDE))
    n, most, digest = min(n, lab.max_samples), lab.max_samples, record["digest"]
    result = {
        "seed": seed,
        "n": n,
        "levels": levels,
        "guided_levels": guided_levels,
        "training": runs.provenance(record),
        "guide": runs.provenance(guide),
        "with_labels": {name: {} for name in SOLVERS},
        "without_labels": {name: {} for name in ("2M", "3M SDE")},
    }
    for name, found in result["with_labels"].items():
        for weight in GUIDANCE_WEIGHTS:
            arguments = n, levels, name, weight, seed, digest
            found[str(weight)], _ = recall(with_labels, lab, *arguments)
            one = found[str(weight)]
            distance = f"{one['frechet_distance']:.1f}, {one['label_accuracy']:.1%}"
            print(f"{name}, guidance {weight}: {distance}", flush=True)
    for name, found in result["without_labels"].items():
        for weight in AUTOGUIDANCE_WEIGHTS:
            arguments = n, guided_levels, name, weight, seed, (digest, guide["digest"])
            found[str(weight)], _ = recall(without_labels, lab, *arguments)
            distance = f"{found[str(weight)]['frechet_distance']:.1f}"
            print(f"{name}, autoguidance {weight}: {distance}", flush=True)
    chosen = [recall(with_labels, lab, most, levels, *CHOSEN, s, digest)[0] for s in seeds]
    keys = ("frechet_distance", "label_accuracy", "precision", "recall")
    result["chosen"] = {
        "solver": CHOSEN[0],
        "guidance": CHOSEN[1],
        "n": most,
        "seeds": dict(zip(map(str, seeds), chosen, strict=True)),
        "summary": {key: mean_and_std([one[key] for one in chosen]) for key in keys},
    }
    return result


def score_guide(lab, root="runs/experiments", updates=1_500, width=32, seed=1):
    """Train the guide like `quick` in score-based-model.ipynb and write it to checkpoints/."""
    torch.set_num_threads(1)  # like the training of the other models
    run = runs.Run(GUIDE, "quick", False, True, Path(root))
    _, guide = train_quick_score(lab.digits, seed, run.checkpoint, updates, width)
    record = runs.save_pretrained(run, guide)
    minutes = f"{record['minutes']:.1f} minutes on {record['hardware']}"
    print(f"{record['updates']:,} updates in {minutes}")
