"""Layout of the repository: direction of imports, sizes of modules, one address a name."""

import ast
import json
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("dgm", "helpers", "experiments")  # each imports those before it
SEVERAL = {"main"}  # names that several modules may define
UNTRACKED = {"runs", "data", "build", "dist"}


def python_files(root):
    """Return all Python files below a folder, those outside the repository left out."""
    found = []
    for path in sorted(Path(root).rglob("*.py")):
        parts = path.relative_to(root).parts
        if not any(part.startswith(".") or part in UNTRACKED for part in parts):
            found.append(path)
    return found


def modules(root):
    """Return all Python files but the tests."""
    return [path for path in python_files(root) if path.relative_to(root).parts[0] != "tests"]


def notebooks(root):
    found = [*Path(root).glob("*.ipynb"), *Path(root).glob("extras/*.ipynb")]
    return sorted(found)


def code_of(notebook):
    """Return the code of a notebook's cells, one text each."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def module_name(path, root):
    parts = list(path.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_modules(path):
    """Return the names of all modules that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return found


# --------------------------------------------------------------------------- direction of imports


def backward_imports(root):
    """Return "file imports module" wherever an earlier layer imports a later one."""
    found = []
    for path in modules(root):
        layer = module_name(path, root).split(".")[0]
        if layer not in LAYERS:
            continue
        later = LAYERS[LAYERS.index(layer) + 1 :]
        for module in sorted(imported_modules(path)):
            if module.startswith(".") or module.split(".")[0] in later:
                found.append(f"{path.relative_to(root)} imports {module}")
    return found


def test_imports_run_from_experiments_to_helpers_to_dgm():
    assert backward_imports(ROOT) == []


def plant(root, **files):
    """Write small files, "dgm__a" for dgm/a.py."""
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


REVERSE = {
    "dgm__a": "from helpers import ScoreNetwork\n",
    "dgm__b": "def f():\n    import experiments.floors\n",
    "helpers": "from experiments import floors\n",
}


@pytest.mark.parametrize("name", REVERSE)
def test_a_planted_reverse_import_is_found(tmp_path, name):
    assert len(backward_imports(plant(tmp_path, **{name: REVERSE[name]}))) == 1


def test_imports_of_earlier_layers_are_no_reverse_imports(tmp_path):
    files = {"helpers": "from dgm import data\n", "dgm__a": "import dgm.data\nimport torch\n"}
    files["experiments__a"] = "import helpers\nfrom dgm.data import Digits\n"
    assert backward_imports(plant(tmp_path, **files)) == []


# --------------------------------------------------------------------------- one address a name


def defined_in(tree):
    """Return the names that a module itself defines at its top level."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = (n for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))
            found |= {name.id for name in names}
    return found


def foreign_addresses(root):
    """Return "file takes NAME from module" where that module did not define NAME itself."""
    names = {module_name(path, root): defined_in(tree_of(path)) for path in modules(root)}
    found = []
    for path in python_files(root):
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.ImportFrom) or node.module not in names:
                continue
            for name in (alias.name for alias in node.names):
                if name not in names[node.module] and f"{node.module}.{name}" not in names:
                    found.append(f"{path.relative_to(root)} takes {name} from {node.module}")
    return found


def unused_imports(path):
    """Return the names that a file imports and does not use: offered again, or forgotten."""
    tree, imported = tree_of(path), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                imported[(alias.asname or alias.name).split(".")[0]] = alias.name
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return sorted(set(imported) - used)


def repeated_names(root):
    """Return {name: modules} of public functions and classes that several modules define."""
    where = defaultdict(list)
    for path in modules(root):
        for node in tree_of(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(str(path.relative_to(root)))
    return {name: files for name, files in where.items() if len(files) > 1 and name not in SEVERAL}


def test_every_name_is_imported_from_the_module_that_defines_it():
    assert foreign_addresses(ROOT) == []


AGAIN = {"dgm__a": "def f():\n    pass\n", "helpers": "from dgm.a import f\n"}


def test_a_planted_import_from_a_second_address_is_found(tmp_path):
    root = plant(tmp_path, **AGAIN, experiments__b="from helpers import f\n")
    assert foreign_addresses(root) == ["experiments/b.py takes f from helpers"]


def test_an_import_from_the_first_address_is_right(tmp_path):
    root = plant(tmp_path, **AGAIN, experiments__b="from dgm.a import f\n")
    assert foreign_addresses(root) == []


def test_every_imported_name_is_used_where_it_is_imported():
    unused = {str(path.relative_to(ROOT)): unused_imports(path) for path in modules(ROOT)}
    assert {path: names for path, names in unused.items() if names} == {}


def test_a_planted_import_that_is_only_offered_again_is_found(tmp_path):
    plant(tmp_path, **AGAIN)
    assert unused_imports(tmp_path / "helpers.py") == ["f"]


def test_no_public_name_is_defined_in_two_modules():
    assert repeated_names(ROOT) == {}


def test_a_planted_second_definition_is_found(tmp_path):
    root = plant(tmp_path, dgm__a="def f():\n    pass\n", helpers="class f:\n    pass\n")
    assert repeated_names(root) == {"f": ["dgm/a.py", "helpers.py"]}


# -------------------------------------------------------------------------------- paths and sizes


def edits_path(text):
    """Return whether a program uses sys.path."""
    nodes = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute))
    return any(ast.unparse(node) == "sys.path" for node in nodes)


def without_magics(cell):
    """Return a notebook cell as Python, without the lines that are IPython's."""
    return "\n".join("pass" if line[:1] in ("%", "!") else line for line in cell.splitlines())


@pytest.mark.parametrize("path", python_files(ROOT), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_program_edits_where_modules_are_found(path):
    assert not edits_path(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", notebooks(ROOT), ids=lambda p: p.stem)
def test_no_notebook_edits_where_modules_are_found(path):
    assert not any(edits_path(without_magics(cell)) for cell in code_of(path))


def test_a_planted_edit_of_the_path_is_found():
    assert edits_path("import sys\nsys.path.insert(0, '..')\n")


def test_only_helpers_and_an_app_stand_at_the_top():
    assert {path.name for path in ROOT.glob("*.py")} <= {"helpers.py", "app.py"}


def lines_of(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def test_helpers_is_no_longer_than_500_lines():
    assert lines_of(ROOT / "helpers.py") <= 500


OTHERS = [path for path in modules(ROOT) if path != ROOT / "helpers.py"]


@pytest.mark.parametrize("path", OTHERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_other_module_is_no_longer_than_450_lines(path):
    assert lines_of(path) <= 450


def code_lines(root):
    """Return every line of code that is not empty: of Python files and of notebooks' cells."""
    texts = [path.read_text(encoding="utf-8") for path in python_files(root)]
    texts += [cell for path in notebooks(root) for cell in code_of(path)]
    return [line for text in texts for line in text.splitlines() if line.strip()]


def test_99_percent_of_code_lines_have_at_most_100_columns():
    lines = code_lines(ROOT)
    assert sum(len(line) > 100 for line in lines) <= 0.01 * len(lines)


def test_at_most_five_lines_are_kept_from_the_formatter():
    mark = " ".join(("#", "fmt:", "skip"))  # not written here as one, or it would count itself
    assert sum(mark in line for line in code_lines(ROOT)) <= 5


# ------------------------------------------------------------------------------------------ tests


def module_of(test):
    """Return the module that tests/experiments/test_NAME.py is of."""
    name = test.stem.removeprefix("test_")
    return ROOT / "experiments" / f"{'__main__' if name == 'main' else name}.py"


TESTS = sorted((ROOT / "tests" / "experiments").glob("test_*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda p: p.stem)
def test_tests_of_experiments_have_the_names_of_their_modules(path):
    assert module_of(path).exists()
