"""Chains of a batch as two halves on two threads."""

import itertools

import pytest
import torch

import helpers
from dgm import halves


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request):
    with halves.using_threads(request.param):
        yield request.param


def walk(x, steps, generator):
    """A chain of pure noise that keeps its state after every step."""
    frames = []
    for _ in steps:
        x.add_(torch.randn(x.shape, generator=generator))
        frames.append(x.clone())
    return frames


def end_of_chains(threads, n=200, **options):
    torch.manual_seed(0)
    network = helpers.EnergyNetwork(8)
    start = torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    with halves.using_threads(threads):
        return helpers.langevin_dynamics(network, start, 5, generator=generator, **options)


@pytest.mark.parametrize("n", [1, 200])
def test_one_thread_draws_the_same_images_as_two(n):
    assert torch.equal(end_of_chains(1, n), end_of_chains(2, n))


def test_frames_of_both_halves_end_with_the_whole_chain():
    x, frames = end_of_chains(2, snapshots=[0, 2, 5])
    assert torch.equal(frames[-1], x)


def test_frames_come_in_the_order_of_the_images(threads):
    x = torch.arange(200.0)
    frames = halves.in_halves(lambda part, steps, _: [part.clone()], x, range(1), None)
    assert torch.equal(frames[0], x)


def test_both_halves_move_by_standard_normal_noise(threads):
    x = torch.zeros(200, 4_000)
    halves.in_halves(walk, x, range(1), torch.Generator().manual_seed(0))
    error = (2 / x[:100].numel()) ** 0.5
    assert all(abs(half.var() - 1) < 5 * error for half in x.chunk(2))


def test_the_noise_of_the_halves_is_independent(threads):
    x = torch.zeros(200, 4_000)
    halves.in_halves(walk, x, range(1), torch.Generator().manual_seed(0))
    first, second = x.chunk(2)
    assert abs((first * second).mean()) < 5 / first.numel() ** 0.5


def test_without_a_generator_the_global_seed_decides(threads):
    def drawn():
        torch.manual_seed(3)
        return halves.in_halves(walk, torch.zeros(200, 1), range(2), None)[-1]

    assert torch.equal(drawn(), drawn())


def test_few_images_are_one_part():
    sizes = []
    halves.in_halves(lambda part, *_: sizes.append(len(part)), torch.zeros(100, 1), range(1), None)
    assert sizes == [100]


@pytest.mark.parametrize(("n", "expected"), [(1, [2]), (100, [4]), (200, [2, 2])])
def test_halves_and_few_images_take_half_of_the_threads(n, expected):
    seen = []

    def chain(part, steps, generator):
        seen.append(torch.get_num_threads())
        return []

    with halves.using_threads(4):
        halves.in_halves(chain, torch.zeros(n, 1), range(1), None)
    assert seen == expected


def test_the_number_of_threads_is_restored(threads):
    halves.in_halves(walk, torch.zeros(200, 1), range(1), None)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("broken", [0, 1], ids=["first half", "second half"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_one_half_ends_the_other(broken, error):
    taken = []

    def chain(part, steps, generator):
        if part[0] == broken:
            raise error("broken")
        taken.extend(steps)
        return []

    x = torch.arange(2.0).repeat_interleave(100)
    endless = range(10**9)  # would take minutes
    with halves.using_threads(2), pytest.raises(error):
        halves.in_halves(chain, x, endless, None)
    assert len(taken) < 10**9


def test_chains_run_in_inference_mode():
    with torch.inference_mode():
        assert end_of_chains(2).shape == (200, 1, 28, 28)


def test_only_the_first_half_moves_the_bar(threads):
    class Bar(list):
        moved = 0

        def __iter__(self):
            for step in super().__iter__():
                self.moved += 1
                yield step

    bar = Bar(range(1, 4))
    halves.in_halves(walk, torch.zeros(200, 1), bar, None)
    assert bar.moved == 3


def test_a_chain_on_another_device_remains_whole():
    x = torch.zeros(200, 1, device="meta")
    counter = itertools.count()
    halves.in_halves(lambda *_: next(counter), x, range(1), None)
    assert next(counter) == 1
