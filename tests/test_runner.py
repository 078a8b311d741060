"""The runner: small notebooks executed, interrupted, and failing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from dgm import runner

ROOT = Path(__file__).parents[1]
PARAMETERS = {"tags": ["parameters"]}
TRAIN = """
import json
from pathlib import Path
from dgm.progress import progress_bar, report
run = {"preset": preset, "data": "UCI digits", "weights": "weights from here"}
report(run={**run, "figures": str(Path("figures").absolute())})
report(note="Resumed nothing.")
print("the kernel's own output")
for _ in progress_bar(range(3), "Training", True):
    pass
metrics = {"label_accuracy": 0.875, "share_confident": 0.75}
Path("figures/results").mkdir(parents=True)
results = {"n": 100, "conditional": {"guidance": metrics}}
Path("figures/results/good.json").write_text(json.dumps(results))
"""
WAIT = """
import time
from dgm.progress import report
try:
    report(note="waiting")
    time.sleep(60)
except KeyboardInterrupt:
    Path("saved").touch()
    raise KeyboardInterrupt("Stopped at update 3, all kept")
"""


class Told(NamedTuple):
    """How a command ended, and what it wrote."""

    status: int
    out: str
    err: str


def notebook(**cells):
    """Return a notebook with a title, parameters and a section for each keyword."""
    title = new_markdown_cell("# A *title*\n\n```\n# no heading\n```")
    parameters = new_code_cell("preset = 'auto'\npretrained = False", metadata=PARAMETERS)
    found = [title, parameters, new_code_cell("from pathlib import Path")]
    for name, code in cells.items():
        found += [new_markdown_cell(f"## The `{name}`\n\nWords."), new_code_cell(code)]
    return new_notebook(cells=found)


def start(folder, *arguments):
    """Start the command in a folder, without a terminal."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dgm.runner", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    options = {"cwd": folder, "env": environment, "encoding": "utf-8", **pipes}
    return subprocess.Popen(command, preexec_fn=hear_ctrl_c, **options)


def hear_ctrl_c():
    """Undo what a shell does to jobs in the background: they would not hear Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def command(folder, *arguments):
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=120)
    return Told(process.returncode, out, err)


def text_of(path):
    """Return all that an executed notebook printed."""
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


# ------------------------------------------------------------------------------- the notebook


def test_parameters_come_right_after_the_tagged_cell():
    found = notebook()
    runner.inject(found, {"preset": "smoke", "pretrained": True})
    assert found.cells[2].source == "# Parameters\npreset = 'smoke'\npretrained = True"


def test_the_injected_cell_is_tagged_as_such():
    found = notebook()
    runner.inject(found, {"preset": "smoke"})
    assert found.cells[2].metadata.tags == ["injected-parameters"]


def test_without_a_tagged_cell_parameters_come_first():
    found = new_notebook(cells=[new_code_cell("1")])
    runner.inject(found, {"preset": "smoke"})
    assert "smoke" in found.cells[0].source


def test_without_parameters_no_cell_is_added():
    found = notebook()
    runner.inject(found, {})
    assert len(found.cells) == 3


def test_parameters_are_the_names_that_the_tagged_cell_assigns(tmp_path):
    nbformat.write(notebook(), tmp_path / "a.ipynb")
    assert runner.parameters_of(tmp_path / "a.ipynb") == ["preset", "pretrained"]


def test_an_unknown_parameter_is_refused(tmp_path, capsys):
    nbformat.write(notebook(), tmp_path / "a.ipynb")
    with pytest.raises(SystemExit):
        runner.parse_arguments([str(tmp_path / "a.ipynb"), "--set", "sed=3"])
    assert "has no parameter sed: set one of preset, pretrained" in capsys.readouterr().err


def test_a_file_that_is_no_notebook_is_refused(tmp_path, capsys):
    (tmp_path / "a.ipynb").write_text("no notebook", encoding="utf-8")
    with pytest.raises(SystemExit):
        runner.parse_arguments([str(tmp_path / "a.ipynb")])
    assert "a.ipynb cannot be read as a notebook" in capsys.readouterr().err


def test_the_title_is_the_first_heading():
    assert runner.title_of(notebook()) == "A title"


def test_a_cell_belongs_to_the_heading_above_it():
    assert runner.sections_of(notebook(model="1", samples="2"))[-3] == "The model"


def test_cells_below_the_title_set_up():
    assert runner.sections_of(notebook())[-1] == "Set-up"


@pytest.mark.parametrize(
    "text, value",
    [
        ("smoke", "smoke"),
        ("3", 3),
        ("True", True),
        ("a/b c.npz", "a/b c.npz"),
        ("~/1.npz", "~/1.npz"),
    ],
)
def test_a_parameter_is_a_literal_or_a_string(text, value):
    assert runner.parameter(f"name={text}") == ("name", value)


@pytest.mark.parametrize("text", ["preset", "a b=1"])
def test_a_parameter_without_name_or_value_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        runner.parse_arguments(["EBM.ipynb", "--set", text])
    assert "is not NAME=VALUE" in capsys.readouterr().err


def test_a_notebook_that_is_not_there_is_named(capsys):
    with pytest.raises(SystemExit):
        runner.parse_arguments(["nowhere.ipynb"])
    assert "there is no notebook nowhere.ipynb" in capsys.readouterr().err


# ------------------------------------------------------------------------- a notebook that works


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("good")


@pytest.fixture(scope="module")
def good(folder):
    """What the command tells of a notebook that works."""
    nbformat.write(
        notebook(model="print(preset, pretrained)", training=TRAIN), folder / "good.ipynb"
    )
    return command(folder, "good.ipynb", "--preset", "smoke", "--pretrained")


def test_a_notebook_that_works_ends_with_status_0(good):
    assert good.status == 0


def test_the_notebook_is_named_with_its_title(good):
    assert good.out.startswith("good.ipynb: A title\n")


@pytest.mark.parametrize("heading", ["Set-up", "The model", "The training"])
def test_headings_are_shown(heading, good):
    assert f"\n  {heading}\n" in good.out


def test_progress_is_told_in_lines(good):
    assert "    Training: 3 of 3, 0:00\n" in good.out


def test_the_run_is_told_with_its_weights(good):
    assert "    preset smoke, UCI digits, weights from here\n" in good.out


def test_what_the_run_reuses_is_told(good):
    assert "    Resumed nothing.\n" in good.out


def test_nothing_is_written_to_the_terminal_by_the_kernel(good):
    assert good.err == ""


def test_outputs_of_cells_stay_in_the_notebook(good):
    assert "kernel's own output" not in good.out


def test_the_table_has_what_the_results_file_says(good):
    assert "87.5%" in good.out


def test_the_command_says_which_data_replaced_mnist(good):
    assert "NOT MNIST but the UCI digits: good." in good.out


def test_the_executed_notebook_lies_in_runs(good, folder):
    assert (folder / "runs/notebooks/good-demo.ipynb").exists()


def test_no_unfinished_notebook_is_left(good, folder):
    assert not (folder / "runs/notebooks/unfinished.ipynb").exists()


def test_parameters_reach_the_notebook(good, folder):
    assert "smoke True\n" in text_of(folder / "runs/notebooks/good-demo.ipynb")


def test_reports_leave_no_output_in_the_notebook(good, folder):
    text = (folder / "runs/notebooks/good-demo.ipynb").read_text(encoding="utf-8")
    assert "application/vnd.dgm" not in text


def test_results_of_an_earlier_run_are_not_shown(folder, good):
    run = {"figures": str(folder / "figures")}
    assert runner.results_of("good", run, since=time.time() + 60) == {}


def test_a_notebook_on_other_data_is_kept_apart(tmp_cwd, monkeypatch):
    run = {"data": "own-3f2a91", "digits": False, "figures": str(tmp_cwd)}

    def execute(path, output, parameters, story):
        assert parameters == {"data": "own.npz"}
        output.parent.mkdir(parents=True)
        output.touch()
        return run

    monkeypatch.setattr(runner, "execute", execute)
    nbformat.write(nbformat.v4.new_notebook(), tmp_cwd / "EBM.ipynb")
    assert runner.main(["EBM.ipynb", "--set", "data=own.npz"]) == 0
    assert Path("runs/notebooks/EBM-own-3f2a91.ipynb").exists()


# --------------------------------------------------------------------------- a notebook that fails


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    failing = notebook(model="raise ValueError('the cause')", samples="print('never')")
    failing.cells[-1].outputs = [nbformat.v4.new_output("stream", text="of an earlier run")]
    nbformat.write(failing, folder / "broken.ipynb")
    return folder


@pytest.fixture(scope="module")
def failed(broken):
    """What the command tells of two notebooks, the first of which fails."""
    return command(broken, "broken.ipynb", "broken.ipynb")


def test_an_error_ends_with_status_1(failed):
    assert failed.status == 1


def test_an_error_names_the_heading_of_its_cell(failed):
    assert "broken.ipynb failed in the section “The model”." in failed.out


def test_an_error_shows_the_end_of_the_traceback(failed):
    assert "\nValueError: the cause\n" in failed.out


def test_an_error_is_shown_without_colour_codes(failed):
    assert "\x1b" not in failed.out


def test_an_error_says_what_to_do(failed):
    assert "run the same command again" in failed.out


def test_no_notebook_is_begun_after_an_error(failed):
    assert failed.out.count("broken.ipynb: A title") == 1


def test_an_error_is_kept_in_the_unfinished_notebook(failed, broken):
    text = (broken / "runs/notebooks/unfinished.ipynb").read_text(encoding="utf-8")
    assert "the cause" in text


def test_cells_that_were_not_reached_have_no_outputs(failed, broken):
    assert "of an earlier run" not in text_of(broken / "runs/notebooks/unfinished.ipynb")


def test_a_missing_module_is_said_to_be_installable(tmp_path):
    nbformat.write(notebook(model="import no_such_module"), tmp_path / "a.ipynb")
    with pytest.raises(runner.Failure) as failure:
        runner.execute(tmp_path / "a.ipynb", tmp_path / "b.ipynb", {})
    assert failure.value.advice.startswith("pip install -r requirements.txt")


def test_an_error_in_the_set_up_does_not_speak_of_training(tmp_path):
    found = notebook()
    found.cells[-1].source = "raise ValueError('preset must be smoke')"
    nbformat.write(found, tmp_path / "a.ipynb")
    with pytest.raises(runner.Failure) as failure:
        runner.execute(tmp_path / "a.ipynb", tmp_path / "b.ipynb", {})
    assert failure.value.advice == "see the last line above."


def test_a_kernel_that_dies_is_said_to_lack_memory(tmp_path):
    nbformat.write(notebook(model="import os; os._exit(1)"), tmp_path / "a.ipynb")
    with pytest.raises(runner.Failure) as failure:
        runner.execute(tmp_path / "a.ipynb", tmp_path / "b.ipynb", {})
    assert "memory" in failure.value.advice


# -------------------------------------------------------------------------------------- Ctrl-C


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted")
    nbformat.write(notebook(training=WAIT, samples="print('never')"), folder / "long.ipynb")
    return folder


@pytest.fixture(scope="module")
def stopped(interrupted):
    """What the command tells when Ctrl-C comes while a cell runs."""
    process, told = start(interrupted, "long.ipynb"), ""
    while "waiting" not in told:
        told += process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return Told(process.returncode, told + out, err)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT can be sent there")
class TestStopped:
    def test_ctrl_c_ends_with_its_own_status(self, stopped):
        assert stopped.status == 130

    def test_ctrl_c_reaches_the_notebook(self, stopped, interrupted):
        assert (interrupted / "saved").exists()

    def test_ctrl_c_shows_what_the_training_kept(self, stopped):
        assert "\nStopped at update 3, all kept\n" in stopped.out

    def test_ctrl_c_names_the_section(self, stopped):
        assert "long.ipynb stopped in the section “The training”." in stopped.out

    def test_ctrl_c_says_how_to_go_on(self, stopped):
        assert "What to do: run the same command again" in stopped.out

    def test_ctrl_c_shows_no_traceback(self, stopped):
        assert "Traceback" not in stopped.out + stopped.err

    def test_ctrl_c_ends_the_notebook(self, stopped, interrupted):
        assert "never" not in text_of(interrupted / "runs/notebooks/unfinished.ipynb")
