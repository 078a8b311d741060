"""Training of the digit classifier behind the metrics."""

import torch
import torch.nn.functional as F

from dgm import metrics, runs
from dgm.data import minibatches
from dgm.device import fast_math, pick_device, seed_everything
from helpers import load_mnist


def shift(images, reach, generator):
    """Shift each image by a random number of pixels, at most `reach`, filling with zeros."""
    n, side = len(images), images.shape[-1]
    padded = F.pad(images, [reach] * 4)
    options = {"device": images.device, "generator": generator}
    dy, dx = torch.randint(0, 2 * reach + 1, (2, n, 1, 1), **options)
    rows = torch.arange(side, device=images.device)
    index = torch.arange(n, device=images.device)[:, None, None]
    return padded[index, 0, rows[:, None] + dy, rows + dx][:, None]


def train_classifier(images, labels, epochs=12, batch_size=256, generator=None):
    """Train a classifier on shifted digits with AdamW and a one-cycle learning rate."""
    model = metrics.DigitClassifier().to(images.device)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    updates = epochs * len(images) // batch_size
    rates = {"max_lr": 4e-3, "total_steps": updates}
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, **rates)
    batches = minibatches(images, labels, batch_size, generator)
    for update in range(updates):
        x, y = next(batches)
        with fast_math(x.device):
            loss = F.cross_entropy(model(shift(x, 2, generator)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (update + 1) % max(updates // epochs, 1) == 0:
            print(f"update {update + 1:,}/{updates:,}  loss {loss.item():.4f}", flush=True)
    return model.eval()


def classifier(_lab=None, epochs=12):
    """Train the classifier and, on MNIST, write it to checkpoints/."""
    device = pick_device()
    generator = seed_everything(0, device)
    digits = load_mnist(device=device)
    data = digits.train_images, digits.train_labels
    model = train_classifier(*data, epochs, generator=generator)
    weights = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    model.load_state_dict(weights)
    test = metrics.accuracy(model, digits.test_images, digits.test_labels)
    print(f"accuracy on {len(digits.test_images):,} test digits ({digits.name}): {test:.2%}")
    if digits.name == "MNIST":
        contents = {"kind": "classifier", "weights": weights, "test_accuracy": test}
        runs.save_atomically(contents, runs.CHECKPOINTS / "classifier.pt")
