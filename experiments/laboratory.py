"""Shared parts of the experiments: data, classifier, evaluation, statistics, cache."""

import shutil
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import torch

from dgm import metrics
from dgm.data import Digits
from dgm.device import pick_device
from helpers import load_mnist

CACHE = Path("runs") / "cache"


class Laboratory(NamedTuple):
    """Data, classifier, features of the test images and largest number of samples."""

    digits: Digits
    classifier: torch.nn.Module
    real_features: torch.Tensor
    max_samples: int

    @property
    def device(self):
        return self.digits.test_images.device

    @property
    def key(self):
        """Return a key that depends on data, classifier and number of samples."""
        weights = torch.cat([p.detach().flatten().cpu() for p in self.classifier.parameters()])
        features = self.real_features.numpy()
        return self.digits.name, joblib.hash((weights.numpy(), features)), self.max_samples

    def evaluate(self, images):
        """Return the metrics of samples, clamped because bad samples may lie far outside [0, 1]."""
        images = images.clamp(0, 1)
        return metrics.evaluate_samples(self.classifier, images, self.real_features)

    def floor(self, n):
        """Return the metrics of the first n real training images."""
        return self.evaluate(self.digits.train_images[:n])


def open_laboratory(max_samples=10_000):
    """Return a laboratory on this machine's device, with the committed classifier."""
    device = pick_device()
    digits = load_mnist(device=device)
    classifier = metrics.load_classifier(device)
    real_features = metrics.classifier_outputs(classifier, digits.test_images)[0]
    return Laboratory(digits, classifier, real_features, min(max_samples, len(digits.test_images)))


# --------------------------------------------------------------------------- class-balanced


def class_balanced(lab, n):
    """Return n labels 0..9 in turn, at most as many as the laboratory allows."""
    return torch.arange(10, device=lab.device).repeat(min(n, lab.max_samples) // 10)


def evaluate_conditional(lab, images, labels):
    """Return lab.evaluate() and the label accuracy."""
    found = metrics.accuracy(lab.classifier, images.clamp(0, 1), labels)
    return {**lab.evaluate(images), "label_accuracy": found}


def in_batches(sampler, labels, size=1_000):
    """Return the samples of `sampler(labels)`, drawn in batches of `size`."""
    return torch.cat([sampler(part) for part in labels.split(size)])


# -------------------------------------------------------------------------------- statistics


def mean_and_std(values):
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": deviation}


def mean_and_error(values):
    values = torch.as_tensor(values).double()
    error = values.std() / len(values) ** 0.5
    return {"mean": values.mean().item(), "standard_error": error.item()}


def quantiles(values):
    """Return the 1st, 25th, 50th, 75th and 99th percentile."""
    shares = (0.01, 0.25, 0.5, 0.75, 0.99)
    return {f"p{100 * q:02.0f}": values.double().quantile(q).item() for q in shares}


def nearest_training_digits(lab, images):
    """Return distances of images and of test digits to their nearest training images."""
    training = lab.digits.train_images
    distances, _ = metrics.nearest_neighbours(images.clamp(0, 1), training)
    reference, _ = metrics.nearest_neighbours(lab.digits.test_images[: len(images)], training)
    edges = torch.linspace(0, 14, 57)
    closer = (distances < reference.quantile(0.01)).double().mean().item()
    counts = [torch.histogram(x.cpu(), edges)[0].long().tolist() for x in (distances, reference)]
    return {
        "n": len(images),
        "samples": quantiles(distances),
        "test_digits": quantiles(reference),
        "share_closer_than_1_percent_of_test_digits": closer,
        "histogram": {"edges": edges.tolist(), "samples": counts[0], "test_digits": counts[1]},
    }


# ------------------------------------------------------------------------------------- cache


def recall(part, lab, *arguments):
    """Return (value, seconds) of part(key, lab, *arguments), cached by all arguments.

    `key` represents data, classifier and number of samples of the laboratory. `seconds` is the
    time of the original computation. A change in the source of `part` invalidates the cache; a
    change in the functions it calls does not, so call `forget` first or run with --fresh.
    """
    memory = joblib.Memory(CACHE, verbose=0)
    shelf = memory.cache(part, ignore=["lab"]).call_and_shelve(lab.key, lab, *arguments)
    return shelf.get(), shelf.duration


def forget():
    """Delete the cache of `recall`."""
    shutil.rmtree(CACHE, ignore_errors=True)
