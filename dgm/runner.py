"""Execution of notebooks with progress: `python -m dgm.runner NOTEBOOK ... --preset quick`.

A terminal shows the current section, a live bar and the time left. Other outputs, and those with
CI=true, consist of plain lines. A table of the results follows at the end.
"""

import argparse
import ast
import asyncio
import json
import os
import re
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from rich.console import Console

from dgm.progress import MIME, RUNNER
from dgm.terminal import Finished, Story, print_failure, print_table

LAST_LINES = 8  # of a traceback
FAILED, STOPPED = 1, 130  # exit statuses: an error, Ctrl-C
SET_UP = "Set-up"
GO_ON = "run the same command again. Training continues from the last save."
ADVICE = {
    "ModuleNotFoundError": "pip install -r requirements.txt, then " + GO_ON,
    "MemoryError": "free some memory or choose preset smoke, then " + GO_ON,
    "DeadKernelError": "memory probably ran out. Free some or choose preset smoke, then " + GO_ON,
}


# ------------------------------------------------------------------------------- the notebook


def inject(notebook, parameters):
    """Add a cell with the parameters after the one tagged `parameters`, else at the start."""
    if not parameters:
        return
    lines = ["# Parameters", *(f"{name} = {value!r}" for name, value in parameters.items())]
    cell = nbformat.v4.new_code_cell("\n".join(lines), metadata={"tags": ["injected-parameters"]})
    tagged = [i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", [])]
    notebook.cells.insert(tagged[0] + 1 if tagged else 0, cell)


def parameters_of(path):
    """Return the names that a notebook's parameters cell assigns, in order."""
    cells = nbformat.read(path, as_version=4).cells
    tagged = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    nodes = ast.parse("\n".join(tagged)).body
    return [node.targets[0].id for node in nodes if isinstance(node, ast.Assign)]


def headings(cell):
    """Return the headings (level, text) of a markdown cell, without emphasis and code marks."""
    if cell.cell_type != "markdown":
        return []
    text = re.sub(r"^```.*?^```", "", cell.source, flags=re.M | re.S)
    found = re.findall(r"^(#+) +(.+?) *#*$", text, re.M)
    return [(len(marks), re.sub(r"[*`]", "", words)) for marks, words in found]


def title_of(notebook):
    """Return the notebook's first heading, or "" if there is none."""
    return next((text for cell in notebook.cells for _, text in headings(cell)), "")


def sections_of(notebook):
    """Return the section heading of each cell; it is SET_UP before the first section."""
    names, current = [], SET_UP
    for cell in notebook.cells:
        found = [text for level, text in headings(cell) if level > 1]
        current = found[-1] if found else current
        names.append(current)
    return names


# ---------------------------------------------------------------------------------- execution


class Failure(Exception):
    """An incomplete notebook: its section, last message and advice."""

    def __init__(self, section, said, advice, interrupted=False):
        super().__init__(section, said, advice)
        self.section, self.said, self.advice = section, said, advice
        self.interrupted = interrupted


class Client(NotebookClient):
    """A client that passes the notebook's reports to the story instead of the outputs."""

    story = None

    def process_message(self, msg, cell, cell_index):
        report = msg["content"].get("data", {}).get(MIME)
        if report is None or msg["msg_type"] != "display_data":
            return super().process_message(msg, cell, cell_index)
        return self.story.tell(report)


class Execution:
    """A notebook executed in its own thread, so that the main thread receives Ctrl-C."""

    def __init__(self, notebook, folder, story):
        self.notebook, self.story, self.section = notebook, story, SET_UP
        self.error, self.interrupts, self.ended = None, 0, threading.Event()
        self.loop = asyncio.SelectorEventLoop()  # required by Jupyter's sockets on Windows
        options = {"timeout": None, "kernel_name": "python3", "record_timing": False}
        resources = {"metadata": {"path": str(folder)}}
        self.client = Client(notebook, resources=resources, **options)
        self.client.story = story

    def run(self):
        """Execute all cells. Raises Failure if a cell fails, if the kernel dies, or on Ctrl-C."""
        threading.Thread(target=self.work).start()
        while not self.ended.is_set():
            try:
                while not self.ended.wait(0.2):  # Windows cannot interrupt one long wait
                    pass
            except KeyboardInterrupt:
                self.interrupt()
        if self.error is not None:
            raise self.error

    def work(self):
        """Execute all cells and keep an error for the main thread."""
        with tempfile.TemporaryFile() as log:
            try:
                self.loop.run_until_complete(self.execute_cells(log))
            except Exception as error:
                log.seek(0)
                self.error = self.failure(error, log.read().decode(errors="replace"))
            finally:
                self.loop.close()
                self.ended.set()

    async def execute_cells(self, log):
        """Execute cell by cell, with the kernel's own output in the file `log`."""
        options = {"env": {**os.environ, RUNNER: "1"}, "stdout": log, "stderr": log}
        async with self.client.async_setup_kernel(**options):
            for index, section in enumerate(sections_of(self.notebook)):
                cell = self.notebook.cells[index]
                if cell.cell_type == "code":
                    self.section = section
                    self.story.enter(section)
                    await self.client.async_execute_cell(cell, index)
                if self.interrupts:
                    raise InterruptedError
        self.client.set_widgets_metadata()

    def interrupt(self):
        """Pass the first Ctrl-C to the kernel, which saves its training; the second kills it."""
        self.interrupts += 1
        if self.interrupts == 1:
            self.story.say("  Stopping (press Ctrl-C again to stop without saving) ...")
        manager = self.client.km
        if manager is not None and manager.has_kernel:
            end = self.interrupts > 1
            work = manager.shutdown_kernel(now=True) if end else manager.interrupt_kernel()
            asyncio.run_coroutine_threadsafe(work, self.loop)

    def failure(self, error, log):
        """Return the Failure for an exception; `log` is the kernel's own output."""
        kind, said = type(error).__name__, f"{log}\n{error}"
        if isinstance(error, CellExecutionError):
            kind, said = error.ename, error.traceback
        if self.interrupts:
            said = error.evalue if kind == "KeyboardInterrupt" else ""
            return Failure(self.section, said, GO_ON, interrupted=True)
        lines = re.sub(r"\x1b\[[0-9;]*m", "", said).strip().splitlines()[-LAST_LINES:]
        begun = self.section != SET_UP
        other = "see the last line above, then " + GO_ON if begun else "see the last line above."
        advice = ADVICE.get(kind, other)
        return Failure(self.section, "\n".join(lines), advice)


def results_of(name, run, since):
    """Return the results that a notebook wrote beside its figures, {} if it wrote none."""
    path = Path(run.get("figures", "")) / "results" / f"{name}.json"
    if not path.exists() or path.stat().st_mtime < since:
        return {}
    return json.loads(path.read_text(encoding="utf-8"))


def execute(path, output, parameters, story=None):
    """Execute a notebook in its own folder and write it to `output`, even if it fails.

    Returns the run that it reported (preset, data, figures), {} if none. Raises Failure.
    """
    notebook, story = nbformat.read(path, as_version=4), story or Story(Console(quiet=True))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    inject(notebook, parameters)
    try:
        with story.of_notebook(Path(path).name, title_of(notebook)):
            Execution(notebook, Path(path).resolve().parent, story).run()
    finally:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, output)
    return story.run


# --------------------------------------------------------------------------------- the command


def parameter(text):
    """Return (name, value) of `name=value`; a value that is no Python literal is a string."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def parse_arguments(arguments):
    parser = argparse.ArgumentParser("python -m dgm.runner", description=__doc__.splitlines()[0])
    parser.add_argument(
        "notebooks", nargs="+", type=Path, metavar="NOTEBOOK", help="executed one after another"
    )
    parser.add_argument("--preset", help="smoke, quick, full or auto")
    parser.add_argument("--pretrained", action="store_true", help="load the committed weights")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=parameter,
        metavar="NAME=VALUE",
        help="set a parameter of the notebook, for example data=mine.npz",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("runs/notebooks"),
        metavar="FOLDER",
        help="where the executed notebooks go (default: %(default)s)",
    )
    asked = parser.parse_args(arguments)
    for path in asked.notebooks:
        if not path.is_file():
            parser.error(f"there is no notebook {path}")
        try:
            known = parameters_of(path)
        except (ValueError, nbformat.ValidationError) as error:
            parser.error(f"{path} cannot be read as a notebook ({type(error).__name__})")
        for name, _ in asked.set:
            if known and name not in known:
                parser.error(f"{path} has no parameter {name}: set one of {', '.join(known)}")
    asked.parameters = {"preset": asked.preset} if asked.preset else {}
    asked.parameters |= {"pretrained": True} if asked.pretrained else {}
    asked.parameters |= dict(asked.set)
    return asked


def main(arguments=None):
    """Execute notebooks one after another; return the exit status."""
    asked, story, finished = parse_arguments(arguments), Story(Console()), []
    unfinished, failure = asked.output / "unfinished.ipynb", None
    for path in asked.notebooks:
        started = time.time()
        try:
            run = execute(path, unfinished, asked.parameters, story)
        except Failure as error:
            failure = error
            break
        suffix = "-demo" if asked.pretrained else ""
        if not run.get("digits", True):
            suffix = f"-{run['data']}"
        output = asked.output / f"{path.stem}{suffix}.ipynb"
        os.replace(unfinished, output)
        results = results_of(path.stem, run, started)
        finished.append(Finished(path.stem, (time.time() - started) / 60, output, run, results))
    if finished:
        print_table(finished, story)
    if failure is not None:
        print_failure(path, failure, story)
        story.say(f"Incomplete notebook: {unfinished}")
        return STOPPED if failure.interrupted else FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
