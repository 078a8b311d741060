"""What judges: an independent digit classifier and its features, Frechet distance, PSNR, SSIM, AUROC.

`python evaluation.py classifier` trains the classifier anew. What is measured with it: studies.py.
"""

import argparse

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import nn

import helpers


class DigitClassifier(nn.Module):
    """Images [B, 1, 28, 28] in [0, 1] to logits [B, 10]; features() gives the 128 numbers before them."""

    def __init__(self):
        super().__init__()
        self.settings = {}

        def layer(c_in, c_out):
            return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU())

        self.layers = nn.Sequential(layer(1, 32), layer(32, 32), nn.MaxPool2d(2),
                                    layer(32, 64), layer(64, 64), nn.MaxPool2d(2),
                                    layer(64, 128), nn.MaxPool2d(2), nn.Flatten(),
                                    nn.Linear(128 * 9, 128), nn.ReLU())  # fmt: skip
        self.head = nn.Linear(128, 10)

    def features(self, images):
        return self.layers(2 * images - 1)

    def forward(self, images):
        return self.head(F.dropout(self.features(images), 0.3, self.training))


def shift(images, reach, generator):
    """Each image moved by its own whole number of pixels, at most `reach` either way, zeros coming in."""
    n, side = len(images), images.shape[-1]
    padded = F.pad(images, [reach] * 4)
    dy, dx = torch.randint(0, 2 * reach + 1, (2, n, 1, 1), device=images.device, generator=generator)
    rows = torch.arange(side, device=images.device)
    index = torch.arange(n, device=images.device)[:, None, None]
    return padded[index, 0, rows[:, None] + dy, rows + dx][:, None]


def train_classifier(images, labels, epochs=12, batch_size=256, generator=None):
    """A classifier of its own, trained on shifted digits with Adam under a one-cycle learning rate."""
    model = DigitClassifier().to(images.device)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    updates = epochs * len(images) // batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=updates)
    batches = helpers.minibatches(images, labels, batch_size, generator)
    for update in range(updates):
        x, y = next(batches)
        with helpers.fast_math(x.device):
            loss = F.cross_entropy(model(shift(x, 2, generator)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (update + 1) % max(updates // epochs, 1) == 0:
            print(f"update {update + 1:,}/{updates:,}  loss {loss.item():.4f}", flush=True)
    return model.eval()


def load_classifier(device=None, folder=None):
    """The committed classifier in evaluation mode; raises FileNotFoundError where there is none, with what to do, and else
    as helpers.load_pretrained does."""
    device = device or helpers.pick_device()
    path = (folder or helpers.CHECKPOINTS) / "classifier.pt"
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}, the classifier that judges samples: put the repository's folder "
                                "checkpoints/ here, or train one with `python evaluation.py classifier`")  # fmt: skip
    record = helpers.load_checkpoint(path, "classifier", device)
    with torch.random.fork_rng(devices=[]):  # its initial weights take nothing from the draws of the run it judges
        model = DigitClassifier()
    try:
        model.load_state_dict(record["weights"])
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path} does not fit the classifier of this evaluation.py: {error}") from error
    return model.to(device).eval()


@torch.no_grad()
def features_and_probabilities(classifier, images, batch_size=500):
    """(features [N, 128], class probabilities [N, 10]), on the CPU, of images clamped to [0, 1]."""
    features = torch.cat([classifier.features(x.clamp(0, 1)) for x in images.split(batch_size)])
    return features.cpu(), classifier.head(features).softmax(dim=1).cpu()


def accuracy(classifier, images, labels):
    """Share of images that the classifier gives the label asked for."""
    return (features_and_probabilities(classifier, images)[1].argmax(1) == labels.cpu()).double().mean().item()


def frechet_distance(a, b):
    """Squared Frechet distance of the Gaussians fitted to two sets of features [N, D] (Dowson & Landau 1982):
    |mean_a - mean_b|^2 + trace(A + B - 2 (A B)^(1/2)), in float64."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # the eigenvalues of A B are real and not negative; rounding may say otherwise
    root_trace = np.sqrt(np.clip(scipy.linalg.eigvals(cov_a @ cov_b).real, 0, None)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * root_trace)


def covered(points, others, radii, block=1000):
    """Which of `points` lie within the radius of at least one of `others`."""
    return torch.cat([(torch.cdist(p, others) <= radii).any(dim=1) for p in points.split(block)])


def kth_distances(features, k, block=1000):
    """Distance of each feature vector to its k-th nearest neighbour among the others."""
    return torch.cat([torch.cdist(f, features).kthvalue(k + 1, dim=1).values for f in features.split(block)])


def precision_recall(real, generated, k=3):
    """Improved precision and recall (Kynkaanniemi et al. 2019): the share of generated features within the k-th-neighbour
    balls of the real ones, and of real features within those of the generated ones. Give as many of each."""
    real, generated = real.double(), generated.double()
    precision = covered(generated, real, kth_distances(real, k)).double().mean().item()
    recall = covered(real, generated, kth_distances(generated, k)).double().mean().item()
    return precision, recall


def nearest_neighbours(images, training_images, block=500):
    """(distance, index) of the training image nearest to each image, Euclidean in pixels: is it a copy?"""
    flat = training_images.flatten(1)
    found = [torch.cdist(x.flatten(1), flat).min(dim=1) for x in images.split(block)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def psnr(images, clean):
    """Peak signal-to-noise ratio in dB for a peak of 1, from the squared error pooled over all images."""
    return float(-10 * torch.log10((images - clean).square().mean()))


def pixel_quality(images, clean):
    """Of images [N, 1, H, W] against the clean ones in [0, 1]: PSNR from the pooled error, the mean of each image's PSNR
    (dB), and the mean structural similarity (Wang et al. 2004; scikit-image)."""
    from skimage.metrics import structural_similarity

    each = -10 * torch.log10((images - clean).square().flatten(1).mean(1).clamp_min(1e-12))
    pairs = zip(images[:, 0].cpu().double().numpy(), clean[:, 0].cpu().double().numpy(), strict=True)
    similarity = [structural_similarity(a, b, data_range=1.0) for a, b in pairs]
    return {"psnr": psnr(images, clean), "psnr_each": each.mean().item(), "ssim": float(np.mean(similarity))}


def auroc(inside, outside):
    """Area under the ROC curve of telling `outside` from `inside` by a score that should be higher outside: the chance
    that a random outsider scores above a random insider, ties counted half."""
    from sklearn.metrics import roc_auc_score

    truth = np.r_[np.zeros(len(inside)), np.ones(len(outside))]
    return float(roc_auc_score(truth, np.r_[np.asarray(inside), np.asarray(outside)]))


def judge_samples(classifier, images, real_features):
    """Frechet distance of images to real features [N, 128], precision and recall against the first of these, share that
    the classifier is over 90 % sure of, and the rarest and commonest digit's share. Quote n and the floor (real training
    images, same n) beside them."""
    features, probabilities = features_and_probabilities(classifier, images)
    shares = torch.bincount(probabilities.argmax(1), minlength=10).double() / len(images)
    precision, recall = precision_recall(real_features[: len(features)], features)
    return {
        "frechet_distance": frechet_distance(features, real_features),
        "precision": precision,
        "recall": recall,
        "share_confident": (probabilities.max(1).values > 0.9).double().mean().item(),
        "rarest_digit": shares.min().item(),
        "commonest_digit": shares.max().item(),
    }


def judgement_line(judgement):
    """judge_samples() in words, for a notebook's output."""
    return (f"Frechet distance {judgement['frechet_distance']:7.1f}, precision {judgement['precision']:.2f}, "
            f"recall {judgement['recall']:.2f}, {judgement['share_confident']:4.0%} confident, "
            f"digits from {judgement['rarest_digit']:.1%} to {judgement['commonest_digit']:.1%} each")  # fmt: skip


def denoising_figure(rows, examples=12):
    """A row of panels for each (sigma, {title: images}): the first is the clean original, every other has its PSNR, over
    all images given; `examples` of them are drawn."""
    import matplotlib.pyplot as plt

    columns = len(rows[0][1])
    figure, axes = plt.subplots(len(rows), columns, figsize=(2.6 * columns, 2.3 * len(rows)), squeeze=False)
    for line, (sigma, panels) in zip(axes, rows, strict=True):
        clean = next(iter(panels.values()))
        for ax, (title, images) in zip(line, panels.items(), strict=True):
            quality = "" if images is clean else f"\n{psnr(images, clean):.1f} dB"
            helpers.show_images(ax, images[:examples], columns=4, title=title + quality)
            ax.title.set_fontsize(10)
        line[0].set_ylabel(f"$\\sigma$ = {sigma}", fontsize=12)
    figure.tight_layout()
    return figure


def main():
    parser = argparse.ArgumentParser(description="Train the classifier that judges.")
    parser.add_argument("task", choices=("classifier",))
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    device = helpers.pick_device()
    generator = helpers.seed_everything(0, device)
    data = helpers.load_mnist(device=device)
    model = train_classifier(data.train_images, data.train_labels, arguments.epochs, generator=generator)
    weights = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    model.load_state_dict(weights)
    test = accuracy(model, data.test_images, data.test_labels)
    print(f"accuracy on {len(data.test_images):,} test digits ({data.name}): {test:.2%}")
    if data.name == "MNIST":
        contents = {"kind": "classifier", "weights": weights, "test_accuracy": test}
        helpers.save_atomically(contents, helpers.CHECKPOINTS / "classifier.pt")


if __name__ == "__main__":
    main()
