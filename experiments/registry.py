"""Registry of the experiments: description, measurement and figures of each."""

from collections.abc import Callable
from typing import NamedTuple

from experiments import (
    ablation,
    chains,
    classifier,
    denoising,
    energy_behind_score,
    energy_classifier,
    energy_meets_score,
    floors,
    hero,
    inpainting,
    likelihood,
    noise_energy,
    out_of_distribution,
    phases,
    quick,
    score_samplers,
    score_samples,
    solvers,
    speed,
    stability,
    time_to_quality,
)


class Experiment(NamedTuple):
    """An experiment: `measure(laboratory)` returns the contents of NAME.json, `draws` its figures.

    `trains` marks experiments that train a network. `minutes` is the approximate duration if the
    results do not have it. `laboratory` is False for experiments that need no data.
    """

    about: str
    measure: Callable
    draws: tuple = ()
    trains: bool = False
    minutes: float | None = None
    laboratory: bool = True


EXPERIMENTS = {
    "floors": Experiment("Fréchet distance of real training images at each n", floors.floors),
    "chains": Experiment(
        "chains of three energies from noise, up to 10,000 steps",
        chains.chains,
        (chains.draw_chain_length,),
    ),
    "score-samples": Experiment(
        "10,000 samples of the score network; a classifier trained on generated digits",
        score_samples.score_samples,
        (score_samples.draw_label_accuracy, chains.draw_memorisation),
    ),
    "denoising": Experiment(
        "denoising by both models and classical methods at four noise levels",
        denoising.denoising,
        (denoising.draw_denoising,),
    ),
    "posterior": Experiment(
        "posterior samples of noisy digits compared with theory",
        denoising.posterior,
        (denoising.draw_posterior,),
    ),
    "out-of-distribution": Experiment(
        "energies of test digits and other images",
        out_of_distribution.out_of_distribution,
        (out_of_distribution.draw_out_of_distribution,),
    ),
    "samplers": Experiment(
        "six samplers of the score network against network evaluations",
        score_samplers.sampler_costs,
        (score_samplers.draw_samplers,),
    ),
    "guidance": Experiment(
        "samples against the guidance weight",
        score_samples.guidance,
        (score_samples.draw_guidance,),
    ),
    "solvers": Experiment(
        "DPM-Solver++ with and without noise, guidance by labels and by a weaker network",
        solvers.solvers,
    ),
    "score-guide": Experiment(
        "trains the weaker network for this into checkpoints/",
        solvers.score_guide,
        trains=True,
        minutes=9,
    ),
    "noise-scales": Experiment(
        "annealed Langevin with other noise levels",
        score_samplers.noise_scales,
        (score_samplers.draw_noise_scales,),
    ),
    "averaging": Experiment(
        "averaging of weights (trains two small networks)", score_samplers.averaging, trains=True
    ),
    "score-seeds": Experiment(
        "the earlier `quick` score network with several seeds",
        score_samples.score_seeds,
        trains=True,
    ),
    "quick-seeds": Experiment(
        "the `quick` recipes of the three notebooks with several seeds, before and now",
        quick.quick_seeds,
        trains=True,
    ),
    "inpainting": Experiment("inpainting of test digits", inpainting.inpainting),
    "likelihood": Experiment(
        "bits per pixel of test digits (trains a small network first)",
        likelihood.likelihood,
        (likelihood.draw_likelihood,),
        trains=True,
    ),
    "energy-behind-the-score": Experiment(
        "gradient fields of both models, energy barriers, work around triangles",
        energy_behind_score.energy_behind_the_score,
        (energy_behind_score.draw_energy_behind_the_score,),
    ),
    "stability": Experiment(
        "five seeds each with and without one replay buffer, all else equal",
        stability.stability,
        (stability.draw_stability,),
        trains=True,
    ),
    "ablation": Experiment(
        "the `quick` recipe at width 16, one change at a time",
        ablation.ablation,
        (ablation.draw_ablation,),
        trains=True,
    ),
    "break-away": Experiment(
        "the first phase of the full recipe with squared energies of the samples in the loss",
        stability.break_away,
        (stability.draw_break_away,),
        trains=True,
    ),
    "old-chains": Experiment(
        "chains after one and two phases of training, from noise and from test digits",
        phases.old_chains,
        (phases.draw_old_chains,),
        trains=True,
    ),
    "first-phase": Experiment(
        "trains the first phase of the replay-buffer energy into checkpoints/",
        phases.first_phase,
        trains=True,
        minutes=54,
    ),
    "second-phase": Experiment(
        "continues the first phase and trains the replay-buffer energy into checkpoints/",
        phases.second_phase,
        trains=True,
        minutes=7,
    ),
    "tutorial": Experiment(
        "trains an energy with a published tutorial's settings into checkpoints/",
        chains.tutorial,
        trains=True,
        minutes=14,
    ),
    "noise-energy": Experiment(
        "trains the energy over noise levels into checkpoints/",
        noise_energy.noise_energy,
        trains=True,
        minutes=30,
    ),
    "energy-meets-score": Experiment(
        "energy over noise levels: samples, products, classifier (trains a score network first)",
        energy_meets_score.energy_meets_score,
        (
            energy_meets_score.draw_sample_quality,
            energy_meets_score.draw_composition,
            energy_classifier.draw_energy_classifier,
            energy_meets_score.draw_closed_paths,
        ),
        trains=True,
    ),
    "energy-long-chains": Experiment(
        "energy over noise levels: 10,000 Metropolis steps from noise and from test digits",
        energy_meets_score.energy_long_chains,
        (energy_meets_score.draw_long_chains,),
    ),
    "classifier": Experiment(
        "trains the classifier behind the metrics into checkpoints/",
        classifier.classifier,
        trains=True,
        minutes=10,
        laboratory=False,
    ),
    "benchmarks": Experiment(
        "speed compared with torchebm, ebmkit and the loop of the tutorials",
        speed.benchmarks,
        (speed.draw_growth,),
        minutes=10,
        laboratory=False,
    ),
    "time-to-quality": Experiment(
        "sample quality of three recipes against training time",
        time_to_quality.time_to_quality,
        (time_to_quality.draw_time_to_quality,),
        trains=True,
        minutes=40,
    ),
    "hero": Experiment(
        "the first figure of README",
        hero.hero,
        (hero.draw_hero,),
        minutes=1,
        laboratory=False,
    ),
}
# the experiments of `make evaluate`: the committed weights, without training
EVALUATION = ("floors", "chains", "score-samples", "denoising", "posterior", "out-of-distribution")
