"""Number of words in README and notebooks; phrases that no text of the project uses."""

import ast
import io
import re
import tokenize
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(ROOT.glob("*.ipynb")) + sorted(ROOT.glob("extras/*.ipynb"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
CODE = sorted({*ROOT.glob("*.py"), *ROOT.glob("dgm/*.py"), *ROOT.glob("experiments/*.py")})
OTHERS = sorted(
    {*ROOT.glob("experiments/*.j2"), *ROOT.glob("report/*.typ"), ROOT / "report/build.py"}
)
WORD_LIMITS = {"README.md": 1800, "EBM-BestPractice.ipynb": 1500, "score-based-model.ipynb": 2100}

COUNTED = (
    "bits|bytes|chains|digits|draws|epochs|evaluations|examples|images|iterations|levels|"
    "microseconds|milliseconds|minutes|passes|products|runs|samples|seconds|slots|steps|times|updates"
)
UNITS = (
    "batch|chain|class|core|digit|dimension|epoch|evaluation|image|level|method|minute|model|"
    "network|notebook|pixel|recipe|run|sample|second|seed|slot|step|update|value"
)
RETIRED = {
    "an article where 'per' is meant": rf"\b(?:{COUNTED}) an? (?:{UNITS})\b",
    "label accuracy": r"\blabels? right\b|\bright labels?\b",
    "baseline": r"\brivals?\b",
    "classifier, evaluate": r"\bjudg(?:e|es|ed|ing|ement)\b",
    "gradient": r"\bslopes?\b",
    "class-balanced": r"\bin equal shares\b",
    "path": r"\bthe way back\b|\bback the way\b",
    "a function that": r"\ba function a\b|\ba module a\b",
    "a noun phrase": r"\bwhat (?:judges|makes|is measured|it takes|to trust)\b",
    "a heading that names its topic": r"\bwas it worth it\b",
    "compared with": r"\bheld against\b",
    "a full sentence": r"\bon a gpu: not measured\b|\bnot a sure win\b",
}


def words_of_code(path):
    """Returns the comments and strings of a Python file, docstrings included."""
    source = path.read_text(encoding="utf-8")
    texts = [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return "\n".join(texts + [t.string for t in tokens if t.type == tokenize.COMMENT])


def words_of_notebook(path):
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def strings_of_notebook(path):
    """Returns the comments and strings of a notebook's code: titles, labels, messages."""
    cells = nbformat.read(path, as_version=4).cells
    quoted = re.compile(r'"[^"\n]*"|#[^\n]*')
    code = (cell.source for cell in cells if cell.cell_type == "code")
    return "\n".join(text for source in code for text in quoted.findall(source))


def text_of(path):
    if path.suffix == ".py":
        return words_of_code(path)
    if path.suffix == ".ipynb":
        return words_of_notebook(path) + "\n" + strings_of_notebook(path)
    return path.read_text(encoding="utf-8")


def retired(text):
    """Returns the retired phrases in a text, each with what to write instead."""
    text = re.sub(r"\s+", " ", text)
    return [
        f"{match.group()!r}: write {better}"
        for better, pattern in RETIRED.items()
        for match in re.finditer(pattern, text, flags=re.IGNORECASE)
    ]


@pytest.mark.parametrize(
    "path",
    PAGES + NOTEBOOKS + CODE + OTHERS,
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_no_retired_phrase(path):
    found = retired(text_of(path))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "phrase",
    [
        "network evaluations an image",
        "ten steps a level",
        "the labels right",
        "the best rival",
        "real digits in equal shares",
        "What judges generated digits",
        "a function a study",
        "the slope\nof the energy",
        "on the way back",
    ],
)
def test_a_retired_phrase_is_found(phrase):
    assert retired(f"It says {phrase}.")


def test_the_standard_term_is_not_retired():
    assert not retired("Label accuracy against network evaluations per image; a step is small.")


@pytest.mark.parametrize("name", WORD_LIMITS)
def test_number_of_words(name):
    path = ROOT / name
    text = words_of_notebook(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
    assert len(text.split()) <= WORD_LIMITS[name]


def test_readme_is_at_most_13_kb():
    assert (ROOT / "README.md").stat().st_size <= 13 * 1024


def test_the_first_command_stands_on_the_first_screen_of_readme():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert next(n for n, line in enumerate(lines, 1) if "make run" in line) <= 30
