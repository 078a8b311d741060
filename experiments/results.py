"""Reading, writing and comparing the result files assets/results/*.json."""

import json
from pathlib import Path

from dgm import runs

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "assets"
RESULTS = FIGURES / "results"


def read_result(name, folder=RESULTS):
    """Return the contents of one result file.

    Raises ValueError for a file written by an earlier version.
    """
    path = Path(folder) / f"{name}.json"
    result = json.loads(path.read_text(encoding="utf-8"))
    if result.get("format") != runs.RESULTS_FORMAT:
        raise ValueError(
            f"{path} was written by an earlier version: run its experiment or notebook again"
        )
    return result


def read_results(folder=RESULTS):
    """Return {name: contents} of all result files in a folder."""
    return {
        path.stem: read_result(path.stem, folder) for path in sorted(Path(folder).glob("*.json"))
    }


def write_result(name, result, folder=RESULTS, minutes=None, command=None):
    """Write one result file, after printing its differences from an existing one."""
    path = Path(folder) / f"{name}.json"
    record = runs.made_by(command=command or f"python -m experiments {name}")
    record |= {"minutes": minutes, **result}
    if path.exists():
        compare(json.loads(path.read_text(encoding="utf-8")), record, name)
    runs.write_json(record, path)
    print(f"{name}: {path}", flush=True)
    return record


def keep_quick_results(runs_folder=ROOT / "runs", folder=RESULTS / "quick"):
    """Copy the results of the last `quick` runs next to those of the full runs."""
    for name, result in read_results(Path(runs_folder) / "quick" / "assets" / "results").items():
        runs.write_json(result, Path(folder) / f"{name}.json")


def leaves(value, path=""):
    """Yield every (path, number) of nested dicts and lists."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items:
            yield from leaves(part, f"{path}/{key}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def compare(before, after, name):
    """Print the differences between the numbers of a new and a committed result."""
    old, new = dict(leaves(before)), dict(leaves(after))
    shared = [path for path in new if path in old]
    relative = {}
    for path in shared:
        if new[path] != old[path]:
            size = max(abs(old[path]), abs(new[path]))
            relative[path] = abs(new[path] - old[path]) / size
    same, unpaired = len(shared) - len(relative), len(new.keys() ^ old.keys())
    print(f"{name}: {len(shared)} numbers, {same} identical, {unpaired} not in both")
    for path in sorted(relative, key=relative.get, reverse=True)[:10]:
        values = f"committed {old[path]:.5g}, now {new[path]:.5g}"
        print(f"    {path}: {values} ({relative[path]:.2%})")


def compare_folders(before, after):
    """Compare every result that both folders have."""
    for path in sorted(Path(after).glob("*.json")):
        old = Path(before) / path.name
        if old.exists():
            contents = [json.loads(p.read_text(encoding="utf-8")) for p in (old, path)]
            compare(*contents, path.stem)
