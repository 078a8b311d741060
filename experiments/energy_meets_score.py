"""Measurements of the energy over noise levels: chains, products, a classifier, closed paths."""

from functools import partial
from pathlib import Path

import torch

from dgm import metrics, plots, runs
from dgm.checks import IMAGE_SHAPE, PIXEL_MEAN
from dgm.device import seed_everything
from dgm.noise_energy import NoiseEnergy, annealed_mala, mala
from dgm.samplers import annealed_step, dpm_solver, geometric_sigmas, karras_sigmas
from experiments.energy_behind_score import energy_along, straight
from experiments.energy_classifier import generative_classifier, other_images
from experiments.floors import floor_of
from experiments.laboratory import class_balanced, evaluate_conditional, mean_and_error
from experiments.names import label
from experiments.noise_energy import NAME, train_noise_energy
from helpers import annealed_langevin_dynamics, load_pretrained

NETWORKS = ("score", "same_budget_score", "noise_energy")
BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # of the numbers at bars


def networks_of(lab, root, updates):
    """Return ({name: score}, record of the energy); one score network is trained here."""
    score, _ = load_pretrained("score-based-model", lab.device)
    trunk, record = load_pretrained(NAME, lab.device)
    options = {"width": trunk.settings["width"], "updates": updates or record["updates"]}
    path = Path(root) / f"{NAME}-score.pt"
    twin = train_noise_energy(lab.digits, path, energy=False, **options)
    models = (score, twin, NoiseEnergy(trunk))
    frozen = (model.eval().requires_grad_(False) for model in models)
    return dict(zip(NETWORKS, frozen, strict=True)), record


# ------------------------------------------------------------------------------------ samples


def samples_of(lab, networks, generator, n, levels):
    """Return metrics of labelled samples: annealed Langevin, Metropolis steps, DPM-Solver++."""
    labels, sigmas, found = class_balanced(lab, n), geometric_sigmas(levels=levels), {}
    options = {"generator": generator}
    for name, model in networks.items():
        x = annealed_langevin_dynamics(model, labels, sigmas, guidance=1.0, **options)
        found[name] = {"annealed_langevin": evaluate_conditional(lab, x, labels)}
        x = dpm_solver(model, labels, karras_sigmas(levels=12), order=2, **options)
        found[name]["dpm_solver"] = evaluate_conditional(lab, x, labels)
        for key, value in found[name].items():
            right = f"label accuracy {value['label_accuracy']:.1%}"
            print(f"{name}, {key}: {metrics.summary_line(value)}, {right}", flush=True)
    noise = torch.randn(len(labels), *IMAGE_SHAPE, device=lab.device, generator=generator)
    start = PIXEL_MEAN + sigmas[0] * noise
    model = networks["noise_energy"]
    x, acceptance = annealed_mala(model.energy, labels, sigmas, start, **options)
    found["noise_energy"]["annealed_metropolis"] = evaluate_conditional(lab, x, labels)
    print("annealed Metropolis:", found["noise_energy"]["annealed_metropolis"], flush=True)
    acceptance = dict(zip(map(str, sigmas.tolist()), acceptance.tolist(), strict=True))
    return {"n": len(labels), "levels": levels, "methods": found, "acceptance": acceptance}


# -------------------------------------------------------------------------------- long chains


def long_chains(lab, model, generator, n, sigma, step, lengths):
    """Return what chains at one level become, from annealed noise and from test digits."""
    n, device = min(n, lab.max_samples), lab.device
    first = geometric_sigmas(10.0, sigma, 20).to(device)
    noise = torch.randn(2 * n, *IMAGE_SHAPE, device=device, generator=generator)
    annealed, _ = annealed_mala(
        model.energy, None, first, PIXEL_MEAN + 10 * noise[:n], denoise=False, generator=generator
    )
    digits = lab.digits.test_images[:n] + sigma * noise[n:]
    x, here = torch.cat([annealed, digits]), partial(model.energy, sigma=sigma)
    starts = {"noise": slice(0, n), "test_digits": slice(n, 2 * n)}
    found, done, first_read = {name: {} for name in starts}, 0, None
    for steps in (0, *lengths):
        x, moved = mala(here, x, steps - done, step * sigma**2, generator=generator)
        with torch.no_grad():
            energy, clean = here(x).cpu(), x + sigma**2 * model(x, sigma)
        read = metrics.classifier_outputs(lab.classifier, clean.clamp(0, 1))[1]
        first_read = read.argmax(1) if first_read is None else first_read
        for name, part in starts.items():
            entry = lab.evaluate(clean[part])
            entry["energy"] = mean_and_error(energy[part])
            entry["same_digit"] = (read[part].argmax(1) == first_read[part]).double().mean().item()
            entry["acceptance"] = moved[part].mean().item()
            found[name][str(steps)] = entry
            print(f"{steps} steps from {name}: {entry}", flush=True)
        done = steps
    settings = {"n": n, "sigma": sigma, "step": step, "floor": lab.floor(n)}
    return {**settings, "chains": found}


# -------------------------------------------------------------------------------- composition


def halves_energy(energy, one, two):
    """Return E(x, sigma, labels) of x [B, 1, 56, 28], a product of three densities.

    The quarters of x are the upper half of the image, its completion to a digit `one`, the
    completion of the lower half to a digit `two`, and the lower half. The third factor is the
    unlabelled density of the image itself.
    """

    def total(x, sigma, labels=None):
        upper, below, above, lower = x.chunk(4, dim=2)
        pairs = ((upper, below, one), (above, lower, two), (upper, lower, None))
        parts = (energy(torch.cat([a, b], 2), sigma, y) for a, b, y in pairs)
        return sum(parts)

    return total


def composition(lab, model, generator, n, levels, steps, share):
    """Return how often halves of two digits fit together, with and without Metropolis steps."""
    n, device = min(n, lab.max_samples), lab.device
    one = torch.arange(n, device=device) % 10
    two = (one + 1 + torch.arange(n, device=device) // 10 % 9) % 10  # never the same digit
    sigmas = geometric_sigmas(levels=levels)
    noise = torch.randn(n, 1, 56, 28, device=device, generator=generator)
    total, found = halves_energy(model.energy, one, two), {}
    for name, adjust in (("with_metropolis", True), ("without_metropolis", False)):
        options = {"steps": steps, "epsilon": share * annealed_step(sigmas, steps)}
        options |= {"adjust": adjust, "generator": generator}
        x, acceptance = annealed_mala(
            total, None, sigmas, PIXEL_MEAN + sigmas[0] * noise, **options
        )
        upper, below, above, lower = x.clamp(0, 1).chunk(4, dim=2)
        whole = torch.cat([upper, lower], 2)
        read = metrics.classifier_outputs(lab.classifier, whole)[1]
        found[name] = {
            "upper_completed": metrics.accuracy(lab.classifier, torch.cat([upper, below], 2), one),
            "lower_completed": metrics.accuracy(lab.classifier, torch.cat([above, lower], 2), two),
            "share_confident": (read.max(1).values > 0.9).double().mean().item(),
            "energy": mean_and_error(total(x, sigmas[-1].item()).cpu()),
            "acceptance": acceptance.tolist(),
        }
        print(f"composition {name}: {found[name]}", flush=True)
    return {"n": n, "levels": levels, "steps": steps, "share_of_step": share, "methods": found}


# ------------------------------------------------------------------------------ closed paths


@torch.no_grad()
def closed_paths(lab, networks, generator, n, sigmas, pieces):
    """Return the work around triangles of test digits over the absolute work of their sides."""
    corners = lab.digits.test_images[: 3 * min(n, lab.max_samples // 3)].chunk(3)
    found = {name: {} for name in networks}
    for sigma in sigmas:
        z = torch.randn(corners[0].shape, device=lab.device, generator=generator)
        noisy = [x + sigma * z for x in corners]  # the same noise at all corners
        sides = [straight(noisy[i], noisy[(i + 1) % 3], pieces) for i in range(3)]
        for name, model in networks.items():
            work = [energy_along(partial(model, sigma=sigma), side)[-1] for side in sides]
            ratio = sum(work).abs() / sum(side.abs() for side in work)
            found[name][str(sigma)] = mean_and_error(ratio)
        means = {name: round(values[str(sigma)]["mean"], 4) for name, values in found.items()}
        print(f"work around triangles, sigma {sigma}: {means}", flush=True)
    return {"n": len(corners[0]), "pieces": pieces, "work_around_over_work_along": found}


# ------------------------------------------------------------------------------ the experiments


def energy_meets_score(
    lab,
    seed=7,
    updates=None,
    root="runs/experiments",
    samples=(500, 30),
    pairs=(100, 30, 8, 0.5),
    classified=(2_000, 2_000, (0.03, 0.1, 0.2, 0.3, 0.5, 0.8)),
    others=(500, (0.1, 0.3)),
    triangles=(30, (0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1.0), 40),
):
    """Measure what the energy over noise levels adds to a score."""
    networks, record = networks_of(lab, root, updates)
    model, generator = networks["noise_energy"], seed_everything(seed, lab.device)
    paths = closed_paths(lab, networks, generator, *triangles)
    classifier, offsets = generative_classifier(lab, model, generator, *classified)
    used = {sigma: offsets[sigma] for sigma in others[1]}
    unlike = other_images(lab, model, used, generator, min(others[0], lab.max_samples), seed)
    composed = composition(lab, model, generator, *pairs)
    drawn = samples_of(lab, networks, generator, *samples)
    return {
        "seed": seed,
        "training": runs.provenance(record),
        "samples": {**drawn, "floor": lab.floor(drawn["n"])},
        "composition": composed,
        "classifier": classifier,
        "other_images": unlike,
        "closed_paths": paths,
    }


def energy_long_chains(
    lab, seed=7, n=32, sigma=0.1, step=0.1, lengths=(100, 300, 1_000, 3_000, 10_000)
):
    """Measure whether chains of the energy over noise levels drift."""
    trunk, record = load_pretrained(NAME, lab.device)
    model, generator = NoiseEnergy(trunk).eval(), seed_everything(seed, lab.device)
    model.requires_grad_(False)
    found = long_chains(lab, model, generator, n, sigma, step, lengths)
    return {"seed": seed, "training": runs.provenance(record), **found}


# ------------------------------------------------------------------------------------ figures


def draw_bars(ax, rows, keys):
    """Draw a group of horizontal bars for each row of {name: {key: value}}, a colour per key."""
    height = 0.8 / len(keys)
    for i, key in enumerate(keys):
        places = [k + (i - (len(keys) - 1) / 2) * height for k in range(len(rows))]
        bars = ax.barh(places, [row[key] for row in rows.values()], height, label=label(key))
        ax.bar_label(bars, fmt="{:.3g}", fontsize=8, padding=2, bbox=BEHIND)
    ax.set_yticks(range(len(rows)), list(rows), fontsize=8)
    ax.yaxis.set_inverted(True)


def draw_sample_quality(results, folder):
    """Draw distance and label accuracy of samples by each network and sampler."""
    import matplotlib.pyplot as plt

    measured = results["energy-meets-score"]["samples"]
    rows = {
        f"{label(name)}: {label(sampler)}": found
        for name, samplers in measured["methods"].items()
        for sampler, found in samplers.items()
    }
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3), sharey=True)
    draw_bars(left, rows, ["frechet_distance"])
    floor = floor_of(results, measured["n"], "class_balanced")["mean"]
    left.axvline(floor, color="black", linestyle="--", label=f"floor: {floor:.1f}")
    left.set(xlabel="Fréchet distance")
    left.margins(x=0.12)
    left.legend(fontsize=8)
    draw_bars(right, rows, ["label_accuracy"])
    right.set(xlabel="label accuracy", xlim=(0, 1.15))
    figure.suptitle(f"n = {measured['n']} samples of each, class-balanced", fontsize=10)
    figure.tight_layout()
    plots.write_figure(figure, folder / "energy_sample_quality.png")
    plt.close(figure)


def draw_composition(results, folder):
    """Draw how often halves of two digits fit together."""
    import matplotlib.pyplot as plt

    measured = results["energy-meets-score"]["composition"]
    keys = ("upper_completed", "lower_completed", "share_confident")
    rows = {
        label(key): {name: row[key] for name, row in measured["methods"].items()} for key in keys
    }
    figure, ax = plt.subplots(figsize=(8, 2.4))
    draw_bars(ax, rows, list(measured["methods"]))
    ax.set(xlabel="share of images", xlim=(0, 1.12))
    ax.legend(fontsize=8, bbox_to_anchor=(1.01, 1), loc="upper left")
    ax.set_title(f"Halves of two digits, n = {measured['n']}", fontsize=10)
    plots.write_figure(figure, folder / "energy_composition.png")
    plt.close(figure)


def draw_closed_paths(results, folder):
    """Draw the work around triangles of digits against the noise level."""
    import matplotlib.pyplot as plt

    measured = results["energy-meets-score"]["closed_paths"]
    figure, ax = plt.subplots(figsize=(6, 2.8))
    for key, values in measured["work_around_over_work_along"].items():
        work = [found["mean"] for found in values.values()]
        ax.plot([float(sigma) for sigma in values], work, ".-", label=label(key))
    ax.set(xscale="log", ylim=(0, None), xlabel=r"noise level $\sigma$")
    ax.set(ylabel="work around / absolute\nwork of sides")
    ax.set_title(f"{measured['n']} triangles of test digits", fontsize=10)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=7)
    plots.write_figure(figure, folder / "energy_closed_paths.png")
    plt.close(figure)


def draw_long_chains(results, folder):
    """Draw what long chains become, from annealed noise and from test digits."""
    import matplotlib.pyplot as plt

    measured = results["energy-long-chains"]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3))
    chains = measured["chains"].items()
    for (name, found), color in zip(chains, ("tab:blue", "tab:orange"), strict=True):
        steps = [max(int(k), 30) for k in found]  # the start, on a logarithmic axis
        style = {"color": color, "label": f"from {label(name)}"}
        axes[0].plot(steps, [row["frechet_distance"] for row in found.values()], ".-", **style)
        energies = [row["energy"] for row in found.values()]
        means, errors = [e["mean"] for e in energies], [e["standard_error"] for e in energies]
        axes[1].errorbar(steps, means, errors, marker=".", **style)
        axes[2].plot(steps, [row["same_digit"] for row in found.values()], ".-", **style)
    axes[0].axhline(measured["floor"]["frechet_distance"], color="black", linestyle="--")
    axes[0].set(ylabel="Fréchet distance", ylim=(0, None))
    axes[1].set(ylabel="energy (nats)")
    axes[1].legend(fontsize=8)
    axes[2].set(ylabel="digit as at the start (share)", ylim=(0, 1.02))
    for ax in axes:
        ax.set(xscale="log", xlabel="Metropolis steps (30: start)")
        ax.grid(alpha=0.3)
    n, sigma = measured["n"], measured["sigma"]
    figure.suptitle(f"Chains at σ = {sigma}, n = {n} each; dashed black: floor", fontsize=10)
    figure.tight_layout()
    plots.write_figure(figure, folder / "energy_long_chains.png")
    plt.close(figure)
