"""What is measured of the score model beyond its samples: functions a study, as in studies.py, whose laboratory they get.

The long ones keep each finished part in runs/studies/, and go on from there when they are run again.
"""

import io
import json
import math
import time
from pathlib import Path
from types import MappingProxyType

import torch
from PIL import Image
from torch import nn

import evaluation
import helpers
import samplers


def remembered(path, key, function):
    """function(), or what it gave the last time, kept as JSON in the file `path` under `key`; under "seconds", how long all
    these took."""
    path = Path(path)

    def all_known():
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    known = all_known()
    if key not in known:
        started = time.perf_counter()
        value = function()
        known = {**all_known(), key: value}  # others may have been added meanwhile, by a second process
        known["seconds"] = known.get("seconds", 0.0) + time.perf_counter() - started
        helpers.write_json(known, path)
    return known[key]


def minutes_of(path):
    """How long everything remembered in the file `path` took."""
    return round(json.loads(Path(path).read_text(encoding="utf-8")).get("seconds", 0.0) / 60, 1)


def score_model(lab):
    """(the committed score model, its record)."""
    return helpers.load_pretrained("score-based-model", lab.device)


def mean_and_error(values):
    values = torch.as_tensor(values).double()
    return {"mean": values.mean().item(), "standard_error": (values.std() / len(values) ** 0.5).item()}


def equal_shares(lab, n):
    """Labels that ask for each digit equally often: n of them, and no more than the laboratory allows."""
    return torch.arange(10, device=lab.device).repeat(min(n, lab.most) // 10)


def judged_as_asked(lab, images, labels):
    """lab.judge(), and the share of the images that the classifier reads as the digit asked for."""
    return {**lab.judge(images), "labels_right": evaluation.accuracy(lab.classifier, images, labels)}


def in_batches(sampler, labels, size=1_000):
    return torch.cat([sampler(part) for part in labels.split(size)])


# ------------------------------------------------------------------------------------------------ samplers against cost


def annealed(model, labels, evaluations, **options):
    steps = {True: 1, evaluations > 100: 5, evaluations > 500: 10}[True]
    sigmas = helpers.geometric_sigmas(levels=(evaluations - 1) // steps)
    return samplers.annealed_langevin_dynamics(model, labels, sigmas, steps=steps, **options)


def halves(sampler, levels_of, **more):
    """A sampler of 2 L - 1 evaluations, as a function of how many evaluations there are."""
    return lambda model, labels, evaluations, **options: sampler(
        model, labels, levels_of(levels=(evaluations + 1) // 2), **more, **options)  # fmt: skip


def one_each(sampler, levels_of):
    """A sampler of L evaluations."""
    return lambda model, labels, evaluations, **options: sampler(model, labels, levels_of(levels=evaluations), **options)


SAMPLERS = {
    "annealed Langevin": annealed,
    "consistent annealed": one_each(samplers.consistent_annealed, helpers.geometric_sigmas),
    "predictor-corrector": halves(samplers.predictor_corrector, helpers.geometric_sigmas),
    "Heun": halves(samplers.heun, samplers.karras_sigmas),
    "Heun with churn": halves(samplers.heun, samplers.karras_sigmas, churn=10.0),
    "DPM-Solver++": one_each(samplers.dpm_solver, samplers.karras_sigmas),
}


MANY = {"annealed Langevin": (200, 1_000), "predictor-corrector": (200,)}  # what the samplers with noise can make use of


def sampler_costs(lab, seed=7, few=(20, 12, 8, 50), many=MANY, n=1_000, far=100, root="runs/studies"):
    """Distance and labels right against network evaluations, labels asked for without guidance; one curve a sampler. Each
    point has the judgement of its first `n` images; where evaluations are few, and the distance of these below `far`, that
    of as many images as lab.most allows too."""
    model, record = score_model(lab)
    n, curves = min(n, lab.most), {name: {} for name in SAMPLERS}
    points = [(name, k, lab.most) for k in few for name in SAMPLERS] + [(name, k, n) for name in many for k in many[name]]
    for name, evaluations, most in points:
        parts = equal_shares(lab, most).split(n)

        def judged(name=name, evaluations=evaluations, parts=parts, most=most):
            options = {"guidance": 1, "generator": helpers.seed_everything(seed, lab.device)}
            images, labels = SAMPLERS[name](model, parts[0], evaluations, **options), torch.cat(parts)
            first = judged_as_asked(lab, images, labels[:n])
            if len(parts) == 1 or first["frechet_distance"] > far:
                return {**first, "n": n, "first": first}
            images = torch.cat([images, *(SAMPLERS[name](model, part, evaluations, **options) for part in parts[1:])])
            return {**judged_as_asked(lab, images, labels), "n": most, "first": first}

        key = f"{record['digest']} {name} {evaluations} {most} {seed}"
        point = curves[name][str(evaluations)] = remembered(Path(root) / "samplers.json", key, judged)
        print(f"{name}, {evaluations} evaluations: {point['frechet_distance']:.1f}, "
              f"{point['labels_right']:.1%} right (n = {point['n']:,})", flush=True)  # fmt: skip
    curves = {name: dict(sorted(curve.items(), key=lambda point: int(point[0]))) for name, curve in curves.items()}
    return {"minutes": minutes_of(Path(root) / "samplers.json"), "seed": seed, "n": n,
            "training": helpers.provenance(record), "n_most": lab.most, "far": far, "curves": curves}  # fmt: skip


def guidance(lab, seed=7, n=2_000, weights=(0.0, 0.5, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0), levels=12):
    """What the weight of guidance does: labels right, precision, recall and distance, by DPM-Solver++."""
    model, record = score_model(lab)
    labels = equal_shares(lab, n)
    sigmas, found = samplers.karras_sigmas(levels=levels), {}
    for weight in weights:
        options = {"guidance": weight, "generator": helpers.seed_everything(seed, lab.device)}
        images = in_batches(lambda part: samplers.dpm_solver(model, part, sigmas, **options), labels)  # noqa: B023
        found[str(weight)] = judged_as_asked(lab, images, labels)
        print(f"guidance {weight}: {evaluation.judgement_line(found[str(weight)])}", flush=True)
    return {"seed": seed, "n": len(labels), "levels": levels, "training": helpers.provenance(record), "weights": found,
            "floor": lab.floor(len(labels))}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- noise scales


def noise_scale_variants(widest):
    """{name: options of annealed Langevin dynamics}, the first the notebook's; `widest` is the digits' largest distance."""
    geometric, rule = helpers.geometric_sigmas, samplers.level_ratio(784)
    by_the_rule = round(samplers.number_of_levels(10.0, 0.01, rule))
    return {
        "the notebook's: 10 to 0.01, 30 levels of 8": {"sigmas": geometric(), "steps": 8},
        "from 1": {"sigmas": geometric(first=1.0), "steps": 8},
        "from 5": {"sigmas": geometric(first=5.0), "steps": 8},
        f"from {widest:.1f}, the largest distance": {"sigmas": geometric(first=widest), "steps": 8},
        "10 levels of 24": {"sigmas": geometric(levels=10), "steps": 24},
        f"{by_the_rule} levels of 3, by the rule": {"sigmas": geometric(levels=by_the_rule), "steps": 3},
        "30 levels of 2": {"sigmas": geometric(), "steps": 2},
        "down to 0.05": {"sigmas": geometric(last=0.05), "steps": 8},
        "no last denoising": {"sigmas": geometric(), "steps": 8, "denoise": False},
        "no last denoising, down to 0.05": {"sigmas": geometric(last=0.05), "steps": 8, "denoise": False},
    }


@torch.no_grad()
def loss_by_level(model, images, sigmas, generator):
    """Per noise level: sigma^2 |score + z / sigma|^2 / D, and |sigma score|^2 / D, 1 less that for a perfect score."""
    found = {}
    for sigma in sigmas.tolist():
        z = torch.randn(images.shape, device=images.device, generator=generator)
        scaled = torch.cat([sigma * model(x, sigma) for x in (images + sigma * z).split(500)])
        found[f"{sigma:.4g}"] = {"loss": (scaled + z).square().mean().item(), "size": scaled.square().mean().item()}
    return found


def noise_scales(lab, seed=7, n=500, root="runs/studies"):
    """What the noise levels buy: distance, labels right and digit shares of annealed Langevin with other first and last
    levels, numbers of levels and of steps; the loss and the size of the score level by level."""
    model, record = score_model(lab)
    widest = samplers.largest_distance(lab.digits.train_images)
    labels, variants = equal_shares(lab, n), {}
    for name, options in noise_scale_variants(widest).items():

        def judged(options=options):
            options = {"guidance": 1, "generator": helpers.seed_everything(seed, lab.device), **options}
            images = samplers.annealed_langevin_dynamics(model, labels, **options)
            evaluations = len(options["sigmas"]) * options["steps"] + options.get("denoise", True)
            return {**judged_as_asked(lab, images, labels), "evaluations": evaluations}

        key = f"{record['digest']} {name} {len(labels)} {seed}"
        variants[name] = remembered(Path(root) / "noise-scales.json", key, judged)
        print(f"{name}: {evaluation.judgement_line(variants[name])}", flush=True)
    generator = helpers.seed_everything(seed, lab.device)
    levels = loss_by_level(model, lab.digits.test_images[:n], helpers.geometric_sigmas(20.0, 0.002, 30), generator)
    ratio = samplers.level_ratio(784)
    return {"minutes": minutes_of(Path(root) / "noise-scales.json"), "seed": seed, "n": len(labels),
            "training": helpers.provenance(record), "largest_distance": widest,
            "ratio_by_the_rule": ratio, "levels_by_the_rule": samplers.number_of_levels(widest, 0.01, ratio),
            "variants": variants, "by_level": levels, "floor": lab.floor(len(labels))}  # fmt: skip


# ------------------------------------------------------------------------------------------------- training a score anew


def trained(lab, model, loss, settings, path, generator, ema_decay=0.999, falling=True):
    """(the network, its average over the updates) after the training loop of score-based-model.ipynb on loss(x, labels)."""
    ema = helpers.ema_of(model, ema_decay)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["learning_rate"], betas=(0.9, 0.99))
    batches = helpers.minibatches(lab.digits.train_images, lab.digits.train_labels, settings["batch_size"], generator)
    state, history = {"model": model, "ema": ema, "optimizer": optimizer, "generator": generator}, {"loss": []}
    for update in helpers.training_steps(settings["updates"], path, settings, history, state):
        if falling:
            helpers.set_learning_rate(optimizer, settings["learning_rate"], update, settings["updates"])
        value = loss(*next(batches))
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.update_parameters(model)
        history["loss"].append(value.detach())
    return model, ema.module


def quick_network(lab, seed, path, updates, width, decay=0.99, falling=True):
    """trained() as score-based-model.ipynb's `quick` does: (the network, its average)."""
    generator = helpers.seed_everything(seed, lab.device)
    model = helpers.ScoreNetwork(width=width).to(lab.device)
    settings = {"seed": seed, "updates": updates, "batch_size": 128, "learning_rate": 2e-3, "width": width, "decay": decay,
                "falling": falling, "hide_label": 0.25, "data": lab.digits.name}  # fmt: skip

    def loss(x, labels):
        hidden = torch.rand(len(x), device=x.device, generator=generator) < settings["hide_label"]
        sigma = helpers.training_sigmas(len(x), device=x.device, generator=generator)
        labels = labels.masked_fill(hidden, model.NO_LABEL)
        return helpers.denoising_score_matching_loss(model, x, sigma, labels, helpers.edm_weight, generator)

    return trained(lab, model, loss, settings, path, generator, decay, falling)


def score_seeds(lab, seeds=(1, 2, 3), updates=2_000, n=1_000, width=32, levels=12, root="runs/studies"):
    """How much hangs on the seed of the score model's training: `quick` networks, judged by the same samples' noise."""
    labels, runs = equal_shares(lab, n), {}
    for seed in seeds:

        def judged(seed=seed):
            _, model = quick_network(lab, seed, Path(root) / f"score-seed-{seed}.pt", updates, width)
            options = {"generator": helpers.seed_everything(7, lab.device)}
            sigmas = samplers.karras_sigmas(levels=levels)
            images = in_batches(lambda part: samplers.dpm_solver(model, part, sigmas, **options), labels, 500)
            return judged_as_asked(lab, images, labels)

        key = f"{lab.digits.name} {seed} {updates} {width} {len(labels)}"
        runs[str(seed)] = remembered(Path(root) / "score-seeds.json", key, judged)
        print(f"seed {seed}: {evaluation.judgement_line(runs[str(seed)])}", flush=True)
    summary = {}
    for key in ("frechet_distance", "precision", "recall", "labels_right"):
        values = torch.tensor([run[key] for run in runs.values()], dtype=torch.double)
        summary[key] = {"mean": values.mean().item(), "std": values.std().item()}
    return {"minutes": minutes_of(Path(root) / "score-seeds.json"), "n": len(labels), "updates": updates, "width": width,
            "levels": levels, "seed": 7, "runs": runs, "summary": summary, "floor": lab.floor(len(labels))}  # fmt: skip


def averaging(lab, seed=7, updates=2_000, n=500, width=32, decay=0.99, root="runs/studies"):
    """What averaged weights buy (technique 5 of Song & Ermon 2020): small networks trained with a learning rate that falls
    to zero and with one that stays, each judged as it is and averaged, by annealed Langevin dynamics."""
    labels, found = equal_shares(lab, n), {}
    for falling, rate in ((True, "falls to zero"), (False, "stays")):
        path = Path(root) / f"averaging-{'falling' if falling else 'constant'}.pt"
        pair = quick_network(lab, seed, path, updates, width, decay, falling)
        for name, network in zip(("as they are", "averaged"), pair, strict=True):
            images = helpers.annealed_langevin_dynamics(
                network, labels, helpers.geometric_sigmas(), steps=8, guidance=1,
                generator=helpers.seed_everything(seed, lab.device))  # fmt: skip
            judged = judged_as_asked(lab, images, labels)
            found.setdefault(rate, {})[name] = judged
            print(f"rate {rate}, weights {name}: {evaluation.judgement_line(judged)}", flush=True)
    return {"seed": seed, "n": len(labels), "updates": updates, "width": width, "decay": decay, "found": found,
            "floor": lab.floor(len(labels))}  # fmt: skip


# --------------------------------------------------------------------------------------------------------- inpainting


def masks(generator, device):
    """{name: which pixels are known, [1, 28, 28]}."""
    lower, frame = torch.zeros(2, *helpers.IMAGE_SHAPE, dtype=torch.bool, device=device)
    lower[:, 14:] = True
    frame[:] = True
    frame[:, 7:21, 7:21] = False
    quarter = torch.rand(helpers.IMAGE_SHAPE, device=device, generator=generator) < 0.25
    return {"upper half missing": lower, "centre missing": frame, "75 % of the pixels missing": quarter}


def nearest_by_known(images, known, training_images):
    """The memoriser's completion: missing pixels from the training image that is nearest in the known ones."""
    nearest = torch.cdist((images * known).flatten(1), (training_images * known).flatten(1)).argmin(1)
    return torch.where(known, images, training_images[nearest])


def inpainting(lab, seed=7, n=100, draws=4, levels=50, replacement=MappingProxyType({"levels": 30, "steps": 8})):
    """Completed test digits, no label given: PSNR on the missing pixels, whether the digit is read as what it was, and how
    the draws differ; beside completion by replacement, the mean of the training images and the nearest of them."""
    model, record = score_model(lab)
    generator = helpers.seed_everything(seed, lab.device)
    clean, labels = lab.digits.test_images[: min(n, lab.most)], lab.digits.test_labels[: min(n, lab.most)]
    sigmas, annealed_sigmas = samplers.karras_sigmas(levels=levels), helpers.geometric_sigmas(levels=replacement["levels"])
    result = {}
    for name, known in masks(generator, lab.device).items():
        drawn = [samplers.inpaint(model, None, sigmas, clean, known, generator=generator) for _ in range(draws)]
        drawn = torch.stack(drawn).clamp(0, 1)
        replaced = samplers.inpaint_by_replacement(model, None, annealed_sigmas, clean, known, steps=replacement["steps"],
                                                   generator=generator).clamp(0, 1)  # fmt: skip
        mean = lab.digits.train_images.mean(0, keepdim=True)
        estimates = {"one sample": drawn[0], f"mean of {draws} samples": drawn.mean(0),
                     "one sample, by replacement": replaced,
                     "mean training image": torch.where(known, clean, mean),
                     "nearest training image": nearest_by_known(clean, known, lab.digits.train_images)}  # fmt: skip
        missing = ~known.expand_as(clean)
        read = torch.stack([evaluation.features_and_probabilities(lab.classifier, x)[1].argmax(1) for x in drawn])
        result[name] = {
            "methods": {method: {"psnr": evaluation.psnr(x[missing], clean[missing]),
                                 "read_as_it_was": evaluation.accuracy(lab.classifier, x, labels)}
                        for method, x in estimates.items()},
            "standard_deviation_of_a_missing_pixel": drawn.var(0)[missing].mean().sqrt().item(),
            "digits_read_among_the_draws": sum((read == d).any(0).double().mean().item() for d in range(10)),
        }  # fmt: skip
        print(name, result[name]["methods"], flush=True)
    return {"seed": seed, "n": len(clean), "draws": draws, "levels": levels, "replacement": dict(replacement),
            "training": helpers.provenance(record), "masks": result}  # fmt: skip


# ------------------------------------------------------------------------------------------- the energy behind the score


def energy_along(score, points):
    """-integral of the score along straight lines through `points` [P, B, ...], by the trapezoid rule: the energy at each
    less that at the first, [P, B]."""
    slopes = torch.stack([score(x) for x in points]).flatten(2)
    pieces = -((slopes[1:] + slopes[:-1]) / 2 * (points[1:] - points[:-1]).flatten(2)).sum(2)
    return torch.cat([torch.zeros_like(pieces[:1]), pieces.cumsum(0)])


def straight(a, b, pieces):
    share = torch.linspace(0, 1, pieces + 1, device=a.device).view(-1, *[1] * a.dim())
    return (1 - share) * a + share * b


@torch.no_grad()
def energy_behind_the_score(lab, seed=7, n=100, sigmas=(0.015, 0.03, 0.06, 0.12, 0.25, 0.5, 1.0), pieces=40):
    """Is the score the slope of an energy, and of the energy network's? The work around triangles of test digits over that
    along their sides (0 for a slope); the energy on the way from a digit to another; cosines, at noisy test digits, of the
    two fields with each other and with the way back."""
    score, record = score_model(lab)
    energies = {name: helpers.load_pretrained(file, lab.device)[0]
                for name, file in (("replay buffer", "EBM-BestPractice"), ("no buffer", "EBM"))}  # fmt: skip
    generator = helpers.seed_everything(seed, lab.device)
    clean = lab.digits.test_images[: min(n, lab.most // 3)]
    cosine = torch.nn.functional.cosine_similarity

    fields, loops, profiles, barriers = {}, {}, {}, {}
    for sigma in sigmas:
        z = torch.randn(clean.shape, device=lab.device, generator=generator)
        noisy, back = clean + sigma * z, -z.flatten(1)
        s = score(noisy, sigma).flatten(1)
        found = {"score and the way back": cosine(s, back)}
        clamped = noisy.clamp(0, 1)  # all that the energies' own chains ever see
        for name, model in energies.items():
            slope = helpers.energy_gradient(model, noisy)
            found |= {f"{name}: slope and score": cosine(-slope(noisy).flatten(1), s),
                      f"{name}: slope and the way back, pixels clamped":
                      cosine(-slope(clamped).flatten(1), (clean - clamped).flatten(1))}  # fmt: skip
        fields[str(sigma)] = {key: mean_and_error(values) for key, values in found.items()}
        corners = [x + sigma * z for x in lab.digits.test_images[: 3 * len(clean)].chunk(3)]  # the same noise at all three
        ways = [energy_along(lambda x, sigma=sigma: score(x, sigma), straight(corners[i], corners[(i + 1) % 3], pieces))
                for i in range(3)]  # fmt: skip
        around, along = sum(way[-1] for way in ways), sum(way[-1].abs() for way in ways)
        loops[str(sigma)] = mean_and_error(around.abs() / along)
        profiles[str(sigma)] = ways[0].mean(1).tolist()
        barriers[str(sigma)] = mean_and_error(ways[0].amax(0) - ways[0][-1].clamp(min=0))
        print(f"sigma {sigma}: {({k: round(v['mean'], 3) for k, v in fields[str(sigma)].items()})}; around a triangle "
              f"{loops[str(sigma)]['mean']:.3f}; barrier {barriers[str(sigma)]['mean']:.1f}", flush=True)  # fmt: skip
    a, b, _ = lab.digits.test_images[: 3 * len(clean)].chunk(3)
    for name, model in energies.items():
        way = torch.stack([model(x) for x in straight(a, b, pieces)])
        profiles[name] = (way - way[0]).mean(1).tolist()
    return {"seed": seed, "n": len(clean), "pieces": pieces, "training": helpers.provenance(record), "cosines": fields,
            "work_around_over_work_along": loops, "energy_on_the_way": profiles, "barrier_nats": barriers}  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- likelihood


class LikelihoodNetwork(helpers.ScoreNetwork):
    """A score network that sees a 256th of the grey scale: its input comes with waves of each pixel too (Kingma et al.
    2021), each fading as its mean under noise does: E sin(w (x + sigma z)) = exp(-(w sigma)^2 / 2) sin(w x)."""

    def __init__(self, width=32, embedding=128, frequencies=(16, 64, 128, 256)):
        super().__init__(width, embedding)
        self.register_buffer("fine", 2 * math.pi * torch.tensor(frequencies, dtype=torch.float32).view(1, -1, 1, 1))
        self.stem = nn.Conv2d(4 * (1 + 2 * len(frequencies)), width, 3, padding=1)

    def unet(self, x, log_sigma, labels):
        sigma = log_sigma.exp().view(-1, 1, 1, 1)
        angles = self.fine * (x * torch.sqrt(sigma**2 + helpers.PIXEL_STD**2) + helpers.PIXEL_MEAN)
        fade = torch.exp(-((self.fine * sigma) ** 2) / 2)
        return super().unet(torch.cat([x, fade * angles.sin(), fade * angles.cos()], dim=1), log_sigma, labels)


def dequantised(images, generator):
    """Images of 256 grey values, spread evenly over the 256 cells of [0, 1]: (k + u) / 256."""
    return ((images * 255).round() + torch.rand(images.shape, device=images.device, generator=generator)) / 256


def every_level(n, generator, low=0.001, high=20.0, device="cpu"):
    """n noise levels, one in each nth of the logarithmic scale."""
    share = (torch.arange(n, device=device) + torch.rand(n, device=device, generator=generator)) / n
    return low * (high / low) ** share


def train_likelihood(lab, seed, updates, path, batch_size=128, learning_rate=2e-3, width=32):
    """The network whose likelihood is measured, averaged over its updates, without labels: levels log-uniform and lambda =
    sigma^2, the weighting whose loss bounds the likelihood (Song, Durkan, Murray & Ermon 2021, theorem 1)."""
    generator = helpers.seed_everything(seed, lab.device)
    model = LikelihoodNetwork(width).to(lab.device)
    settings = {"seed": seed, "updates": updates, "batch_size": batch_size, "learning_rate": learning_rate, "width": width,
                "data": lab.digits.name}  # fmt: skip

    def loss(x, labels):
        sigma = every_level(batch_size, generator, device=lab.device)
        return helpers.denoising_score_matching_loss(model, dequantised(x, generator), sigma, generator=generator)

    return trained(lab, model, loss, settings, path, generator)[1]


def bits_of_png(images):
    """Bits a pixel that PNG takes for each image, headers included."""
    bits = []
    for image in (images * 255).round().byte().squeeze(1).cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG", optimize=True)
        bits.append(8 * file.tell() / image.size)
    return bits


def bits_of_independent_pixels(train_images, images):
    """Bits a pixel if each pixel were drawn by itself, from the training images' counts and one of each grey value more."""
    counts = torch.ones(784, 256, dtype=torch.float64)
    levels = (train_images * 255).round().long().flatten(1).cpu()
    counts.scatter_add_(1, levels.T, torch.ones(levels.T.shape, dtype=torch.float64))
    bits = -(counts / counts.sum(1, keepdim=True)).log2()
    return bits.gather(1, (images * 255).round().long().flatten(1).cpu().T).mean(0).tolist()


def likelihood(lab, seed=7, updates=6_000, levels=30, n_fine=200, levels_fine=160, width=32, root="runs/studies"):
    """Bits a dimension of the test digits, uniformly dequantised, by the probability-flow ODE of a network of its own."""
    model = train_likelihood(lab, seed, updates, Path(root) / "likelihood.pt", width=width)
    images = lab.digits.test_images[: lab.most]
    x = dequantised(images, helpers.seed_everything(seed, lab.device))

    def bits(x, levels, seed):
        """Of each image; the signs of Hutchinson's estimate by `seed`."""
        generator = helpers.seed_everything(seed, lab.device)
        sigmas = samplers.geometric_sigmas(20.0, 0.001, levels)
        return samplers.bits_per_dimension(samplers.log_likelihood(model, x, sigmas=sigmas, generator=generator)).tolist()

    found = []
    for i, part in enumerate(x.split(500)):
        key = f"{lab.digits.name} {width} {updates} {levels} {len(x)} {seed} {i}"
        found += remembered(Path(root) / "likelihood.json", key, lambda: bits(part, levels, seed + i))  # noqa: B023
        print(f"{len(found):,} images: {mean_and_error(found)}", flush=True)
    fine, coarse = (torch.tensor(bits(x[:n_fine], k, seed)) for k in (levels_fine, levels))
    result = {"score model": found, "independent pixels": bits_of_independent_pixels(lab.digits.train_images, images),
              "PNG": bits_of_png(images)}  # fmt: skip
    digit, edges = lab.digits.test_labels[: len(x)].cpu(), torch.linspace(-1, 5, 121)
    return {"seed": seed, "n": len(x), "updates": updates, "levels": levels, "probes": 1,
            "parameters": sum(p.numel() for p in model.parameters()),
            "bits_per_dimension": {name: mean_and_error(b) for name, b in result.items()},
            "by_digit": {str(d): torch.tensor(found)[digit == d].mean().item() for d in digit.unique().tolist()},
            "histogram": {"edges": edges.tolist(),
                          **{name: torch.histogram(torch.tensor(b), edges.to(torch.tensor(b)))[0].long().tolist()
                             for name, b in result.items()}},
            "coarse_less_fine": {"n": len(fine), "levels": levels_fine, **mean_and_error(coarse - fine)}}  # fmt: skip


STUDIES = {"samplers": sampler_costs, "guidance": guidance, "noise-scales": noise_scales,
           "averaging": averaging, "score-seeds": score_seeds, "inpainting": inpainting,
           "energy-behind-the-score": energy_behind_the_score, "likelihood": likelihood}  # fmt: skip
