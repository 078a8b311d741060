"""Progress bars: tqdm in a notebook, messages if dgm.runner executes the notebook."""

import io
import os

import tqdm.auto
import tqdm.std

RUNNER = "DGM_RUNNER"  # environment variable that dgm.runner sets for its kernels
MIME = "application/vnd.dgm.progress+json"


def report(**message):
    """Send a message to dgm.runner if it executes this notebook.

    The message is an output with its own MIME type, which the runner removes from the notebook.
    """
    if os.environ.get(RUNNER):
        from IPython.display import publish_display_data

        publish_display_data({MIME: message})


class ReportedBar(tqdm.std.tqdm):
    """A progress bar that reports its state instead of drawing itself."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options, file=io.StringIO())

    def display(self, *_, **__):
        state = self.format_dict
        report(bar={key: state[key] for key in ("prefix", "n", "initial", "total", "elapsed")})


def open_bar(steps=None, **options):
    """Return a bar that disappears when done: ReportedBar under dgm.runner, else tqdm's."""
    kind = ReportedBar if os.environ.get(RUNNER) else tqdm.auto.tqdm
    return kind(steps, leave=False, **options)


def progress_bar(steps, description, progress):
    """Return `steps`, with a bar if `progress` is true and TQDM_DISABLE is not set."""
    hidden = not progress or bool(os.environ.get("TQDM_DISABLE"))
    return steps if hidden else open_bar(steps, desc=description)
