"""experiments/__main__.py: the command line, `python -m experiments`."""

import json
import subprocess
import sys

import pytest

import experiments.__main__ as command
from dgm.data import uci_digits
from experiments import laboratory, results, tables
from experiments.registry import EXPERIMENTS, Experiment
from experiments.results import FIGURES, RESULTS, ROOT, read_result, write_result


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command with these arguments and return what it prints."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["experiments", *map(str, arguments)])
        command.main()
        return capsys.readouterr().out

    return run


def fail(*_):
    raise AssertionError("measured")


@pytest.fixture
def unmeasurable(monkeypatch):
    """Every experiment fails if it is measured."""
    for name, experiment in EXPERIMENTS.items():
        monkeypatch.setitem(EXPERIMENTS, name, experiment._replace(measure=fail))


@pytest.fixture
def example(monkeypatch):
    """An experiment without data; it returns one number and draws one file."""

    def draw(results, folder):
        (folder / "example.txt").write_text(str(results["example"]["x"]))

    found = Experiment("an example", lambda lab: {"x": 3.0}, (draw,), laboratory=False)
    monkeypatch.setitem(EXPERIMENTS, "example", found)


# ------------------------------------------------------------------------------------------ list


def test_the_command_can_be_run_as_a_module():
    options = {"capture_output": True, "text": True, "cwd": ROOT, "timeout": 300}
    done = subprocess.run([sys.executable, "-m", "experiments", "--list"], **options)
    assert "out-of-distribution" in done.stdout


@pytest.mark.parametrize("name", [*EXPERIMENTS, "tables"])
def test_the_list_names_every_experiment(call, name):
    assert name in [line.split()[0] for line in call("--list").splitlines()]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_list_says_what_every_experiment_does(call, name):
    assert EXPERIMENTS[name].about in call("--list")


def test_the_list_measures_nothing(call, unmeasurable):
    call("--list")


def test_minutes_are_those_of_the_result(tmp_path):
    write_result("chains", {}, tmp_path, minutes=12.4)
    assert command.minutes_of("chains", tmp_path) == "12 min"


def test_minutes_of_a_result_without_are_those_of_the_registry(tmp_path):
    write_result("benchmarks", {}, tmp_path)
    assert command.minutes_of("benchmarks", tmp_path) == "10 min"


def test_minutes_that_nobody_knows_are_not_told(tmp_path):
    assert command.minutes_of("floors", tmp_path) == "not timed"


# --------------------------------------------------------------------------------------- refusals


def test_an_unknown_experiment_is_named(call, capsys):
    with pytest.raises(SystemExit):
        call("chain")
    assert "there is no experiment chain" in capsys.readouterr().err


def test_several_unknown_experiments_are_all_named(call, capsys):
    with pytest.raises(SystemExit):
        call("chain", "floors", "flor")
    assert "there is no experiment chain, flor;" in capsys.readouterr().err


NAMES = [[], ["posterior"], ["posterior", "stability"]]


@pytest.mark.parametrize("names", NAMES)
def test_other_data_never_reach_the_committed_results(call, names, lab, unmeasurable):
    with pytest.raises(SystemExit, match="on MNIST"):
        call(*names)


ELSEWHERE = [["posterior", "--max-samples", "20"], ["tutorial", "--folder", "elsewhere"]]


@pytest.mark.parametrize("arguments", ELSEWHERE)
def test_small_or_foreign_measurements_need_a_folder_of_their_own(
    call, arguments, lab, unmeasurable
):
    with pytest.raises(SystemExit, match="name another --folder"):
        call(*arguments)


def test_few_samples_of_mnist_never_reach_the_committed_results(lab):
    mnist = lab._replace(digits=lab.digits._replace(name="MNIST"))
    with pytest.raises(SystemExit):
        command.check_committed(mnist)


def test_as_many_samples_of_other_data_never_reach_the_committed_results(lab):
    with pytest.raises(SystemExit):
        command.check_committed(lab._replace(max_samples=10_000))


def test_all_samples_of_mnist_may_be_committed(lab):
    mnist = lab.digits._replace(name="MNIST")
    command.check_committed(lab._replace(digits=mnist, max_samples=10_000))


def test_the_committed_folder_is_known_by_another_spelling(call, lab, unmeasurable):
    with pytest.raises(SystemExit, match="on MNIST"):
        call("posterior", "--folder", RESULTS / ".." / "results")


def test_other_data_may_be_measured_into_another_folder(call, lab, monkeypatch, tmp_path):
    floors = EXPERIMENTS["floors"]._replace(measure=lambda lab: {"data": lab.digits.name})
    monkeypatch.setitem(EXPERIMENTS, "floors", floors)
    call("floors", "--folder", tmp_path)
    assert read_result("floors", tmp_path)["data"] == uci_digits().name


# -------------------------------------------------------------------------------------- measuring


def test_without_names_the_evaluation_is_measured(call, lab, monkeypatch, tmp_path):
    measured = []
    monkeypatch.setattr(command, "run", lambda name, *_: measured.append(name))
    call("--folder", tmp_path)
    assert tuple(measured) == command.EVALUATION


def test_the_laboratory_is_opened_once(call, lab, monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr(laboratory, "open_laboratory", lambda n: opened.append(n) or lab)
    monkeypatch.setattr(command, "run", lambda *_: None)
    call("floors", "posterior", "--folder", tmp_path, "--max-samples", "30")
    assert opened == [30]


def test_an_experiment_without_data_opens_no_laboratory(call, example, monkeypatch, tmp_path):
    monkeypatch.setattr(laboratory, "open_laboratory", fail)
    call("example", "--folder", tmp_path)


def test_what_was_measured_is_written(call, example, tmp_path):
    call("example", "--folder", tmp_path)
    assert read_result("example", tmp_path)["x"] == 3.0


def test_a_result_says_how_many_minutes_it_took(call, example, tmp_path):
    call("example", "--folder", tmp_path)
    assert read_result("example", tmp_path)["minutes"] == 0.0


def test_the_minutes_are_printed(call, example, tmp_path):
    assert "example: 0.0 minutes" in call("example", "--folder", tmp_path)


def test_the_figure_is_drawn_after_measuring(call, example, tmp_path):
    call("example", "--folder", tmp_path)
    assert (tmp_path / "example.txt").read_text() == "3.0"


def test_figures_of_a_folder_called_results_go_beside_it(call, example, tmp_path):
    call("example", "--folder", tmp_path / "results")
    assert (tmp_path / "example.txt").exists()


def test_an_experiment_that_returns_nothing_leaves_no_result(call, monkeypatch, tmp_path):
    nothing = Experiment("trains something", lambda lab: None, laboratory=False)
    monkeypatch.setitem(EXPERIMENTS, "nothing", nothing)
    call("nothing", "--folder", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A file of a cache."""
    monkeypatch.setattr(laboratory, "CACHE", tmp_path / "cache")
    path = tmp_path / "cache" / "part"
    path.parent.mkdir()
    path.touch()
    return path


def test_fresh_forgets_parts_that_were_finished_before(call, example, kept, tmp_path):
    call("example", "--fresh", "--folder", tmp_path / "new")
    assert not kept.exists()


def test_otherwise_finished_parts_are_kept(call, example, kept, tmp_path):
    call("example", "--folder", tmp_path / "new")
    assert kept.exists()


# ---------------------------------------------------------------- tables, figures and comparison


def test_tables_are_written(call, monkeypatch):
    written = []
    monkeypatch.setattr(results, "keep_quick_results", lambda: written.append("quick runs"))
    monkeypatch.setattr(tables, "write_documents", lambda: written.append("tables"))
    call("tables")
    assert written == ["quick runs", "tables"]


def test_drawing_measures_nothing(call, unmeasurable, tmp_path):
    call("guidance", "--draw", "--folder", tmp_path)
    assert (tmp_path / "sbm_guidance.png").exists()


def test_drawing_takes_the_results_of_the_folder(call, example, tmp_path):
    write_result("example", {"x": 4.0}, tmp_path)
    call("example", "--draw", "--folder", tmp_path)
    assert (tmp_path / "example.txt").read_text() == "4.0"


def test_drawing_leaves_the_committed_figures_alone(call, tmp_path):
    before = (FIGURES / "sbm_guidance.png").stat().st_mtime_ns
    call("guidance", "--draw", "--folder", tmp_path)
    assert (FIGURES / "sbm_guidance.png").stat().st_mtime_ns == before


@pytest.fixture
def against(call, tmp_path, capsys):
    """What is printed where two folders share one result of two."""
    for folder, value in (("old", 2.0), ("new", 1.0)):
        write_result("a", {"x": value}, tmp_path / folder)
    write_result("b", {"x": 1.0}, tmp_path / "new")
    capsys.readouterr()
    return call("--against", tmp_path / "old", "--folder", tmp_path / "new")


def test_against_compares_what_both_folders_hold(against):
    assert "a: 2 numbers, 1 identical" in against


def test_against_names_the_numbers_that_differ(against):
    assert "/x: committed 2, now 1 (50.00%)" in against


def test_against_passes_over_what_one_folder_holds(against):
    assert "b:" not in against


def test_against_leaves_the_results_as_they_were(against, tmp_path):
    text = (tmp_path / "new" / "a.json").read_text(encoding="utf-8")
    assert json.loads(text)["x"] == 1.0
