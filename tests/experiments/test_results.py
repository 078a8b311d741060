"""experiments/results.py: result files are read, written and compared."""

import json

import pytest

from dgm.runs import RESULTS_FORMAT
from experiments.results import (
    compare,
    compare_folders,
    leaves,
    read_result,
    read_results,
    write_result,
)

RESULT = {"a": 1.0, "b": [2.0, 3.0]}

# ---------------------------------------------------------------------------- reading and writing


def test_a_result_that_was_written_can_be_read(tmp_path):
    written = write_result("posterior", RESULT, tmp_path, minutes=1.0)
    assert read_result("posterior", tmp_path) == written


def test_a_result_keeps_what_was_measured(tmp_path):
    assert write_result("posterior", RESULT, tmp_path)["b"] == [2.0, 3.0]


def test_a_result_names_its_format_first(tmp_path):
    write_result("posterior", RESULT, tmp_path)
    text = (tmp_path / "posterior.json").read_text(encoding="utf-8")
    assert next(iter(json.loads(text).items())) == ("format", RESULTS_FORMAT)


def test_a_result_names_the_command_that_makes_it(tmp_path):
    written = write_result("posterior", RESULT, tmp_path)
    assert written["command"] == "python -m experiments posterior"


def test_a_result_may_name_another_command(tmp_path):
    written = write_result("posterior", RESULT, tmp_path, command="make posterior")
    assert written["command"] == "make posterior"


def test_a_result_tells_the_minutes_it_took(tmp_path):
    assert write_result("posterior", RESULT, tmp_path, minutes=1.5)["minutes"] == 1.5


def test_minutes_of_training_that_were_measured_count(tmp_path):
    result = {**RESULT, "minutes": 40.0}
    assert write_result("stability", result, tmp_path, minutes=1.5)["minutes"] == 40.0


@pytest.mark.parametrize("earlier", [{}, {"format": 1}])
def test_a_file_of_an_earlier_format_is_refused(tmp_path, earlier):
    (tmp_path / "a.json").write_text(json.dumps({**earlier, "x": 1}), encoding="utf-8")
    with pytest.raises(ValueError, match="written by an earlier version"):
        read_result("a", tmp_path)


def test_all_results_of_a_folder_are_read_by_name(tmp_path):
    for name in ("b", "a"):
        write_result(name, RESULT, tmp_path)
    assert list(read_results(tmp_path)) == ["a", "b"]


def test_a_folder_without_results_has_none(tmp_path):
    assert read_results(tmp_path / "nowhere") == {}


def test_a_result_that_is_not_finite_is_not_written(tmp_path):
    with pytest.raises(ValueError):
        write_result("posterior", {"a": float("nan")}, tmp_path)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------- comparing


def test_the_first_result_is_compared_with_nothing(tmp_path, capsys):
    write_result("posterior", RESULT, tmp_path, minutes=1.0)
    assert capsys.readouterr().out == f"posterior: {tmp_path / 'posterior.json'}\n"


@pytest.fixture
def printed(tmp_path, capsys):
    """What is printed when one of the numbers of a result has changed."""
    write_result("posterior", RESULT, tmp_path)
    write_result("posterior", {"a": 1.0, "b": [2.0, 3.3]}, tmp_path)
    return capsys.readouterr().out


def test_a_new_result_says_how_many_numbers_are_those_of_the_old_one(printed):
    assert "posterior: 4 numbers, 3 identical, 0 not in both" in printed  # and the format


def test_a_new_result_says_how_a_number_differs_from_the_old_one(printed):
    assert "/b/1: committed 3, now 3.3 (9.09%)" in printed


def test_numbers_in_one_result_only_are_counted(capsys):
    compare({"a": 1, "b": 2}, {"b": 2, "c": 3, "d": 4}, "a name")
    assert "1 numbers, 1 identical, 3 not in both" in capsys.readouterr().out


def test_numbers_that_differ_most_are_named_first(capsys):
    compare({"a": 1.0, "b": 1.0}, {"a": 1.1, "b": 2.0}, "a name")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["a name", "/b", "/a"]


@pytest.fixture
def folders(tmp_path, capsys):
    """What is printed where two folders share one result of two."""
    for folder, value in (("old", 2.0), ("new", 1.0)):
        write_result("a", {"x": value}, tmp_path / folder)
    write_result("b", {"x": 1.0}, tmp_path / "new")
    capsys.readouterr()
    compare_folders(tmp_path / "old", tmp_path / "new")
    return capsys.readouterr().out


def test_a_result_that_both_folders_hold_is_compared(folders):
    assert "a: 2 numbers, 1 identical" in folders


def test_numbers_of_two_folders_are_told_apart(folders):
    assert "/x: committed 2, now 1 (50.00%)" in folders


def test_a_result_that_one_folder_holds_is_not_compared(folders):
    assert "b:" not in folders


# ---------------------------------------------------------------------------------------- leaves


def test_leaves_are_the_numbers_of_nested_lists_and_dictionaries():
    value = {"a": 1, "b": [2.5, {"c": 3}]}
    assert list(leaves(value)) == [("/a", 1), ("/b/0", 2.5), ("/b/1/c", 3)]


@pytest.mark.parametrize("value", [True, None, "3"])
def test_what_is_not_a_number_is_no_leaf(value):
    assert list(leaves({"a": value})) == []
