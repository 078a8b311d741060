"""Terminal output of dgm.runner: progress of the notebooks, a table of results, errors.

A terminal shows a live bar. Other outputs, and those with CI=true, consist of plain lines.
"""

import os
import time
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table

MIN_SAMPLES = 500  # with fewer, a Fréchet distance is mostly estimation error
LINE_SECONDS = 10  # between two lines about the same bar in plain output


def clock(seconds):
    """Return a duration as m:ss or h:mm:ss."""
    return str(timedelta(seconds=round(seconds))).removeprefix("0:").removeprefix("0")


def bar_text(bar):
    """Return the state of a bar as text, with the time left once it can be estimated."""
    done, rest = bar["n"] - bar["initial"], bar["total"] - bar["n"]
    left = f", {clock(bar['elapsed'] / done * rest)} left" if done and rest else ""
    return f"{bar['n']:,} of {bar['total']:,}, {clock(bar['elapsed'])}{left}"


class Story:
    """Progress of the notebooks on a console, as a live bar or plain lines."""

    def __init__(self, console):
        live = console.is_terminal and not console.is_dumb_terminal and not os.environ.get("CI")
        self.console, self.plain = console, console.quiet or not live
        self.section, self.bar, self.began, self.last_line, self.run = None, None, 0.0, 0.0, {}

    def say(self, text, style=""):
        """Print a line above the live part, if there is one."""
        options = {"highlight": False, "markup": False, "soft_wrap": self.plain}
        self.console.print(text, style=style, **options)

    @contextmanager
    def of_notebook(self, name, title):
        """Print the title of a notebook and show its live part within the context."""
        self.say(f"{name}: {title}" if title else name, style="bold")
        self.section, self.bar, self.began, self.run = None, None, time.time(), {}
        options = {"console": self.console, "get_renderable": self.live_part, "transient": True}
        with nullcontext() if self.plain else Live(**options):
            yield
            self.enter(None)

    def enter(self, section):
        """Begin a section. In a terminal, the previous one leaves a line with its duration."""
        if section == self.section:
            return
        if self.section and not self.plain:
            self.say(f"  {self.section:<60} {clock(time.time() - self.began):>9}")
        if section and self.plain:
            self.say(f"  {section}")
        self.section, self.bar, self.began = section, None, time.time()

    def tell(self, message):
        """Show a message of the notebook (dgm.progress.report)."""
        if "run" in message:
            self.run = message["run"]
            self.say("    preset {preset}, {data}, {weights}".format(**self.run), style="dim")
        if "note" in message:
            self.say(f"    {message['note']}", style="dim")
        if "bar" in message:
            self.move(message["bar"])

    def move(self, bar):
        """Move the bar. In plain output, print a line from time to time and when it is done."""
        before, self.bar, now = self.bar, bar, time.time()
        begins, done = bar["n"] == bar["initial"], bar["n"] >= bar["total"]
        just_done = done and before is not None and before["n"] < before["total"]
        overdue = not begins and not done and now - self.last_line > LINE_SECONDS
        if self.plain and (just_done or overdue):
            self.say(f"    {bar['prefix'].rstrip(': ')}: {bar_text(bar)}")
        if begins or overdue:
            self.last_line = now

    def live_part(self):
        """Return the current section with its bar or elapsed time."""
        row = [Spinner("dots"), self.section or "Starting"]
        if self.bar and self.bar["n"] < self.bar["total"]:
            bar = ProgressBar(self.bar["total"], self.bar["n"], width=20)
            row += [bar, bar_text(self.bar)]
        else:
            row.append(clock(time.time() - self.began))
        grid = Table.grid(padding=(0, 1))
        grid.add_row(*row)
        return Padding(grid, (0, 0, 0, 1))


# ---------------------------------------------------------------------------------- the table


class Finished(NamedTuple):
    """A completed notebook: name, minutes, output file, reported run and results."""

    name: str
    minutes: float
    output: Path
    run: dict
    results: dict


def main_metrics(results):
    """Return the metrics of the conditional samples, else of the chains at their best length.

    The best length has the smallest Fréchet distance or, with few samples, the largest minimum of
    precision and recall. Ties go to the longest chain.
    """
    if "conditional" in results:
        return results["conditional"].get("guidance", {})
    chains = list(reversed(results.get("chains", {}).values()))
    if results.get("n", 0) >= MIN_SAMPLES:
        return min(chains, key=lambda found: found["frechet_distance"], default={})
    return max(chains, key=lambda found: min(found["precision"], found["recall"]), default={})


def table_row(done):
    """Return the row of a notebook in the table, as text."""
    metrics, n = main_metrics(done.results), done.results.get("n", 0)
    row = [done.name, f"{done.minutes:.1f}", "–", "–", "–"]
    if "label_accuracy" in metrics:
        row[2] = f"{metrics['label_accuracy']:.1%}"
    if metrics:
        row[3] = f"{metrics['share_confident']:.0%}"
    if metrics and n >= MIN_SAMPLES:
        floor = done.results["floor"]["frechet_distance"]
        row[4] = f"{metrics['frechet_distance']:.1f} ({floor:.1f})"
    return row


def relative(path):
    """Return a path relative to the working directory if it lies below it."""
    path = Path(path)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def print_table(finished, story):
    """Print the table of results and the locations of notebooks and figures."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("notebook", no_wrap=True)
    names = ("minutes", "label\naccuracy", "confident\nsamples", "Fréchet distance\n(floor)")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for done in finished:
        table.add_row(*table_row(done))
    story.say("")
    story.console.print(table)
    story.say("")
    measured = [done for done in finished if main_metrics(done.results)]
    if any(done.results["n"] < MIN_SAMPLES for done in measured):
        story.say(f"Too few samples for a Fréchet distance, which needs at least {MIN_SAMPLES}.")
    for done in finished:
        story.say(f"executed notebook  {relative(done.output)}")
    for folder in sorted({done.run["figures"] for done in finished if done.run}):
        story.say(f"figures            {relative(folder)}/")
    for data in sorted({d.run["data"] for d in finished if not d.run.get("digits", True)}):
        story.say(f"No metrics for {data}: the digit classifier knows MNIST only.")
    replaced = [done.name for done in finished if done.run.get("data") == "UCI digits"]
    if replaced:
        story.say(f"NOT MNIST but the UCI digits: {', '.join(replaced)}.", style="bold red")
        story.say(
            "These numbers say nothing about the models. The notebook's first output explains why."
        )


def print_failure(path, failure, story):
    """Print the section in which a notebook stopped, its last message and what to do."""
    what = "stopped" if failure.interrupted else "failed"
    story.say(f"\n{path} {what} in the section “{failure.section}”.", style="bold red")
    if failure.said:
        story.say(failure.said)
    story.say(f"What to do: {failure.advice}")
