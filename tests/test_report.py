"""The two reports build from their sources, with and without the results that may be missing; no number in them is typed."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest

import samplers

typst = pytest.importorskip("typst")

ROOT = Path(__file__).parents[1]
LANGUAGES = ("en", "fa")
OPTIONAL = {
    "samplers": ("sbm_samplers.png",),
    "noise-scales": ("sbm_noise_scales.png",),
    "averaging": (),
    "inpainting": ("sbm_inpainting.png", "sbm_interpolation.png"),
    "likelihood": ("sbm_likelihood.png",),
    "energy-behind-the-score": ("sbm_energy_behind.png",),
    "score-seeds": (), "older-chains": (),
}

specification = importlib.util.spec_from_file_location("build_report", ROOT / "report" / "build.py")
build_report = importlib.util.module_from_spec(specification)
specification.loader.exec_module(build_report)


def pretended_results():
    """Made-up results in the shape of score_studies.py's, to see the sections that wait for them."""
    judged = {"frechet_distance": 12.3, "precision": 0.8, "recall": 0.9, "share_confident": 0.97, "rarest_digit": 0.09,
              "commonest_digit": 0.11, "labels_right": 0.95}  # fmt: skip
    bits = {"mean": 1.234, "standard_error": 0.012}
    record = {"command": "python studies.py ...", "hardware": "1 of 2 cores, AMD EPYC", "date": "2026-11-24", "minutes": 1.0,
              "seed": 7}  # fmt: skip

    def curve(counts):
        return {str(k): {**judged, "n": 10_000 if k < 100 else 1000, "first": judged} for k in counts}

    few, many = (8, 12, 20, 32, 50), (8, 12, 20, 32, 50, 200, 1000)
    variants = ("the notebook's: 10 to 0.01, 30 levels of 8", "from 1", "from 5", "from 14.9, the largest distance",
                "10 levels of 24", "89 levels of 3, by the rule", "30 levels of 2", "30 levels of 20", "down to 0.05",
                "no last denoising", "no last denoising, down to 0.05")  # fmt: skip
    methods = ("one sample", "mean of 4 samples", "mean training image", "nearest training image")
    fields = ("score and the way back", "replay buffer: slope and score",
              "replay buffer: slope and the way back, pixels clamped", "no buffer: slope and score",
              "no buffer: slope and the way back, pixels clamped")  # fmt: skip
    sigmas = ("0.015", "0.03", "0.06", "0.12", "0.25", "0.5", "1.0")
    return {
        "samplers": {
            **record, "n": 1000, "n_most": 10_000, "far": 100,
            "curves": {"annealed Langevin": curve(many), "consistent annealed": curve(many),
                       "predictor-corrector": curve(many), "Heun": curve(few), "Heun with churn": curve(few),
                       "DPM-Solver++": curve(few)}},
        "noise-scales": {
            **record, "n": 200, "largest_distance": 14.9, "ratio_by_the_rule": 1.082, "levels_by_the_rule": 93.7,
            "variants": {name: {**judged, "evaluations": 241} for name in variants}, "floor": judged,
            "by_level": {str(sigma): {"loss": 0.4, "size": 0.59} for sigma in (20, 1, 0.002)}},
        "averaging": {
            **record, "n": 500, "updates": 2000, "width": 32, "decay": 0.99, "floor": judged,
            "found": {rate: {"as they are": judged, "averaged": judged} for rate in ("falls to zero", "stays")}},
        "inpainting": {
            **record, "n": 100, "draws": 4, "levels": 50, "replacement": {"levels": 30, "steps": 8},
            "masks": {mask: {"methods": {method: {"psnr": 15.1, "read_as_it_was": 0.8} for method in methods},
                             "standard_deviation_of_a_missing_pixel": 0.2, "digits_read_among_the_draws": 1.5}
                      for mask in ("upper half missing", "centre missing", "75 % of the pixels missing")}},
        "likelihood": {
            **record, "n": 10_000, "updates": 10_000, "levels": 40, "probes": 1, "parameters": 555_555,
            "bits_per_dimension": {"score model": bits, "independent pixels": bits, "PNG": bits},
            "by_digit": {str(digit): 1.2 for digit in range(10)},
            "coarse_less_fine": {**bits, "n": 200, "levels": 160}},
        "energy-behind-the-score": {
            **record, "n": 200, "pieces": 40, "cosines": {sigma: dict.fromkeys(fields, bits) for sigma in sigmas},
            "work_around_over_work_along": dict.fromkeys(sigmas, bits), "barrier_nats": dict.fromkeys(sigmas, bits)},
        "score-seeds": {
            **record, "n": 1000, "updates": 2000, "width": 32, "levels": 12, "runs": {"1": judged, "2": judged},
            "summary": {key: {"mean": 0.9, "std": 0.1} for key in ("frechet_distance", "labels_right")}},
        "older-chains": {
            **record, "n": 500, "changed": {"old_share": "0.5"},
            "chains": {name: dict.fromkeys(("500", "10000"), judged) for name in ("half", "a quarter, as committed")}},
    }  # fmt: skip


@pytest.fixture
def copy(tmp_path):
    """A folder with what the reports are made of, to take something from it."""
    shutil.copytree(ROOT / "report", tmp_path / "report")
    (tmp_path / "assets" / "results").mkdir(parents=True)
    for pattern in ("*.png", "results/*.json"):
        for path in (ROOT / "assets").glob(pattern):
            shutil.copy(path, tmp_path / "assets" / path.relative_to(ROOT / "assets"))
    return tmp_path


def remove_optional(root):
    for name, figures in OPTIONAL.items():
        for path in (f"results/{name}.json", *figures):
            (root / "assets" / path).unlink(missing_ok=True)


def add_optional(root):
    remove_optional(root)
    for name, result in pretended_results().items():
        (root / "assets" / "results" / f"{name}.json").write_text(json.dumps(result), encoding="utf-8")
        for figure in OPTIONAL[name]:
            shutil.copy(ROOT / "assets" / "denoising_curves.png", root / "assets" / figure)


def pages(root, language):
    """How many pages a report has: one picture each."""
    options = build_report.options_for(root)
    pictures = typst.compile(str(root / "report" / f"{language}.typ"), format="svg", **options)
    return len(pictures) if isinstance(pictures, list) else 1


def headings(root, language):
    options = build_report.options_for(root)
    return len(json.loads(typst.query(str(root / "report" / f"{language}.typ"), "heading", field="level", **options)))


def test_both_reports_build_without_a_warning(copy, tmp_path):
    assert build_report.build(copy) == []
    for name in ("Persion-Report.pdf", "Report.pdf"):
        assert 100_000 < (tmp_path / name).stat().st_size < 3_500_000
        assert (tmp_path / name).read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("language", LANGUAGES)
def test_reports_have_a_reasonable_length_with_all_results_and_without_those_that_may_be_missing(copy, language):
    assert 8 <= pages(copy, language) <= 14
    remove_optional(copy)
    without = headings(copy, language)
    assert 8 <= pages(copy, language) <= 14
    add_optional(copy)
    assert 8 <= pages(copy, language) <= 14
    sections = OPTIONAL.keys() - {"averaging", "score-seeds", "older-chains"}  # these are paragraphs of other sections
    assert headings(copy, language) == without + len(sections)


def test_both_reports_have_the_same_sections_figures_and_tables(copy):
    add_optional(copy)
    for selector in ("heading", "figure", "math.equation.where(block: true)", "bibliography", "link"):
        found = [len(json.loads(typst.query(str(copy / "report" / f"{language}.typ"), selector,
                                            **build_report.options_for(copy)))) for language in LANGUAGES]  # fmt: skip
        assert found[0] == found[1], selector


@pytest.mark.parametrize("path", [("chains", "energies", "replay buffer", "few", "10000", "frechet_distance"),
                                  ("guidance", "seed"), ("floors", "sizes", "1000"),
                                  ("posterior", "sigmas", "0.5", "mean_of_all_against_tweedie")], ids="/".join)  # fmt: skip
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_missing_value_stops_the_build(copy, language, path):
    file = copy / "assets" / "results" / f"{path[0]}.json"
    result = part = json.loads(file.read_text(encoding="utf-8"))
    for key in path[1:-1]:
        part = part[key]
    del part[path[-1]]
    file.write_text(json.dumps(result), encoding="utf-8")
    with pytest.raises(typst.TypstError):
        pages(copy, language)


@pytest.mark.parametrize("missing", ["results/stability.json", "sbm_guidance.png"])
def test_a_missing_file_stops_the_build(copy, missing):
    (copy / "assets" / missing).unlink()
    with pytest.raises(typst.TypstError):
        build_report.build(copy)


# -------------------------------------------------------------------------------------------- numbers typed by hand

SETTINGS = {  # what the code sets or arithmetic gives, and no measurement
    "0.1", "0.01", "0.015", "0.05", "0.001", "0.005", "0.06", "0.25", "0.5", "1.0", "2.5", "1.2", "-1.7", "1.4", "3.10",
    "10,000", "60,000", "20,000", "1,000", "14,000", "17,500", "28,000", "0.995",
    "5 %", "0.1 %", "90 %", "95 %", "99 %", "80 %", "20 %", "75 %",
}  # fmt: skip


def prose_of(source):
    """A report's text: without comments, formulas, code in backquotes, and what follows a # in Typst code."""
    source = re.sub(r"//.*", "", source)
    source = re.sub(r"\$[^$]*\$|`[^`]*`|\"[^\"\n]*\"", " ", source)
    return re.sub(r"(digits|width|size|leading|spacing): *[\d.%a-z]+|\b[\d.]+(pt|em|cm|fr)\b", " ", source)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_measured_number_is_typed_by_hand(language):
    text = prose_of((ROOT / "report" / f"{language}.typ").read_text(encoding="utf-8"))
    latin = text.translate(str.maketrans("۰۱۲۳۴۵۶۷۸۹٫٬", "0123456789.,"))
    latin = re.sub(r"\s*(?:%|٪|~?درصد)", " %", latin)
    typed = set(re.findall(r"-?\d[\d,]*\.\d+(?: %)?|\d{1,3}(?:,\d{3})+|\d+ %", latin))
    assert typed <= SETTINGS, typed - SETTINGS


def evaluated(expression):
    """What an expression of common.typ gives, through a document of one line."""
    source = f'#import "common.typ": *\n#metadata({expression}) <found>'
    file = ROOT / "report" / "common.typ"
    code = file.read_text(encoding="utf-8") + source.split("\n", 1)[1]
    options = build_report.options_for(ROOT)
    return json.loads(typst.query(code.encode(), "<found>", field="value", one=True, **options))


def test_numbers_are_rounded_as_python_rounds_them():
    values = [0.9555 * 100, 0.1245 * 100, 2.5, 3.5, -0.04, 0.0005, 12_345.678, 999.96, 0.985 * 100, 1e-7, 7.0, -1234.5]
    cases = [(value, digits) for value in values for digits in (0, 1, 2, 3)]
    found = evaluated("(" + "".join(f"fixed({value!r}, {digits})," for value, digits in cases) + ")")
    expected = [f"{value:,.{digits}f}" for value, digits in cases]
    assert found == [re.sub(r"^-(?=[0.]*$)", "", number) for number in expected]


def test_the_rules_for_noise_levels_are_those_of_the_samplers():
    ratio, step, overlap, variance = evaluated(
        "(rule-ratio, our-step.at(0), level-overlap(1.1, 784), handed-on(1.3, 0.2, 3, 4))")
    v = 1.0
    for _ in range(4):  # levels: the variance in units of the next one's, then the recursion of a step on a Gaussian
        v *= 1.3**2
        for _ in range(3):
            v = (1 - 0.2) ** 2 * v + 2 * 0.2
    assert variance == pytest.approx(v, rel=1e-9)
    assert ratio == pytest.approx(samplers.level_ratio(784), rel=1e-6)
    sigmas = samplers.geometric_sigmas()
    assert step == pytest.approx(samplers.annealed_step(sigmas, 8) / float(sigmas[-1]) ** 2, abs=2e-4)
    assert overlap == pytest.approx(samplers.level_overlap(1.1, 784), abs=1e-6)
