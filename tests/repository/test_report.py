"""The two reports build with and without the optional results, and no measured number in them is
typed."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest

from dgm import samplers

typst = pytest.importorskip("typst")

ROOT = Path(__file__).parents[2]
LANGUAGES = ("en", "fa")
OPTIONAL = {
    "samplers": ("sbm_samplers.png",),
    "noise-scales": ("sbm_noise_scales.png",),
    "averaging": (),
    "inpainting": ("sbm_inpainting.png", "sbm_interpolation.png"),
    "likelihood": ("sbm_likelihood.png",),
    "energy-behind-the-score": ("sbm_energy_behind.png",),
    "score-seeds": (),
    "old-chains": (),
}

specification = importlib.util.spec_from_file_location("build_report", ROOT / "report" / "build.py")
build_report = importlib.util.module_from_spec(specification)
specification.loader.exec_module(build_report)


EVALUATED = {
    "frechet_distance": 12.3,
    "precision": 0.8,
    "recall": 0.9,
    "share_confident": 0.97,
    "rarest_digit": 0.09,
    "commonest_digit": 0.11,
    "label_accuracy": 0.95,
}
BITS = {"mean": 1.234, "standard_error": 0.012}
RECORD = {
    "format": 2,
    "command": "python -m experiments ...",
    "hardware": "1 of 2 cores, AMD EPYC",
    "date": "2026-11-24",
    "minutes": 1.0,
    "seed": 7,
}


def pretended_samplers():
    def curve(counts):
        return {
            str(k): {**EVALUATED, "n": 10_000 if k < 100 else 1000, "first": EVALUATED}
            for k in counts
        }

    few, many = (8, 12, 20, 32, 50), (8, 12, 20, 32, 50, 200, 1000)
    curves = {
        "annealed_langevin": curve(many),
        "consistent_annealed": curve(many),
        "predictor_corrector": curve(many),
        "heun": curve(few),
        "heun_churn": curve(few),
        "dpm_solver": curve(few),
    }
    return {**RECORD, "n": 1000, "n_most": 10_000, "far": 100, "curves": curves}


def pretended_noise_scales():
    variants = (
        "notebook",
        "from_1",
        "from_5",
        "from_largest_distance",
        "levels_10_steps_24",
        "levels_by_rule",
        "levels_30_steps_2",
        "levels_30_steps_20",
        "down_to_005",
        "no_last_denoising",
        "no_last_denoising_down_to_005",
    )
    return {
        **RECORD,
        "n": 200,
        "largest_distance": 14.9,
        "ratio_by_the_rule": 1.082,
        "levels_by_the_rule": 93.7,
        "variants": {name: {**EVALUATED, "evaluations": 241} for name in variants},
        "floor": EVALUATED,
        "by_level": {str(sigma): {"loss": 0.4, "size": 0.59} for sigma in (20, 1, 0.002)},
    }


def pretended_averaging():
    rates = ("falling_rate", "constant_rate")
    return {
        **RECORD,
        "n": 500,
        "updates": 2000,
        "width": 32,
        "decay": 0.99,
        "floor": EVALUATED,
        "found": {rate: {"raw": EVALUATED, "averaged": EVALUATED} for rate in rates},
    }


def pretended_inpainting():
    methods = ("one_sample", "mean_of_samples", "mean_training_image", "nearest_training_image")
    mask = {
        "methods": {method: {"psnr": 15.1, "read_as_it_was": 0.8} for method in methods},
        "standard_deviation_of_a_missing_pixel": 0.2,
        "digits_read_among_the_draws": 1.5,
    }
    return {
        **RECORD,
        "n": 100,
        "draws": 4,
        "levels": 50,
        "replacement": {"levels": 30, "steps": 8},
        "masks": dict.fromkeys(("upper_half", "centre", "three_in_four"), mask),
    }


def pretended_likelihood():
    return {
        **RECORD,
        "n": 10_000,
        "updates": 10_000,
        "levels": 40,
        "probes": 1,
        "parameters": 555_555,
        "bits_per_dimension": dict.fromkeys(("score_model", "independent_pixels", "png"), BITS),
        "by_digit": {str(digit): 1.2 for digit in range(10)},
        "coarse_less_fine": {**BITS, "n": 200, "levels": 160},
    }


def pretended_energy_behind():
    fields = (
        "score_to_clean",
        "replay_buffer_gradient_to_score",
        "replay_buffer_gradient_to_clean_clamped",
        "no_buffer_gradient_to_score",
        "no_buffer_gradient_to_clean_clamped",
    )
    sigmas = ("0.015", "0.03", "0.06", "0.12", "0.25", "0.5", "1.0")
    return {
        **RECORD,
        "n": 200,
        "pieces": 40,
        "cosines": {sigma: dict.fromkeys(fields, BITS) for sigma in sigmas},
        "work_around_over_work_along": dict.fromkeys(sigmas, BITS),
        "barrier_nats": dict.fromkeys(sigmas, BITS),
    }


def pretended_score_seeds():
    measures = ("frechet_distance", "label_accuracy")
    return {
        **RECORD,
        "n": 1000,
        "updates": 2000,
        "width": 32,
        "levels": 12,
        "runs": {"1": EVALUATED, "2": EVALUATED},
        "summary": {key: {"mean": 0.9, "std": 0.1} for key in measures},
    }


def pretended_old_chains():
    lengths = dict.fromkeys(("500", "1000", "5000"), EVALUATED)
    return {
        **RECORD,
        "n": 500,
        "chains": {"both_from_noise": lengths, "first_from_noise": lengths},
    }


def pretended_results():
    """Made-up results in the shape of the experiments', to see the sections that wait for them."""
    return {
        "samplers": pretended_samplers(),
        "noise-scales": pretended_noise_scales(),
        "averaging": pretended_averaging(),
        "inpainting": pretended_inpainting(),
        "likelihood": pretended_likelihood(),
        "energy-behind-the-score": pretended_energy_behind(),
        "score-seeds": pretended_score_seeds(),
        "old-chains": pretended_old_chains(),
    }


def copy_to(folder):
    """Copy the sources, figures and results of the reports to a folder and return it."""
    shutil.copytree(ROOT / "report", folder / "report")
    (folder / "assets" / "results").mkdir(parents=True)
    for pattern in ("*.png", "results/*.json"):
        for path in (ROOT / "assets").glob(pattern):
            shutil.copy(path, folder / "assets" / path.relative_to(ROOT / "assets"))
    return folder


@pytest.fixture
def copy(tmp_path):
    """A copy of the sources, figures and results of the reports."""
    return copy_to(tmp_path)


def remove_optional(root):
    for name, figures in OPTIONAL.items():
        for path in (f"results/{name}.json", *figures):
            (root / "assets" / path).unlink(missing_ok=True)


def add_optional(root):
    remove_optional(root)
    for name, result in pretended_results().items():
        (root / "assets" / "results" / f"{name}.json").write_text(
            json.dumps(result), encoding="utf-8"
        )
        for figure in OPTIONAL[name]:
            shutil.copy(ROOT / "assets" / "denoising_curves.png", root / "assets" / figure)


def pages(root, language):
    """How many pages a report has: one picture each."""
    options = build_report.options_for(root)
    pictures = typst.compile(str(root / "report" / f"{language}.typ"), format="svg", **options)
    return len(pictures) if isinstance(pictures, list) else 1


def count(root, language, selector):
    """How many of something a report has."""
    options = build_report.options_for(root)
    source = str(root / "report" / f"{language}.typ")
    return len(json.loads(typst.query(source, selector, **options)))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A copy in which both reports have been built, and Typst's warnings."""
    folder = copy_to(tmp_path_factory.mktemp("reports"))
    return folder, build_report.build(folder)


def test_both_reports_build_without_a_warning(built):
    assert built[1] == []


@pytest.mark.parametrize("name", build_report.REPORTS)
def test_a_report_is_a_pdf(built, name):
    assert (built[0] / name).read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", build_report.REPORTS)
def test_a_report_has_a_reasonable_size(built, name):
    assert 100_000 < (built[0] / name).stat().st_size < 3_500_000


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_report_with_the_committed_results_has_a_reasonable_length(copy, language):
    assert 8 <= pages(copy, language) <= 14


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_report_without_the_optional_results_has_a_reasonable_length(copy, language):
    remove_optional(copy)
    assert 8 <= pages(copy, language) <= 14


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_report_with_all_optional_results_has_a_reasonable_length(copy, language):
    add_optional(copy)
    assert 8 <= pages(copy, language) <= 14


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_optional_result_that_is_not_a_paragraph_adds_a_section(copy, language):
    paragraphs = {"averaging", "score-seeds", "old-chains"}
    remove_optional(copy)
    without = count(copy, language, "heading")
    add_optional(copy)
    assert count(copy, language, "heading") == without + len(OPTIONAL.keys() - paragraphs)


@pytest.mark.parametrize(
    "selector", ["heading", "figure", "math.equation.where(block: true)", "bibliography", "link"]
)
def test_both_reports_have_the_same_number_of(copy, selector):
    add_optional(copy)
    assert count(copy, "en", selector) == count(copy, "fa", selector)


@pytest.mark.parametrize(
    "path",
    [
        ("chains", "energies", "replay_buffer", "few", "10000", "frechet_distance"),
        ("guidance", "seed"),
        ("floors", "sizes", "1000"),
        ("posterior", "sigmas", "0.5", "mean_of_all_against_tweedie"),
    ],
    ids="/".join,
)
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


# Settings of the code and results of arithmetic, not measurements.
SMALL = "0.9 0.1 0.01 0.015 0.05 0.001 0.005 0.06 0.25 0.5 1.0 2.5 1.2 -1.7 1.4 3.10 0.995"
LARGE = "10,000 60,000 20,000 1,000 14,000 17,500 28,000"
SHARES = "5 0.1 90 95 99 80 20 75"
SETTINGS = {*SMALL.split(), *LARGE.split(), *(f"{share} %" for share in SHARES.split())}


def prose_of(source):
    """A report's text without comments, formulas, code in backquotes and sizes in Typst code."""
    source = re.sub(r"//.*", "", source)
    source = re.sub(r"\$[^$]*\$|`[^`]*`|\"[^\"\n]*\"", " ", source)
    return re.sub(
        r"(digits|width|size|leading|spacing): *[\d.%a-z]+|\b[\d.]+(pt|em|cm|fr)\b", " ", source
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_measured_number_is_typed_by_hand(language):
    text = prose_of((ROOT / "report" / f"{language}.typ").read_text(encoding="utf-8"))
    latin = text.translate(str.maketrans("۰۱۲۳۴۵۶۷۸۹٫٬", "0123456789.,"))
    latin = re.sub(r"\s*(?:%|٪|~?درصد)", " %", latin)
    typed = set(re.findall(r"-?\d[\d,]*\.\d+(?: %)?|\d{1,3}(?:,\d{3})+|\d+ %", latin))
    assert typed <= SETTINGS, typed - SETTINGS


def evaluated(expression):
    """Evaluate an expression of common.typ."""
    code = (ROOT / "report" / "common.typ").read_text(encoding="utf-8")
    code += f"#metadata({expression}) <found>"
    options = build_report.options_for(ROOT)
    return json.loads(typst.query(code.encode(), "<found>", field="value", one=True, **options))


def test_numbers_are_rounded_as_python_rounds_them():
    values = [0.9555 * 100, 0.1245 * 100, 2.5, 3.5, -0.04, 0.0005]
    values += [12_345.678, 999.96, 0.985 * 100, 1e-7, 7.0, -1234.5]
    cases = [(value, digits) for value in values for digits in (0, 1, 2, 3)]
    found = evaluated(
        "(" + "".join(f"fixed({value!r}, {digits})," for value, digits in cases) + ")"
    )
    expected = [f"{value:,.{digits}f}" for value, digits in cases]
    assert found == [re.sub(r"^-(?=[0.]*$)", "", number) for number in expected]


def test_the_ratio_of_noise_levels_is_that_of_the_samplers():
    assert evaluated("rule-ratio") == pytest.approx(samplers.level_ratio(784), rel=1e-6)


def test_the_step_of_annealed_langevin_is_that_of_the_samplers():
    sigmas = samplers.geometric_sigmas()
    step = samplers.annealed_step(sigmas, 8) / float(sigmas[-1]) ** 2
    assert evaluated("our-step.at(0)") == pytest.approx(step, abs=2e-4)


def test_the_overlap_of_noise_levels_is_that_of_the_samplers():
    overlap = evaluated("level-overlap(1.1, 784)")
    assert overlap == pytest.approx(samplers.level_overlap(1.1, 784), abs=1e-6)


def test_the_variance_handed_on_is_that_of_the_recursion_of_a_step():
    v = 1.0
    for _ in range(4):  # levels: the variance in units of the next one's, then the steps
        v *= 1.3**2
        for _ in range(3):
            v = (1 - 0.2) ** 2 * v + 2 * 0.2
    assert evaluated("handed-on(1.3, 0.2, 3, 4)") == pytest.approx(v, rel=1e-9)


# The dictionaries whose keys name() turns into labels.
NAMED = """
    chains.energies, score-samples.samples, ablation.changed, denoising.methods, strangers.auroc,
    strangers.auroc.values().first(), samplers.curves, noise-scales.variants, inpainting.masks,
    inpainting.masks.values().first().methods, likelihood.bits_per_dimension,
    energy-behind.cosines.values().first(), memory
"""


def test_people_read_no_key_of_the_results():
    keys = evaluated(f"({NAMED}).map(named => named.keys()).flatten()")
    named = set(evaluated("names-en.keys()"))
    patterns = evaluated("patterns.map(pattern => pattern.first())")
    shown = {key for key in keys if "_" in key} - named
    assert {key for key in shown if not any(re.search(p, key) for p in patterns)} == set()
