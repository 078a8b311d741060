"""The energy over noise levels as a generative classifier, and what it says to other images."""

import numpy as np
import torch
import torch.nn.functional as F

from dgm import metrics, plots
from experiments.chains import ENERGIES
from experiments.names import label
from experiments.out_of_distribution import unlike_digits
from helpers import load_pretrained


@torch.no_grad()
def label_energies(model, images, sigma, generator, batch=200):
    """Return E(x + sigma z | label) of every image and label, with the same z, [N, 10]."""
    rows = []
    for x in images.split(batch):
        noisy = x + sigma * torch.randn(x.shape, device=x.device, generator=generator)
        columns = [
            model.energy(noisy, sigma, torch.full_like(x[:, 0, 0, 0], d).long()) for d in range(10)
        ]
        rows.append(torch.stack(columns, 1))
    return torch.cat(rows).double().cpu()


def fitted_offsets(energies, labels, steps=100):
    """Return one offset b per label that maximises the likelihood of softmax(-E - b), [10]."""
    offsets = torch.zeros(10, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([offsets], max_iter=steps, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(-energies - offsets, labels.cpu())
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return offsets.detach()


def calibration_error(probabilities, labels, bins=15):
    """Return the expected calibration error (Naeini et al. 2015; Guo et al. 2017)."""
    confidence, predicted = probabilities.max(1)
    right = (predicted == labels.cpu()).double()
    bin_of = (confidence * bins).long().clamp(max=bins - 1)
    gaps = [(right - confidence)[bin_of == i].sum().abs() for i in range(bins)]
    return (sum(gaps) / len(labels)).item()


def generative_classifier(lab, model, generator, n_train, n_test, sigmas):
    """Return accuracy and calibration of p(label | x + sigma z) by energies, sigma by sigma.

    Also returns {sigma: offsets}.
    """
    n_train, n_test = min(n_train, lab.max_samples), min(n_test, lab.max_samples)
    train = lab.digits.train_images[:n_train], lab.digits.train_labels[:n_train]
    test = lab.digits.test_images[:n_test], lab.digits.test_labels[:n_test].cpu()
    found, offsets = {}, {}
    for sigma in sigmas:
        fitted = label_energies(model, train[0], sigma, generator)
        b = offsets[sigma] = fitted_offsets(fitted, train[1])
        logits = -label_energies(model, test[0], sigma, generator)
        noisy = test[0] + sigma * torch.randn(test[0].shape, device=lab.device, generator=generator)
        entry = {
            "accuracy_training": accuracy_of(-fitted - b, train[1].cpu()),
            "accuracy": accuracy_of(logits - b, test[1]),
            "accuracy_without_offsets": accuracy_of(logits, test[1]),
            "negative_log_likelihood": F.cross_entropy(logits - b, test[1]).item(),
            "calibration_error": calibration_error((logits - b).softmax(1), test[1]),
            "confidence": (logits - b).softmax(1).max(1).values.mean().item(),
            "classifier_on_noisy": metrics.accuracy(lab.classifier, noisy.clamp(0, 1), test[1]),
            "offsets": (b - b.mean()).tolist(),
        }
        found[str(sigma)] = entry
        print(f"classifier at sigma {sigma}: {entry}", flush=True)
    return {"n_training": n_train, "n": n_test, "sigmas": found}, offsets


def accuracy_of(logits, labels):
    return (logits.argmax(1) == labels).double().mean().item()


def other_images(lab, model, offsets, generator, n, seed):
    """Return AUROC and classifier confidence for images that are no test digits."""
    replay_buffer = load_pretrained(ENERGIES["replay_buffer"], lab.device)[0]
    test = lab.digits.test_images[:n]
    sets, left_out = unlike_digits(lab.digits.test_images, n, seed)
    scores, confidence = {}, {}
    for name, images in {"test_digits": test, **sets}.items():
        images = images.to(lab.device)
        scores[name] = {"replay_buffer": energies_of(replay_buffer, images)}
        confidence[name] = {}
        for sigma, b in offsets.items():
            logits = -label_energies(model, images, sigma, generator) - b
            scores[name][str(sigma)] = -logits.logsumexp(1)
            sure = logits.softmax(1).max(1).values
            confidence[name][str(sigma)] = sure.mean().item()
    inside = scores.pop("test_digits")
    auroc = {
        name: {key: metrics.auroc(inside[key], value) for key, value in found.items()}
        for name, found in scores.items()
    }
    for name, found in auroc.items():
        print(name, {k: round(v, 3) for k, v in found.items()}, confidence[name], flush=True)
    return {"n": len(test), "left_out": left_out, "auroc": auroc, "confidence": confidence}


@torch.no_grad()
def energies_of(model, images):
    return torch.cat([model(x).cpu() for x in images.split(500)])


def draw_energy_classifier(results, folder):
    """Draw accuracy of the energy as a classifier, and the AUROC for other images."""
    import matplotlib.pyplot as plt

    found = results["energy-meets-score"]["classifier"]["sigmas"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(1, 1.1))
    sigmas = [float(sigma) for sigma in found]
    for key in ("accuracy", "confidence", "accuracy_without_offsets", "classifier_on_noisy"):
        left.plot(sigmas, [row[key] for row in found.values()], ".-", label=label(key))
    left.set(xscale="log", ylim=(0, 1.02), xlabel=r"noise level $\sigma$", ylabel="share")
    left.set_xticks(sigmas, list(found))
    left.minorticks_off()
    left.set_title("The energy as a classifier of test digits", fontsize=10)
    left.grid(alpha=0.3)
    left.legend(fontsize=7, bbox_to_anchor=(0.5, -0.2), loc="upper center", ncols=2)
    rows = results["energy-meets-score"]["other_images"]["auroc"]
    kinds = list(next(iter(rows.values())))
    table = np.array([[row[kind] for kind in kinds] for row in rows.values()])
    right.imshow(table, vmin=0.3, vmax=1.3, cmap="RdYlGn", aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        right.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=9)
    names = [label("energy_replay_buffer") if k == "replay_buffer" else f"σ = {k}" for k in kinds]
    right.set_xticks(range(len(kinds)), names, fontsize=8)
    right.set_yticks(range(len(rows)), [label(name) for name in rows], fontsize=8)
    right.set_title("AUROC against test digits", fontsize=10)
    figure.tight_layout()
    plots.write_figure(figure, folder / "energy_classifier.png")
    plt.close(figure)
