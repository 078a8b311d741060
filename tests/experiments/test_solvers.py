"""experiments/solvers.py: every solver has every weight, and each weight its own samples."""

import pytest

from experiments import solvers
from helpers import load_pretrained


@pytest.fixture(scope="module")
def found(lab):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solvers, "GUIDANCE_WEIGHTS", (1.2, 1.4))
        patch.setattr(solvers, "AUTOGUIDANCE_WEIGHTS", (1.0, 2.0))
        return solvers.solvers(lab, n=20, levels=4, guided_levels=4, seeds=(7, 8))


@pytest.mark.parametrize("solver", list(solvers.SOLVERS))
def test_every_solver_is_measured_with_every_guidance_weight(found, solver):
    assert list(found["with_labels"][solver]) == ["1.2", "1.4"]


@pytest.mark.parametrize("kind", ["with_labels", "without_labels"])
def test_solvers_and_weights_give_different_samples(found, kind):
    rows = [one["frechet_distance"] for row in found[kind].values() for one in row.values()]
    assert len(set(rows)) == len(rows)


def test_the_chosen_solver_has_a_mean_over_its_seeds(found):
    distances = [one["frechet_distance"] for one in found["chosen"]["seeds"].values()]
    mean = found["chosen"]["summary"]["frechet_distance"]["mean"]
    assert mean == pytest.approx(sum(distances) / 2)


def test_all_numbers_of_the_solvers_are_finite(found, finite):
    assert finite(found)


def test_the_guide_is_written_where_the_solvers_look_for_it(lab, tmp_cwd):
    solvers.score_guide(lab, root=tmp_cwd, updates=2, width=8)
    guide, record = load_pretrained(solvers.GUIDE, "cpu", tmp_cwd / "checkpoints")
    assert (guide.settings["width"], record["updates"]) == (8, 2)
