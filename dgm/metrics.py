"""Evaluation metrics and the digit classifier behind them."""

from pathlib import Path

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import nn

from dgm import runs
from dgm.checks import (
    check_all_finite,
    check_at_least,
    check_count,
    check_floats,
    check_images,
    check_labels,
    check_same_shape,
    check_tensor,
    check_values,
)
from dgm.data import DIGITS
from dgm.device import pick_device

NO_CLASSIFIER = "No Fréchet distance and label accuracy: the classifier knows MNIST only."
MIN_SAMPLES = 500  # with fewer, a Fréchet distance is mostly estimation error

# -------------------------------------------------------------------------------- classifier


def convolution(c_in, c_out):
    layer = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(c_out), nn.ReLU())


class DigitClassifier(nn.Module):
    """A network that maps images [B, 1, 28, 28] in [0, 1] to logits [B, 10].

    features() returns the 128 features behind the logits, [B, 128].
    """

    def __init__(self):
        super().__init__()
        self.settings = {}
        self.layers = nn.Sequential(
            convolution(1, 32),
            convolution(32, 32),
            nn.MaxPool2d(2),
            convolution(32, 64),
            convolution(64, 64),
            nn.MaxPool2d(2),
            convolution(64, 128),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(128 * 9, 128),
            nn.ReLU(),
        )
        self.head = nn.Linear(128, 10)

    def features(self, images):
        return self.layers(2 * images - 1)

    def forward(self, images):
        return self.head(F.dropout(self.features(images), 0.3, self.training))


def load_classifier(device=None, folder=None, data="MNIST"):
    """Return the committed classifier in evaluation mode; None for data that are no digits.

    Raises FileNotFoundError if its file is missing, and ValueError if the file is damaged or does
    not fit.
    """
    if data not in DIGITS:
        return None
    device = pick_device(device)
    path = Path(folder or runs.CHECKPOINTS) / "classifier.pt"
    if not path.exists():
        raise FileNotFoundError(
            f"there is no {path}, the classifier that evaluates samples: put the repository's "
            "folder checkpoints/ here, or train one with `python -m experiments classifier`"
        )
    record = runs.load_checkpoint(path, "classifier", device)
    with torch.random.fork_rng(devices=[]):  # the global random state stays as it is
        model = DigitClassifier()
    try:
        model.load_state_dict(record["weights"])
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path} does not fit the DigitClassifier: {error}") from error
    return model.to(device).eval()


@torch.no_grad()
def classifier_outputs(classifier, images, batch_size=500):
    """Return (features [N, 128], class probabilities [N, 10]) of the clamped images, on the CPU.

    Raises TypeError or ValueError unless images are float32 [N, 1, 28, 28], finite and on the
    scale [0, 1].
    """
    if classifier.training:
        raise ValueError("classifier must be in evaluation mode: call classifier.eval()")
    check_images(images, device=classifier.head.weight.device)
    check_values(images)
    features = torch.cat([classifier.features(x.clamp(0, 1)) for x in images.split(batch_size)])
    return features.cpu(), classifier.head(features).softmax(dim=1).cpu()


def accuracy(classifier, images, labels):
    """Return the share of images that the classifier assigns to their labels."""
    check_images(images)
    labels = check_labels(labels, len(images), hidden=False)
    predicted = classifier_outputs(classifier, images)[1].argmax(1)
    return (predicted == labels.cpu()).double().mean().item()


# ------------------------------------------------------------------------- sets of features


def numbers_of(values, name):
    """Return values as a float64 array, or raise TypeError if they are not numbers on the CPU."""
    if torch.is_tensor(values):
        values = values.detach().cpu().double()
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):
        kind = type(values).__name__
        raise TypeError(
            f"{name} must be numbers, not {kind}: pass an array or a tensor on the CPU"
        ) from None


def check_features(features, count, name="features"):
    """Raise ValueError unless features are finite numbers [N, D] with N >= `count`."""
    if features.ndim != 2:
        raise ValueError(f"{name} must have shape [N, D], not {list(features.shape)}: reshape them")
    check_at_least(features, count, f"the number of {name}")
    if not np.isfinite(features).all():
        raise ValueError(
            f"{name} must be finite, but they contain NaN or infinity: check the images"
        )


def check_equally_many(a, b):
    """Raise ValueError unless two sets of features have the same dimension."""
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"both sets must have the same number of features, not {a.shape[1]} and {b.shape[1]}: "
            "use the same classifier for both"
        )


def frechet_distance(a, b):
    """Return the squared Fréchet distance of Gaussians fitted to two sets of features [N, D].

    |mean_a - mean_b|^2 + trace(A + B - 2 (A B)^(1/2)) (Dowson & Landau 1982), in float64.
    """
    a, b = numbers_of(a, "features"), numbers_of(b, "features")
    for features in (a, b):
        check_features(features, 2)
    check_equally_many(a, b)
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    # the eigenvalues of A B are real and nonnegative up to rounding
    root_trace = np.sqrt(np.clip(scipy.linalg.eigvals(cov_a @ cov_b).real, 0, None)).sum()
    means = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(means + np.trace(cov_a) + np.trace(cov_b) - 2 * root_trace)


def covered(points, others, radii, block=1000):
    """Return a mask of the points that lie within the radius of at least one of `others`."""
    parts = points.split(block)
    return torch.cat([(torch.cdist(p, others) <= radii).any(dim=1) for p in parts])


def kth_distances(features, k, block=1000):
    """Return the distance from each feature vector to its k-th nearest neighbour."""
    parts = features.split(block)
    return torch.cat([torch.cdist(f, features).kthvalue(k + 1, dim=1).values for f in parts])


def precision_recall(real, generated, k=3):
    """Return improved precision and recall of two sets of features (Kynkäänniemi et al. 2019).

    Precision is the share of generated features within the k-th-neighbour balls of the real
    ones, and recall is the share of real features within those of the generated ones. Both sets
    should have the same size.
    """
    check_count(k, "k")
    for features in (real, generated):
        check_tensor(features, "features")
        check_features(features.detach().cpu().numpy(), k + 1)
    check_equally_many(real, generated)
    real, generated = real.double(), generated.double()
    precision = covered(generated, real, kth_distances(real, k)).double().mean().item()
    recall = covered(real, generated, kth_distances(generated, k)).double().mean().item()
    return precision, recall


def evaluate_samples(classifier, images, real_features):
    """Return the metrics of generated digits as a dictionary.

    It has the number of images n, the Fréchet distance to `real_features` [N, 128], precision and
    recall against the first n of these, the share of confident samples (classifier probability
    > 0.9), and the shares of the rarest and the most common digit. Report a Fréchet distance
    together with n and the floor (real images, same n).
    """
    check_tensor(images, "images")
    check_at_least(images, 4, "the number of images")
    check_tensor(real_features, "real_features")
    check_features(real_features.detach().cpu().numpy(), max(4, len(images)), "real features")
    features, probabilities = classifier_outputs(classifier, images)
    shares = torch.bincount(probabilities.argmax(1), minlength=10).double() / len(images)
    precision, recall = precision_recall(real_features[: len(features)], features)
    return {
        "n": len(images),
        "frechet_distance": frechet_distance(features, real_features),
        "precision": precision,
        "recall": recall,
        "share_confident": (probabilities.max(1).values > 0.9).double().mean().item(),
        "rarest_digit": shares.min().item(),
        "commonest_digit": shares.max().item(),
    }


def summary_line(metrics):
    """Return the result of `evaluate_samples` as one line, without the distance if n is small."""
    distance = f"Fréchet distance {metrics['frechet_distance']:7.1f}, "
    return (
        f"{distance if metrics['n'] >= MIN_SAMPLES else ''}"
        f"precision {metrics['precision']:.2f}, recall {metrics['recall']:.2f}, "
        f"{metrics['share_confident']:4.0%} confident, "
        f"rarest digit {metrics['rarest_digit']:.1%}, "
        f"most frequent {metrics['commonest_digit']:.1%}"
    )


# ------------------------------------------------------------------------------------ pixels


def nearest_neighbours(images, training_images, block=500):
    """Return (Euclidean distance, index) of the training image nearest to each image."""
    check_images(images)
    check_images(training_images, "training_images")
    check_all_finite(images)
    check_all_finite(training_images, "training_images")
    flat = training_images.flatten(1)
    found = [torch.cdist(x.flatten(1), flat).min(dim=1) for x in images.split(block)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def psnr(images, clean):
    """Return the peak signal-to-noise ratio in dB (peak 1, error pooled over all images).

    Raises TypeError or ValueError unless both are finite, floating point and of the same shape.
    """
    check_same_shape(images, clean)
    check_floats(images, "images")
    check_floats(clean, "clean images")
    check_all_finite(images)
    check_values(clean, "clean images")
    return float(-10 * torch.log10((images - clean).square().mean()))


def pixel_quality(images, clean):
    """Return PSNR and SSIM of images [N, 1, H, W] against clean images in [0, 1].

    "psnr" is the PSNR of the pooled error and "psnr_each" the mean PSNR per image, both in dB.
    "ssim" is the mean structural similarity (Wang et al. 2004; scikit-image).
    """
    from skimage.metrics import structural_similarity

    check_same_shape(images, clean)
    check_images(images)
    check_images(clean, "clean images")
    pooled = psnr(images, clean)
    errors = (images - clean).square().flatten(1).mean(1).clamp_min(1e-12)
    a, b = (x[:, 0].cpu().double().numpy() for x in (images, clean))
    pairs = zip(a, b, strict=True)
    similarity = [structural_similarity(x, y, data_range=1.0) for x, y in pairs]
    return {
        "psnr": pooled,
        "psnr_each": (-10 * torch.log10(errors)).mean().item(),
        "ssim": float(np.mean(similarity)),
    }


def check_scores(scores, name):
    """Raise ValueError unless scores are finite numbers [N] with N >= 1."""
    scores = numbers_of(scores, name)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        shape = list(scores.shape)
        raise ValueError(f"{name} must be one or more finite numbers [N], not {shape}: pass scores")


def auroc(inside, outside):
    """Return the area under the ROC curve of scores that should be higher outside.

    It is the probability that a random score outside exceeds a random score inside; ties count
    half.
    """
    from sklearn.metrics import roc_auc_score

    check_scores(inside, "inside")
    check_scores(outside, "outside")
    truth = np.r_[np.zeros(len(inside)), np.ones(len(outside))]
    return float(roc_auc_score(truth, np.r_[np.asarray(inside), np.asarray(outside)]))
