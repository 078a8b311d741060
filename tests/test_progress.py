"""Progress bars: tqdm's for people, reports for dgm.runner."""

import pytest
import tqdm.std

from dgm import progress


@pytest.fixture
def reports(monkeypatch):
    """What is reported while dgm.runner is watching."""
    found = []
    monkeypatch.setenv(progress.RUNNER, "1")
    monkeypatch.setattr(progress, "report", lambda **message: found.append(message))
    return found


def test_steps_without_a_bar_come_back_as_they_are():
    steps = [1, 2]
    assert progress.progress_bar(steps, "Langevin", progress=False) is steps


def test_no_bar_is_shown_where_tqdm_is_disabled(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    steps = [1, 2]
    assert progress.progress_bar(steps, "Langevin", progress=True) is steps


def test_people_get_a_bar_of_tqdm(monkeypatch):
    monkeypatch.delenv(progress.RUNNER, raising=False)
    with progress.open_bar(total=2) as bar:
        assert isinstance(bar, tqdm.std.tqdm) and not isinstance(bar, progress.ReportedBar)


def test_nothing_is_reported_where_nobody_asked(monkeypatch, capsys):
    monkeypatch.delenv(progress.RUNNER, raising=False)
    progress.report(note="nobody hears this")
    assert capsys.readouterr().out == ""


def test_a_reported_bar_tells_its_first_step(reports):
    list(progress.progress_bar([1, 2], "Langevin", progress=True))
    assert reports[0]["bar"]["n"] == 0


def test_a_reported_bar_tells_its_last_step(reports):
    list(progress.progress_bar([1, 2], "Langevin", progress=True))
    assert reports[-1]["bar"]["n"] == 2


def test_a_reported_bar_tells_where_it_began(reports):
    with progress.open_bar(total=5, initial=3):
        pass
    assert reports[0]["bar"]["initial"] == 3


def test_a_reported_bar_draws_nothing(reports, capsys):
    list(progress.progress_bar([1, 2], "Langevin", progress=True))
    assert capsys.readouterr().err == ""
