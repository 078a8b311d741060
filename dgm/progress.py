"""Progress bars: tqdm's for people, messages where dgm.runner executes the notebook."""

import io
import os

import tqdm.auto
import tqdm.std

RUNNER = "DGM_RUNNER"  # dgm.runner sets it in the environment of the kernels that it starts
MIME = "application/vnd.dgm.progress+json"


def report(**message):
    """Send a message to dgm.runner if it executes this notebook, else do nothing.

    It travels as an output of a type of its own, which the runner takes out of the notebook.
    """
    if os.environ.get(RUNNER):
        from IPython.display import publish_display_data

        publish_display_data({MIME: message})


class ReportedBar(tqdm.std.tqdm):
    """A bar that reports where it stands instead of drawing itself."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options, file=io.StringIO())

    def display(self, *_, **__):
        state = self.format_dict
        report(bar={key: state[key] for key in ("prefix", "n", "initial", "total", "elapsed")})


def open_bar(steps=None, **options):
    """Return a bar that goes away when done: tqdm's, or dgm.runner's if it is watching."""
    kind = ReportedBar if os.environ.get(RUNNER) else tqdm.auto.tqdm
    return kind(steps, leave=False, **options)


def progress_bar(steps, description, progress):
    """Return `steps`, with a bar where `progress` asks for it and TQDM_DISABLE is not set."""
    hidden = not progress or bool(os.environ.get("TQDM_DISABLE"))
    return steps if hidden else open_bar(steps, desc=description)
