"""The replay buffer: which slots it draws, how often it re-draws them, what it refuses."""

import math

import pytest
import torch

import helpers


@pytest.fixture(scope="module")
def drawn():
    """A buffer of black images, and how many of 40 x 500 draws were fresh noise."""
    generator = torch.Generator().manual_seed(0)
    chains = torch.zeros(2000, 1, 28, 28)
    buffer = helpers.ReplayBuffer(2000, redraw=0.05, chains=chains, generator=generator)
    redrawn = sum(int((buffer.sample(500).flatten(1).sum(1) > 0).sum()) for _ in range(40))
    return buffer, redrawn


def test_buffer_redraws_a_binomial_share(drawn):
    n = 40 * 500
    assert abs(drawn[1] - 0.05 * n) < 5 * math.sqrt(n * 0.05 * 0.95)


def test_nothing_is_stored_before_it_is_written_back(drawn):
    assert drawn[0].chains.sum() == 0


@pytest.fixture(scope="module")
def ages():
    """How many steps each chain ran since it was noise: as many as were written back to it."""
    generator = torch.Generator().manual_seed(0)
    buffer = helpers.ReplayBuffer(600, redraw=(0.5, 0.05), generator=generator)
    for _ in range(300):  # the slowest slot is re-drawn 15 times
        buffer.write_back(buffer.sample(600) + 1)
    return buffer.chains.amin((1, 2, 3)).floor().double()  # noise lies in [0, 1)


@pytest.mark.parametrize("third", [0, 1, 2])
def test_a_pair_of_rates_holds_chains_of_every_age(third, ages):
    """A slot re-drawn with probability r has mean age 1/r, with variance (1 - r)/r^2."""
    part = slice(200 * third, 200 * (third + 1))
    r = (0.5 * 0.1 ** torch.linspace(0, 1, 600).double())[part]
    error = ((1 - r) / r**2).sum().sqrt() / len(r)
    assert abs(ages[part].mean() - (1 / r).mean()) < 4 * error


def test_one_rate_is_that_of_every_slot():
    assert helpers.ReplayBuffer(3, redraw=0.05).redraw.eq(0.05).all()


@pytest.mark.parametrize("redraw", [-0.1, 1.5, (0.01, 0.1), (0.1, 0.0)])
def test_buffer_refuses_what_is_no_probability(redraw):
    with pytest.raises(ValueError, match="redraw must be a probability"):
        helpers.ReplayBuffer(4, redraw=redraw)


@pytest.fixture
def buffer(generator):
    return helpers.ReplayBuffer(50, redraw=0.0, generator=generator)


def test_slots_drawn_are_distinct(buffer):
    buffer.sample(20)
    assert buffer.slots.unique().numel() == 20


def test_starts_are_the_chains_of_the_slots_drawn(buffer):
    start = buffer.sample(20)
    assert torch.equal(start, buffer.chains[buffer.slots])


def test_chains_are_written_back_to_the_slots_drawn(buffer, generator):
    buffer.sample(20)
    new = torch.rand(20, 1, 28, 28, generator=generator)
    buffer.write_back(new)
    assert torch.equal(buffer.chains[buffer.slots], new)


def test_all_other_slots_stay_as_they_were(buffer, generator):
    before = buffer.chains.clone()
    buffer.sample(20)
    buffer.write_back(torch.rand(20, 1, 28, 28, generator=generator))
    rest = torch.ones(50, dtype=torch.bool)
    rest[buffer.slots] = False
    assert torch.equal(buffer.chains[rest], before[rest])


def test_what_was_written_back_is_drawn_again(buffer, generator):
    buffer.sample(20)
    buffer.write_back(torch.rand(20, 1, 28, 28, generator=generator))
    drawn, stored = buffer.sample(50).sum((1, 2, 3)), buffer.chains.sum((1, 2, 3))
    assert torch.equal(drawn.sort().values, stored.sort().values)


@pytest.fixture
def white():
    """A buffer of four chains as committed checkpoints hold them."""
    return helpers.ReplayBuffer(chains=torch.full((4, 1, 28, 28), 255, dtype=torch.uint8))


def test_buffer_is_as_long_as_the_chains_given(white):
    assert len(white) == 4


def test_committed_bytes_become_pixels_up_to_one(white):
    assert white.chains.max() == 1


def test_more_chains_than_slots_are_refused(white):
    with pytest.raises(ValueError, match="batch_size must be at most 4, not 5"):
        white.sample(5)


def test_writing_back_before_a_sample_is_refused(white):
    with pytest.raises(ValueError, match="last sample"):
        white.write_back(torch.zeros(2, 1, 28, 28))


def test_writing_back_another_number_is_refused(white):
    white.sample(3)
    with pytest.raises(ValueError, match="last sample"):
        white.write_back(torch.zeros(2, 1, 28, 28))


def test_chains_that_are_no_images_are_refused():
    with pytest.raises(ValueError, match=r"\[B, 1, 28, 28\]"):
        helpers.ReplayBuffer(chains=torch.zeros(4, 28, 28))


def grey(n):
    return torch.full((n, 1, 28, 28), 0.5)


def test_a_restart_fills_the_buffer_at_the_start():
    assert helpers.ReplayBuffer(3, restart=grey).chains.eq(0.5).all()


def test_a_restart_replaces_noise_where_chains_restart():
    buffer = helpers.ReplayBuffer(4, 1.0, torch.zeros(4, 1, 28, 28), restart=grey)
    assert buffer.sample(4).eq(0.5).all()


@pytest.mark.parametrize("start", [0, 2])
def test_a_restart_with_another_number_of_images_is_refused(start):
    chains = torch.zeros(4, 1, 28, 28) if start else None
    with pytest.raises(ValueError, match=r"restart\(n\) must have length"):
        helpers.ReplayBuffer(4, chains=chains, restart=lambda n: grey(1)).sample(2)


def test_a_restart_that_gives_no_images_is_refused():
    buffer = helpers.ReplayBuffer(chains=grey(4), restart=lambda n: torch.zeros(n, 784))
    with pytest.raises(ValueError, match=r"restart\(n\) must have shape"):
        buffer.sample(2)


@pytest.mark.parametrize("restart", [0.5, lambda: None])
def test_a_restart_that_is_no_function_of_n_is_refused(restart):
    with pytest.raises(TypeError, match="restart must"):
        helpers.ReplayBuffer(4, restart=restart)
