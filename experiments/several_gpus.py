"""Training and sampling of the score network on several processes or GPUs with accelerate.

    accelerate launch -m experiments.several_gpus --updates 9000 --batch-size 1024

The training does not depend on the number of processes: all draw the whole batch from the same
seed, and each works on its share. In sampling, each process has its own seed.
"""

import argparse
from pathlib import Path

import torch

# Functions of this module keep the process group at the time of their first import as a default
# argument. Importing it before a group exists avoids references to its threads, which could abort
# the interpreter at exit.
import torch.distributed.nn
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from dgm.device import keep_freed_memory, seed_everything
from dgm.runs import save_atomically
from dgm.samplers import geometric_sigmas
from experiments.training import conditional_loss, train_score
from helpers import ScoreNetwork, annealed_langevin_dynamics, load_mnist


def train(accelerator, digits, settings, folder):
    """Train with a share of the batch per process; return (averaged network, losses).

    Resumes from `folder`. Raises ValueError if the batch cannot be divided equally.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    if settings["batch_size"] % world:
        raise ValueError(
            f"{world} processes cannot divide a batch of {settings['batch_size']} equally"
        )
    generator = seed_everything(settings["seed"], accelerator.device)
    plain = ScoreNetwork(width=settings["width"]).to(accelerator.device)
    share = slice(rank, None, world)
    loss = conditional_loss(accelerator.prepare(plain), settings, generator, share)
    path = Path(folder) / f"several-gpus-resume-{rank}.pt"
    return train_score(
        plain,
        loss,
        digits,
        settings,
        path,
        generator,
        backward=accelerator.backward,
        reduce=lambda value: accelerator.reduce(value, "mean"),
        lines=10 if accelerator.is_main_process else 0,
    )


def sample(accelerator, model, n, seed, chunk=1_000, **options):
    """Return (samples, labels) of n digits in turn, divided over the processes."""
    rank, world = accelerator.process_index, accelerator.num_processes
    generator = torch.Generator(accelerator.device)
    generator.manual_seed(1_000_000 * (seed + 1) + rank)  # different noise in each process
    labels = torch.arange(-(-n // world) * world, device=accelerator.device) % 10
    mine, sigmas = labels[rank::world], geometric_sigmas()
    options["generator"] = generator
    parts = [annealed_langevin_dynamics(model, p, sigmas, **options) for p in mine.split(chunk)]
    return accelerator.gather(torch.cat(parts))[:n], accelerator.gather(mine)[:n]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=14_000)
    parser.add_argument("--batch-size", type=int, default=128, help="total over all processes")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--samples", type=int, default=1_000)
    parser.add_argument("--steps", type=int, default=8, help="Langevin steps per noise level")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", default="runs/several-gpus")
    return parser.parse_args()


def main():
    options = arguments()
    keep_freed_memory()
    handlers = [DistributedDataParallelKwargs(gradient_as_bucket_view=True)]
    accelerator = Accelerator(kwargs_handlers=handlers)
    digits = load_mnist(device=accelerator.device, download=False)
    settings = {
        "updates": options.updates,
        "batch_size": options.batch_size,
        "width": options.width,
        "learning_rate": options.learning_rate,
        "ema_decay": 0.999 if options.updates > 2_000 else 0.99,
        "hide_label": 0.25,
        "seed": options.seed,
        "data": digits.name,
        "processes": accelerator.num_processes,
    }
    model, losses = train(accelerator, digits, settings, options.folder)
    samples, labels = sample(accelerator, model, options.samples, options.seed, steps=options.steps)
    if accelerator.is_main_process:
        path = Path(options.folder) / "several-gpus.pt"
        contents = {
            "losses": torch.tensor(losses),
            "model": model.state_dict(),
            "samples": (255 * samples.clamp(0, 1)).round().byte().cpu(),
            "labels": labels.cpu(),
        }
        save_atomically(contents, path)
        done = f"{options.updates:,} updates, {len(samples):,} samples"
        print(f"{accelerator.num_processes} processes, {done}: {path}")
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
