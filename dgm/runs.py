"""Notebook runs: presets, folders, the resumable training loop, checkpoints, result files."""

import hashlib
import json
import math
import os
import signal
import subprocess
import threading
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from dgm.checks import check_chains, check_flag
from dgm.data import DIGITS, check_pretrained
from dgm.device import hardware_name, peak_memory
from dgm.progress import open_bar, report

PRESETS = ("smoke", "quick", "full")
RESULTS_FORMAT = 2  # version of the result files


def checkpoints_folder():
    """Return the folder of the committed weights, in the repository or the installed package."""
    here = Path(__file__).resolve().parent
    repository = here.parent / "checkpoints"
    return repository if repository.is_dir() else here / "checkpoints"


CHECKPOINTS = checkpoints_folder()

# ----------------------------------------------------------------------- presets and folders


class Run(NamedTuple):
    """The settings and folders of a notebook's run.

    With `publish`, figures go to assets/ and weights to checkpoints/. Otherwise everything goes
    to `folder`.
    """

    name: str
    preset: str
    pretrained: bool
    publish: bool
    folder: Path
    data: str = "MNIST"

    @property
    def checkpoint(self):
        return self.folder / f"{self.name}-resume.pt"

    @property
    def figures(self):
        return Path("assets") if self.publish else self.folder / "assets"


def open_run(name, preset="auto", pretrained=False, data="MNIST", device="cpu", publish=None):
    """Choose preset and folders, print them, and check that the folders are writable.

    `publish` (default: PUBLISH=1 in the environment) makes a full run with the committed weights
    write to assets/, like a `full` training on MNIST. Every other run writes below runs/. Raises
    ValueError for an unknown preset or for committed weights on data other than digits, OSError
    for a folder that is not writable.
    """
    check_flag(pretrained, "pretrained")
    republish = os.environ.get("PUBLISH") == "1" if publish is None else publish
    check_flag(republish, "publish")
    pretrained = pretrained or republish
    check_pretrained(pretrained, data)
    if preset not in ("auto", *PRESETS):
        raise ValueError(
            f"preset must be auto, smoke, quick or full, not {preset!r}: choose one of these"
        )
    if preset == "auto":
        preset = "full" if republish or torch.device(device).type == "cuda" else "quick"
    folder = f"demo-{preset}" if pretrained and not republish else preset
    if data != "MNIST":
        folder = f"{folder}-{data.replace(' ', '-').lower()}"
    publish = preset == "full" and data == "MNIST" and (republish or not pretrained)
    run = Run(name, preset, pretrained, publish, Path("runs") / folder, data)
    check_writable(run.folder, run.figures, *([CHECKPOINTS] if publish and not pretrained else []))
    training = f"training from scratch, or resuming from {run.folder}/"
    weights = "weights from checkpoints/" if pretrained else training
    places = f"{weights}; figures go to {run.figures}/. {hardware_name()}."
    print(f"{name}: preset {preset}, {data}, {places}")
    what = {"preset": preset, "data": data, "weights": weights, "digits": data in DIGITS}
    report(run={**what, "figures": str(run.figures.absolute())})
    return run


def check_writable(*folders):
    """Create the folders; raise OSError unless every one is writable."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".writable").touch()
            (folder / ".writable").unlink()
        except OSError as error:
            raise OSError(
                f"cannot write to {folder}/: {error}. Run elsewhere; nothing was lost."
            ) from error


def partner_folder(name, run):
    """Return this run's folder or, for digits, checkpoints/, if a notebook's weights are there."""
    folders = (run.folder, CHECKPOINTS) if run.data in DIGITS else (run.folder,)
    return next((folder for folder in folders if (folder / f"{name}.pt").exists()), None)


# -------------------------------------------------------------------------------------- files


@contextmanager
def whole_file(path):
    """Yield a temporary path that replaces `path` after it has been written completely."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_atomically(contents, path):
    """Write with torch.save; a failure leaves the old file in place."""
    with whole_file(path) as temporary:
        torch.save(contents, temporary)


def write_json(contents, path):
    """Write JSON; a failure leaves the old file in place.

    Raises ValueError for NaN or infinity.
    """
    text = json.dumps(contents, indent=1, allow_nan=False, default=as_plain) + "\n"
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def load_checkpoint(path, kind, device="cpu"):
    """Read a file written by this module, with weights_only=True.

    Raises ValueError if it is half-written, not of this project, or of another kind.
    """
    restore_it = "Restore it (from git if it was committed)."
    cure = "Delete it to start again." if kind == "run" else restore_it
    try:
        if zipfile.ZipFile(path).testzip():
            raise ValueError("a checksum is wrong")
        contents = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no checkpoint {path}") from None
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}): it is half-written or not a "
            f"checkpoint. {cure}"
        ) from error
    if not isinstance(contents, dict) or contents.get("kind") != kind:
        raise ValueError(f"{path} is not a {kind} checkpoint of this project. {cure}")
    return contents


# ------------------------------------------------------------------------- the resumable loop


@contextmanager
def deferred_interrupt():
    """Turn the first Ctrl-C into a flag that a loop checks; a second one stops at once."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def on_interrupt(*_):
        flag.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, previous)


def training_steps(
    total, path, settings, history, state, lines=10, check_every=50, save_seconds=60
):
    """Yield the numbers of the remaining updates out of `total`, and save the run between them.

    `state` is {name: part} with everything a resumed run needs: modules, optimizers, other objects
    with a state_dict, and generators. `history` is {name: list}; the caller appends one scalar
    tensor per update to each list. The loop resumes from `path` if it exists, saves there every
    minute, at the end and on Ctrl-C (then it raises KeyboardInterrupt), and prints `lines` lines.
    On a CPU, a resumed run equals an uninterrupted one bit for bit. Raises FloatingPointError for
    NaN or infinity and keeps the last good checkpoint; raises ValueError if `path` has a run with
    other settings or another seed.
    """
    settings = {**{key: as_plain(value) for key, value in settings.items()}, **seeds_of(state)}
    done, seconds = 0, 0.0
    if Path(path).exists():
        done, seconds = restore(path, settings, history, state)
        rest = ": nothing left to train." if done >= total else "."
        note = f"Resumed {path} at update {done:,} of {total:,}{rest}"
        print(note)
        report(note=note)
    checked, last_save = done, time.perf_counter()
    clock = last_save - seconds
    options = {"total": total, "initial": done, "desc": "Training"}
    with deferred_interrupt() as interrupted, open_bar(**options, disable=not lines) as bar:
        for update in range(done, total):
            yield update
            done = update + 1
            bar.update()
            line = done * lines // total > update * lines // total
            overdue = time.perf_counter() - last_save > save_seconds
            save = interrupted.is_set() or done == total or overdue
            if save or line or done % check_every == 0:
                check_history(history, checked, done, path)
                checked = done
            if save:
                last_save = time.perf_counter()
                save_run(path, done, last_save - clock, settings, history, state)
            if line:
                seconds = time.perf_counter() - clock
                print(history_line(history, done, total, lines, seconds))
            if interrupted.is_set():
                raise KeyboardInterrupt(
                    f"Stopped at update {done:,} of {total:,}, everything is saved: "
                    f"run again to resume from {path}"
                )


def as_plain(value):
    """Convert a NumPy number or a path to a plain value; return other plain values unchanged.

    Raises TypeError for values that a checkpoint or a result file cannot store.
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str, list, tuple, dict)):
        return value
    kind = type(value).__name__
    raise TypeError(f"settings and results must be numbers or text, not {kind}: convert it")


def seeds_of(state):
    """Return the seeds of all generators in `state`; they belong to the settings of a run."""
    return {
        f"seed of the {name}": part.initial_seed()
        for name, part in state.items()
        if isinstance(part, torch.Generator)
    }


def history_line(history, done, total, lines, seconds):
    """Return a progress line with the mean of each history since the last line."""
    first = max(done - max(total // lines, 1), 0)
    means = [f"{name} {np.mean(values[first:done]):.4f}" for name, values in history.items()]
    return f"update {done:,}/{total:,}  {'  '.join(means)}  {seconds / 60:.1f} min"


def check_history(history, first, last, path):
    """Convert the scalar tensors first..last of each list to numbers, in one transfer.

    Raises FloatingPointError if one is not finite, ValueError if a list has the wrong length.
    """
    for name, values in history.items():
        if len(values) != last:
            raise ValueError(
                f"history[{name!r}] has {len(values)} entries after {last} updates: "
                "append one per update"
            )
        if last > first:
            scalars = [torch.as_tensor(v).detach().float() for v in values[first:]]
            values[first:] = torch.stack(scalars).tolist()
        bad = next((i for i in range(first, last) if not math.isfinite(values[i])), None)
        if bad is not None:
            saved = Path(path).exists()
            kept = f"The last good state is in {path}" if saved else "No state had been saved yet"
            raise FloatingPointError(
                f"Training went non-finite: {name} is {values[bad]} at update {bad + 1}. "
                f"{kept}. Try a lower learning rate, smaller steps, or another seed."
            )


def save_run(path, update, seconds, settings, history, state):
    """Write everything that a resumed run needs.

    Raises FloatingPointError without writing if a weight is not finite.
    """
    parts = {}
    for name, part in state.items():
        is_generator = isinstance(part, torch.Generator)
        parts[name] = part.get_state() if is_generator else part.state_dict()
        if isinstance(part, nn.Module) and not weights_are_finite(part):
            raise FloatingPointError(
                f"A weight of {name} went non-finite by update {update}; {path} was not changed."
            )
    histories = {k: torch.tensor(values, dtype=torch.float64) for k, values in history.items()}
    contents = {
        "kind": "run",
        "update": update,
        "seconds": seconds,
        "settings": settings,
        "history": histories,
        "hardware": hardware_name(),
        "state": parts,
    }
    save_atomically(contents, path)


def weights_are_finite(module):
    return all(torch.isfinite(p).all() for p in module.parameters())


def restore(path, settings, history, state):
    """Restore the saved state of a run; return (completed updates, seconds of training).

    Raises ValueError if the saved run has other settings or parts.
    """
    saved = load_checkpoint(path, "run")
    theirs = saved["settings"]
    differing = [k for k in {*settings, *theirs} if settings.get(k) != theirs.get(k)]
    if differing or set(saved["state"]) != set(state):
        what = ", ".join(sorted(differing)) or "its parts"
        raise ValueError(
            f"{path} belongs to a run that differs in {what}: delete or rename it to start again."
        )
    try:
        for name, part in state.items():
            if isinstance(part, torch.Generator):
                part.set_state(saved["state"][name].cpu())
            else:
                part.load_state_dict(saved["state"][name])
        for name in history:
            history[name][:] = saved["history"][name].tolist()
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not fit this run: delete or rename it to start again. ({error})"
        ) from error
    return saved["update"], saved["seconds"]


# ---------------------------------------------------------------------------- finished runs


def as_bytes(chains, n=1000):
    """Return at most n chains [n, 1, 28, 28] from evenly spaced slots, as uint8."""
    chains, last = check_chains(chains), len(chains) - 1
    slots = torch.linspace(0, last, min(n, len(chains)), device=chains.device).long()
    return (chains[slots].clamp(0, 1) * 255).round().byte().cpu()


def save_pretrained(run, model, chains=None, before=None):
    """Write a finished run as a small file and return its contents.

    The file has half-precision weights, history, settings and, for an energy, 1,000 chains as
    uint8. It goes to the run's folder and, with `run.publish`, also to checkpoints/. History,
    updates and minutes include those of `before`, the record of an earlier phase.
    """
    saved = load_checkpoint(run.checkpoint, "run")
    weights = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    contents = {
        "kind": "pretrained",
        "network": type(model).__name__,
        "network_settings": model.settings,
        "weights": {k: v.cpu() for k, v in weights.items()},
        "preset": run.preset,
        "settings": saved["settings"],
        "history": {name: values.half() for name, values in saved["history"].items()},
        "updates": saved["update"],
        "minutes": saved["seconds"] / 60,
        "hardware": saved["hardware"],
    }
    if before is not None:
        contents |= {key: before[key] + contents[key] for key in ("updates", "minutes")}
        for name, values in contents["history"].items():
            earlier = torch.as_tensor(before["history"][name]).to(values)
            contents["history"][name] = torch.cat([earlier, values])
    if chains is not None:
        contents["chains"] = as_bytes(chains)
    for folder in (run.folder, *([CHECKPOINTS] if run.publish else [])):
        save_atomically(contents, folder / f"{run.name}.pt")
    return contents


def load_record(name, device, folder=None):
    """Return (path, record) of a committed run, with the history as arrays.

    record["digest"] identifies the file; record["label"] names preset, minutes and hardware.
    """
    path = Path(folder or CHECKPOINTS) / f"{name}.pt"
    if not path.exists():
        names = ", ".join(sorted({p.stem for p in path.parent.glob("*.pt")} - {"classifier"}))
        raise FileNotFoundError(f"there is no {path}: pass one of these names: {names or 'none'}")
    record = load_checkpoint(path, "pretrained", device)
    record["history"] = {k: v.float().cpu().numpy() for k, v in record["history"].items()}
    record["digest"] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    minutes = f"{record['minutes']:.0f} minutes on {record['hardware']}"
    record["label"] = f"{name}, preset {record['preset']}, {minutes}"
    return path, record


def provenance(record):
    """Return the part of a record that says how the weights were trained."""
    return {key: record[key] for key in ("preset", "updates", "minutes", "hardware")}


def made_by(**command):
    """Return the first entries of a result file: format, command, versions, hardware and date.

    `command` is for example {"notebook": "EBM.ipynb"} or {"command": "make bench"}.
    """
    return {
        "format": RESULTS_FORMAT,
        **command,
        "commit": git_commit(),
        "torch": torch.__version__,
        "hardware": hardware_name(),
        "date": time.strftime("%Y-%m-%d"),
    }


def git_commit():
    """Return the short commit hash, followed by "+" if files differ; None without git."""
    try:
        options = {"capture_output": True, "text": True, "check": True}
        name = subprocess.run(["git", "rev-parse", "--short", "HEAD"], **options).stdout.strip()
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "*.py"]).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return name + ("+" if changed else "")


def save_results(run, seed, **results):
    """Write the results of a notebook to <figures>/results/<notebook>.json."""
    made = made_by(notebook=f"{run.name}.ipynb")
    contents = {**made, "preset": run.preset, "seed": seed, "peak_memory_gb": peak_memory()}
    write_json({**contents, **results}, run.figures / "results" / f"{run.name}.json")
