"""experiments/energy_behind_score.py: work along paths in closed form, and the measurement."""

import pytest
import torch

from dgm.checks import IMAGE_SHAPE
from experiments.energy_behind_score import energy_along, energy_behind_the_score, straight


@pytest.fixture(scope="module")
def corners():
    return torch.randn(3, 4, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def paths(corners):
    """The sides of four triangles."""
    a, b, c = corners
    return [straight(p, q, 10) for p, q in ((a, b), (b, c), (c, a))]


@pytest.fixture(scope="module")
def energies(paths):
    """Energies along the sides where the score is the negative gradient of E = |x|^2 / 2."""
    return [energy_along(lambda x: -x, path) for path in paths]


def test_a_straight_line_starts_at_one_end(paths, corners):
    assert torch.equal(paths[0][0], corners[0])


def test_a_straight_line_ends_at_the_other(paths, corners):
    assert torch.equal(paths[0][-1], corners[1])


def test_work_of_a_gradient_is_the_energy_difference(energies, corners):
    a, b, _ = corners
    expected = (b.square() - a.square()).flatten(1).sum(1) / 2
    assert torch.allclose(energies[0][-1], expected, rtol=1e-3, atol=0.05)


def test_work_of_a_gradient_around_a_loop_is_zero(energies):
    assert sum(along[-1] for along in energies).abs().max() < 0.1


def test_energy_is_given_at_each_point_of_a_path(energies):
    assert energies[0].shape == (11, 4)


def test_energy_is_zero_at_the_start_of_a_path(energies):
    assert energies[0][0].abs().max() == 0


def test_work_of_a_field_that_turns_is_not_zero_where_a_gradient_would_have_none(paths):
    def turning(x):
        return x.flip(3) * torch.linspace(-1, 1, 28).sign()

    assert energy_along(turning, paths[0])[-1].abs().max() > 1


@pytest.fixture(scope="module")
def measured(lab):
    return energy_behind_the_score(lab, n=4, sigmas=(0.25,), pieces=3)


def test_a_cosine_of_the_fields_is_at_most_1(measured):
    for found in measured["cosines"]["0.25"].values():
        assert -1 <= found["mean"] <= 1


def test_five_cosines_of_the_fields_are_measured(measured):
    assert len(measured["cosines"]["0.25"]) == 5


def test_all_numbers_of_the_energy_behind_the_score_are_finite(measured, finite):
    assert finite(measured)
