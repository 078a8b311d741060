"""README's measured tables, written from assets/results/*.json: `python tables.py`. Nothing in them is typed by hand."""

import json
from pathlib import Path

MARKS = {part: (f"<!-- {part}: written by `make tables`, do not edit -->", f"<!-- end of {part} -->")
         for part in ("notebooks", "glance", "studies", "tables")}  # fmt: skip
REPOSITORY = ""  # "owner/name", once it is public on GitHub: each notebook then gets its Colab badge
NOTEBOOKS = {"EBM-BestPractice": "**The primary energy-based model**: contrastive divergence with Langevin dynamics and a "
                                 "**replay buffer**",
             "EBM": "The baseline, for comparison: the same without the buffer (every chain starts from noise), the usual "
                    "loss, fewer updates",
             "score-based-model": "**NCSN**: denoising score matching, annealed Langevin dynamics, unconditional and "
                                  "class-conditional"}  # fmt: skip
STUDIES = {"floors": "what real training images get, at each n",
           "chains": "the three energies' chains from noise, up to 10,000 steps",
           "score-samples": "10,000 samples of the score model; a classifier trained on generated digits",
           "denoising": "both models and their rivals at four noise levels",
           "posterior": "the digits that a noisy digit could be, against theory",
           "out-of-distribution": "energies of test digits and of other images",
           "samplers": "six samplers of the score against network evaluations",
           "guidance": "weights of guidance", "noise-scales": "other noise levels for annealed Langevin",
           "averaging": "weights averaged or not (trains two small networks)",
           "score-seeds": "trains the `quick` score model with several seeds",
           "inpainting": "completing digits", "likelihood": "bits a pixel (trains a small network first)",
           "energy-behind-the-score": "the two halves joined: fields, barriers, work around triangles",
           "stability": "trains five seeds each with and without one buffer, all else equal",
           "ablation": "trains the recipe with one thing changed at a time",
           "break-away": "trains with the samples' energy squared",
           "older-chains": "trains with half of each batch from the older chains"}
MADE = ("stability", "ablation", "break-away")  # these have a make target
QUALITY = ["Fréchet distance", "× floor", "precision", "recall", "confident", "share of a digit", "labels right"]


def read_results(folder):
    """{name: what was measured} from a folder's *.json."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).glob("*.json"))}


def markdown_table(header, rows, texts=1):
    """A table as Markdown, all but the first `texts` columns right-aligned."""
    line = "|" + "|".join(":--" if i < texts else "--:" for i in range(len(header))) + "|"
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [header, *rows]).replace("\n", f"\n{line}\n", 1)


def one_buffer(name):
    """The results' "replay buffer" where it is the baseline's settings with one buffer, not the recipe with its two."""
    return name.replace("replay buffer", "one buffer")


def plus_minus(summary, digits=0):
    return f"{summary['mean']:,.{digits}f} ± {summary['std']:,.{digits}f}"


def quality_cells(judgement, floor):
    distance, times = judgement["frechet_distance"], judgement["frechet_distance"] / floor["mean"]
    right = f"{judgement['labels_right']:.1%}" if "labels_right" in judgement else ""
    return [f"{distance:.1f}", f"{times:.1f}", f"{judgement['precision']:.2f}", f"{judgement['recall']:.2f}",
            f"{judgement['share_confident']:.0%}",
            f"{judgement['rarest_digit']:.1%} to {judgement['commonest_digit']:.1%}", right]  # fmt: skip


def with_floor(judgement, floor):
    """quality_cells() of real training images, their distance the mean of several blocks."""
    return [f"{floor['mean']:.1f} ± {floor['std']:.1f}", "1.0", *quality_cells(judgement, floor)[2:]]


def floor_of(floors, n, kind="as they come"):
    """{mean, std} of the distance of n real training images."""
    return floors["sizes"][str(n)][kind]


def measured_on(result):
    return f"seed {result['seed']}; {result['hardware']}, {result['date']}"


def score_table(result, floors):
    annealed, kinds = result["annealed"], ("as they come", "each digit equally often")
    rows = []
    for n, floor in ((result["n"], result["floor"]), (annealed["n"], annealed["floor"])):
        plain, balanced = (floor_of(floors, n, kind) for kind in kinds)
        rows.append(["real training images (the floor)", f"{n:,}", "", *with_floor(floor, plain)])
        rows.append(["real training images, each digit equally often", f"{n:,}", "",
                     f"{balanced['mean']:.1f} ± {balanced['std']:.1f}", "1.0", *[""] * (len(QUALITY) - 2)])  # fmt: skip
        if n == result["n"]:
            rows += [[kind, f"{n:,}", result["levels"] * (1 + (kind == "conditional")),
                      *quality_cells(judged, balanced if "labels_right" in judged else plain)]
                     for kind, judged in result["samples"].items()]  # fmt: skip
    evaluations = 2 * (annealed["levels"] * annealed["steps"] + 1)
    rows.append(["conditional, annealed Langevin", f"{annealed['n']:,}", evaluations,
                 *quality_cells(annealed["judged"], balanced)])  # fmt: skip
    yield (f"**Score model.** DPM-Solver++ with {result['levels']} levels, and annealed Langevin with {annealed['levels']} "
           f"of {annealed['steps']} steps; guidance {result['guidance']} unless said otherwise, which doubles the "
           f"evaluations ({measured_on(result)}). The classifier gives {result['real_labels_right']:.2%} of the real test "
           "digits their label. Floors: mean and standard deviation of blocks of training images; samples asked for by "
           "label are held against the second one.")  # fmt: skip
    yield markdown_table(["samples", "n", "evaluations", *QUALITY], rows)
    asked = {kind: judged for kind, judged in result["samples"].items() if "labels_right" in judged}
    yield f"**Labels right, digit by digit.** {result['n'] // 10:,} samples of each digit by DPM-Solver++."
    yield markdown_table(["samples", *range(10)], [[kind, *(f"{right:.1%}" for right in judged["labels_right_by_digit"])]
                                                   for kind, judged in asked.items()])  # fmt: skip
    trained = result["train_on_generated"]
    yield ("**Train on generated, test on real.** The same classifier, trained on samples of the first kind above (of which "
           "that table judges as many as there are test digits) and tested on the 10,000 real test digits.")  # fmt: skip
    rows = [[f"{trained['n']:,} generated", f"{trained['generated']:.2%}"],
            [f"{trained['n']:,} real", f"{trained['as_many_real']:.2%}"],
            ["60,000 real", f"{trained['classifier_on_all_real']:.2%}"]]  # fmt: skip
    yield markdown_table(["trained on", "accuracy"], rows[:2] if trained["n"] == 60_000 else rows)


def chains_table(result, floors):
    rows = []
    for kind in ("many", "few"):
        n, floor = f"{result[f'n_{kind}']:,}", floor_of(floors, result[f"n_{kind}"])
        rows.append(["real training images (the floor)", "", n, *with_floor(result["floor"][kind], floor)[:-1]])
        for name, energy in result["energies"].items():
            longest = max(energy["many"], key=int)  # for both numbers of chains
            lengths = [steps for steps in energy[kind] if kind == "many" or int(steps) >= int(longest)]
            rows += [[name, f"{int(steps):,}", n, *quality_cells(energy[kind][steps], floor)[:-1]] for steps in lengths]
    training = {name: energy["training"] for name, energy in result["energies"].items()}
    minutes = {name: f"{record['minutes']:.0f}" for name, record in training.items()}
    where = "; ".join(f"{name}: {energy['measured_on']}" for name, energy in result["energies"].items())
    tutorial = training["tutorial settings"]
    yield (f"**Energies.** Fresh chains from noise (seed {result['seed']}; {where}). The tutorial settings are those "
           f"of the UvA deep learning course, tutorial 8 (width 16), trained by us for {tutorial['minutes']:.0f} minutes "
           f"on one core, {tutorial['updates']:,} updates where the tutorial does about 28,000 on a GPU and "
           "picks the best checkpoint by validation; the other two took "
           f"{minutes['replay buffer']} and {minutes['no buffer']} minutes. The one without buffer is judged as training "
           "left it, after it had broken away.")  # fmt: skip
    yield markdown_table(["energy", "steps", "n", *QUALITY[:-1]], rows)


def stability_table(result, floors):
    floor = floor_of(floors, result["n"])
    sides = ("replay buffer", "no buffer")
    runs = len(result["replay buffer"]["runs"])
    yield (f"**Stability.** {runs} seeds each, the baseline's settings with and without one buffer: {result['updates']:,} "
           f"updates, "
           f"{result['gradient_evaluations']:,} gradient evaluations of 128 chains; n = {result['n']:,} samples a distance; "
           "mean ± standard deviation over seeds. Gap: E(x⁻) − E(x⁺) over the second half of a run; diverged: its mean over "
           f"50 updates beyond 1 there; floor of the distance {floor['mean']:.1f} ({result['hardware']}, "
           f"{result['date']}).")  # fmt: skip
    rows = []
    for side in sides:
        summary = result[side]["summary"]
        rows.append([one_buffer(side), f"{summary['diverged']} of {runs}", plus_minus(summary["gap_mean"], 3),
                     plus_minus(summary["gap_std"], 3),
                     *(plus_minus(value, 2) for value in summary["gap_autocorrelation"].values()),
                     *(plus_minus(value) for value in summary["frechet_distance"].values())])  # fmt: skip
    summary = result["no buffer"]["summary"]
    header = ["energy", "diverged", "gap", "its std in a run",
              *(f"autocorrelation, lag {k}" for k in summary["gap_autocorrelation"]),
              *(f"distance, {k} steps" for k in summary["frechet_distance"])]  # fmt: skip
    yield markdown_table(header, rows)


def ablation_table(result, floors):
    seeds = len({run["seed"] for run in result["runs"]})
    rows = []
    for name, change in result["changed"].items():
        runs = [run for run in result["runs"] if run["name"] == name]
        distances = [" / ".join(f"{run['chains'][k]['frechet_distance']:.0f}" for run in runs) for k in runs[0]["chains"]]
        rows.append([name, ", ".join(f"`{key}={value}`" for key, value in change.items()), runs[0]["updates"], *distances])
    yield (f"**What each part buys.** The replay buffer's recipe at width {result['width']} with one thing changed, each "
           f"trained with {result['gradient_evaluations']:,} gradient evaluations of an image, {seeds} seeds; Fréchet "
           f"distance of n = {result['n']:,} fresh chains, a number a seed; that of as many real images is "
           f"{plus_minus(floor_of(floors, result['n']), 1)} ({result['hardware']}, {result['date']}).")  # fmt: skip
    header = ["", "changed", "updates", *(f"{int(k):,} steps" for k in result["runs"][0]["chains"])]
    yield markdown_table(header, rows)


def older_chains_table(result, floors):
    rows = [[name, *(f"{judged['frechet_distance']:.0f}" for judged in chains.values())]
            for name, chains in result["chains"].items()]  # fmt: skip
    changed = ", ".join(f"`{key}={value}`" for key, value in result["changed"].items())
    yield (f"**Older chains.** The committed run trained anew with half of each batch from the chains that live longer "
           f"({changed}; {result['minutes']:.0f} minutes of training) and the committed energy; Fréchet distance of n = "
           f"{result['n']:,} fresh chains; that of as many real images is {plus_minus(floor_of(floors, result['n']), 1)} "
           f"({measured_on(result)}).")  # fmt: skip
    lengths = next(iter(result["chains"].values()))
    yield markdown_table(["old chains in a batch", *(f"{int(steps):,} steps" for steps in lengths)], rows)


def denoising_table(result):
    levels = list(result["chosen"])
    said = {"training-set mean": "memoriser: weighted mean of the training images", "Gaussian (Wiener)": "linear (Wiener)"}
    rows = [[said.get(name, name), *(f"{quality[sigma]['psnr']:.1f} / {quality[sigma]['ssim']:.2f}" for sigma in levels)]
            for name, quality in result["methods"].items()]  # fmt: skip
    yield (f"**Denoising.** PSNR in dB (pooled) / SSIM, first {result['n']:,} test digits, noise not clipped, estimates "
           "clamped to [0, 1]; the energies' steps tuned on "
           f"{result['n_tuning']['energies']} training digits, scikit-image's settings on "
           f"{result['n_tuning']['scikit-image']} "
           f"({measured_on(result)}).")  # fmt: skip
    yield markdown_table(["", *(f"σ = {sigma}" for sigma in levels)], rows)


def posterior_table(result):
    counts = [k for k in ("1", "2", "4", "8") if k in next(iter(result["sigmas"].values()))["ratios"]]
    rows = [[f"σ = {sigma}", f"{level['one_sample_against_tweedie_dB']:+.2f} dB",
             *(f"{level['ratios'][k]['ratio']:.3f} ± {level['ratios'][k]['standard_error']:.3f}" for k in counts),
             *(f"{level[key]['ratio']:.3f} ± {level[key]['standard_error']:.3f}"
               for key in ("mean_of_all_against_tweedie", "variance_over_error_of_the_mean"))]
            for sigma, level in result["sigmas"].items()]  # fmt: skip
    rows.append(["theory", "-3.01 dB", *(f"{1 + 1 / int(k):.3f}" for k in counts), "1", "1"])
    yield (f"**Posterior sampling with the score model.** Squared error of the mean of K samples over that of Tweedie's "
           f"estimate, {result['n']:,} test digits, {result['levels']} levels ({measured_on(result)}).")  # fmt: skip
    header = ["", "one sample", *(f"K = {k}" for k in counts), "K → ∞", "variance of samples / error of their mean"]
    yield markdown_table(header, rows)


def strangers_table(result):
    kinds = [kind for kind in next(iter(result["auroc"].values())) if kind != "n"]
    rows = [[name, *(f"{row[kind]:.3f}" for kind in kinds)] for name, row in result["auroc"].items()]
    names = "; ".join(name.split(" (")[0] for name in result["left_out"])
    left_out = f" Left out, since it could not be fetched: {names}." if names else ""
    yield (f"**Telling other images from test digits.** AUROC, {result['n']:,} images a row against "
           f"{result['n_test_digits']:,} test digits ({measured_on(result)}). Mean pixel: its distance from the training "
           "mean. Gaussian: Mahalanobis distance under one Gaussian of the training pixels (Ledoit-Wolf)."
           f"{left_out}")  # fmt: skip
    yield markdown_table(["", *kinds], rows)


def memory_table(results):
    nearest = {"score model": results["score-samples"]["nearest"]}
    nearest |= {f"EBM, {name}": energy["nearest"] for name, energy in results["chains"]["energies"].items()}
    rows = [[name, *(f"{value:.2f}" for value in found["samples"].values()),
             f"{found['share_closer_than_1%_of_test_digits']:.1%}"] for name, found in nearest.items()]  # fmt: skip
    reference = nearest["score model"]
    rows.append(["real test digits", *(f"{value:.2f}" for value in reference["test digits"].values()), "1.0%"])
    yield (f"**Memorising?** Percentiles of the distance of {reference['n']:,} samples to the nearest training image, and "
           "the share closer than 99 % of test digits are.")  # fmt: skip
    yield markdown_table(["samples", *reference["samples"], "closer than 99 % of test digits"], rows)


def chip(result):
    return result["hardware"].split(", ", 1)[1]


def speed_tables(results):
    """What `make bench` found on each of several chips; the seconds of the samplers are of the first."""
    first = results[0]
    peers = ("ours", "ebmkit", "torchebm", "tutorial loop, float32", "tutorial loop, autocast")
    chains = first["chains"]
    turns, where = chains["batch"]["1"]["ours"]["repetitions"], []
    for result in results:
        peak = " and ".join(f"{value / 1e9:,.0f} in {name}" for name, value in result["peak_flops"].items())
        where.append(f"{result['hardware']}, {result['date']}, PyTorch {result['torch']}: peak {peak}")
    yield (f"**Speed of chains.** Image-steps per second, {chains['parameters']:,} parameters (width 16, as the "
           f"tutorial's; the committed energies have width 32), {chains['steps']} steps, median of {turns} turns, "
           f"seed {first['seed']}. Peak: a 2,048³ matrix product, GFLOP/s ({'; '.join(where)}). The others run in a "
           "process of their own, as they come, the libraries in float32; the second ratio is to these in our process, "
           "where freed memory is kept, and the third to the fastest there is of all the others, there too.")  # fmt: skip
    rows = [[chip(result), batch, *(f"{row[name]['median']:,.0f}" for name in peers),
             f"{row['ours']['times_best_peer']:.1f}", f"{row['ours']['times_best_peer_with_our_memory']:.1f}",
             f"{row['ours']['median'] / max(rival['median'] for name, rival in row.items() if name != 'ours'):.1f}",
             f"{row['ours']['share_of_peak']:.0%}"]
            for result in results for batch, row in result["chains"]["batch"].items()]  # fmt: skip
    header = ["chip", "batch", *peers, "ours / best library", "with our memory", "/ fastest of all", "share of peak"]
    yield markdown_table(header, rows)
    widths = {chip(result): next(iter(result["digits"].values()))["width"] for result in results}
    width = widths[chip(first)]
    narrower = "".join(f"; on {name}, measured earlier, {other}" for name, other in widths.items() if other != width)
    yield ("**Speed of updates and of the score network.** Ours against the straightforward float32 program, per second; "
           f"the score network has width {width}{narrower}.")  # fmt: skip

    def cells(row, digits):
        return [f"{row[who]['median']:,.{digits}f}" for who in ("ours", "float32")] + [f"{row['ratio']:.1f}"]

    rows = []
    for result in results:
        rows += [[chip(result), f"update, {name}", *cells(row, 2), ""] for name, row in result["updates"]["updates"].items()]
        rows += [[chip(result), f"score network, batch {batch}, evaluations", *cells(row, 0), f"{row['share_of_peak']:.0%}"]
                 for batch, row in result["score"]["batch"].items()]  # fmt: skip
    yield markdown_table(["chip", "", "ours", "float32", "ratio", "share of peak"], rows, texts=2)
    compiled = {chip(result): result["score"]["batch"].get("512", {}).get("torch.compile") for result in results}
    found = [f"{row['median']:,.0f} on {name}, after {row['seconds_to_compile']:.0f} seconds of compiling"
             for name, row in compiled.items() if row]  # fmt: skip
    if found:
        yield f"Not used: `torch.compile` of the score network, evaluations a second at batch 512: {'; '.join(found)}."
    yield f"**100 conditional digits** from the committed score network (width {width}), seconds on {chip(first)}."
    rows = [[name, f"{row['evaluations']:,}", f"{row['seconds']:.1f}"] for name, row in first["digits"].items()]
    yield markdown_table(["sampler", "network evaluations an image", "seconds"], rows)


def time_to_quality_table(result, floors):
    found, floor = result["time_to"], floor_of(floors, result["n"])
    ours = "did not get there in its time"
    if found["our_minutes"]:
        at_least = int(10 * found["times_sooner"]) / 10
        ours = f"was there by minute {found['our_minutes']:.1f}, at least {at_least:.1f} times sooner"
    yield (f"**Time to quality.** Fréchet distance (n = {result['n']:,}, floor {floor['mean']:.1f} ± {floor['std']:.1f}) of "
           "fresh chains after so many minutes of training, the best of 60, 200 and 500 steps; the clock stands still while "
           f"samples are judged ({measured_on(result)}). The tutorial settings' best, {found['reference_best']:.0f}, took "
           f"{found['reference_minutes']:.0f} minutes; one buffer with the baseline's settings {ours} (one seed; its "
           "network has twice the width).")  # fmt: skip
    minutes = sorted({round(point["minutes"], 1) for points in result["runs"].values() for point in points})
    rows = []
    for name, points in result["runs"].items():
        at = {round(point["minutes"], 1): f"{point['best']:.0f}" for point in points}
        rows.append([one_buffer(name), *(at.get(m, "") for m in minutes)])
    yield markdown_table(["minutes", *(f"{m:g}" for m in minutes)], rows)


def sampler_table(result, floors):
    """Distance of each sampler against evaluations, at both numbers of samples."""
    n, most = result["n"], result["n_most"]
    few, many = (floor_of(floors, size, "each digit equally often") for size in (n, most))
    columns = sorted({int(k) for curve in result["curves"].values() for k in curve})

    def cell(point):
        if not point:
            return ""
        alone = point["n"] == n
        first, distance = f"{point['first']['frechet_distance']:.1f}", f"**{point['frechet_distance']:.1f}**"
        return f"{first if alone else f'{distance} ({first})'}, {point['labels_right']:.1%}"

    rows = [[name, *(cell(curve.get(str(k))) for k in columns)] for name, curve in result["curves"].items()]
    yield ("**Samplers of the score against their cost.** Fréchet distance and share of labels right, without guidance, by "
           f"network evaluations an image (at most); bold: n = {most:,}, in brackets or alone: n = {n:,} (the first ones; "
           f"beyond {max(k for k in columns if k <= 50)} evaluations, and where they are further than {result['far']} away, "
           "no more were drawn). As many real training images, each digit equally often: "
           f"{plus_minus(many, 1)} and {plus_minus(few, 1)} ({measured_on(result)}). DPM-Solver++ with 12 evaluations is "
           "the setting of the first table's \"conditional, no guidance\", drawn anew.")  # fmt: skip
    yield markdown_table(["sampler", *(f"{k:,}" for k in columns)], rows)


def noise_scales_table(result, floors):
    floor = floor_of(floors, result["n"], "each digit equally often")
    rows = [[name, judged["evaluations"], f"{judged['frechet_distance']:.1f}", f"{judged['labels_right']:.1%}",
             f"{judged['rarest_digit']:.1%} to {judged['commonest_digit']:.1%}"]
            for name, judged in result["variants"].items()]  # fmt: skip
    yield (f"**Noise levels.** Annealed Langevin without guidance, n = {result['n']:,} samples asked for in equal "
           "shares; as many "
           f"real ones: {plus_minus(floor, 1)}. Largest distance between two training digits: "
           f"{result['largest_distance']:.2f}; ratio "
           "of levels by the rule (Song & Ermon 2020, technique 2): "
           f"{result['ratio_by_the_rule']:.4f} ({measured_on(result)}).")  # fmt: skip
    yield markdown_table(["levels", "evaluations", "Fréchet distance", "labels right", "share of a digit"], rows)


def averaging_table(result, floors):
    floor = floor_of(floors, result["n"], "each digit equally often")
    rows = [[rate, weights, f"{judged['frechet_distance']:.1f}", f"{judged['labels_right']:.1%}"]
            for rate, pair in result["found"].items() for weights, judged in pair.items()]  # fmt: skip
    yield (f"**Averaged weights.** A score network of width {result['width']} after {result['updates']:,} updates, its "
           f"weights as they are or averaged exponentially (decay {result['decay']}); the falling rate also warms "
           f"up, over 100 updates; n = {result['n']:,} samples by annealed "
           f"Langevin without guidance, one run each; as many real training images, each digit equally "
           f"often: {plus_minus(floor, 1)} ({measured_on(result)}).")  # fmt: skip
    yield markdown_table(["learning rate", "weights", "Fréchet distance", "labels right"], rows, texts=2)


def score_seeds_table(result, floors):
    floor = floor_of(floors, result["n"], "each digit equally often")
    rows = [[seed, f"{run['frechet_distance']:.1f}", f"{run['precision']:.2f}", f"{run['recall']:.2f}",
             f"{run['labels_right']:.1%}"] for seed, run in result["runs"].items()]  # fmt: skip
    summary = result["summary"]
    right = summary["labels_right"]
    rows.append(["mean ± standard deviation", plus_minus(summary["frechet_distance"], 1),
                 plus_minus(summary["precision"], 2), plus_minus(summary["recall"], 2),
                 f"{right['mean']:.1%} ± {right['std']:.1%}"])  # fmt: skip
    yield (f"**Seeds of the score model.** The `quick` network (width {result['width']}, {result['updates']:,} updates) "
           f"trained with {len(result['runs'])} seeds; n = {result['n']:,} samples by DPM-Solver++ with {result['levels']} "
           f"levels and guidance, from the same noise; as many real training images, each digit equally often: "
           f"{plus_minus(floor, 1)} ({measured_on(result)}).")  # fmt: skip
    yield markdown_table(["seed of the training", "Fréchet distance", "precision", "recall", "labels right"], rows)


def inpainting_table(result, floors):
    rows = []
    for mask, found in result["masks"].items():
        for method, value in found["methods"].items():
            rows.append([mask, method, f"{value['psnr']:.1f}", f"{value['read_as_it_was']:.0%}",
                         f"{found['digits_read_among_the_draws']:.2f}" if method == "one sample" else ""])  # fmt: skip
    yield (f"**Completing digits.** {result['n']:,} test digits, {result['draws']} completions each without labels, "
           f"{result['levels']} levels (by replacement: {result['replacement']['levels']} of "
           f"{result['replacement']['steps']} steps); PSNR (dB) on the missing pixels; how often the classifier reads what "
           f"the digit was; how many different digits it reads among the completions ({measured_on(result)}).")  # fmt: skip
    yield markdown_table(["missing", "completion", "PSNR", "read as it was", "digits read"], rows)


def likelihood_table(result, floors):
    rows = [[name, f"{bits['mean']:.3f} ± {bits['standard_error']:.3f}"]
            for name, bits in result["bits_per_dimension"].items()]  # fmt: skip
    gap, own = result["coarse_less_fine"], result["bits_per_dimension"]["score model"]["mean"]
    yield (f"**Likelihood.** Bits a pixel of {result['n']:,} test digits, mean ± standard error, uniformly dequantised: the "
           f"probability-flow ODE of a network of {result['parameters']:,} parameters trained for it "
           f"({result['updates']:,} updates), Heun's "
           f"method in {result['levels']} levels from 20 to 0.001, Hutchinson's estimate with {result['probes']} probe; "
           f"{gap['levels']} levels instead change it by {-gap['mean']:+.4f} ± {gap['standard_error']:.4f} (n = "
           f"{gap['n']}), so about {own - gap['mean']:.3f} without the solver's error. Beside "
           "it, pixels drawn independently of each other from training counts, and PNG files, headers included "
           f"({measured_on(result)}).")  # fmt: skip
    yield markdown_table(["model", "bits a pixel"], rows)


def energy_behind_table(result, floors):
    names = list(next(iter(result["cosines"].values())))
    rows = [[f"σ = {sigma}", *(f"{level[name]['mean']:.2f}" for name in names),
             f"{result['work_around_over_work_along'][sigma]['mean']:.4f}", f"{result['barrier_nats'][sigma]['mean']:.1f}"]
            for sigma, level in result["cosines"].items()]  # fmt: skip
    yield (f"**The energy behind the score.** Cosines of the fields at {result['n']:,} noisy test digits (the way "
           "back: to the clean "
           "digit); work of the score around triangles of test digits over that along their sides, 0 for the slope "
           "of an energy; "
           "barrier on the straight way between two digits, in nats above the higher end "
           f"({measured_on(result)}).")  # fmt: skip
    yield markdown_table(["", *names, "around / along", "barrier"], rows)


FURTHER = {"samplers": sampler_table, "noise-scales": noise_scales_table, "averaging": averaging_table,
           "score-seeds": score_seeds_table, "inpainting": inpainting_table,
           "likelihood": likelihood_table, "energy-behind-the-score": energy_behind_table}  # fmt: skip


def cost_table(full, quick, floors):
    rows = []
    for preset, results in (("full", full), ("quick", quick)):
        for name in ("EBM", "EBM-BestPractice", "score-based-model"):
            result = results[name]
            quality = next(iter(result["conditional"].values())) if "conditional" in result else result["chains"]["500"]
            training = result["training"]
            kind = "each digit equally often" if "conditional" in result else "as they come"
            rows.append([f"`{name}`", preset, f"{training['updates']:,}", f"{training['minutes']:.1f}", training["hardware"],
                         f"{quality['frechet_distance']:.1f}", f"{result['n']:,}",
                         f"{floor_of(floors, result['n'], kind)['mean']:.1f}",
                         f"{result['peak_memory_GB']['RAM']:.1f}"])  # fmt: skip
    yield ("**What a run costs.** As the notebooks measure themselves: EBM samples after 500 steps, the score model's "
           "conditional samples. Memory: of the run that wrote these numbers, in `full` with the committed weights, in "
           "`quick` with training. The samples are drawn anew, they are not those of the tables above: so much does a "
           "distance at this n vary.")  # fmt: skip
    yield markdown_table(["notebook", "preset", "updates", "minutes of training", "trained on", "Fréchet distance", "n",
                          "floor", "RAM at most (GB)"], rows)  # fmt: skip


def notebooks_table(full, quick):
    """The three notebooks, what they are and how long they train."""
    base = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/"
    badge = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    rows = [[f"[`{name}.ipynb`]({name}.ipynb)" + (f" {badge}({base}{name}.ipynb)" if REPOSITORY else ""), text,
             *(f"{training['minutes']:.0f} ({training['hardware']})"
               for training in (quick[name]["training"], full[name]["training"]))]
            for name, text in NOTEBOOKS.items()]  # fmt: skip
    yield markdown_table(["notebook", "what it is", "minutes of training, `quick`", "`full`"], rows, texts=2)
    yield "Figures and numbers take a few minutes more. On a GPU: not measured."


def glance_table(results):
    """The models in one table: the recommended sampler of the score, each energy at the chain length where it is best."""
    score, chains, denoising = results["score-samples"], results["chains"], results["denoising"]["methods"]
    n, sigma = score["n"], "0.25"
    balanced = floor_of(results["floors"], n, "each digit equally often")
    plain = floor_of(results["floors"], chains["n_many"])
    psnr = {method: quality[sigma]["psnr"] for method, quality in denoising.items()}
    rival = max(list(psnr)[list(psnr).index("total variation") :], key=psnr.get)

    def row(name, evaluations, judged, floor, denoised):
        right = f"{judged['labels_right']:.1%}" if "labels_right" in judged else ""
        return [name, evaluations, f"{judged['frechet_distance']:.1f}", f"{judged['frechet_distance'] / floor['mean']:.1f}",
                f"{judged['share_confident']:.0%}", right, f"{denoised:.1f}"]  # fmt: skip

    rows = [row("score model, asked for a digit", 2 * score["levels"], score["samples"]["conditional"], balanced,
                psnr["score model"])]  # fmt: skip
    for name in ("replay buffer", "no buffer"):
        steps, best = min(chains["energies"][name]["many"].items(), key=lambda item: item[1]["frechet_distance"])
        rows.append(row(f"energy, {name}", int(steps), best, plain, psnr[f"EBM, {name}"]))
    rows += [["real digits: the energies' floor", "", f"{plain['mean']:.1f} ± {plain['std']:.1f}", "1.0",
              f"{score['floor']['share_confident']:.0%}", f"{score['real_labels_right']:.1%}", ""],
             ["real digits in equal shares: the score model's", "", f"{balanced['mean']:.1f} ± {balanced['std']:.1f}", "1.0",
              *[""] * 3],
             [f"best rival in denoising: {rival}", *[""] * 5, f"{psnr[rival]:.1f}"]]  # fmt: skip
    header = ["", "network evaluations an image", "Fréchet distance", "× floor", "confident", "labels right"]
    yield markdown_table([*header, f"denoising, σ = {sigma}: PSNR (dB)"], rows)
    minutes = [chains["energies"][name]["training"]["minutes"] for name in ("no buffer", "replay buffer")]
    yield (f"Committed weights, n = {n:,} samples, seed {score['seed']}; each energy at the chain length where it is best. "
           f"The one without buffer trained for {minutes[0]:.0f} minutes instead of {minutes[1]:.0f} and had broken away "
           "in the end: what the buffer alone does, all else equal, is in the table \"Stability\". The columns are "
           "explained, and all else that was measured stands, with hardware and dates, under "
           "[What was measured](#what-was-measured).")  # fmt: skip


def studies_table(results):
    """One row a study: its command, what it does, how long it took where its committed result was measured."""
    rows = []
    for name in [name for name in STUDIES if name in results]:
        result, command = results[name], f"make {name}" if name in MADE else f".venv/bin/python studies.py {name}"
        minutes = "not timed: in several sittings" if result["minutes"] is None else f"{max(result['minutes'], 1):,.0f}"
        rows.append([f"`{command}`", STUDIES[name], minutes, result["hardware"]])
    yield markdown_table(["command", "what it does", "minutes", "on"], rows, texts=2)


def folded(parts):
    """A table under its title, which folds out."""
    text, *rest = parts
    title, _, caption = text.removeprefix("**").partition("**")
    caption = [caption.strip()] if caption.strip() else []
    return "\n\n".join([f"<details><summary><b>{title}</b></summary>", *caption, *rest, "</details>"])


def readme_parts(folder="assets/results"):
    """{part of README: its text}: the table of notebooks, and all measured tables, the first ones open."""
    results = read_results(folder)
    floors, quick = results["floors"], read_results(Path(folder) / "quick")
    cost = cost_table(results, quick, floors)
    open_ = [*score_table(results["score-samples"], floors), *chains_table(results["chains"], floors),
             *speed_tables([results[name] for name in sorted(results) if name.startswith("benchmarks")])]  # fmt: skip
    tables = [stability_table(results["stability"], floors),
              *([ablation_table(results["ablation"], floors)] if "ablation" in results else []),
              *([older_chains_table(results["older-chains"], floors)] if "older-chains" in results else []),
              denoising_table(results["denoising"]), posterior_table(results["posterior"]),
              *(table(results[name], floors) for name, table in FURTHER.items() if name in results),
              strangers_table(results["out-of-distribution"]), memory_table(results),
              time_to_quality_table(results["time-to-quality"], floors)]  # fmt: skip
    return {"notebooks": "\n\n".join(notebooks_table(results, quick)),
            "glance": "\n\n".join(glance_table(results)), "studies": "\n\n".join(studies_table(results)),
            "tables": "\n\n".join([*open_, *map(folded, tables), *cost])}  # fmt: skip


def write_readme(readme="README.md"):
    """Put readme_parts() between README's markers."""
    text = Path(readme).read_text(encoding="utf-8")
    for part, written in readme_parts().items():
        begin, end = MARKS[part]
        before, rest = text.split(begin)
        text = f"{before}{begin}\n\n{written}\n\n{end}{rest.split(end)[1]}"
    Path(readme).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_readme()
