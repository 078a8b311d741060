"""The score model's studies: their pieces against known answers, and each of them end to end on a few UCI digits."""

import json
import math

import pytest
import torch

import helpers
import score_studies
import studies


@pytest.fixture(scope="module")
def lab():
    patch = pytest.MonkeyPatch()
    patch.setattr(helpers, "load_mnist", lambda *args, **kwargs: helpers.uci_digits())
    yield studies.laboratory(most=20)
    patch.undo()


def finite(result):
    values = [value for _, value in studies.leaves(json.loads(json.dumps(result)))]
    return len(values) > 5 and all(math.isfinite(value) for value in values)


@pytest.mark.parametrize("name", score_studies.SAMPLERS)
def test_a_sampler_costs_what_it_says(name):
    calls = []

    def score(x, sigma, labels=None):
        calls.append(sigma)
        return -x / (1 + sigma**2)

    for evaluations in (9, 21):
        calls.clear()
        x = score_studies.SAMPLERS[name](score, torch.zeros(2, dtype=torch.long), evaluations, guidance=1)
        assert len(calls) == evaluations and x.shape == (2, *helpers.IMAGE_SHAPE)


def test_sampler_costs_are_kept_and_finite(lab, tmp_path):
    assert lab.most > 10
    options = {"few": (3,), "many": {"predictor-corrector": (5,)}, "n": 10}
    first = score_studies.sampler_costs(lab, **options, far=float("inf"), root=tmp_path)
    assert finite({**first, "far": 0}) and list(first["curves"]["Heun"]) == ["3"]
    assert {curve["3"]["n"] for curve in first["curves"].values()} == {lab.most}
    curve = first["curves"]["predictor-corrector"]
    assert list(curve) == ["3", "5"] and curve["5"]["n"] == 10
    kept = json.loads((tmp_path / "samplers.json").read_text())
    assert len(kept) == len(score_studies.SAMPLERS) + 2  # the one point more, and the seconds
    assert score_studies.sampler_costs(lab, **options, far=float("inf"), root=tmp_path) == first


def test_where_a_sampler_is_far_off_its_first_images_are_enough(lab, tmp_path):
    options = {"few": (3,), "many": {}, "n": 10}
    near = score_studies.sampler_costs(lab, **options, far=float("inf"), root=tmp_path / "near")["curves"]["Heun"]["3"]
    far = score_studies.sampler_costs(lab, **options, far=0, root=tmp_path / "far")["curves"]["Heun"]["3"]
    assert far["n"] == 10 and far["first"] == near["first"]


def test_two_processes_may_remember_in_one_file(tmp_path):
    path = tmp_path / "a.json"

    def meanwhile():
        score_studies.remembered(path, "other", lambda: 2)
        return 1

    assert score_studies.remembered(path, "key", meanwhile) == 1
    known = json.loads(path.read_text())
    assert known.pop("seconds") > 0 and known == {"other": 2, "key": 1}
    assert score_studies.minutes_of(path) == 0.0


def test_remembered_calls_once(tmp_path):
    calls = []
    for _ in range(2):
        assert score_studies.remembered(tmp_path / "a.json", "key", lambda: calls.append(1) or {"x": 1}) == {"x": 1}
    assert len(calls) == 1


def test_guidance_and_inpainting_are_judged(lab):
    assert finite(score_studies.guidance(lab, n=20, weights=(0.0, 2.0), levels=3))
    result = score_studies.inpainting(lab, n=4, draws=2, levels=3, replacement={"levels": 3, "steps": 1})
    assert finite(result) and len(result["masks"]) == 3


def test_noise_scales_are_judged(lab, tmp_path, monkeypatch):
    few = {"the notebook's": {"sigmas": helpers.geometric_sigmas(levels=3), "steps": 1}}
    monkeypatch.setattr(score_studies, "noise_scale_variants", lambda widest: few)
    result = score_studies.noise_scales(lab, n=10, root=tmp_path)
    assert finite(result) and result["variants"]["the notebook's"]["evaluations"] == 4
    assert result["ratio_by_the_rule"] == pytest.approx(1.0820, abs=5e-4)


def test_the_error_of_a_mean_is_that_of_independent_values():
    assert score_studies.mean_and_error([0.0, 2.0]) == {"mean": 1.0, "standard_error": 1.0}


def test_loss_of_a_perfect_score_is_known(generator):
    """Images from N(0, 1): E |sigma s + z|^2 / D = 1 / (1 + sigma^2), and E |sigma s|^2 / D is the rest of 1."""
    images = torch.randn(200, *helpers.IMAGE_SHAPE, generator=generator)
    found = score_studies.loss_by_level(lambda x, s: -x / (1 + s**2), images, torch.tensor([2.0, 0.5]), generator)
    for sigma, level in found.items():
        expected = 1 / (1 + float(sigma) ** 2)
        assert level["loss"] == pytest.approx(expected, rel=0.02) and level["size"] == pytest.approx(1 - expected, rel=0.02)


def test_work_of_a_gradient_is_the_energy_difference(generator):
    """Of E = |x|^2 / 2 the work along a path is E at its end less E at its start, and around a loop it is zero."""
    a, b, c = torch.randn(3, 4, *helpers.IMAGE_SHAPE, generator=generator)
    paths = [score_studies.straight(p, q, 10) for p, q in ((a, b), (b, c), (c, a))]
    along = [score_studies.energy_along(lambda x: -x, path) for path in paths]
    work = [energies[-1] for energies in along]
    expected = (b.square() - a.square()).flatten(1).sum(1) / 2
    assert torch.allclose(work[0], expected, rtol=1e-3, atol=0.05)
    assert sum(work).abs().max() < 0.1 and along[0].shape == (11, 4) and along[0][0].abs().max() == 0
    turning = score_studies.energy_along(lambda x: x.flip(3) * torch.linspace(-1, 1, 28).sign(), paths[0])[-1]
    assert turning.abs().max() > 1  # a field that turns has work that depends on the way


def test_memorisers_completion_keeps_what_is_known(lab):
    training = lab.digits.train_images[:50]
    known = torch.rand(1, 28, 28) < 0.5
    completed = score_studies.nearest_by_known(training[:5], known, training)
    assert torch.equal(completed, training[:5])


def test_energy_behind_the_score_is_measured(lab):
    result = score_studies.energy_behind_the_score(lab, n=4, sigmas=(0.25,), pieces=3)
    assert finite(result) and -1 <= result["cosines"]["0.25"]["score and the way back"]["mean"] <= 1


def test_masks_hide_what_they_say(generator):
    shares = [1 - mask.double().mean().item() for mask in score_studies.masks(generator, "cpu").values()]
    assert shares == pytest.approx([0.5, 0.25, 0.75], abs=0.06)


def test_dequantised_images_fill_their_cells(generator):
    """Grey value k becomes uniform on [k / 256, (k + 1) / 256)."""
    x = score_studies.dequantised(torch.tensor([0.0, 100 / 255, 1.0]).expand(10_000, 3), generator)
    assert torch.equal((256 * x).floor()[0], torch.tensor([0.0, 100.0, 255.0])) and x.min() >= 0 and x.max() < 1
    assert torch.allclose((256 * x).frac().mean(0), torch.tensor(0.5), atol=5 * (1 / 12 / 10_000) ** 0.5)


def test_every_level_has_one_in_each_part(generator):
    sigma = score_studies.every_level(100, generator)
    share = (sigma / 0.001).log() / math.log(20_000)
    assert torch.equal((100 * share).floor(), torch.arange(100.0))


def test_likelihood_network_starts_as_one_gaussian_and_sees_fine_detail(generator):
    model = score_studies.LikelihoodNetwork(width=8)
    x = torch.rand(2, *helpers.IMAGE_SHAPE, generator=generator)
    gaussian = -(x - helpers.PIXEL_MEAN) / (0.5**2 + helpers.PIXEL_STD**2)
    assert torch.allclose(model(x, 0.5), gaussian, atol=1e-5)
    seen = {}
    model.stem.register_forward_hook(lambda module, arguments, output: seen.update(last=arguments[0].float()))
    inputs = []
    for shift in (0.0, 1 / 512):  # half a grey value further the finest wave has turned by half a turn
        for sigma in (0.0005, 1.0):
            model(x + shift, sigma)
            inputs.append(seen["last"])
    assert (inputs[2] - inputs[0]).abs().max() > 0.5 and (inputs[3] - inputs[1]).abs().max() < 0.05


def test_bits_of_independent_pixels_are_the_entropy(generator):
    """Half black and half white in every pixel, no matter which: one bit each."""
    images = (torch.rand(4_000, *helpers.IMAGE_SHAPE, generator=generator) < 0.5).float()
    bits = score_studies.bits_of_independent_pixels(images, images[:50])
    assert len(bits) == 50 and torch.tensor(bits).mean() == pytest.approx(1.0, abs=0.1)
    assert all(0.5 < b < 8 for b in score_studies.bits_of_png(images[:3]))


def test_likelihood_is_measured(lab, tmp_path):
    options = {"updates": 2, "levels": 3, "n_fine": 2, "levels_fine": 4, "width": 8, "root": tmp_path}
    result = score_studies.likelihood(lab, **options)
    assert finite(result) and result["n"] == 20 and sum(result["histogram"]["PNG"]) <= 20
    assert score_studies.likelihood(lab, **options)["bits_per_dimension"] == result["bits_per_dimension"]


def test_each_seed_trains_another_network_and_is_kept(lab, tmp_path):
    options = {"seeds": (1, 2), "updates": 3, "n": 10, "width": 8, "levels": 3, "root": tmp_path}
    first = score_studies.score_seeds(lab, **options)
    assert finite(first) and list(first["runs"]) == ["1", "2"]
    one, two = (run["frechet_distance"] for run in first["runs"].values())
    assert one != two and first["summary"]["frechet_distance"]["mean"] == pytest.approx((one + two) / 2)
    assert first["summary"]["frechet_distance"]["std"] == pytest.approx(abs(one - two) / 2**0.5)
    assert score_studies.score_seeds(lab, **options)["runs"] == first["runs"]


def test_averaging_judges_four_sets_of_weights_and_goes_on_from_what_is_there(lab, tmp_path):
    options = {"updates": 3, "n": 10, "width": 8, "root": tmp_path}
    first = score_studies.averaging(lab, **options)
    assert finite(first) and {rate: list(pair) for rate, pair in first["found"].items()} == {
        rate: ["as they are", "averaged"] for rate in ("falls to zero", "stays")}  # fmt: skip
    found = first["found"]["stays"]
    assert found["as they are"] != found["averaged"]
    assert score_studies.averaging(lab, **options) == first
