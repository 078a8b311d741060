"""Command line of the experiments: `python -m experiments NAME ...`, or `--list`."""

import argparse
import time
from pathlib import Path

from dgm.device import keep_freed_memory
from experiments import laboratory, results, tables
from experiments.registry import EVALUATION, EXPERIMENTS
from experiments.results import RESULTS, compare_folders, read_result, read_results, write_result

INTO_CHECKPOINTS = {"tutorial", "first-phase", "second-phase", "score-guide", "noise-energy"}


def minutes_of(name, folder=RESULTS):
    """Return the duration of an experiment as text, measured if its result has it."""
    minutes = EXPERIMENTS[name].minutes
    if (Path(folder) / f"{name}.json").exists():
        minutes = read_result(name, folder).get("minutes") or minutes
    return "not timed" if minutes is None else f"{max(minutes, 1):.0f} min"


def list_experiments():
    for name, experiment in EXPERIMENTS.items():
        print(f"{name:<24} {minutes_of(name):>9}  {experiment.about}")
    print(f"{'tables':<24} {'1 min':>9}  write the tables of README and docs/RESULTS.md")


def draw(name, folder):
    """Draw an experiment's figures from stored results, or committed ones if some are missing."""
    folder = Path(folder)
    known = {**read_results(RESULTS), **read_results(folder)}
    figures = folder.parent if folder.name == "results" else folder
    samples = folder / "hero.npz"
    stored = {"path": samples} if name == "hero" and samples.exists() else {}
    for function in EXPERIMENTS[name].draws:
        function(known, figures, **stored)
        print(f"{name}: {function.__name__} wrote to {figures.name}/", flush=True)


def check_committed(lab):
    """Raise SystemExit unless the measurements may replace the committed results."""
    if lab.digits.name != "MNIST" or lab.max_samples != 10_000:
        raise SystemExit(
            "Committed results are measured on MNIST with --max-samples 10000. "
            "For other measurements, name another --folder."
        )


def run(name, lab, folder):
    """Run one experiment, write its result and draw its figures."""
    started = time.perf_counter()
    samples = {"path": Path(folder) / "hero.npz"} if name == "hero" else {}
    result = EXPERIMENTS[name].measure(lab, **samples)
    minutes = round((time.perf_counter() - started) / 60, 1)
    if result is not None:
        write_result(name, result, folder, minutes)
        print(f"{name}: {minutes} minutes", flush=True)
    if result is not None or name == "hero":
        draw(name, folder)


def parse():
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="default: those of `make evaluate`"
    )
    parser.add_argument("--list", action="store_true", help="list all experiments")
    parser.add_argument("--folder", default=str(RESULTS), help="folder of the results")
    parser.add_argument("--draw", action="store_true", help="redraw figures without measuring")
    parser.add_argument("--against", help="compare the results with another folder")
    parser.add_argument("--fresh", action="store_true", help="discard cached evaluations")
    parser.add_argument(
        "--max-samples", type=int, default=10_000, help="most samples per evaluation"
    )
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - {*EXPERIMENTS, "tables"})
    if unknown:
        parser.error(f"there is no experiment {', '.join(unknown)}; --list shows all")
    return arguments


def main():
    arguments = parse()
    if arguments.list:
        return list_experiments()
    if arguments.against:
        return compare_folders(arguments.against, arguments.folder)
    if arguments.draw:
        for name in arguments.names or EXPERIMENTS:
            draw(name, arguments.folder)
        return None
    keep_freed_memory()
    if arguments.fresh:
        laboratory.forget()
    names, lab = arguments.names or EVALUATION, None
    for name in names:
        if name == "tables":
            results.keep_quick_results()
            tables.write_documents()
            continue
        if EXPERIMENTS[name].laboratory and lab is None:
            lab = laboratory.open_laboratory(arguments.max_samples)
            if Path(arguments.folder).resolve() == RESULTS or INTO_CHECKPOINTS & set(names):
                check_committed(lab)
        run(name, lab, arguments.folder)
    return None


if __name__ == "__main__":
    main()
