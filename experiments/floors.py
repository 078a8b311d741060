"""Floors: Fréchet distances of real training images, as drawn and class-balanced."""

import torch

from experiments.laboratory import mean_and_std


def blocks_as_drawn(labels, n, blocks):
    """Return the indices of disjoint blocks of n images in the order of the training set."""
    count = min(blocks, len(labels) // n)
    return [torch.arange(i * n, (i + 1) * n) for i in range(count)]


def blocks_class_balanced(labels, n, blocks):
    """Return the indices of disjoint blocks of n images with equal numbers of each digit."""
    by_digit = [torch.where(labels == digit)[0] for digit in range(10)]
    count = min(blocks, min(map(len, by_digit)) * 10 // n)
    slices = [slice(i * n // 10, (i + 1) * n // 10) for i in range(count)]
    return [torch.cat([index[part] for index in by_digit]) for part in slices]


def floors(lab, sizes=(100, 200, 500, 1_000, 2_000, 10_000), blocks=10):
    """Measure the Fréchet distance of real training images at each number of samples."""
    images, labels = lab.digits.train_images, lab.digits.train_labels
    kinds = {"as_drawn": blocks_as_drawn, "class_balanced": blocks_class_balanced}
    result = {"sizes": {}}
    for n in [n for n in sizes if n <= lab.max_samples]:
        result["sizes"][str(n)] = {}
        for kind, blocks_of in kinds.items():
            indices = blocks_of(labels, n, blocks)
            distances = [lab.evaluate(images[index])["frechet_distance"] for index in indices]
            summary = mean_and_std(distances) | {"blocks": len(distances)}
            result["sizes"][str(n)][kind] = summary
    return result


def floor_of(results, n, kind="as_drawn"):
    """Return {mean, std} of the floor for n images from the stored results."""
    return results["floors"]["sizes"][str(n)][kind]
