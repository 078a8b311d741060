"""Build the two reports, Persion-Report.pdf (fa.typ) and Report.pdf (en.typ).

Usage: `python report/build.py`. Numbers come from assets/results/*.json, figures from assets/*.png.
The results that common.typ marks as optional add a section where they exist; any other missing file
or number stops the build with Typst's message.
"""

import argparse
import json
from pathlib import Path

import typst

ROOT = Path(__file__).resolve().parents[1]
REPORTS = {"Persion-Report.pdf": "fa.typ", "Report.pdf": "en.typ"}


def options_for(root):
    """Return Typst's options: fonts and files of `root` alone, names of its results and figures."""
    assets = Path(root) / "assets"
    results = [path.stem for path in assets.glob("results/*.json")]
    figures = [path.name for path in assets.glob("*.png")]
    return {
        "root": str(root),
        "font_paths": [str(Path(root) / "report" / "fonts")],
        "ignore_system_fonts": True,
        "sys_inputs": {"existing": json.dumps(sorted(results + figures))},
    }


def build(root=ROOT, folder=None):
    """Write both reports to `folder` (default: the root) and return Typst's warnings.

    Raises typst.TypstError for anything missing.
    """
    root, warnings = Path(root).resolve(), []
    for name, source in REPORTS.items():
        pdf, found = typst.compile_with_warnings(
            str(root / "report" / source), format="pdf", **options_for(root)
        )
        (Path(folder or root) / name).write_bytes(pdf)
        warnings += [f"{source}: {warning.message}" for warning in found]
        print(f"{name}: {len(pdf) / 1e6:.1f} MB")
    return warnings


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the reports.")
    parser.add_argument(
        "--root", default=ROOT, help="a folder with report/ and assets/ (default: this repository)"
    )
    parser.add_argument("--folder", help="where the PDFs go (default: the root)")
    arguments = parser.parse_args()
    print(*build(arguments.root, arguments.folder), sep="\n", end="")
