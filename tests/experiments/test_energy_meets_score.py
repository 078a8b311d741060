"""experiments/energy_meets_score.py: the product of three, and the measurements."""

import pytest
import torch

from experiments.energy_meets_score import (
    energy_long_chains,
    energy_meets_score,
    halves_energy,
)


def test_the_energy_of_halves_is_the_sum_over_three_images(generator):
    x = torch.rand(2, 1, 56, 28, generator=generator)
    seen = []

    def energy(images, sigma, labels):
        seen.append((images, labels))
        return images.flatten(1).sum(1)

    total = halves_energy(energy, [3, 4], [5, 6])(x, 0.1)
    a, completed, completing, b = x.chunk(4, dim=2)
    parts = ((a, completed), (completing, b), (a, b))
    assert torch.allclose(total, x.flatten(1).sum(1) + (a + b).flatten(1).sum(1))
    assert [labels for _, labels in seen] == [[3, 4], [5, 6], None]
    for (images, _), halves in zip(seen, parts, strict=True):
        assert torch.equal(images, torch.cat(halves, dim=2))


@pytest.fixture(scope="module")
def measured(lab, tmp_path_factory):
    return energy_meets_score(
        lab,
        updates=2,
        root=tmp_path_factory.mktemp("runs"),
        samples=(20, 2),
        pairs=(4, 2, 1, 0.5),
        classified=(20, 20, (0.3,)),
        others=(4, (0.3,)),
        triangles=(2, (0.3,), 20),
    )


def test_all_numbers_are_finite(measured, finite):
    assert finite(measured)


def test_the_energy_does_almost_no_work_around_a_triangle(measured):
    """The trapezoid rule with 20 pieces leaves some; the exact work is zero."""
    work = measured["closed_paths"]["work_around_over_work_along"]
    assert work["noise_energy"]["0.3"]["mean"] < 0.05


def test_offsets_do_not_lower_the_likelihood_of_training_digits(measured):
    found = measured["classifier"]["sigmas"]["0.3"]
    assert found["accuracy_training"] >= 0.1


def test_every_set_of_other_images_has_an_auroc(measured):
    for found in measured["other_images"]["auroc"].values():
        assert all(0 <= value <= 1 for value in found.values())


def test_long_chains_are_measured_from_both_starts(lab, finite):
    found = energy_long_chains(lab, n=4, lengths=(1, 2))
    assert finite(found)
    assert set(found["chains"]) == {"noise", "test_digits"}
    assert list(found["chains"]["noise"]) == ["0", "1", "2"]
