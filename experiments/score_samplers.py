"""Samplers of the score network against their cost; noise levels; averaged weights."""

from functools import partial
from pathlib import Path

import torch

from dgm import metrics, plots, runs
from dgm.device import seed_everything
from dgm.samplers import (
    consistent_annealed,
    dpm_solver,
    geometric_sigmas,
    heun,
    karras_sigmas,
    largest_distance,
    level_ratio,
    number_of_levels,
    predictor_corrector,
)
from experiments.floors import floor_of
from experiments.laboratory import class_balanced, evaluate_conditional, recall
from experiments.names import label
from experiments.training import train_quick_score
from helpers import annealed_langevin_dynamics, load_pretrained

# ------------------------------------------------------------------------- samplers and costs


def annealed(model, labels, evaluations, **options):
    """Sample by annealed Langevin dynamics with a given number of evaluations."""
    steps = 1
    if evaluations > 100:
        steps = 10 if evaluations > 500 else 5
    sigmas = geometric_sigmas(levels=(evaluations - 1) // steps)
    return annealed_langevin_dynamics(model, labels, sigmas, steps=steps, **options)


def two_a_level(sampler, levels_of, **more):
    """Return a sampler with 2 L - 1 evaluations as a function of the number of evaluations."""

    def sample(model, labels, evaluations, **options):
        sigmas = levels_of(levels=(evaluations + 1) // 2)
        return sampler(model, labels, sigmas, **more, **options)

    return sample


def one_a_level(sampler, levels_of):
    """Return a sampler with L evaluations as a function of the number of evaluations."""

    def sample(model, labels, evaluations, **options):
        return sampler(model, labels, levels_of(levels=evaluations), **options)

    return sample


SAMPLERS = {
    "annealed_langevin": annealed,
    "consistent_annealed": one_a_level(consistent_annealed, geometric_sigmas),
    "predictor_corrector": two_a_level(predictor_corrector, geometric_sigmas),
    "heun": two_a_level(heun, karras_sigmas),
    "heun_churn": two_a_level(heun, karras_sigmas, churn=10.0),
    "dpm_solver": one_a_level(partial(dpm_solver, order=2), karras_sigmas),
}
# further numbers of evaluations, for samplers that benefit from them
MANY = {"annealed_langevin": (200, 1_000), "predictor_corrector": (200,)}


def sampler_point(key, lab, name, evaluations, n_first, n_most, far, seed, digest):
    """Evaluate one sampler at one cost, with n_most images if the first n_first are good."""
    model, _ = load_pretrained("score-based-model", lab.device)
    sampler, labels = SAMPLERS[name], class_balanced(lab, n_most)
    options = {"guidance": 1, "generator": seed_everything(seed, lab.device)}
    parts = labels.split(n_first)
    images = sampler(model, parts[0], evaluations, **options)
    first = evaluate_conditional(lab, images, parts[0])
    if len(parts) == 1 or first["frechet_distance"] > far:
        return {**first, "n": n_first, "first": first}
    rest = [sampler(model, part, evaluations, **options) for part in parts[1:]]
    found = evaluate_conditional(lab, torch.cat([images, *rest]), labels)
    return {**found, "n": n_most, "first": first}


def sampler_costs(lab, seed=7, few=(20, 12, 8, 50), many=None, n=1_000, far=100):
    """Measure distance and label accuracy against network evaluations, without guidance.

    Each point has the metrics of its first `n` images. With few evaluations and a distance below
    `far`, it also has those of lab.max_samples images.
    """
    many = MANY if many is None else many
    record = load_pretrained("score-based-model", lab.device)[1]
    n, most = min(n, lab.max_samples), lab.max_samples
    points = [(name, k, most) for k in few for name in SAMPLERS]
    points += [(name, k, n) for name in many for k in many[name]]
    curves, seconds = {name: {} for name in SAMPLERS}, 0.0
    for name, evaluations, size in points:
        arguments = name, evaluations, n, size, far, seed, record["digest"]
        point, took = recall(sampler_point, lab, *arguments)
        curves[name][evaluations] = point
        seconds += took
        summary = f"{point['frechet_distance']:.1f}, label accuracy {point['label_accuracy']:.1%}"
        print(f"{name}, {evaluations} evaluations: {summary} (n = {point['n']:,})", flush=True)
    return {
        "minutes": round(seconds / 60, 1),
        "seed": seed,
        "n": n,
        "training": runs.provenance(record),
        "n_most": most,
        "far": far,
        "curves": {
            name: {str(k): curve[k] for k in sorted(curve)} for name, curve in curves.items()
        },
    }


def draw_samplers(results, folder):
    """Draw Fréchet distance and label accuracy of six samplers against network evaluations."""
    import matplotlib.pyplot as plt

    measured = results["samplers"]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 3.6))
    for i, (key, curve) in enumerate(measured["curves"].items()):
        style = {"color": f"C{i}", "label": label(key)}
        steps = [int(k) for k in curve]
        most = {
            int(k): point["frechet_distance"]
            for k, point in curve.items()
            if point["n"] == measured["n_most"]
        }
        left.plot(list(most), list(most.values()), ".-", **style)
        first = [point["first"]["frechet_distance"] for point in curve.values()]
        middle.plot(steps, first, ".-", **style)
        right.plot(steps, [point["label_accuracy"] for point in curve.values()], ".-", **style)
    for ax, n in ((left, measured["n_most"]), (middle, measured["n"])):
        floor = floor_of(results, n, "class_balanced")["mean"]
        ax.axhline(floor, color="gray", linestyle=":", label=label("floor_class_balanced"))
        ax.set(yscale="log", ylabel=f"Fréchet distance (n = {n:,})")
    right.set(ylim=(0.9, 1), ylabel="label accuracy (axis cut at 0.9)")
    for ax in (left, middle, right):
        ticks = [8, 12, 20, 50] + ([200, 1000] if ax is not left else [])
        ax.set(xscale="log", xlabel="network evaluations per image")
        ax.set_xticks(ticks, ticks, fontsize=8)
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    figure.tight_layout(rect=(0, 0, 1, 0.87))
    entries = middle.get_legend_handles_labels()
    figure.legend(*entries, fontsize=8, ncols=4, loc="upper center")
    plots.write_figure(figure, folder / "sbm_samplers.png")
    plt.close(figure)


# ------------------------------------------------------------------------------- noise levels


def noise_level_variants(widest):
    """Return {name: options of annealed Langevin dynamics}, the first the notebook's.

    `widest` is the largest distance between two digits.
    """
    by_rule = round(number_of_levels(10.0, 0.01, level_ratio(784)))
    notebook = geometric_sigmas()
    down_to_005 = geometric_sigmas(last=0.05)
    return {
        "notebook": {"sigmas": notebook, "steps": 8},
        "from_1": {"sigmas": geometric_sigmas(first=1.0), "steps": 8},
        "from_5": {"sigmas": geometric_sigmas(first=5.0), "steps": 8},
        "from_largest_distance": {"sigmas": geometric_sigmas(first=widest), "steps": 8},
        "levels_10_steps_24": {"sigmas": geometric_sigmas(levels=10), "steps": 24},
        "levels_by_rule": {"sigmas": geometric_sigmas(levels=by_rule), "steps": 3},
        "levels_30_steps_2": {"sigmas": notebook, "steps": 2},
        "down_to_005": {"sigmas": down_to_005, "steps": 8},
        "no_last_denoising": {"sigmas": notebook, "steps": 8, "denoise": False},
        "no_last_denoising_down_to_005": {"sigmas": down_to_005, "steps": 8, "denoise": False},
    }


def noise_level_variant(key, lab, name, n, seed, digest):
    """Evaluate samples by annealed Langevin dynamics with one choice of noise levels."""
    model, _ = load_pretrained("score-based-model", lab.device)
    variants = noise_level_variants(largest_distance(lab.digits.train_images))
    options = {"guidance": 1, "generator": seed_everything(seed, lab.device), **variants[name]}
    labels = class_balanced(lab, n)
    images = annealed_langevin_dynamics(model, labels, **options)
    evaluations = len(options["sigmas"]) * options["steps"] + options.get("denoise", True)
    return {**evaluate_conditional(lab, images, labels), "evaluations": evaluations}


@torch.no_grad()
def loss_by_level(model, images, sigmas, generator):
    """Return sigma^2 |score + z / sigma|^2 / D and |sigma score|^2 / D for each noise level.

    For a perfect score, their sum is 1.
    """
    found = {}
    for sigma in sigmas.tolist():
        z = torch.randn(images.shape, device=images.device, generator=generator)
        parts = (images + sigma * z).split(500)
        scaled = torch.cat([sigma * model(x, sigma) for x in parts])
        loss, size = (scaled + z).square().mean(), scaled.square().mean()
        found[f"{sigma:.4g}"] = {"loss": loss.item(), "size": size.item()}
    return found


def noise_scales(lab, seed=7, n=500):
    """Measure annealed Langevin dynamics with other noise levels, and the loss at each level."""
    model, record = load_pretrained("score-based-model", lab.device)
    widest = largest_distance(lab.digits.train_images)
    variants, seconds = {}, 0.0
    for name in noise_level_variants(widest):
        arguments = name, n, seed, record["digest"]
        variants[name], took = recall(noise_level_variant, lab, *arguments)
        seconds += took
        print(f"{name}: {metrics.summary_line(variants[name])}", flush=True)
    generator = seed_everything(seed, lab.device)
    sigmas = geometric_sigmas(20.0, 0.002, 30)
    levels = loss_by_level(model, lab.digits.test_images[:n], sigmas, generator)
    ratio, n = level_ratio(784), len(class_balanced(lab, n))
    return {
        "minutes": round(seconds / 60, 1),
        "seed": seed,
        "n": n,
        "training": runs.provenance(record),
        "largest_distance": widest,
        "ratio_by_the_rule": ratio,
        "levels_by_the_rule": number_of_levels(widest, 0.01, ratio),
        "variants": variants,
        "by_level": levels,
        "floor": lab.floor(n),
    }


def draw_noise_scales(results, folder):
    """Draw the Fréchet distance with other noise levels, and loss and score size per level."""
    import matplotlib.pyplot as plt

    measured = results["noise-scales"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(3, 2))
    found = list(measured["variants"].items())[::-1]
    left.plot(
        [row["frechet_distance"] for _, row in found], range(len(found)), "o", color="tab:green"
    )
    columns = {150: "Fréchet\ndistance", 340: "label\naccuracy", 740: "network\nevaluations"}
    for i, (_, row) in enumerate(found):
        distance, accuracy = f"{row['frechet_distance']:.2f}", f"{row['label_accuracy']:.1%}"
        for x, value in zip(columns, (distance, accuracy, row["evaluations"]), strict=True):
            left.text(x, i, value, va="center", fontsize=8)
    for x, name in columns.items():
        left.text(x, len(found) - 0.2, name, va="center", fontsize=8)
    left.set_yticks(range(len(found)), [label(key) for key, _ in found], fontsize=8)
    floor = floor_of(results, measured["n"], "class_balanced")
    low, high = floor["mean"] - floor["std"], floor["mean"] + floor["std"]
    left.axvspan(low, high, color="gray", alpha=0.3)
    ticks = [10, 30, 100]
    left.set(xscale="log", xlim=(8, 1900), xticks=ticks, xticklabels=ticks)
    left.set(ylim=(-0.6, len(found) + 0.4))
    band = f"grey band: {label('floor_class_balanced')}"
    left.set_xlabel(f"Fréchet distance (n = {measured['n']}); {band}", fontsize=9)
    left.set_title("Annealed Langevin with other noise levels", fontsize=10)
    sigmas, levels = [float(s) for s in measured["by_level"]], measured["by_level"].values()
    names = {
        "loss": r"loss $|\sigma s + z|^2 / D$",
        "size": r"squared size $|\sigma s|^2 / D$",
    }
    for key, name in names.items():
        right.plot(sigmas, [level[key] for level in levels], label=name)
    right.set(
        xscale="log", xlabel=r"noise level $\sigma$", ylabel="mean over pixels", ylim=(0, 1.1)
    )
    right.set_title("Score network on test digits", fontsize=10)
    right.grid(alpha=0.3)
    right.legend(fontsize=8, loc="center left")
    figure.tight_layout()
    plots.write_figure(figure, folder / "sbm_noise_scales.png")
    plt.close(figure)


# --------------------------------------------------------------------------- averaged weights


def averaging(lab, seed=7, updates=2_000, n=500, width=32, decay=0.99, root="runs/experiments"):
    """Measure small networks with raw and averaged weights (Song & Ermon 2020, technique 5).

    One is trained with a falling and one with a constant learning rate. Samples are drawn by
    annealed Langevin dynamics.
    """
    labels, found = class_balanced(lab, n), {}
    for rate in ("falling_rate", "constant_rate"):
        path, falling = Path(root) / f"averaging-{rate}.pt", rate == "falling_rate"
        pair = train_quick_score(lab.digits, seed, path, updates, width, decay, falling)
        found[rate] = {}
        for weights, network in zip(("raw", "averaged"), pair, strict=True):
            generator = seed_everything(seed, lab.device)
            options = {"steps": 8, "guidance": 1, "generator": generator}
            images = annealed_langevin_dynamics(network, labels, geometric_sigmas(), **options)
            found[rate][weights] = evaluate_conditional(lab, images, labels)
            line = metrics.summary_line(found[rate][weights])
            print(f"{rate}, weights {weights}: {line}", flush=True)
    return {
        "seed": seed,
        "n": len(labels),
        "updates": updates,
        "width": width,
        "decay": decay,
        "found": found,
        "floor": lab.floor(len(labels)),
    }
