"""What is measured of the committed models: a function a study, which returns what goes to assets/results/<study>.json.

`python studies.py chains denoising ...` runs the studies named (all that need no training where none is), says how far
each number lies from the committed one, and writes the files. Those in TRAINING train something.
"""

import argparse
import json
import os
import socket
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import evaluation
import helpers
import samplers
import score_studies

# ------------------------------------------------------------------------------------------- training several energies


class Recipe(NamedTuple):
    """The settings of an energy's training: by default those of EBM.ipynb's `quick` with one buffer."""

    updates: int = 1_200
    width: int = 32
    batch_size: int = 128
    langevin_steps: int = 20
    step_size: float = 2.5
    chain_noise: float = 0.005
    data_noise: float = 0.015
    learning_rate: float = 3e-4
    decay: float = 1.0  # of the learning rate, per pass over the data
    fall: float = 0.0  # over so much of the run the learning rate falls linearly
    warmup: int = 100
    ema_decay: float = 0.995
    buffer_size: int = 10_000
    redraw: float | tuple = 0.05
    old_size: int = 256  # slots of a second buffer, whose chains live longer
    old_redraw: float | tuple = (0.05, 0.001)
    old_share: float = 0.0  # of a batch; 0: one buffer
    regularisation: float = 0.1
    regularise_samples: bool = True

    @property
    def chain(self):
        return {"step_size": self.step_size, "noise": self.chain_noise}


# The settings of tutorial 8 of the UvA deep learning course, its pixels on [-1, 1] halved to [0, 1]. It trains for about
# 28,000 updates, keeps the last 8,192 samples (here they are slots, as in ReplayBuffer), clamps the noisy data, adds the
# chain's noise before the gradient, and picks the best of its checkpoints by validation; none of that is done here.
TUTORIAL = Recipe(width=16, langevin_steps=60, chain_noise=0.0025, data_noise=0.0025, learning_rate=1e-4, decay=0.97,
                  warmup=1, ema_decay=0.0, buffer_size=8_192)  # fmt: skip


def buffers_of(recipe, device, generator):
    """{name: (replay buffer, how many of a batch come from it)}; empty for a recipe without buffer."""
    old = round(recipe.old_share * recipe.batch_size)
    wanted = {"replay_buffer": (recipe.buffer_size, recipe.redraw, recipe.batch_size - old),
              "old_chains": (recipe.old_size, recipe.old_redraw, old)}  # fmt: skip
    return {name: (helpers.ReplayBuffer(size, redraw, device=device, generator=generator), share)
            for name, (size, redraw, share) in wanted.items() if recipe.buffer_size and share}  # fmt: skip


def energy_updates(recipe, digits, path, seed):
    """The training loop of the two EBM notebooks: yields (averaged network, history) after every update and at the end.

    Resumes from `path`, which holds the run's state, as helpers.training_steps does; raises as it does.
    """
    images, labels, data = digits.train_images, digits.train_labels, digits.name
    device = images.device
    generator = helpers.seed_everything(seed, device)
    model = helpers.EnergyNetwork(recipe.width).to(device)
    buffers = buffers_of(recipe, device, generator)
    ema = helpers.ema_of(model, recipe.ema_decay)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, betas=(0.0, 0.999))
    batches = helpers.minibatches(images, labels, recipe.batch_size, generator)
    history = {"loss": [], "e_plus": [], "e_minus": []}
    state = {"model": model, "ema": ema, "optimizer": optimizer, "generator": generator}
    state |= {name: buffer for name, (buffer, _) in buffers.items()}
    epoch = len(images) // recipe.batch_size
    settings = {**recipe._asdict(), "seed": seed, "data": data}
    for update in helpers.training_steps(recipe.updates, path, settings, history, state):
        peak = recipe.learning_rate * recipe.decay ** (update // epoch)
        helpers.set_learning_rate(optimizer, peak, update, recipe.updates, warmup=recipe.warmup, fall=recipe.fall)
        x_plus, _ = next(batches)
        x_plus = x_plus + recipe.data_noise * torch.randn(x_plus.shape, device=device, generator=generator)
        if buffers:
            x_minus = torch.cat([buffer.sample(share) for buffer, share in buffers.values()])
        else:
            x_minus = torch.rand(x_plus.shape, device=device, generator=generator)
        x_minus = helpers.langevin_dynamics(model, x_minus, recipe.langevin_steps, **recipe.chain, generator=generator)
        parts = x_minus.split([share for _, share in buffers.values()]) if buffers else ()
        for (buffer, _), part in zip(buffers.values(), parts, strict=True):
            buffer.write_back(part)
        loss, e_plus, e_minus = helpers.contrastive_divergence_loss(
            model, x_plus, x_minus, recipe.regularisation, recipe.regularise_samples)  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        ema.update_parameters(model)
        for name, value in zip(("loss", "e_plus", "e_minus"), (loss, e_plus, e_minus), strict=True):
            history[name].append(value.detach())
        yield ema.module, history
    yield ema.module, history  # also where nothing was left to train


def train_energy(recipe, digits, path, seed):
    """energy_updates() to its end (tests hold it equal to the notebooks bit for bit): (averaged network, history)."""
    *_, (model, history) = energy_updates(recipe, digits, path, seed)
    return model, {name: np.array(values) for name, values in history.items()}


def tutorial(lab):
    """Train by the tutorial's settings, for as many updates as one core does in the minutes of the replay buffer's run."""
    torch.set_num_threads(1)  # as the two EBMs were trained
    run = helpers.Run("EBM-tutorial-settings", "full", False, Path("runs/studies"), Path("assets"))  # to checkpoints/
    model, _ = train_energy(TUTORIAL._replace(updates=1_900), lab.digits, run.checkpoint, seed=1)
    record = helpers.save_pretrained(run, model)
    print(f"{record['updates']:,} updates in {record['minutes']:.1f} minutes on {record['hardware']}")


# ------------------------------------------------------------------------------------------------------------ stability

DIVERGED = 1.0  # an energy gap beyond this in a run's second half, averaged over 50 updates; all runs start with a peak


def running_mean(values, window):
    return np.convolve(values, np.ones(window) / window, mode="valid")


def autocorrelation(values, lag):
    """Correlation of a series with itself `lag` entries later; near 1 for slow drifts, negative for oscillations."""
    centred = values - values.mean()
    return float((centred[lag:] * centred[:-lag]).mean() / centred.var())


def gap_statistics(history):
    """Size and oscillation of the energy gap E(x-) - E(x+) over a run's second half, and whether the run diverged."""
    gap = history["e_minus"] - history["e_plus"]
    late = gap[len(gap) // 2 :]
    lags = {str(lag): autocorrelation(late, lag) for lag in (1, 10, 50) if lag < len(late) // 2}
    return {
        "gap_mean": float(late.mean()),
        "gap_mean_size": float(np.abs(late).mean()),
        "gap_std": float(late.std()),
        "gap_autocorrelation": lags,
        "diverged": bool(np.abs(running_mean(late, min(50, len(late)))).max() > DIVERGED),
    }


def train_and_judge(recipe, seed, n, lengths, path):
    """Train one energy, draw n fresh chains, judge them at `lengths`: (history, judgements by steps, minutes)."""
    lab = laboratory()
    model, history = train_energy(recipe, lab.digits, path, seed)
    judged = judge_chains(lab, model, recipe, 1_000 + seed, n, lengths, path.stem)
    return history, judged, helpers.load_checkpoint(path, "run")["seconds"] / 60


def judge_chains(lab, model, recipe, seed, n, lengths, name):
    """{steps: judgement} of n fresh chains of one energy, run on from each length to the next."""
    generator = torch.Generator(lab.device).manual_seed(seed)
    start = torch.rand(n, *helpers.IMAGE_SHAPE, device=lab.device, generator=generator)
    _, frames = helpers.langevin_dynamics(model, start, lengths[-1], **recipe.chain, snapshots=lengths, generator=generator)
    judged = {str(k): lab.judge(x) for k, x in zip(lengths, frames, strict=True)}
    print(f"{name}: distance {[round(j['frechet_distance']) for j in judged.values()]} at {lengths} steps", flush=True)
    return judged


def stability_run(arguments):
    """Train one energy by the baseline's settings, with or without one buffer, sample from it, judge; one dict."""
    seed, buffered, updates, n, root = arguments
    recipe = Recipe(updates=updates, buffer_size=10_000 if buffered else 0)
    path = Path(root) / f"{'buffer' if buffered else 'no-buffer'}-{seed}.pt"
    history, judged, minutes = train_and_judge(recipe, seed, n, [60, 200, 500], path)
    window = max(updates // 40, 1)
    curves = {"loss": history["loss"], "gap": history["e_minus"] - history["e_plus"]}
    curves = {name: running_mean(values, window)[::window].tolist() for name, values in curves.items()}
    return {"seed": seed, "buffered": buffered, "training_minutes": minutes, **gap_statistics(history),
            "chains": judged, "window": window, "curves": curves}  # fmt: skip


def mean_and_std(values):
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def one_core_each(function, jobs):
    """[function(job) for job in jobs], as many at a time as there are cores: faster than all cores for one after another."""
    os.environ.update(OMP_NUM_THREADS="1", TQDM_DISABLE="1")
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        return list(pool.map(function, jobs))


def stability(lab, updates=1_200, n=1_000, seeds=range(1, 6), root="runs/studies/stability"):
    """Five seeds with and without buffer, equal gradient evaluations, trained by as many processes as there are cores."""
    jobs = [(seed, buffered, updates, n, root) for seed in seeds for buffered in (True, False)]
    results = one_core_each(stability_run, jobs)
    sides = {side: [run for run in results if run["buffered"] == (side == "replay buffer")]
             for side in ("replay buffer", "no buffer")}  # fmt: skip
    report = {"n": n, "updates": updates, "gradient_evaluations": updates * Recipe().langevin_steps,
              "minutes": round(sum(run["training_minutes"] for run in results), 1)}  # of one core, training only
    for side, runs in sides.items():
        summary = {key: mean_and_std([run[key] for run in runs]) for key in ("gap_mean", "gap_mean_size", "gap_std")}
        summary["gap_autocorrelation"] = {
            lag: mean_and_std([run["gap_autocorrelation"][lag] for run in runs]) for lag in runs[0]["gap_autocorrelation"]}
        summary["frechet_distance"] = {
            steps: mean_and_std([run["chains"][steps]["frechet_distance"] for run in runs]) for steps in runs[0]["chains"]}
        summary["diverged"] = sum(run["diverged"] for run in runs)
        report[side] = {"summary": summary, "runs": runs}
    return report


# ------------------------------------------------------------------------------------------------------------- ablation

# EBM-BestPractice.ipynb's `quick` with half the width, and what is changed in it, one thing at a time; the number of updates
# follows from equal gradient evaluations of an image.
SMALLER = Recipe(width=16, batch_size=64, old_share=0.25, regularise_samples=False)
ABLATION = {
    "the recipe": {},
    "no buffer": {"buffer_size": 0},
    "never re-drawn": {"redraw": 0.0},
    "no old chains": {"old_share": 0.0},
    "batches of 128": {"batch_size": 128},
    "10 steps an update": {"langevin_steps": 10},
    "40 steps an update": {"langevin_steps": 40},
    "no data noise": {"data_noise": 0.0},
    "twice the noise": {"chain_noise": 0.01, "data_noise": 0.03},
    "falling learning rate": {"fall": 0.5},
    "no averaged weights": {"ema_decay": 0.0},
    "energy squared of samples too": {"regularise_samples": True},
    "no energy squared at all": {"regularisation": 0.0},
}


def ablation_run(arguments):
    name, seed, evaluations, n, root = arguments
    recipe = SMALLER._replace(**ABLATION[name])
    recipe = recipe._replace(updates=evaluations // (recipe.langevin_steps * recipe.batch_size))
    path = Path(root) / f"{name.replace(' ', '-')}-{seed}.pt"
    history, judged, minutes = train_and_judge(recipe, seed, n, [60, 200, 500, 1_000], path)
    return {"name": name, "seed": seed, "updates": recipe.updates, "training_minutes": minutes,
            "diverged": gap_statistics(history)["diverged"], "chains": judged}  # fmt: skip


def ablation(lab, evaluations=1_280_000, n=500, seeds=(1, 2), root="runs/studies/ablation"):
    """Each part of the recipe changed, at equal gradient evaluations, two seeds each."""
    results = one_core_each(ablation_run, [(name, seed, evaluations, n, root) for name in ABLATION for seed in seeds])
    return {"n": n, "gradient_evaluations": evaluations, "width": SMALLER.width, "floor": lab.floor(n),
            "changed": {name: {key: str(value) for key, value in change.items()} for name, change in ABLATION.items()},
            "runs": results}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- break-away

BEST = Recipe(updates=14_000, batch_size=64, fall=0.5, ema_decay=0.998, old_share=0.25, regularise_samples=False)


def break_away(lab, updates=6_000, n=64, seed=1, root="runs/studies"):
    """EBM-BestPractice.ipynb's run with the squared energy of the samples put back, beside the committed one (whose learning
    rate is the same constant so far): the energy gap, and where chains from noise go in both."""
    recipe = BEST._replace(updates=updates, fall=0.0, regularise_samples=True)
    path = Path(root) / "break-away.pt"
    _, history = train_energy(recipe, lab.digits, path, seed)
    model = helpers.EnergyNetwork(recipe.width).to(lab.device)
    model.load_state_dict(helpers.load_checkpoint(path, "run", lab.device)["state"]["model"])
    committed, record = helpers.load_pretrained("EBM-BestPractice", lab.device)
    sides = {"samples' energy squared too": (model, history), "data's energy squared alone": (committed, record["history"])}
    window, steps = max(updates // 120, 1), [0, 5, 20, 100]
    minutes = helpers.load_checkpoint(path, "run")["seconds"] / 60  # of training, also if it was done before
    report = {"minutes": round(minutes, 1), "seed": seed, "n": n, "updates": updates, "window": window,
              "regularisation": recipe.regularisation, "gap": {}, "from_noise": {}}  # fmt: skip
    for name, (energy, curves) in sides.items():
        gap = (curves["e_minus"] - curves["e_plus"])[:updates]
        report["gap"][name] = running_mean(gap, window)[::window].tolist()
        generator = helpers.seed_everything(seed, lab.device)
        start = torch.rand(n, *helpers.IMAGE_SHAPE, device=lab.device, generator=generator)
        _, frames = helpers.langevin_dynamics(energy, start, steps[-1], **recipe.chain, snapshots=steps, generator=generator)
        report["from_noise"][name] = {
            str(k): {"energy": energy(x).detach().mean().item(), "mean_pixel": x.mean().item()}
            for k, x in zip(steps, frames, strict=True)}  # fmt: skip
    return report


OLDER = {"old_share": 0.5, "old_size": 512, "fall": 0.25, "ema_decay": 0.999}


def older_chains(lab, n=500, lengths=(60, 200, 500, 1_000, 2_000, 5_000, 10_000), seed=1, root="runs/studies"):
    """Older chains in training: an energy trained with the changes OLDER (half of its batches old) and the committed."""
    path, judged = Path(root) / "older-chains.pt", {}
    model, _ = train_energy(BEST._replace(**OLDER), lab.digits, path, seed)
    committed, _ = helpers.load_pretrained("EBM-BestPractice", lab.device)
    n = min(n, lab.most)
    for name, energy in (("half of them old", model), ("the recipe: a quarter", committed)):
        judged[name] = judge_chains(lab, energy, BEST, 1_000 + seed, n, list(lengths), name)
    minutes = helpers.load_checkpoint(path, "run")["seconds"] / 60
    return {"minutes": round(minutes, 1), "seed": seed, "n": n, "floor": lab.floor(n), "chains": judged,
            "changed": {key: str(value) for key, value in OLDER.items()}}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- laboratory


class Laboratory(NamedTuple):
    """What every study needs: data, the judge, the test images' features, the most images a number may cost, and the folder
    of results that may stand where the weights have not changed since (None: measure all anew)."""

    digits: helpers.Digits
    classifier: torch.nn.Module
    real: torch.Tensor
    most: int
    kept: Path | None = None

    @property
    def device(self):
        return self.digits.test_images.device

    def judge(self, images):
        return evaluation.judge_samples(self.classifier, images, self.real)

    def before(self, name):
        """The result of this name in the folder `kept`, as a dict, empty where there is none."""
        path = self.kept / f"{name}.json" if self.kept else None
        return json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else {}

    def floor(self, n):
        """The judgement of the first n real training images."""
        return self.judge(self.digits.train_images[:n])


def laboratory(most=10_000):
    device = helpers.pick_device()
    digits = helpers.load_mnist(device=device)
    classifier = evaluation.load_classifier(device)
    real = evaluation.features_and_probabilities(classifier, digits.test_images)[0]
    return Laboratory(digits, classifier, real, min(most, len(digits.test_images)))


def quantiles(values):
    """The 1st, 25th, 50th, 75th and 99th percentile."""
    return {f"{q:.0%}": values.double().quantile(q).item() for q in (0.01, 0.25, 0.5, 0.75, 0.99)}


def nearest_training_digits(lab, images):
    """Distances to the nearest training image, beside those of test digits: percentiles, histograms, the share too close."""
    distances, _ = evaluation.nearest_neighbours(images.clamp(0, 1), lab.digits.train_images)
    reference, _ = evaluation.nearest_neighbours(lab.digits.test_images[: len(images)], lab.digits.train_images)
    edges = torch.linspace(0, 14, 57)
    closer = (distances < reference.quantile(0.01)).double().mean().item()
    return {
        "n": len(images),
        "samples": quantiles(distances),
        "test digits": quantiles(reference),
        "share_closer_than_1%_of_test_digits": closer,
        "histogram": {"edges": edges.tolist(), "samples": torch.histogram(distances.cpu(), edges)[0].long().tolist(),
                      "test digits": torch.histogram(reference.cpu(), edges)[0].long().tolist()},
    }  # fmt: skip


# --------------------------------------------------------------------------------------------- studies without training

def floors(lab, sizes=(100, 200, 500, 1_000, 2_000, 10_000), blocks=10):
    """What samples can hope for: the distance of disjoint blocks of real training images, as they come and with each digit
    equally often, as conditional samples have it."""
    images, labels = lab.digits.train_images, lab.digits.train_labels
    by_digit = [torch.where(labels == digit)[0] for digit in range(10)]
    result = {"sizes": {}}
    for n in [n for n in sizes if n <= lab.most]:
        drawn = {"as they come": [torch.arange(i * n, (i + 1) * n) for i in range(min(blocks, len(images) // n))],
                 "each digit equally often": [torch.cat([index[i * n // 10 : (i + 1) * n // 10] for index in by_digit])
                                              for i in range(min(blocks, min(map(len, by_digit)) * 10 // n))]}  # fmt: skip
        result["sizes"][str(n)] = {}
        for kind, indices in drawn.items():
            distances = [lab.judge(images[index])["frechet_distance"] for index in indices]
            result["sizes"][str(n)][kind] = mean_and_std(distances) | {"blocks": len(distances)}
    return result


ENERGIES = {"replay buffer": "EBM-BestPractice", "no buffer": "EBM", "tutorial settings": "EBM-tutorial-settings"}


def chains_of(lab, name, seed, lengths, later, before=None):
    """Fresh chains of one energy judged at `lengths` (many chains) and `later` (the first 1,000 of them run on); `before`
    itself where it is the same measurement of the same weights."""
    model, record = helpers.load_pretrained(name, lab.device)
    what = {"weights": record["digest"], "seed": seed, "most": lab.most, "lengths": [*lengths, *later]}
    if before and before["what"] == what:
        print(f"{name}: measured before ({before['measured_on']}), kept", flush=True)
        return before
    options = {"step_size": record["settings"]["step_size"], "noise": record["settings"]["chain_noise"]}
    options["generator"] = helpers.seed_everything(seed, lab.device)
    few = min(1_000, lab.most)
    batches = []
    for _ in range(lab.most // few):
        start = torch.rand(few, *helpers.IMAGE_SHAPE, device=lab.device, generator=options["generator"])
        batches.append(helpers.langevin_dynamics(model, start, lengths[-1], **options, snapshots=lengths, progress=True)[1])
    measured_on = f"{helpers.hardware_name()}, {time.strftime('%Y-%m-%d')}"
    result = {"training": helpers.provenance(record), "what": what, "measured_on": measured_on, "many": {}, "few": {}}
    for i, steps in enumerate(lengths):
        result["many"][str(steps)] = lab.judge(torch.cat([frames[i] for frames in batches]))
        result["few"][str(steps)] = lab.judge(batches[0][i])
    result["nearest"] = nearest_training_digits(lab, batches[0][-1])
    x, done = batches[0][-1], lengths[-1]
    for steps in later:
        x, done = helpers.langevin_dynamics(model, x, steps - done, **options, progress=True), steps
        result["few"][str(steps)] = lab.judge(x)
    for n in ("many", "few"):
        print(f"{name}, {n}:", {k: round(v["frechet_distance"], 1) for k, v in result[n].items()}, flush=True)
    return result


def chains(lab, seed=7, lengths=(20, 60, 200, 500), later=(1_000, 2_000, 5_000, 10_000)):
    """Distance, precision, recall, confidence and digit shares of fresh chains against their length, for three energies."""
    few = min(1_000, lab.most)
    before = lab.before("chains").get("energies", {})
    energies = {label: chains_of(lab, name, seed, lengths, later, before.get(label)) for label, name in ENERGIES.items()}
    return {"seed": seed, "n_many": lab.most // few * few, "n_few": few,
            "floor": {"many": lab.floor(lab.most // few * few), "few": lab.floor(few)},
            "energies": energies}  # fmt: skip


def judge_score_samples(lab, images, asked):
    """lab.judge(), and where digits were asked for, the share of them that is right, in all and digit by digit."""
    judged = lab.judge(images)
    if asked is not None:
        judged["labels_right"] = evaluation.accuracy(lab.classifier, images, asked)
        judged["labels_right_by_digit"] = [
            evaluation.accuracy(lab.classifier, images[asked == d], asked[asked == d]) for d in range(10)]  # fmt: skip
    return judged


def train_on_generated(lab, images, labels, epochs, seed):
    """Accuracy on real test digits of a classifier trained on these images, and of one trained on as many real ones (where
    that is all of them, of the judge itself, which was trained so)."""
    digits, n = lab.digits, len(images)
    right = evaluation.accuracy(lab.classifier, digits.test_images, digits.test_labels)
    result = {"n": n, "epochs": epochs, "classifier_on_all_real": right}
    sources = {"generated": (images.clamp(0, 1), labels), "as_many_real": (digits.train_images[:n], digits.train_labels[:n])}
    for source, (images, targets) in sources.items():
        if source == "as_many_real" and n == len(digits.train_images):
            result[source] = right
            continue
        generator = helpers.seed_everything(seed, lab.device)
        judge = evaluation.train_classifier(images, targets, epochs, generator=generator)
        result[source] = evaluation.accuracy(judge, digits.test_images, digits.test_labels)
    return result


def balanced_labels(lab, n):
    """n labels: every ten in a row hold each digit once."""
    return torch.arange(10, device=lab.device).repeat(n // 10)


def score_samples(lab, seed=7, n_training=20_000, epochs=20, levels=12, n_annealed=1_000):
    """The score model's samples by DPM-Solver++, as many as there are test digits, with and without guidance and without
    labels; a classifier trained on guided ones; fewer samples by annealed Langevin dynamics, its levels the notebook's."""
    model, record = helpers.load_pretrained("score-based-model", lab.device)
    generator = helpers.seed_everything(seed, lab.device)
    n = lab.most // 10 * 10  # each digit equally often
    n_training, n_annealed = min(n_training, 6 * n), min(n_annealed, n)
    sigmas, annealed_sigmas = samplers.karras_sigmas(levels=levels), helpers.geometric_sigmas()

    def sample(n, labelled=True, **options):
        batches = []
        for part in balanced_labels(lab, n).split(500):
            options["n"] = len(part)
            batches.append(samplers.dpm_solver(model, part if labelled else None, sigmas, generator=generator, **options))
        return torch.cat(batches)

    labels = balanced_labels(lab, n_training)
    guided = sample(n_training)
    kinds = {
        "conditional": (guided[:n], labels[:n]),
        "conditional, no guidance": (sample(n, guidance=1), labels[:n]),
        "without labels": (sample(n, labelled=False), None),
    }
    samples = {kind: judge_score_samples(lab, *asked) for kind, asked in kinds.items()}
    for kind, judged in samples.items():
        print(f"{kind}: {evaluation.judgement_line(judged)}", flush=True)
    annealed = helpers.annealed_langevin_dynamics(
        model, labels[:n_annealed], annealed_sigmas, generator=generator, progress=True)
    return {"seed": seed, "n": n, "training": helpers.provenance(record), "guidance": samplers.GUIDANCE,
            "levels": levels, "floor": lab.floor(n), "samples": samples,
            "annealed": {"n": n_annealed, "levels": len(annealed_sigmas), "steps": 8, "floor": lab.floor(n_annealed),
                         "judged": judge_score_samples(lab, annealed, labels[:n_annealed])},
            "real_labels_right": evaluation.accuracy(lab.classifier, lab.digits.test_images, lab.digits.test_labels),
            "nearest": nearest_training_digits(lab, guided[:n_annealed]),
            "train_on_generated": train_on_generated(lab, guided, labels, epochs, seed)}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ denoising

SIGMAS = (0.1, 0.25, 0.5, 1.0)


def each_image(function, images, **options):
    """A scikit-image filter, which takes one 2-D image, over images [N, 1, 28, 28]."""
    filtered = [np.asarray(function(x, **options), dtype=np.float32) for x in images[:, 0].numpy()]
    return torch.from_numpy(np.stack(filtered))[:, None]


def classical_denoisers(sigma):
    """{name: [(function, options), ...]}: scikit-image's denoisers, each with the settings to choose from."""
    from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet

    return {
        "total variation": [
            (denoise_tv_chambolle, {"weight": w * sigma, "max_num_iter": 500})
            for w in (0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5)],
        "non-local means": [
            (denoise_nl_means, {"h": h * sigma, "sigma": sigma, "patch_size": p, "patch_distance": 13, "fast_mode": False})
            for h in (0.2, 0.4, 0.6, 0.8, 1.1, 1.4, 1.8) for p in (3, 5, 7, 9)],
        "wavelet": [
            (denoise_wavelet, {"sigma": f * sigma, "method": method, "wavelet": wavelet, "rescale_sigma": True})
            for f in (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0) for method in ("BayesShrink", "VisuShrink")
            for wavelet in ("db1", "db2", "sym4")],
    }  # fmt: skip


def tune(choices, noisy, clean):
    """The (function, options) whose output, clamped to [0, 1], has the least squared error."""
    errors = [(each_image(f, noisy, **options).clamp(0, 1) - clean).square().mean().item() for f, options in choices]
    return choices[int(np.argmin(errors))]


def kernel_posterior_mean(noisy, sigma, training_images, block=250):
    """E[x | noisy] if the training images were all there is: the memoriser's denoiser."""
    flat = training_images.flatten(1)
    means = []
    for y in noisy.flatten(1).split(block):
        weights = (-torch.cdist(y, flat).square() / (2 * sigma**2)).softmax(dim=1)
        means.append(weights @ flat)
    return torch.cat(means).view_as(noisy)


def gaussian_posterior_mean(noisy, sigma, gaussian):
    """E[x | noisy] under one Gaussian fitted to the training pixels (the Wiener filter): the best linear denoiser."""
    mean, covariance = (torch.from_numpy(a) for a in (gaussian.location_, gaussian.covariance_))
    y = noisy.flatten(1).cpu().double() - mean
    blurred = covariance + sigma**2 * torch.eye(len(mean), dtype=torch.float64)
    return (mean + torch.linalg.solve(blurred, y.T).T @ covariance).float().view_as(noisy.cpu()).to(noisy.device)


def fitted_gaussian(lab):
    """One Gaussian of the training pixels, its covariance shrunk as in Ledoit & Wolf 2004."""
    from sklearn.covariance import LedoitWolf

    return LedoitWolf().fit(lab.digits.train_images.flatten(1).cpu().double().numpy())


def denoising(lab, seed=7, n=1_000):
    """PSNR and SSIM against sigma on test digits with unclipped noise, every estimate clamped to [0, 1]: both EBMs, the
    score model, three classical denoisers tuned on training digits, the best linear one, the mean over the training set."""
    n, digits = min(n, lab.most), lab.digits
    generator = helpers.seed_everything(seed, lab.device)
    score = helpers.load_pretrained("score-based-model", lab.device)[0]
    energies = {label: helpers.load_pretrained(ENERGIES[label], lab.device)[0] for label in ("replay buffer", "no buffer")}
    clean, tuning = digits.test_images[:n], digits.train_images[: min(200, n)]
    few = tuning[:50]  # scikit-image's take a hundred settings each
    gaussian = fitted_gaussian(lab)
    result = {"seed": seed, "n": n, "n_tuning": {"energies": len(tuning), "scikit-image": len(few)}, "methods": {},
              "chosen": {}}  # fmt: skip
    for sigma in SIGMAS:
        noise = torch.randn(len(clean) + len(tuning), *helpers.IMAGE_SHAPE, device=lab.device, generator=generator)
        noisy, noisy_tuning = clean + sigma * noise[:n], tuning + sigma * noise[n:]
        with torch.no_grad():
            tweedie = score.denoise(noisy, sigma).clamp(0, 1)
        estimates = {"noisy": noisy, "noisy, clamped": noisy.clamp(0, 1), "score model": tweedie}
        chosen = {}
        for label, model in energies.items():
            steps = helpers.choose_denoising_steps(model, tuning, sigma, most=200, generator=generator)
            estimates[f"EBM, {label}"] = helpers.langevin_dynamics(model, noisy, steps, noise=0.0)
            chosen[f"EBM, {label}"] = {"steps": steps}
        for name, choices in classical_denoisers(sigma).items():
            function, options = tune(choices, noisy_tuning[: len(few)].cpu(), few.cpu())
            estimates[name] = each_image(function, noisy.cpu(), **options).clamp(0, 1).to(lab.device)
            chosen[name] = options
        estimates["Gaussian (Wiener)"] = gaussian_posterior_mean(noisy, sigma, gaussian).clamp(0, 1)
        estimates["training-set mean"] = kernel_posterior_mean(noisy, sigma, digits.train_images)
        for name, images in estimates.items():
            result["methods"].setdefault(name, {})[str(sigma)] = evaluation.pixel_quality(images, clean)
        result["chosen"][str(sigma)] = chosen
        print(sigma, {k: round(evaluation.psnr(v, clean), 1) for k, v in estimates.items()}, flush=True)
    return result


def ratio_of_means(a, b):
    """mean(a) / mean(b) over images and its standard error by the delta method."""
    ratio = (a.sum() / b.sum()).item()
    return {"ratio": ratio, "standard_error": ((a - ratio * b).std() / len(a) ** 0.5 / b.mean()).abs().item()}


def posterior(lab, seed=7, n=150, most_samples=8, levels=100, sigmas=(0.25, 0.5, 1.0)):
    """Samples from p(clean | noisy): the squared error of the mean of K samples against Tweedie's; in theory 1 + 1/K."""
    model, _ = helpers.load_pretrained("score-based-model", lab.device)
    generator = helpers.seed_everything(seed, lab.device)
    clean = lab.digits.test_images[: min(n, lab.most)]
    result = {"seed": seed, "n": len(clean), "levels": levels, "sigmas": {}}
    for sigma in sigmas:
        noisy = clean + sigma * torch.randn(clean.shape, device=lab.device, generator=generator)
        with torch.no_grad():
            tweedie = (model.denoise(noisy, sigma) - clean).square().flatten(1).mean(1).double()
        options = {"levels": levels, "generator": generator}
        draws = torch.stack([helpers.posterior_sampling(model, noisy, sigma, **options) for _ in range(most_samples)])
        ratios = {}
        for k in range(1, most_samples + 1):  # every disjoint group of k draws, so that small k has small error bars
            groups = draws[: most_samples // k * k].view(-1, k, *draws.shape[1:]).mean(1)
            error = (groups - clean).square().flatten(2).mean(2).mean(0).double()  # one an image
            ratios[str(k)] = ratio_of_means(error, tweedie) | {"theory": 1 + 1 / k}
        decibels = -10 * float(np.log10(ratios["1"]["ratio"]))
        variance = draws.var(0).flatten(1).mean(1).double()  # unbiased: gives the error of infinitely many
        limit = (draws.mean(0) - clean).square().flatten(1).mean(1).double() - variance / most_samples
        result["sigmas"][str(sigma)] = {"ratios": ratios, "one_sample_against_tweedie_dB": decibels,
                                        "mean_of_all_against_tweedie": ratio_of_means(limit, tweedie),
                                        "variance_over_error_of_the_mean": ratio_of_means(variance, limit),
                                        "tweedie_psnr": float(-10 * torch.log10(tweedie.mean()))}  # fmt: skip
        print(f"sigma {sigma}: one sample {decibels:+.2f} dB against Tweedie (theory -3.01)", flush=True)
    return result


# -------------------------------------------------------------------------------------------------- out of distribution

PHOTOGRAPHS = ("astronaut", "brick", "camera", "cat", "coffee", "coins", "grass", "gravel", "moon", "rocket")


def photograph_patches(n, rng):
    """28x28 grey patches from scikit-image's bundled photographs, as [n, 1, 28, 28] in [0, 1]."""
    import skimage

    images = [getattr(skimage.data, name)() for name in PHOTOGRAPHS]
    images = [skimage.util.img_as_float32(skimage.color.rgb2gray(x) if x.ndim == 3 else x) for x in images]
    patches = []
    for i in range(n):
        x = images[i % len(images)]
        top, left = rng.integers(x.shape[0] - 27), rng.integers(x.shape[1] - 27)
        patches.append(torch.from_numpy(np.ascontiguousarray(x[top : top + 28, left : left + 28])))
    return torch.stack(patches)[:, None]


def shuffled_patches(images, generator):
    """Each image's sixteen 7x7 patches in a random order of its own."""
    patches = images.unfold(2, 7, 7).unfold(3, 7, 7).reshape(len(images), 16, 7, 7)
    order = torch.rand(len(images), 16, generator=generator).argsort(1)
    patches = patches[torch.arange(len(images))[:, None], order].view(-1, 4, 4, 7, 7)
    return patches.permute(0, 1, 3, 2, 4).reshape(images.shape)


def fashion_mnist(n):
    """(the first n test images of Fashion-MNIST, "") or (None, the reason) where it can be neither found nor downloaded."""
    from torchvision.datasets import FashionMNIST

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)
    try:
        return FashionMNIST("data", train=False, download=True).data[:n, None].float() / 255, ""
    except (OSError, RuntimeError) as error:  # offline, refused, a read-only folder, a broken download
        return None, (str(error).strip() or type(error).__name__).splitlines()[-1]
    finally:
        socket.setdefaulttimeout(timeout)


def unlike_digits(test_images, n, seed):
    """({name: images [n, 1, 28, 28]} that are not MNIST digits as MNIST draws them, [what is left out and why])."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    x = test_images[:n].cpu()
    uci = helpers.uci_digits()
    sets = {
        "uniform noise": torch.rand(x.shape, generator=generator),
        "constant grey": torch.rand(len(x), 1, 1, 1, generator=generator).expand(x.shape).clone(),
        "photograph patches": photograph_patches(n, rng),
        "inverted digits": 1 - x,
        "digits flipped left-right": x.flip(3),
        "digits turned by 90 degrees": x.rot90(1, (2, 3)),
        "digits with shuffled patches": shuffled_patches(x, generator),
        "UCI digits, resized": torch.cat([uci.train_images, uci.test_images])[:n],
    }
    fashion, reason = fashion_mnist(n)
    return (sets, [f"Fashion-MNIST ({reason})"]) if fashion is None else ({**sets, "Fashion-MNIST": fashion}, [])


def out_of_distribution(lab, seed=7, n=1_000):
    """AUROC of telling test digits from other images by energy alone, beside two trivial scores; energy histograms."""
    digits, n = lab.digits, min(n, lab.most)
    energies = {f"energy, {k}": helpers.load_pretrained(ENERGIES[k], lab.device)[0] for k in ("replay buffer", "no buffer")}
    gaussian = fitted_gaussian(lab)
    mean_pixel = digits.train_images.mean().item()

    @torch.no_grad()
    def judgements(images):
        scores = {k: torch.cat([model(x.to(lab.device)).cpu() for x in images.split(500)]) for k, model in energies.items()}
        scores["mean pixel"] = (images.mean((1, 2, 3)) - mean_pixel).abs().cpu()
        scores["Gaussian"] = torch.from_numpy(gaussian.mahalanobis(images.flatten(1).cpu().double().numpy()))
        return scores

    inside = judgements(digits.test_images[: lab.most])
    result = {"seed": seed, "n": n, "n_test_digits": lab.most, "auroc": {}}
    sets, result["left_out"] = unlike_digits(digits.test_images, n, seed)
    energy = "energy, replay buffer"
    shown = {"test digits": inside[energy]}
    for name, images in {"training digits": digits.train_images[:n], **sets}.items():
        outside = judgements(images.cpu())
        result["auroc"][name] = {k: evaluation.auroc(inside[k], outside[k]) for k in outside} | {"n": len(images)}
        shown[name] = outside[energy]
    result["energies"] = {name: quantiles(values) for name, values in shown.items()}
    del shown["training digits"]  # they lie where the test digits lie
    everything = torch.cat(list(shown.values()))
    low, high = (everything.min() / 0.1).asinh().item(), (everything.max() / 0.1).asinh().item()
    edges = 0.1 * torch.linspace(low, high, 81).sinh()  # even within 0.1 of zero, geometric beyond
    counts = {k: (torch.histogram(v.clamp(edges[0], edges[-1]), edges)[0] / len(v)).tolist() for k, v in shown.items()}
    result["histogram"] = {"edges": edges.tolist(), "shares": counts}
    return result


# ---------------------------------------------------------------------------------------------------------- the command

STUDIES = {"floors": floors, "chains": chains, "score-samples": score_samples,
           "denoising": denoising, "posterior": posterior, "out-of-distribution": out_of_distribution}  # fmt: skip
TRAINING = {"stability": stability, "ablation": ablation, "break-away": break_away,
            "older-chains": older_chains, "tutorial": tutorial}  # fmt: skip


def leaves(value, path=""):
    """Every (path, number) of nested dicts and lists."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, f"{path}/{key}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def compare(before, after, name):
    """Say how far the numbers of a new result lie from those of the committed one."""
    old, new = dict(leaves(before)), dict(leaves(after))
    shared = [path for path in new if path in old]
    size = {path: max(abs(old[path]), abs(new[path])) for path in shared}
    relative = {path: abs(new[path] - old[path]) / size[path] for path in shared if new[path] != old[path]}
    unpaired = len(new.keys() ^ old.keys())
    print(f"{name}: {len(shared)} numbers, {len(shared) - len(relative)} identical, {unpaired} not in both")
    for path in sorted(relative, key=relative.get, reverse=True)[:10]:
        print(f"    {path}: committed {old[path]:.5g}, now {new[path]:.5g} ({relative[path]:.2%})")


def write_result(name, seconds, result, folder):
    """<folder>/<name>.json, after saying how it differs from what was there."""
    path = Path(folder) / f"{name}.json"
    record = {"command": f"python studies.py {name}", "hardware": helpers.hardware_name(), "date": time.strftime("%Y-%m-%d"),
              "minutes": round(seconds / 60, 1), **result}  # fmt: skip
    if path.exists():
        compare(json.loads(path.read_text(encoding="utf-8")), record, name)
    helpers.write_json(record, path)
    print(f"{name}: {path}, after {seconds / 60:.1f} minutes", flush=True)


def compare_folders(before, after):
    """compare() for every result that both folders hold."""
    for path in sorted(Path(after).glob("*.json")):
        old = Path(before) / path.name
        if old.exists():
            compare(json.loads(old.read_text(encoding="utf-8")), json.loads(path.read_text(encoding="utf-8")), path.stem)


def main():
    parser = argparse.ArgumentParser(description="Measure the committed models.")
    names = f"{', '.join(STUDIES)} (all of these where none is named), {', '.join({**score_studies.STUDIES, **TRAINING})}"
    parser.add_argument("studies", nargs="*", help=names)
    parser.add_argument("--most", type=int, default=10_000, help="the most images a number may cost")
    parser.add_argument("--folder", default="assets/results", help="where the results go")
    parser.add_argument("--changed", action="store_true", help="keep the parts of `chains` whose weights have not changed")
    parser.add_argument("--against", help="measure nothing; say how the results differ from those in this folder")
    arguments = parser.parse_args()
    known = {**STUDIES, **score_studies.STUDIES, **TRAINING}
    unknown = set(arguments.studies) - set(known)
    if unknown:
        parser.error(f"there is no study {', '.join(sorted(unknown))}")
    if arguments.against:
        return compare_folders(arguments.against, arguments.folder)
    lab = laboratory(arguments.most)
    lab = lab._replace(kept=Path(arguments.folder)) if arguments.changed else lab
    committed = Path(arguments.folder).resolve() == Path("assets/results").resolve() or "tutorial" in arguments.studies
    if committed and (lab.digits.name != "MNIST" or lab.most != 10_000):
        raise SystemExit("What is committed is measured on MNIST with --most 10000; else name another --folder.")
    for name in arguments.studies or STUDIES:
        started = time.perf_counter()
        result = known[name](lab)
        if result is not None:
            write_result(name, time.perf_counter() - started, result, arguments.folder)


if __name__ == "__main__":
    main()
