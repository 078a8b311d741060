"""docs/RESULTS.md and README's tables, written from stored results by results.md.j2."""

import math
import re
from pathlib import Path

import jinja2

from dgm.terminal import MIN_SAMPLES
from experiments.names import label
from experiments.registry import EVALUATION, EXPERIMENTS
from experiments.results import RESULTS, ROOT, read_results

MARKS = {
    part: (f"<!-- {part}: written by `make tables`, do not edit -->", f"<!-- end of {part} -->")
    for part in ("notebooks", "glance", "denoising")
}
NOTEBOOKS = {
    "EBM-BestPractice": "**the primary energy-based model**, with a replay buffer",
    "EBM": "the baseline: no buffer, every chain starts from noise",
    "score-based-model": "**NCSN**: denoising score matching, annealed Langevin, class labels",
}
EXTRA = "extras/what-else-a-score-can-do"
BRIDGE = "extras/energy-meets-score"
LIBRARIES = ("ebmkit", "torchebm")
CLASSICAL = ("total_variation", "non_local_means", "wavelet", "wiener")


def repository_url(root=ROOT):
    """Return `Repository` of [project.urls] in pyproject.toml, or "" where there is none."""
    text = (Path(root) / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^\[project\.urls\][^\[]*?^Repository *= *"([^"]*)"', text, re.M)
    return found[1] if found else ""


def badge(name, repository):
    """Return a notebook's Colab badge, with a space before it, or "" without an address."""
    if not repository:
        return ""
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    path = repository.removeprefix("https://github.com/")
    address = f"https://colab.research.google.com/github/{path}/blob/main/{name}.ipynb"
    return f" [![Open in Colab]({image})]({address})"


def fixed(value, digits=0):
    """Format with so many decimals and a comma between thousands: 10,000, 3.02, never -0."""
    return f"{round(value, digits) + 0.0:,.{digits}f}"


def percent(value, digits=0):
    """Format a share in percent: 99.3%."""
    return f"{value:.{digits}%}"


def plus_minus(summary, digits=0):
    """Format a mean or ratio with its standard deviation or standard error: 1.7 ± 0.6."""
    value = summary["ratio"] if "ratio" in summary else summary["mean"]
    spread = summary["std"] if "std" in summary else summary["standard_error"]
    return f"{fixed(value, digits)} ± {fixed(spread, digits)}"


def settings(changed):
    """Format changed settings as code: `batch_size=128`, `fall=0.5`."""
    return ", ".join(f"`{name}={value}`" for name, value in changed.items())


def measured(result):
    """Return how a result was made: hardware, date, and the seed if there is one."""
    seed = f", seed {result['seed']}" if "seed" in result else ""
    return f"{result['hardware']}, {result['date']}{seed}"


def chip(result):
    """Return the name of a result's chip without the number of cores."""
    return chip_of(result["hardware"])


def chip_of(text):
    """Return the chip in "cores, chip" or "cores, chip, date"."""
    return text.split(", ")[1]


def cores_of(runs, names):
    """Return on how many cores the named notebooks trained: "one core", "two cores"."""
    words = {"1": "one core", "2": "two cores"}
    found = sorted({runs[name]["training"]["hardware"].split()[0] for name in names})
    return " or ".join(words.get(count, f"{count} cores") for count in found)


def best_length(chains):
    """Return (number of steps, evaluation) of the chain length with the smallest distance."""
    return min(chains.items(), key=lambda item: item[1]["frechet_distance"])


def best_classical(methods, sigma):
    """Return the classical denoiser with the highest PSNR at a noise level."""
    return max(CLASSICAL, key=lambda method: methods[method][sigma]["psnr"])


def fastest_peer(row):
    """Return (name, speed) of the fastest program but ours, with any setting."""
    others = ((name, found["median"]) for name, found in row.items() if name != "ours")
    return max(others, key=lambda item: item[1])


def rows_of_chains(benches):
    return [row for result in benches for row in result["chains"]["batch"].values()]


def fastest_peers(benches):
    """Return the names of the fastest programs but ours, each once."""
    return list(dict.fromkeys(fastest_peer(row)[0] for row in rows_of_chains(benches)))


def share_of_peak(benches):
    """Return the largest share of the peak speed that our chains reach."""
    return max(row["ours"]["share_of_peak"] for row in rows_of_chains(benches))


def time_spent(shares, most=3):
    """Format the largest shares of time: "30% of its time on copies, 20% on convolutions"."""
    first, *others = [item for item in shares.items() if item[0] != "the rest"][:most]
    parts = [f"{percent(first[1])} of its time on {first[0]}"]
    parts += [f"{percent(share)} on {kind}" for kind, share in others]
    return ", ".join(parts[:-1]) + f" and {parts[-1]}" if others else parts[0]


def gap_grows(gaps, window, small=0.1):
    """Return the update from which the energy gap exceeds `small` to the end."""
    return window * (1 + max(i for i, gap in enumerate(gaps) if gap <= small))


def corrected(bits, error):
    """Return a mean less the error of its solver, with the standard error of both."""
    spread = math.hypot(bits["standard_error"], error["standard_error"])
    return {"mean": bits["mean"] - error["mean"], "standard_error": spread}


def over_time(runs):
    """Return {name: {minute: best distance}} and the minutes of all runs, in order."""
    curves = {
        name: {round(point["minutes"], 1): point["best"] for point in points}
        for name, points in runs.items()
    }
    return curves, sorted({minute for curve in curves.values() for minute in curve})


def environment():
    """Return the template's environment; what is missing from the results is an error."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = (fixed, percent, plus_minus, settings, label)
    env.filters |= {function.__name__: function for function in filters}
    functions = (badge, measured, chip, chip_of, cores_of, best_length, best_classical)
    functions += (fastest_peer, fastest_peers, share_of_peak, time_spent, gap_grows)
    functions += (corrected, over_time)
    env.globals |= {function.__name__: function for function in functions}
    return env


def document(folder, repository=""):
    """Render the template with a folder's results; its macros are attributes of what returns."""
    results = read_results(folder)
    sizes = results["floors"]["sizes"]
    values = {
        "results": results,
        "quick": read_results(Path(folder) / "quick"),
        "benches": [results[name] for name in sorted(results) if "benchmarks" in name],
        "floor": lambda n, kind="as_drawn": sizes[str(n)][kind],
        "experiments": EXPERIMENTS,
        "notebooks": NOTEBOOKS,
        "evaluation_minutes": sum(results[name]["minutes"] for name in EVALUATION),
        "libraries": LIBRARIES,
        "extra": EXTRA,
        "bridge": BRIDGE,
        "min_samples": MIN_SAMPLES,
        "repository": repository,
    }
    return environment().get_template("results.md.j2").make_module(values)


def results_page(folder=RESULTS):
    """Return the text of docs/RESULTS.md."""
    return str(document(folder))


def readme_parts(folder=RESULTS, repository=None):
    """Return {part of README: its text}; the repository's address is pyproject.toml's."""
    written = document(folder, repository_url() if repository is None else repository)
    return {
        "notebooks": written.notebooks_table().strip(),
        "glance": f"{written.glance_table().strip()}\n\n{written.glance_notes().strip()}",
        "denoising": written.denoising_line().strip(),
    }


def write_documents(root=ROOT):
    """Write docs/RESULTS.md, and README's tables between their marks."""
    folder = Path(root) / "assets" / "results"
    page, readme = Path(root) / "docs" / "RESULTS.md", Path(root) / "README.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text(results_page(folder), encoding="utf-8")
    text = readme.read_text(encoding="utf-8")
    for part, written in readme_parts(folder, repository_url(root)).items():
        begin, end = MARKS[part]
        before, rest = text.split(begin)
        text = f"{before}{begin}\n\n{written}\n\n{end}{rest.split(end)[1]}"
    readme.write_text(text, encoding="utf-8")
