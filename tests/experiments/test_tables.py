"""experiments/tables.py: numbers as text, labels, badges, and the documents it writes."""

import json
import shutil

import jinja2
import pytest

from experiments import tables
from experiments.names import label
from experiments.results import RESULTS, ROOT, read_results

README = (ROOT / "README.md").read_text(encoding="utf-8")
ADDRESS = "https://github.com/somebody/somewhere"


def rows_of(text):
    """Return the tables of a Markdown text: lists of rows, each row a list of cells."""
    found, previous = [], ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not previous.startswith("|"):
                found.append([])
            found[-1].append(line.strip("|").split("|"))
        previous = line
    return found


def copy_of_results(folder):
    shutil.copytree(RESULTS, folder)
    return folder


def test_fixed_separates_thousands():
    assert tables.fixed(10_000) == "10,000"


def test_fixed_rounds_to_so_many_decimals():
    assert tables.fixed(3.0225, 1) == "3.0"


def test_zero_has_no_sign():
    assert tables.fixed(-0.004, 2) == "0.00"


def test_percent_is_of_a_share():
    assert tables.percent(0.9933, 1) == "99.3%"


def test_plus_minus_is_mean_and_standard_deviation():
    assert tables.plus_minus({"mean": 1234.5, "std": 0.26, "blocks": 6}, 1) == "1,234.5 ± 0.3"


def test_plus_minus_takes_a_ratio_with_its_standard_error():
    summary = {"ratio": 1.935, "standard_error": 0.02, "theory": 2.0}
    assert tables.plus_minus(summary, 2) == "1.94 ± 0.02"


def test_settings_are_shown_as_code():
    assert tables.settings({"old_share": 0.5, "fall": 0.25}) == "`old_share=0.5`, `fall=0.25`"


def test_a_result_without_seed_names_hardware_and_date():
    result = {"hardware": "1 of 2 cores, chip", "date": "2026-01-01"}
    assert tables.measured(result) == "1 of 2 cores, chip, 2026-01-01"


def test_a_result_with_a_seed_names_it():
    result = {"hardware": "1 of 2 cores, chip", "date": "2026-01-01", "seed": 0}
    assert tables.measured(result) == "1 of 2 cores, chip, 2026-01-01, seed 0"


def test_the_chip_is_named_without_its_cores():
    assert tables.chip({"hardware": "2 of 2 cores, AMD EPYC"}) == "AMD EPYC"


def test_the_chip_is_named_without_the_date():
    assert tables.chip_of("2 of 2 cores, AMD EPYC, 2026-01-01") == "AMD EPYC"


@pytest.mark.parametrize(
    ("hardware", "text"),
    [
        (("1 of 2 cores, X", "1 of 2 cores, Y"), "one core"),
        (("1 of 2 cores, X", "2 of 2 cores, X"), "one core or two cores"),
        (("8 of 8 cores, X",), "8 cores"),
    ],
)
def test_the_cores_of_a_training_are_counted(hardware, text):
    runs = {str(i): {"training": {"hardware": on}} for i, on in enumerate(hardware)}
    assert tables.cores_of(runs, runs) == text


def test_the_best_length_has_the_smallest_distance():
    chains = {"20": {"frechet_distance": 9.0}, "500": {"frechet_distance": 2.0}}
    assert tables.best_length(chains) == ("500", {"frechet_distance": 2.0})


def test_the_best_classical_denoiser_is_not_a_network():
    methods = {name: {"0.25": {"psnr": 20.0}} for name in tables.CLASSICAL}
    methods |= {"wavelet": {"0.25": {"psnr": 21.0}}, "score_model": {"0.25": {"psnr": 30.0}}}
    assert tables.best_classical(methods, "0.25") == "wavelet"


def test_the_fastest_peer_may_have_our_memory():
    row = {"ours": {"median": 12.0}, "a": {"median": 3.0}, "a_our_memory": {"median": 6.0}}
    assert tables.fastest_peer(row) == ("a_our_memory", 6.0)


def test_fastest_peers_are_named_once():
    row = {"ours": {"median": 12.0}, "a": {"median": 3.0}}
    benches = [{"chains": {"batch": {"1": row, "128": row}}}]
    assert tables.fastest_peers(benches) == ["a"]


def test_the_gap_grows_from_the_update_after_which_it_stays_large():
    assert tables.gap_grows([0.9, 0.0, 0.2, 0.05, 0.3, 0.8], window=50) == 200


def test_a_corrected_mean_has_both_standard_errors():
    bits, error = ({"mean": m, "standard_error": e} for m, e in ((1.0, 0.3), (-0.5, 0.4)))
    assert tables.corrected(bits, error) == {"mean": 1.5, "standard_error": 0.5}


def test_labels_of_noise_levels_are_those_measured():
    noise = read_results(RESULTS)["noise-scales"]
    largest = f"σ from {noise['largest_distance']:.1f} "
    assert label("from_largest_distance").startswith(largest)
    levels = (noise["variants"]["levels_by_rule"]["evaluations"] - 1) // 3
    assert label("levels_by_rule").startswith(f"{levels} levels of 3 steps")


def test_the_line_on_denoising_names_the_best_classical_denoiser():
    line = tables.readme_parts(RESULTS)["denoising"]
    methods = read_results(RESULTS)["denoising"]["methods"]
    assert f"({label(tables.best_classical(methods, '0.25'))})" in line


def test_curves_over_time_share_their_minutes():
    runs = {
        "a": [{"minutes": 3.004, "best": 9.0}],
        "b": [{"minutes": 1.002, "best": 8.0}, {"minutes": 2.999, "best": 7.0}],
    }
    curves, minutes = tables.over_time(runs)
    assert curves == {"a": {3.0: 9.0}, "b": {1.0: 8.0, 3.0: 7.0}}
    assert minutes == [1.0, 3.0]


def test_a_label_is_in_words():
    assert label("dpm_solver") == "DPM-Solver++"


def test_a_key_without_label_is_shown_without_underscores():
    assert label("no_such_key") == "no such key"


def test_the_address_of_the_repository_is_that_of_pyproject(tmp_path):
    text = f'[project.urls]\nHomepage = "elsewhere"\nRepository = "{ADDRESS}"\n\n[tool.ruff]\n'
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    assert tables.repository_url(tmp_path) == ADDRESS


def test_without_an_address_the_repository_has_none(tmp_path):
    text = f'[project.urls]\n\n[tool.other]\nRepository = "{ADDRESS}"\n'
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    assert tables.repository_url(tmp_path) == ""


@pytest.mark.parametrize("name", tables.NOTEBOOKS)
def test_with_an_address_each_notebook_has_a_colab_badge(name):
    table = tables.readme_parts(RESULTS, ADDRESS)["notebooks"]
    assert f"colab.research.google.com/github/somebody/somewhere/blob/main/{name}.ipynb)" in table


def test_without_an_address_no_notebook_has_a_colab_badge():
    assert "colab.research" not in tables.readme_parts(RESULTS, "")["notebooks"]


def test_readme_has_badges_only_once_the_address_is_public():
    assert ("colab.research" in README) == bool(tables.repository_url(ROOT))


def test_the_results_table_of_readme_has_at_most_six_rows():
    (table,) = rows_of(tables.readme_parts(RESULTS)["glance"])
    assert len(table) - 2 <= 6


@pytest.mark.parametrize("part", tables.MARKS)
def test_tables_of_readme_are_those_of_the_committed_results(part):
    begin, end = tables.MARKS[part]
    written = README[README.index(begin) + len(begin) : README.index(end)].strip()
    assert written == tables.readme_parts(RESULTS)[part]


def test_the_page_of_results_shows_every_experiment():
    page = tables.results_page(RESULTS)
    names = [name for name in read_results(RESULTS) if name not in tables.NOTEBOOKS]
    commands = {"benchmarks": "make bench", "benchmarks-amx": "make bench"}
    commands |= {"time-to-quality": "make bench-quality", "stability": "make stability"}
    commands |= {"ablation": "make ablation", "break-away": "make break-away"}
    for name in names:
        assert commands.get(name, f"python -m experiments {name}") + "`" in page


def test_rows_of_a_table_have_as_many_cells_as_its_header():
    parts = tables.readme_parts(RESULTS)
    texts = [tables.results_page(RESULTS), *parts.values()]
    for table in (table for text in texts for table in rows_of(text)):
        assert {len(row) for row in table} == {len(table[0])}


def test_a_number_that_is_missing_is_an_error(tmp_path):
    folder = copy_of_results(tmp_path / "results")
    result = json.loads((folder / "likelihood.json").read_text(encoding="utf-8"))
    del result["bits_per_dimension"]["png"]["mean"]
    (folder / "likelihood.json").write_text(json.dumps(result), encoding="utf-8")
    with pytest.raises((jinja2.UndefinedError, KeyError)):
        tables.results_page(folder)


def quick_costs(folder):
    """Return the cells of the quick runs in the table of costs."""
    (table,) = rows_of(tables.results_page(folder).split("\n## Costs\n")[1])
    return [[cell.strip() for cell in row] for row in table if row[1].strip() == "quick"]


def set_samples_of_quick_runs(folder, n):
    for path in (folder / "quick").glob("*.json"):
        result = json.loads(path.read_text(encoding="utf-8")) | {"n": n}
        path.write_text(json.dumps(result), encoding="utf-8")


@pytest.mark.parametrize("n", [60, 499])
def test_too_few_samples_give_label_accuracy_and_no_distance(tmp_path, n):
    folder = copy_of_results(tmp_path / "results")
    set_samples_of_quick_runs(folder, n)
    rows = quick_costs(folder)
    assert {tuple(row[4:6]) for row in rows} == {(str(n), "")}
    assert all(row[6].endswith("%") for row in rows)
    assert sum(row[7].endswith("%") for row in rows) == 1  # only the score network has labels


def test_enough_samples_give_a_distance(tmp_path):
    folder = copy_of_results(tmp_path / "results")
    set_samples_of_quick_runs(folder, 500)
    assert all(float(row[5]) > 0 for row in quick_costs(folder))


def write_all(root):
    """Write the documents of an empty copy of the repository, and return README's text."""
    copy_of_results(root / "assets" / "results")
    (root / "pyproject.toml").write_text("", encoding="utf-8")
    marks = "\n".join(f"{begin}\nold\n{end}" for begin, end in tables.MARKS.values())
    (root / "README.md").write_text(f"before\n{marks}\nafter\n", encoding="utf-8")
    tables.write_documents(root)
    return (root / "README.md").read_text(encoding="utf-8")


def test_writing_replaces_what_is_between_the_marks(tmp_path):
    text = write_all(tmp_path)
    assert "old" not in text.splitlines()
    assert tables.readme_parts(RESULTS, "")["glance"] in text


def test_writing_keeps_what_is_around_the_marks(tmp_path):
    text = write_all(tmp_path)
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_writing_makes_the_page_of_results(tmp_path):
    write_all(tmp_path)
    page = (tmp_path / "docs" / "RESULTS.md").read_text(encoding="utf-8")
    assert page == tables.results_page(RESULTS)


def test_writing_twice_changes_nothing(tmp_path):
    text = write_all(tmp_path)
    tables.write_documents(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == text


# ------------------------------------------------------------------------------- shares of time


def test_shares_of_time_are_a_list_in_words():
    shares = {"copies": 0.5, "convolutions": 0.3, "the rest": 0.15, "attention": 0.05}
    expected = "50% of its time on copies, 30% on convolutions and 5% on attention"
    assert tables.time_spent(shares) == expected


def test_only_the_largest_shares_of_time_are_listed():
    shares = {"copies": 0.5, "convolutions": 0.3, "the rest": 0.2}
    assert tables.time_spent(shares, most=1) == "50% of its time on copies"
