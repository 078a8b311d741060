"""Samples of the score network: quality, training on them, guidance and seeds."""

from pathlib import Path

from dgm import metrics, plots, runs
from dgm.device import seed_everything
from dgm.samplers import GUIDANCE, dpm_solver, geometric_sigmas, karras_sigmas
from experiments.classifier import train_classifier
from experiments.floors import floor_of
from experiments.laboratory import (
    class_balanced,
    evaluate_conditional,
    in_batches,
    mean_and_std,
    nearest_training_digits,
    recall,
)
from experiments.names import label
from experiments.training import train_quick_score
from helpers import annealed_langevin_dynamics, load_pretrained

# ------------------------------------------------------------------------------------ samples


def evaluate_by_digit(lab, images, labels):
    """Return evaluate_conditional() and the label accuracy of each digit."""
    found = evaluate_conditional(lab, images, labels)
    found["label_accuracy_by_digit"] = [
        metrics.accuracy(lab.classifier, images[labels == d], labels[labels == d])
        for d in range(10)
    ]
    return found


def train_on_generated(lab, images, labels, epochs, seed):
    """Return the test accuracy of classifiers trained on generated and on real images.

    The accuracy for all real images is that of the committed classifier.
    """
    digits, n = lab.digits, len(images)
    test = digits.test_images, digits.test_labels
    right = metrics.accuracy(lab.classifier, *test)
    result = {"n": n, "epochs": epochs, "classifier_on_all_real": right}
    real = digits.train_images[:n], digits.train_labels[:n]
    sources = {"generated": (images.clamp(0, 1), labels), "as_many_real": real}
    for source, data in sources.items():
        if source == "as_many_real" and n == len(digits.train_images):
            result[source] = right
            continue
        generator = seed_everything(seed, lab.device)
        trained = train_classifier(*data, epochs, generator=generator)
        result[source] = metrics.accuracy(trained, *test)
    return result


def score_samples(lab, seed=7, n_training=20_000, epochs=20, levels=12, n_annealed=1_000):
    """Measure samples of the score network by DPM-Solver++ and annealed Langevin dynamics.

    DPM-Solver++ draws as many samples as there are test digits with guidance, without guidance,
    and without labels. A classifier is trained on the samples with guidance.
    """
    model, record = load_pretrained("score-based-model", lab.device)
    generator = seed_everything(seed, lab.device)
    n = lab.max_samples // 10 * 10
    n_training, n_annealed = min(n_training, 6 * n), min(n_annealed, n)
    sigmas, annealed_sigmas = karras_sigmas(levels=levels), geometric_sigmas()
    asked = class_balanced(lab, n)
    labels = asked.repeat(6)[:n_training]

    def sample(labels, labelled=True, **options):
        def draw(part):
            given = part if labelled else None
            return dpm_solver(model, given, sigmas, n=len(part), generator=generator, **options)

        return in_batches(draw, labels, 500)

    guided = sample(labels)
    samples = {"conditional": evaluate_by_digit(lab, guided[:n], asked)}
    plain = sample(asked, guidance=1)
    samples["conditional_no_guidance"] = evaluate_by_digit(lab, plain, asked)
    samples["without_labels"] = lab.evaluate(sample(asked, labelled=False))
    for kind, found in samples.items():
        print(f"{kind}: {metrics.summary_line(found)}", flush=True)
    options = {"generator": generator, "progress": True}
    few = labels[:n_annealed]
    annealed = annealed_langevin_dynamics(model, few, annealed_sigmas, **options)
    test = lab.digits.test_images, lab.digits.test_labels
    return {
        "seed": seed,
        "n": n,
        "training": runs.provenance(record),
        "guidance": GUIDANCE,
        "levels": levels,
        "floor": lab.floor(n),
        "samples": samples,
        "annealed": {
            "n": n_annealed,
            "levels": len(annealed_sigmas),
            "steps": 8,
            "floor": lab.floor(n_annealed),
            "evaluated": evaluate_by_digit(lab, annealed, few),
        },
        "real_label_accuracy": metrics.accuracy(lab.classifier, *test),
        "nearest": nearest_training_digits(lab, guided[:n_annealed]),
        "train_on_generated": train_on_generated(lab, guided, labels, epochs, seed),
    }


def draw_label_accuracy(results, folder):
    """Draw the label accuracy of each digit with and without guidance."""
    import matplotlib.pyplot as plt

    measured = results["score-samples"]
    figure, ax = plt.subplots(figsize=(7, 2.6))
    kinds = {"conditional": ("o", "guidance"), "conditional_no_guidance": ("s", "no_guidance")}
    for kind, (marker, name) in kinds.items():
        right = measured["samples"][kind]["label_accuracy_by_digit"]
        ax.plot(range(10), right, marker, label=label(name))
    ax.axhline(measured["real_label_accuracy"], color="gray", label="real test digits")
    ax.set(xticks=range(10), xlabel="requested digit", ylabel="label accuracy")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=7, bbox_to_anchor=(1.01, 1), loc="upper left")
    plots.write_figure(figure, folder / "sbm_label_accuracy.png")
    plt.close(figure)


# ----------------------------------------------------------------------------------- guidance


def guidance(lab, seed=7, n=2_000, weights=(0.0, 0.5, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0), levels=12):
    """Measure samples by DPM-Solver++ against the guidance weight."""
    model, record = load_pretrained("score-based-model", lab.device)
    labels = class_balanced(lab, n)
    sigmas, found = karras_sigmas(levels=levels), {}
    for weight in weights:
        options = {"guidance": weight, "generator": seed_everything(seed, lab.device)}

        def draw(part, options=options):
            return dpm_solver(model, part, sigmas, **options)

        images = in_batches(draw, labels)
        found[str(weight)] = evaluate_conditional(lab, images, labels)
        print(f"guidance {weight}: {metrics.summary_line(found[str(weight)])}", flush=True)
    return {
        "seed": seed,
        "n": len(labels),
        "levels": levels,
        "training": runs.provenance(record),
        "weights": found,
        "floor": lab.floor(len(labels)),
    }


def draw_guidance(results, folder):
    """Draw label accuracy, precision, recall and Fréchet distance against the guidance weight."""
    import matplotlib.pyplot as plt

    measured = results["guidance"]
    figure, axes = plt.subplots(1, 3, figsize=(10, 2.8))
    weights, found = [float(w) for w in measured["weights"]], list(measured["weights"].values())
    panels = (["label_accuracy"], ["precision", "recall"], ["frechet_distance"])
    for ax, keys in zip(axes, panels, strict=True):
        for key in keys:
            ax.plot(weights, [row[key] for row in found], ".-", label=label(key))
        ax.axvline(GUIDANCE, color="gray", linestyle=":", label=f"default weight ({GUIDANCE})")
        ax.set(xlabel="guidance weight $w$", ylabel=" and ".join(map(label, keys)))
        ax.grid(alpha=0.3)
        ax.legend(fontsize=7)
    axes[1].set_ylim(0.6, 1.05)
    axes[1].legend(fontsize=7, loc="upper right")
    floor = floor_of(results, measured["n"], "class_balanced")["mean"]
    axes[2].axhline(floor, color="black", linestyle="--", label=label("floor_class_balanced"))
    axes[2].legend(fontsize=7)
    axes[2].set_yscale("log")
    title = (
        f"DPM-Solver++ with {measured['levels']} levels, n = {measured['n']:,} samples per weight"
    )
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    plots.write_figure(figure, folder / "sbm_guidance.png")
    plt.close(figure)


# -------------------------------------------------------------------------------------- seeds


def quick_score_of_seed(key, lab, seed, updates, n, width, levels, root):
    """Train a `quick` score network with one seed and evaluate its samples."""
    labels = class_balanced(lab, n)
    path = Path(root) / f"score-seed-{seed}.pt"
    _, model = train_quick_score(lab.digits, seed, path, updates, width)
    generator, sigmas = seed_everything(7, lab.device), karras_sigmas(levels=levels)

    def draw(part):
        return dpm_solver(model, part, sigmas, order=2, generator=generator)

    return evaluate_conditional(lab, in_batches(draw, labels, 500), labels)


def score_seeds(
    lab, seeds=(1, 2, 3), updates=2_000, n=1_000, width=32, levels=12, root="runs/experiments"
):
    """Measure `quick` score networks of several seeds, with samples from the same noise."""
    found, seconds = {}, 0.0
    for seed in seeds:
        arguments = seed, updates, n, width, levels, str(root)
        found[str(seed)], took = recall(quick_score_of_seed, lab, *arguments)
        seconds += took
        print(f"seed {seed}: {metrics.summary_line(found[str(seed)])}", flush=True)
    keys = ("frechet_distance", "precision", "recall", "label_accuracy")
    n = len(class_balanced(lab, n))
    return {
        "minutes": round(seconds / 60, 1),
        "n": n,
        "updates": updates,
        "width": width,
        "levels": levels,
        "seed": 7,
        "runs": found,
        "summary": {key: mean_and_std([run[key] for run in found.values()]) for key in keys},
        "floor": lab.floor(n),
    }
