"""All experiments by name: what each does, how it is measured and drawn."""

from collections.abc import Callable
from typing import NamedTuple

from experiments import (
    ablation,
    chains,
    classifier,
    denoising,
    energy_behind_score,
    floors,
    hero,
    inpainting,
    likelihood,
    out_of_distribution,
    score_samplers,
    score_samples,
    speed,
    stability,
    time_to_quality,
)


class Experiment(NamedTuple):
    """`measure(laboratory)` returns what goes to NAME.json; `draws` draw from all results.

    `trains` marks those that train something; `minutes` is about how long one takes whose results
    do not say; `laboratory` is False for those that need no data.
    """

    about: str
    measure: Callable
    draws: tuple = ()
    trains: bool = False
    minutes: float | None = None
    laboratory: bool = True


EXPERIMENTS = {
    "floors": Experiment("what real training images get, at each n", floors.floors),
    "chains": Experiment(
        "chains of the three energies from noise, up to 10,000 steps",
        chains.chains,
        (chains.draw_chain_length,),
    ),
    "score-samples": Experiment(
        "10,000 samples of the score model; a classifier trained on generated digits",
        score_samples.score_samples,
        (score_samples.draw_label_accuracy, chains.draw_memorisation),
    ),
    "denoising": Experiment(
        "both models and classical denoisers at four noise levels",
        denoising.denoising,
        (denoising.draw_denoising,),
    ),
    "posterior": Experiment(
        "posterior samples of noisy digits, against theory",
        denoising.posterior,
        (denoising.draw_posterior,),
    ),
    "out-of-distribution": Experiment(
        "energies of test digits and of other images",
        out_of_distribution.out_of_distribution,
        (out_of_distribution.draw_out_of_distribution,),
    ),
    "samplers": Experiment(
        "six samplers of the score against network evaluations",
        score_samplers.sampler_costs,
        (score_samplers.draw_samplers,),
    ),
    "guidance": Experiment(
        "weights of guidance", score_samples.guidance, (score_samples.draw_guidance,)
    ),
    "noise-scales": Experiment(
        "other noise levels for annealed Langevin",
        score_samplers.noise_scales,
        (score_samplers.draw_noise_scales,),
    ),
    "averaging": Experiment(
        "averaged weights (trains two small networks)", score_samplers.averaging, trains=True
    ),
    "score-seeds": Experiment(
        "the `quick` score model with several seeds", score_samples.score_seeds, trains=True
    ),
    "inpainting": Experiment("inpainting of test digits", inpainting.inpainting),
    "likelihood": Experiment(
        "bits per dimension (trains a small network first)",
        likelihood.likelihood,
        (likelihood.draw_likelihood,),
        trains=True,
    ),
    "energy-behind-the-score": Experiment(
        "fields of both models, barriers, work around triangles",
        energy_behind_score.energy_behind_the_score,
        (energy_behind_score.draw_energy_behind_the_score,),
    ),
    "stability": Experiment(
        "five seeds each with and without one buffer, all else equal",
        stability.stability,
        (stability.draw_stability,),
        trains=True,
    ),
    "ablation": Experiment(
        "the recipe with one thing changed at a time",
        ablation.ablation,
        (ablation.draw_ablation,),
        trains=True,
    ),
    "break-away": Experiment(
        "the recipe with the samples' energy squared",
        stability.break_away,
        (stability.draw_break_away,),
        trains=True,
    ),
    "older-chains": Experiment(
        "the recipe with half of each batch from the older chains",
        ablation.older_chains,
        trains=True,
    ),
    "tutorial": Experiment(
        "trains the energy with a published tutorial's settings, to checkpoints/",
        chains.tutorial,
        trains=True,
        minutes=14,
    ),
    "classifier": Experiment(
        "trains the classifier behind the metrics, to checkpoints/",
        classifier.classifier,
        trains=True,
        minutes=10,
        laboratory=False,
    ),
    "benchmarks": Experiment(
        "speed against torchebm, ebmkit and the tutorials' loop",
        speed.benchmarks,
        (speed.draw_growth,),
        minutes=10,
        laboratory=False,
    ),
    "time-to-quality": Experiment(
        "three recipes trained on the clock",
        time_to_quality.time_to_quality,
        (time_to_quality.draw_time_to_quality,),
        trains=True,
        minutes=40,
    ),
    "hero": Experiment(
        "README's first figure",
        hero.hero,
        (hero.draw_hero,),
        minutes=1,
        laboratory=False,
    ),
}
# what `make evaluate` measures: the committed weights, nothing trained
EVALUATION = ("floors", "chains", "score-samples", "denoising", "posterior", "out-of-distribution")
