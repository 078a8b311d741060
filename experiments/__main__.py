"""Run experiments: `python -m experiments NAME ...`; `--list` names them all."""

import argparse
import time
from pathlib import Path

from dgm.device import keep_freed_memory
from experiments import laboratory, results, tables
from experiments.registry import EVALUATION, EXPERIMENTS
from experiments.results import RESULTS, compare_folders, read_result, read_results, write_result


def minutes_of(name, folder=RESULTS):
    """Return how long an experiment takes, as text: measured where its result says so."""
    minutes = EXPERIMENTS[name].minutes
    if (Path(folder) / f"{name}.json").exists():
        minutes = read_result(name, folder).get("minutes") or minutes
    return "not timed" if minutes is None else f"{max(minutes, 1):.0f} min"


def list_experiments():
    for name, experiment in EXPERIMENTS.items():
        print(f"{name:<24} {minutes_of(name):>9}  {experiment.about}")
    print(f"{'tables':<24} {'1 min':>9}  README's tables and docs/RESULTS.md from the results")


def draw(name, folder):
    """Draw an experiment's figures from stored results, the committed ones where some lack."""
    folder = Path(folder)
    known = {**read_results(RESULTS), **read_results(folder)}
    figures = folder.parent if folder.name == "results" else folder
    samples = folder / "hero.npz"
    stored = {"path": samples} if name == "hero" and samples.exists() else {}
    for function in EXPERIMENTS[name].draws:
        function(known, figures, **stored)
        print(f"{name}: {function.__name__} wrote to {figures.name}/", flush=True)


def check_committed(lab):
    """Raise SystemExit unless this may replace what is committed."""
    if lab.digits.name != "MNIST" or lab.max_samples != 10_000:
        raise SystemExit(
            "What is committed is measured on MNIST with --max-samples 10000; "
            "else name another --folder."
        )


def run(name, lab, folder):
    """Measure one experiment, write its result and draw its figures."""
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
        "names", nargs="*", metavar="NAME", help="default: what `make evaluate` does"
    )
    parser.add_argument("--list", action="store_true", help="name all experiments")
    parser.add_argument("--folder", default=str(RESULTS), help="where the results go")
    parser.add_argument("--draw", action="store_true", help="redraw figures, measure nothing")
    parser.add_argument("--against", help="compare the results with those in this folder")
    parser.add_argument("--fresh", action="store_true", help="forget evaluations finished before")
    parser.add_argument("--max-samples", type=int, default=10_000, help="for each number")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - {*EXPERIMENTS, "tables"})
    if unknown:
        parser.error(f"there is no experiment {', '.join(unknown)}; --list names all")
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
            if Path(arguments.folder).resolve() == RESULTS or "tutorial" in names:
                check_committed(lab)
        run(name, lab, arguments.folder)
    return None


if __name__ == "__main__":
    main()
