"""Tests of whether the score is the gradient of an energy, and of which."""

import torch
import torch.nn.functional as F

from dgm import plots, runs
from dgm.device import seed_everything
from experiments.chains import ENERGIES
from experiments.laboratory import mean_and_error
from helpers import energy_gradient, load_pretrained


def energy_along(score, points):
    """Integrate -score along straight lines through `points` [P, B, ...] by the trapezoid rule.

    Returns the energy at each point relative to the first, [P, B].
    """
    scores = torch.stack([score(x) for x in points]).flatten(2)
    steps = (points[1:] - points[:-1]).flatten(2)
    pieces = -((scores[1:] + scores[:-1]) / 2 * steps).sum(2)
    return torch.cat([torch.zeros_like(pieces[:1]), pieces.cumsum(0)])


def straight(a, b, pieces):
    """Return pieces + 1 equally spaced points on the line from a to b."""
    share = torch.linspace(0, 1, pieces + 1, device=a.device).view(-1, *[1] * a.dim())
    return (1 - share) * a + share * b


def cosines(score, energies, clean, sigma, z):
    """Return cosines between score, energy gradients and the direction to the clean digit."""
    noisy, to_clean = clean + sigma * z, -z.flatten(1)
    s = score(noisy, sigma).flatten(1)
    found = {"score_to_clean": F.cosine_similarity(s, to_clean)}
    clamped = noisy.clamp(0, 1)  # the range of the energies' own chains
    for name, model in energies.items():
        gradient = energy_gradient(model, noisy)
        down, down_clamped = -gradient(noisy).flatten(1), -gradient(clamped).flatten(1)
        back = (clean - clamped).flatten(1)
        found[f"{name}_gradient_to_score"] = F.cosine_similarity(down, s)
        found[f"{name}_gradient_to_clean_clamped"] = F.cosine_similarity(down_clamped, back)
    return {key: mean_and_error(values) for key, values in found.items()}


@torch.no_grad()
def energy_behind_the_score(
    lab, seed=7, n=100, sigmas=(0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1.0), pieces=40
):
    """Measure how close the score is to the gradient of an energy and to the energy network's.

    The results are the work around triangles of test digits relative to the work along their
    sides (0 for a gradient), the energy between two digits, and cosines of the fields at noisy
    test digits.
    """
    score, record = load_pretrained("score-based-model", lab.device)
    keys = ("replay_buffer", "no_buffer")
    energies = {key: load_pretrained(ENERGIES[key], lab.device)[0] for key in keys}
    generator = seed_everything(seed, lab.device)
    clean = lab.digits.test_images[: min(n, lab.max_samples // 3)]
    corners = lab.digits.test_images[: 3 * len(clean)].chunk(3)
    fields, loops, profiles, barriers = {}, {}, {}, {}
    for sigma in sigmas:
        z = torch.randn(clean.shape, device=lab.device, generator=generator)
        key = str(sigma)
        fields[key] = cosines(score, energies, clean, sigma, z)
        noisy = [x + sigma * z for x in corners]  # the same noise at all corners

        def score_here(x, sigma=sigma):
            return score(x, sigma)

        sides = [straight(noisy[i], noisy[(i + 1) % 3], pieces) for i in range(3)]
        paths = [energy_along(score_here, side) for side in sides]
        around, along = sum(path[-1] for path in paths), sum(path[-1].abs() for path in paths)
        loops[key] = mean_and_error(around.abs() / along)
        profiles[key] = paths[0].mean(1).tolist()
        barriers[key] = mean_and_error(paths[0].amax(0) - paths[0][-1].clamp(min=0))
        means = {name: round(value["mean"], 3) for name, value in fields[key].items()}
        work = f"around a triangle {loops[key]['mean']:.3f}"
        print(f"sigma {sigma}: {means}; {work}; barrier {barriers[key]['mean']:.1f}", flush=True)
    for name, model in energies.items():
        path = torch.stack([model(x) for x in straight(corners[0], corners[1], pieces)])
        profiles[name] = (path - path[0]).mean(1).tolist()
    return {
        "seed": seed,
        "n": len(clean),
        "pieces": pieces,
        "training": runs.provenance(record),
        "cosines": fields,
        "work_around_over_work_along": loops,
        "energy_on_the_way": profiles,
        "barrier_nats": barriers,
    }


COSINES = {
    "score_to_clean": "score; direction to the clean digit",
    "replay_buffer_gradient_to_score": "EBM's negative gradient; score",
    "replay_buffer_gradient_to_clean_clamped": "EBM's negative gradient, clamped; clean digit",
}


def draw_energy_behind_the_score(results, folder):
    """Draw the energy between digits, cosines of the fields and the work around triangles."""
    import matplotlib.pyplot as plt

    measured = results["energy-behind-the-score"]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6), width_ratios=(1, 1.25, 1))
    share = torch.linspace(0, 1, measured["pieces"] + 1)
    for i, sigma in enumerate(("0.03", "0.12", "0.25", "0.5", "1.0")):
        profile = measured["energy_on_the_way"][sigma]
        left.plot(share, profile, color=f"C{i}", label=f"$\\sigma$ = {sigma}")
    left.set(xlabel="position on the path", ylabel="energy (nats, logarithmic beyond ±2)")
    left.set_yscale("symlog", linthresh=2)
    left.set_title("Energy between two digits, from the score", fontsize=10)
    sigmas = [float(sigma) for sigma in measured["cosines"]]
    for key, name in COSINES.items():
        values = [level[key]["mean"] for level in measured["cosines"].values()]
        middle.plot(sigmas, values, ".-", label=name)
    middle.set(xscale="log", xlabel=r"noise level $\sigma$", ylabel="cosine")
    middle.set_title("Cosine between two fields", fontsize=10)
    work = [loop["mean"] for loop in measured["work_around_over_work_along"].values()]
    right.plot(sigmas, work, "k.-")
    right.set(xscale="log", ylim=(0, 0.3), xlabel=r"noise level $\sigma$")
    right.set(ylabel="work around / absolute work of sides")
    right.set_title("Work of the score on triangles of digits", fontsize=10)
    left.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 0.12))
    middle.legend(fontsize=7, loc="center left", bbox_to_anchor=(0, 0.68))
    for ax in (left, middle, right):
        ax.grid(alpha=0.3)
    figure.tight_layout()
    plots.write_figure(figure, folder / "sbm_energy_behind.png")
    plt.close(figure)
