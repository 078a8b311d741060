"""The score network on several processes or GPUs, by accelerate (`pip install accelerate`, an optional extra):

    accelerate launch scale.py --updates 9000 --batch-size 1024 --samples 60000

One process or many, the training is the same: all draw the whole batch from the same seed, and each works on its share, so
that the loss curve does not depend on how many there are. In sampling each has a seed of its own.
"""

import argparse
from pathlib import Path

import torch

# Its functions keep the process group of the moment in which they are first imported as a default argument. Imported here,
# before there is one, they do not hold its threads after the end, where these would now and then abort the interpreter.
import torch.distributed.nn
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

import helpers


def train(accelerator, digits, settings, folder):
    """The training loop of score-based-model.ipynb on every process's share of the batch: (averaged network, losses).

    Resumes from `folder`, as helpers.training_steps does. ValueError where the batch cannot be shared out equally.
    """
    rank, world, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    if settings["batch_size"] % world:
        raise ValueError(f"{world} processes cannot share out a batch of {settings['batch_size']} equally")
    share = slice(rank, None, world)
    generator = helpers.seed_everything(settings["seed"], device)
    plain = helpers.ScoreNetwork(width=settings["width"]).to(device)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=settings["learning_rate"], betas=(0.9, 0.99))
    model, ema = accelerator.prepare(plain), helpers.ema_of(plain, settings["ema_decay"])
    batches = helpers.minibatches(digits.train_images, digits.train_labels, settings["batch_size"], generator)
    history, path = {"loss": []}, Path(folder) / f"scale-resume-{rank}.pt"
    state = {"model": plain, "ema": ema, "optimizer": optimizer, "generator": generator}
    lines = 10 if accelerator.is_main_process else 0
    for update in helpers.training_steps(settings["updates"], path, settings, history, state, lines):
        helpers.set_learning_rate(optimizer, settings["learning_rate"], update, settings["updates"])
        x, labels = next(batches)
        hidden = torch.rand(len(x), device=device, generator=generator) < settings["hide_label"]
        labels = labels.masked_fill(hidden, plain.NO_LABEL)
        sigma = helpers.training_sigmas(len(x), device=device, generator=generator)
        z = torch.randn(x.shape, device=device, generator=generator)
        loss = helpers.denoising_score_matching_loss(
            model, x[share], sigma[share], labels[share], helpers.edm_weight, z=z[share])
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.update_parameters(plain)
        history["loss"].append(accelerator.reduce(loss.detach(), "mean"))
    return ema.module, history["loss"]


def sample(accelerator, model, n, seed, chunk=1_000, **options):
    """(samples, labels) of n digits, every digit in turn, shared out over the processes, on all of them at the end."""
    rank, world = accelerator.process_index, accelerator.num_processes
    generator = torch.Generator(accelerator.device).manual_seed(1_000_000 * (seed + 1) + rank)  # no two draw the same noise
    labels = torch.arange(-(-n // world) * world, device=accelerator.device) % 10  # as many for each
    mine, sigmas = labels[rank::world], helpers.geometric_sigmas()
    x = torch.cat([helpers.annealed_langevin_dynamics(model, part, sigmas, generator=generator, **options)
                   for part in mine.split(chunk)])  # fmt: skip
    return accelerator.gather(x)[:n], accelerator.gather(mine)[:n]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=14_000)
    parser.add_argument("--batch-size", type=int, default=128, help="of all processes together")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--samples", type=int, default=1_000)
    parser.add_argument("--steps", type=int, default=8, help="Langevin steps a noise level")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", default="runs/scale")
    arguments = parser.parse_args()
    accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)])
    digits = helpers.load_mnist(device=accelerator.device, download=False)
    settings = {"updates": arguments.updates, "batch_size": arguments.batch_size, "width": arguments.width,
                "learning_rate": arguments.learning_rate, "ema_decay": 0.999 if arguments.updates > 2_000 else 0.99,
                "hide_label": 0.25, "seed": arguments.seed, "data": digits.name,
                "processes": accelerator.num_processes}  # fmt: skip
    model, losses = train(accelerator, digits, settings, arguments.folder)
    samples, labels = sample(accelerator, model, arguments.samples, arguments.seed, steps=arguments.steps)
    if accelerator.is_main_process:
        bytes_ = (255 * samples.clamp(0, 1)).round().byte().cpu()
        made = {"losses": torch.tensor(losses), "model": model.state_dict(), "samples": bytes_, "labels": labels.cpu()}
        helpers.save_atomically(made, Path(arguments.folder) / "scale.pt")
        print(f"{accelerator.num_processes} processes, {arguments.updates:,} updates, {len(samples):,} samples: "
              f"{arguments.folder}/scale.pt")  # fmt: skip
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
