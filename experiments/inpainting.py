"""Inpainting of test digits by the score network."""

from types import MappingProxyType

import torch

from dgm import metrics, runs
from dgm.checks import IMAGE_SHAPE
from dgm.device import seed_everything
from dgm.inverse import inpaint, inpaint_by_replacement
from dgm.samplers import geometric_sigmas, karras_sigmas
from helpers import load_pretrained

REPLACEMENT = MappingProxyType({"levels": 30, "steps": 8})


def masks(generator, device):
    """Return {name: mask of the known pixels, [1, 28, 28]}."""
    lower, frame = torch.zeros(2, *IMAGE_SHAPE, dtype=torch.bool, device=device)
    lower[:, 14:] = True
    frame[:] = True
    frame[:, 7:21, 7:21] = False
    quarter = torch.rand(IMAGE_SHAPE, device=device, generator=generator) < 0.25
    return {"upper_half": lower, "centre": frame, "three_in_four": quarter}


def nearest_by_known(images, known, training_images):
    """Complete images with the training image that is nearest in the known pixels."""
    flat, known_pixels = (images * known).flatten(1), (training_images * known).flatten(1)
    nearest = torch.cdist(flat, known_pixels).argmin(1)
    return torch.where(known, images, training_images[nearest])


def evaluate_completions(lab, drawn, replaced, clean, known, labels):
    """Return PSNR on the missing pixels and label accuracy of each completion method."""
    training = lab.digits.train_images
    estimates = {
        "one_sample": drawn[0],
        "mean_of_samples": drawn.mean(0),
        "one_sample_by_replacement": replaced,
        "mean_training_image": torch.where(known, clean, training.mean(0, keepdim=True)),
        "nearest_training_image": nearest_by_known(clean, known, training),
    }
    missing, methods = ~known.expand_as(clean), {}
    for name, x in estimates.items():
        methods[name] = {
            "psnr": metrics.psnr(x[missing], clean[missing]),
            "read_as_it_was": metrics.accuracy(lab.classifier, x, labels),
        }
    outputs = [metrics.classifier_outputs(lab.classifier, x)[1] for x in drawn]
    read = torch.stack([probabilities.argmax(1) for probabilities in outputs])
    different = sum((read == d).any(0).double().mean().item() for d in range(10))
    deviation = drawn.var(0)[missing].mean().sqrt().item()
    return {
        "methods": methods,
        "standard_deviation_of_a_missing_pixel": deviation,
        "digits_read_among_the_draws": different,
    }


def inpainting(lab, seed=7, n=100, draws=4, levels=50, replacement=REPLACEMENT):
    """Measure completions of test digits without labels, and their diversity.

    The other methods are replacement, the mean training image and the nearest training image.
    """
    model, record = load_pretrained("score-based-model", lab.device)
    generator = seed_everything(seed, lab.device)
    n = min(n, lab.max_samples)
    clean, labels = lab.digits.test_images[:n], lab.digits.test_labels[:n]
    sigmas, annealed_sigmas = (
        karras_sigmas(levels=levels),
        geometric_sigmas(levels=replacement["levels"]),
    )
    result, options = {}, {"generator": generator}
    for name, known in masks(generator, lab.device).items():
        drawn = [inpaint(model, None, sigmas, clean, known, **options) for _ in range(draws)]
        drawn = torch.stack(drawn).clamp(0, 1)
        steps = replacement["steps"]
        replaced = inpaint_by_replacement(
            model, None, annealed_sigmas, clean, known, steps=steps, **options
        )
        replaced = replaced.clamp(0, 1)
        result[name] = evaluate_completions(lab, drawn, replaced, clean, known, labels)
        print(name, result[name]["methods"], flush=True)
    return {
        "seed": seed,
        "n": len(clean),
        "draws": draws,
        "levels": levels,
        "replacement": dict(replacement),
        "training": runs.provenance(record),
        "masks": result,
    }
