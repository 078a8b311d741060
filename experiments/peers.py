"""Other implementations of Langevin chains, run in a separate process with default memory settings.

speed.py starts this module and sends one request per line with the keys "peer", "batch", "steps",
"noise" and "device". The answer is {"seconds"}; with "save", the result is written to that file.
"""

import functools
import json
import sys
import time

import torch
from torch import nn

STEP, NOISE = 2.5, 0.005


def start_images(batch, device):
    """Return the initial images of the chains, the same for all programs."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, 1, 28, 28, generator=generator).to(device)


class Float32Energy(nn.Module):
    """The layers of an EnergyNetwork in plain float32."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        return self.layers(2 * x - 1).squeeze(1)


def tutorial_float32(layers, x, steps, noise):
    """Run the loop of the published tutorials: float32, with backward() to the image."""
    network = Float32Energy(layers)
    for p in network.parameters():
        p.requires_grad = False
    x = x.clone().requires_grad_(True)
    z = torch.empty_like(x)
    for _ in range(steps):
        z.normal_(0, noise)
        network(x).sum().backward()
        x.data.add_(-STEP * x.grad.data)
        x.data.add_(z.data)
        x.grad.detach_()
        x.grad.zero_()
        x.data.clamp_(0, 1)
    for p in network.parameters():
        p.requires_grad = True
    return x.detach()


def tutorial_autocast(layers, x, steps, noise):
    with torch.autocast(x.device.type, torch.bfloat16):
        return tutorial_float32(layers, x, steps, noise)


def ebmkit(layers, x, steps, noise):
    from ebm.samplers.langevin import LangevinDynamics

    sampler = LangevinDynamics(STEP, steps, noise, clamp=(0, 1))
    return sampler.sample(Float32Energy(layers), x)


def torchebm(layers, x, steps, noise):
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    class Energy(BaseModel):
        def __init__(self):
            super().__init__()
            self.energy = Float32Energy(layers)

        def forward(self, x):
            return self.energy(x)

    scale = noise / (2 * STEP) ** 0.5  # torchebm multiplies noise_scale by sqrt(2 step_size)
    sampler = LangevinDynamics(Energy(), STEP, scale, clamp=(0, 1), device=x.device)
    return sampler.sample(x=x.clone(), n_steps=steps)


PEERS = {
    "ebmkit": ebmkit,
    "torchebm": torchebm,
    "tutorial_float32": tutorial_float32,
    "tutorial_autocast": tutorial_autocast,
}


def synchronise():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(function):
    """Return the duration of one call in seconds."""
    synchronise()
    start = time.perf_counter()
    function()
    synchronise()
    return time.perf_counter() - start


def answer(layers, request):
    """Answer one request."""
    x = start_images(request["batch"], request["device"])
    peer, steps, noise = PEERS[request["peer"]], request["steps"], request["noise"]
    run = functools.partial(peer, layers, x, steps, noise)
    if "save" in request:
        torch.save(run().cpu(), request["save"])
        return {}
    return {"seconds": seconds(run)}


def main():
    layers, threads = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(threads)
    layers = torch.load(layers, weights_only=False)  # written by speed.py
    for line in sys.stdin:
        print(json.dumps(answer(layers, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
