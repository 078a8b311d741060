"""experiments/energy_classifier.py: offsets and calibration where they are known."""

import pytest
import torch

from experiments.energy_classifier import calibration_error, fitted_offsets


def test_fitted_offsets_take_away_what_was_added_to_the_energies(generator):
    """Labels drawn from softmax(-E) need no offsets, after E + c those of -c; 5 errors of 0.03."""
    energies = 2 * torch.randn(20_000, 10, generator=generator).double()
    labels = torch.multinomial((-energies).softmax(1), 1, generator=generator)[:, 0]
    added = torch.linspace(-3, 3, 10).double()
    b = fitted_offsets(energies + added, labels)
    difference = b + added
    assert (difference - difference.mean()).abs().max() < 0.15


def test_calibration_error_of_a_sure_classifier_is_its_error():
    probabilities = torch.eye(10).double()[[0, 1, 2, 3]]
    assert calibration_error(probabilities, torch.tensor([0, 1, 2, 9])) == pytest.approx(0.25)


def test_calibration_error_of_a_calibrated_classifier_is_small(generator):
    probabilities = torch.randn(20_000, 10, generator=generator).double().softmax(1)
    labels = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
    assert calibration_error(probabilities, labels) < 0.02
