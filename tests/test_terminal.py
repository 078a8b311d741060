"""What the terminal shows of notebooks: lines and bars, the table, an error."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from dgm import metrics, terminal
from dgm.runner import Failure

HALFWAY = {"prefix": "Training: ", "n": 50, "initial": 0, "total": 100, "elapsed": 60.0}
FLOOR = {"frechet_distance": 5.0}
GOOD = {"frechet_distance": 14.9, "precision": 0.8, "recall": 0.7, "share_confident": 0.96}
BAD = {"frechet_distance": 99.0, "precision": 0.9, "recall": 0.1, "share_confident": 0.99}


class Told(terminal.Story):
    """A story whose text can be read."""

    def __init__(self, **options):
        self.file = io.StringIO()
        super().__init__(Console(file=self.file, width=80, **options))

    @property
    def text(self):
        return self.file.getvalue()


@pytest.fixture
def plain():
    return Told()


@pytest.fixture
def live(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return Told(force_terminal=True)


def bar(n, **changes):
    return {"bar": {**HALFWAY, "n": n, **changes}}


def finished(name="EBM", n=1000, data="MNIST", **results):
    run = {"preset": "quick", "data": data, "figures": str(Path("runs/quick/assets").absolute())}
    output = Path("runs/notebooks") / f"{name}.ipynb"
    results = {"n": n, "floor": FLOOR, **results} if results else {}
    return terminal.Finished(name, 1.5, output, run, results)


def table_of(story, *notebooks):
    terminal.print_table(notebooks, story)
    return story.text


# ------------------------------------------------------------------------------- lines and bars


@pytest.mark.parametrize("seconds, text", [(5, "0:05"), (65.4, "1:05"), (3725, "1:02:05")])
def test_durations_are_written_as_a_clock_shows_them(seconds, text):
    assert terminal.clock(seconds) == text


def test_the_time_left_is_that_of_the_steps_to_come():
    assert terminal.bar_text(HALFWAY) == "50 of 100, 1:00, 1:00 left"


def test_the_time_left_of_a_resumed_run_comes_from_its_own_steps():
    resumed = {**HALFWAY, "n": 60, "initial": 50}
    assert terminal.bar_text(resumed) == "60 of 100, 1:00, 4:00 left"


def test_before_the_first_step_no_time_left_is_told():
    assert "left" not in terminal.bar_text({**HALFWAY, "n": 0})


def test_a_console_that_is_no_terminal_gets_plain_lines(plain):
    assert plain.plain


def test_a_terminal_gets_a_live_bar(live):
    assert not live.plain


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert Told(force_terminal=True).plain


def test_continuous_integration_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("CI", "true")
    assert Told(force_terminal=True).plain


def test_plain_lines_have_no_control_characters(plain):
    with plain.of_notebook("EBM.ipynb", "A title"):
        plain.enter("Training")
        plain.tell(bar(0))
        plain.tell(bar(100))
    assert plain.text.replace("\n", "").isprintable()


def test_a_bar_that_is_done_gets_a_plain_line(plain):
    plain.tell(bar(0))
    plain.tell(bar(100))
    assert plain.text == "    Training: 100 of 100, 1:00\n"


def test_a_bar_that_is_done_is_told_once(plain):
    for n in (0, 100, 100):
        plain.tell(bar(n))
    assert plain.text.count("100 of 100") == 1


def test_a_bar_that_has_just_begun_gets_no_plain_line(plain):
    plain.tell(bar(0))
    plain.tell(bar(1))
    assert plain.text == ""


def test_a_long_bar_gets_a_plain_line_now_and_then(plain, monkeypatch):
    plain.tell(bar(0))
    monkeypatch.setattr(terminal, "LINE_SECONDS", -1)
    plain.tell(bar(50))
    assert plain.text == "    Training: 50 of 100, 1:00, 1:00 left\n"


def test_a_live_bar_shows_the_time_left(live):
    live.enter("Training")
    live.tell(bar(50))
    live.console.print(live.live_part())
    assert "50 of 100, 1:00, 1:00 left" in live.text


def test_a_live_bar_that_is_done_goes_away(live):
    live.enter("Training")
    live.tell(bar(100))
    live.console.print(live.live_part())
    assert "100 of 100" not in live.text


def test_a_section_that_is_over_leaves_a_line_in_a_terminal(live):
    live.enter("Training")
    live.enter("Samples")
    assert live.text.split() == ["Training", "0:00"]


def test_what_a_run_reuses_is_told(plain):
    plain.tell({"note": "Resumed runs/quick/EBM-resume.pt"})
    assert "Resumed runs/quick/EBM-resume.pt" in plain.text


# ------------------------------------------------------------------------------------ the table


def test_chains_are_shown_at_the_length_with_the_least_distance():
    results = {"n": 1000, "chains": {"60": BAD, "500": GOOD}}
    assert terminal.main_metrics(results) == GOOD


def test_few_chains_are_shown_where_precision_and_recall_are_both_high():
    few = {key: value for key, value in GOOD.items() if key != "frechet_distance"}
    results = {"n": 100, "chains": {"60": BAD, "500": few}}
    assert terminal.main_metrics(results) == few


def test_of_equally_bad_chains_the_longest_are_shown():
    noise, useless = {**BAD, "recall": 0.0}, {**BAD, "precision": 0.0}
    assert terminal.main_metrics({"n": 100, "chains": {"0": noise, "60": useless}}) == useless


def test_conditional_samples_are_shown_with_guidance():
    results = {"n": 1000, "conditional": {"guidance": GOOD, "no_guidance": BAD}}
    assert terminal.main_metrics(results) == GOOD


def test_the_table_names_the_notebook_and_its_minutes(plain):
    assert "EBM           1.5" in table_of(plain, finished())


def test_the_table_has_the_label_accuracy(plain):
    conditional = {"guidance": {**GOOD, "label_accuracy": 0.987}}
    assert "98.7%" in table_of(plain, finished(conditional=conditional))


def test_the_table_has_the_distance_with_its_floor(plain):
    assert "14.9 (5.0)" in table_of(plain, finished(chains={"500": GOOD}))


def test_few_samples_are_the_same_number_everywhere():
    assert terminal.MIN_SAMPLES == metrics.MIN_SAMPLES


def test_the_table_has_no_distance_of_few_samples(plain):
    assert "14.9" not in table_of(plain, finished(n=499, chains={"500": GOOD}))


def test_the_table_says_why_there_is_no_distance(plain):
    assert "Too few samples" in table_of(plain, finished(n=499, chains={"500": GOOD}))


def test_the_table_names_the_executed_notebook(plain):
    assert "runs/notebooks/EBM.ipynb" in table_of(plain, finished())


def test_the_table_names_the_folder_of_the_figures(plain):
    assert " runs/quick/assets/" in table_of(plain, finished())


def test_the_table_fits_80_columns(plain):
    conditional = {"guidance": {**GOOD, "label_accuracy": 1.0}}
    text = table_of(plain, finished("score-based-model", conditional=conditional))
    assert max(map(len, text.splitlines())) <= 80


def test_runs_on_other_digits_are_named(plain):
    assert "UCI digits: EBM." in table_of(plain, finished(data="UCI digits"))


def test_runs_on_mnist_get_no_warning(plain):
    assert "UCI" not in table_of(plain, finished())


@pytest.fixture
def unmeasured():
    """A notebook that ran on data which the classifier does not know."""
    done = finished(conditional={}, chains={}, n=60)
    done.run.update(data="own-3f2a91", digits=False)
    return done


def test_without_metrics_the_table_has_dashes(plain, unmeasured):
    (row,) = (line for line in table_of(plain, unmeasured).splitlines() if line.startswith("EBM"))
    assert row.split() == ["EBM", "1.5", "–", "–", "–"]


def test_without_metrics_the_table_says_why(plain, unmeasured):
    text = table_of(plain, unmeasured)
    assert "No metrics for own-3f2a91: the digit classifier knows MNIST only." in text
    assert "Too few samples" not in text


# -------------------------------------------------------------------------------------- an error


@pytest.mark.parametrize("words", ["EBM.ipynb failed", "“Training”", "the end", "to do: run again"])
def test_an_error_says_where_what_and_what_to_do(words, plain):
    terminal.print_failure("EBM.ipynb", Failure("Training", "the end", "run again"), plain)
    assert words in plain.text


def test_a_stopped_notebook_is_not_called_failed(plain):
    failure = Failure("Training", "", "run again", interrupted=True)
    terminal.print_failure("EBM.ipynb", failure, plain)
    assert "EBM.ipynb stopped" in plain.text
