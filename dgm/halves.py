"""The chains of one batch as two halves, each on a thread of its own.

The products in a Langevin step are small, so two cores that share each of them wait for each
other. Two halves of the batch do not, and each draws its own noise.
"""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

SMALLEST = 128  # images; fewer are one part, because two small halves take longer
FEW = 8  # images, for which a second core is no help


@contextmanager
def using_threads(number):
    """Compute each operation of the calling Python thread on `number` cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def as_a_whole(chain, x, steps, generator):
    """Call chain(x, steps, generator)."""
    return chain(x, steps, generator)


def in_halves(chain, x, steps, generator):
    """Call chain(part, steps, generator) on two halves of x [B, ...].

    A chain changes its part in place and returns a list of frames [B, ...]; the list of the whole
    frames is returned. Each half has its own generator, seeded from `generator`. With one thread
    the halves take turns, so that a seed gives the same images as with two. An error or an
    interrupt in one half ends the other after its current step. On a GPU, x remains whole.
    """
    if x.device.type != "cpu":
        return as_a_whole(chain, x, steps, generator)
    stop, threads = threading.Event(), torch.get_num_threads()
    whole = len(x) < SMALLEST
    each = threads if whole and len(x) >= FEW else max(1, threads // 2)
    inference = torch.is_inference_mode_enabled()

    def run(part, steps, seed):
        steps = itertools.takewhile(lambda _: not stop.is_set(), steps)
        try:
            with using_threads(each), torch.inference_mode(inference):
                return torch.no_grad()(chain)(part, steps, torch.Generator().manual_seed(seed))
        except BaseException:
            stop.set()
            raise

    seeds = torch.randint(2**63 - 1, (2,), generator=generator).tolist()
    if whole:
        return run(x, steps, seeds[0])
    parts, others = x.chunk(2), range(1, len(steps) + 1)  # only the first half shows a bar
    if threads == 1:
        halves = run(parts[0], steps, seeds[0]), run(parts[1], others, seeds[1])
    else:
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(run, parts[1], others, seeds[1])
            halves = run(parts[0], steps, seeds[0]), second.result()
    return [torch.cat(pair) for pair in zip(*halves, strict=True)]
