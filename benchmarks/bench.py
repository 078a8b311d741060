"""Speed, side by side in one run: `make bench`. Writes assets/results/benchmarks.json and prints a table.

Every comparison runs the same network on the same batch for the same number of steps in the same process, the contenders
in turn, again and again after a warm-up; what is reported is the median and the quartiles. Their results are checked to be
equal before anything is timed. The peers (peers.py) are torchebm and ebmkit (requirements-dev.txt) and the loop of the
published tutorials. It ends with a figure of how cost grows, assets/speed_growth.png.
"""

import argparse
import contextlib
import copy
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import helpers
import samplers
from benchmarks.peers import NOISE, PEERS, STEP, seconds, start_images

LIBRARIES = ("ebmkit", "torchebm")


def ours(network, x, steps, noise):
    return helpers.langevin_dynamics(network, x, steps, STEP, noise, clip=None)


@contextlib.contextmanager
def peers_of_their_own(network):
    """Yield ask(peer=..., batch=..., ...): a process that runs the peers with the allocator as they find it (peers.py)."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save(network.layers, Path(folder) / "layers.pt")
        script, threads = Path(__file__).parent / "peers.py", torch.get_num_threads()
        command = [sys.executable, str(script), f"{folder}/layers.pt", str(threads)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

            def ask(**request):
                print(json.dumps(request), file=process.stdin, flush=True)
                line = process.stdout.readline()
                if not line:
                    raise RuntimeError("the process that runs the peers has died; what it said stands above")
                return json.loads(line)

            yield ask
            process.stdin.close()


def side_by_side(contenders, repetitions):
    """{name: seconds of each repetition}: after one call each as warm-up, the contenders take turns. A contender is a
    function to be timed, or one that answers with its own seconds."""

    def clock(function):
        answers = []
        took = seconds(lambda: answers.append(function()))
        return answers[0]["seconds"] if isinstance(answers[0], dict) else took

    for function in contenders.values():
        function()
    times = {name: [] for name in contenders}
    for _ in range(repetitions):
        for name, function in contenders.items():
            times[name].append(clock(function))
    return times


def rate(times, work):
    """Median work per second and its quartiles."""
    rates = sorted(work / t for t in times)
    low, _, high = statistics.quantiles(rates, n=4) if len(rates) > 1 else rates * 3
    return {"median": statistics.median(rates), "quartiles": [low, high], "repetitions": len(rates)}


def peak(device, dtype, size=2048):
    """Floating-point operations per second of a square matrix product: the chip with nothing else in its way."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    a @ b
    return 2 * size**3 / min(seconds(lambda: a @ b) for _ in range(10))


def operations(function):
    """Floating-point operations of one call, counted by PyTorch (matrix products and convolutions, forward and backward)."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def chain_operations(network, x):
    """Floating-point operations of one Langevin step: the energy and its gradient with respect to the images."""
    energy, leaf = helpers.frozen_energy(network), x.clone().requires_grad_(True)
    return operations(lambda: torch.autograd.grad(energy(1 * leaf).sum(), leaf))  # the counter wants no leaf in a module


@contextlib.contextmanager
def float32_only():
    """Our own code as it runs where the chip has no native bfloat16."""
    native = helpers.has_native_bf16
    helpers.has_native_bf16 = lambda device: False
    try:
        yield
    finally:
        helpers.has_native_bf16 = native


def in_float32(function):
    def run():
        with float32_only():
            return function()

    return run


def bench_chains(device, dtype, batches=(1, 128, 512), steps=60, repetitions=5):
    """Image-steps per second of Langevin chains on the tutorial's network (77,000 parameters) and its number of steps.

    The peers run twice: in a process of their own, as their users have them, and in ours, with our memory settings.
    """
    torch.manual_seed(0)
    network = helpers.EnergyNetwork(16).to(device)
    result = {}
    with peers_of_their_own(network) as ask, tempfile.TemporaryDirectory() as folder:
        for batch in batches:
            x = start_images(batch, device)
            reference = PEERS["tutorial loop, float32"](network.layers, x, steps, noise=1e-12)
            chains = {"ours": functools.partial(ours, network, x, steps)}
            difference = {"ours": (chains["ours"](1e-12) - reference).abs().max().item()}
            common = {"batch": batch, "steps": steps, "device": str(device)}
            for name, peer in PEERS.items():
                ask(peer=name, noise=1e-12, save=f"{folder}/peer.pt", **common)
                difference[name] = (torch.load(f"{folder}/peer.pt").to(device) - reference).abs().max().item()
                chains[name] = functools.partial(ask, peer=name, **common)
                chains[f"{name}, our memory settings"] = functools.partial(peer, network.layers, x, steps)
            for name, value in difference.items():
                tolerance = 0.02 if name == "ours" or "autocast" in name else 1e-4  # bfloat16 or float32
                assert value < tolerance, (name, difference)
            chains = {name: functools.partial(chain, noise=NOISE) for name, chain in chains.items()}
            times = side_by_side(chains, repetitions)
            row = {name: rate(t, batch * steps) for name, t in times.items()}
            for name, value in difference.items():
                row[name]["largest_difference"] = value
            libraries = [row[f"{name}{kind}"]["median"] for kind in ("", ", our memory settings") for name in LIBRARIES]
            flops, mine = chain_operations(network, x) / batch, row["ours"]["median"]
            row["ours"] |= {"times_best_peer": mine / max(libraries[: len(LIBRARIES)]),
                            "times_best_peer_with_our_memory": mine / max(libraries[len(LIBRARIES) :]),
                            "share_of_peak": mine * flops / peak(device, dtype)}  # fmt: skip
            result[str(batch)] = row
            summary = {key: f"{row['ours'][key]:.2f}" for key in row["ours"] if key.startswith(("times", "share"))}
            print(f"chains, batch {batch}:", {k: round(v["median"]) for k, v in row.items()}, summary, flush=True)
    size = sum(p.numel() for p in network.parameters())
    return {"unit": "image-steps/s", "steps": steps, "parameters": size, "batch": result}


def plain_chain(network, x, steps, noise):
    return PEERS["tutorial loop, float32"](network.layers, x, steps, noise)


def ebm_update(network, chain, x_plus, x_minus):
    """A function that does one whole update of a replay-buffer EBM: 20 chain steps, loss, gradient, Adam."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.0, 0.999))

    def update():
        samples = chain(network, x_minus, 20, NOISE)
        loss, _, _ = helpers.contrastive_divergence_loss(network, x_plus, samples)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.1)
        optimizer.step()

    return update


def score_update(network, x, labels):
    """A function that does one whole update of the score network."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def update():
        sigma = helpers.training_sigmas(len(x), device=x.device)
        loss = helpers.denoising_score_matching_loss(network, x, sigma, labels, helpers.edm_weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return update


def bench_updates(device, dtype, batch=128, repetitions=7):
    """Seconds of one whole update, ours against the straightforward float32 program."""
    torch.manual_seed(0)
    x_plus, x_minus = torch.rand(2, batch, *helpers.IMAGE_SHAPE, device=device)
    labels = torch.randint(0, 10, (batch,), device=device)
    result = {}
    for width in (16, 32):
        plain = in_float32(ebm_update(helpers.EnergyNetwork(width).to(device), plain_chain, x_plus, x_minus))
        run = {"ours": ebm_update(helpers.EnergyNetwork(width).to(device), ours, x_plus, x_minus), "float32": plain}
        result[f"EBM, width {width}, K = 20"] = side_by_side(run, repetitions)
    run = {"ours": score_update(helpers.ScoreNetwork().to(device), x_plus, labels),
           "float32": in_float32(score_update(helpers.ScoreNetwork().to(device), x_plus, labels))}  # fmt: skip
    result["score network"] = side_by_side(run, repetitions)
    for name, times in result.items():
        result[name] = {who: rate(t, 1) for who, t in times.items()}
        result[name]["ratio"] = result[name]["ours"]["median"] / result[name]["float32"]["median"]
        rate_now, ratio = result[name]["ours"]["median"], result[name]["ratio"]
        print(f"update, {name}: ours {rate_now:.2f}/s, {ratio:.2f} x float32", flush=True)
    return {"unit": "updates/s", "batch": batch, "updates": result}


def bench_score(device, dtype, batches=(128, 512, 2048), repetitions=5):
    """Network evaluations per second of the score network in a sampler, ours against float32, and the share of peak."""
    network = helpers.frozen(helpers.ScoreNetwork().to(device))
    result = {}
    for batch in batches:
        x = torch.randn(batch, *helpers.IMAGE_SHAPE, device=device)
        labels = torch.randint(0, 10, (batch,), device=device)

        def evaluate(x=x, labels=labels):
            with torch.no_grad():
                return network(x, 0.5, labels)

        times = side_by_side({"ours": evaluate, "float32": in_float32(evaluate)}, repetitions)
        row = {name: rate(t, batch) for name, t in times.items()}
        row["ratio"] = row["ours"]["median"] / row["float32"]["median"]
        row["share_of_peak"] = row["ours"]["median"] * operations(evaluate) / batch / peak(device, dtype)
        if batch == 512:
            row["torch.compile"] = compiled_rate(network, x, labels, repetitions)
        result[str(batch)] = row
        print(f"score network, batch {batch}: {row['ours']['median']:.0f}/s, {row['ratio']:.2f} x float32, "
              f"{row['share_of_peak']:.0%} of peak", flush=True)  # fmt: skip
    return {"unit": "evaluations/s", "batch": result}


def compiled_rate(network, x, labels, repetitions):
    """What torch.compile would make of the score network in a sampler, and how long it takes to; None without a compiler."""
    compiled = torch.compile(copy.deepcopy(network), dynamic=False)

    @torch.no_grad()
    def evaluate():
        return compiled(x, 0.5, labels)

    try:
        compiling = seconds(evaluate)
    except Exception as error:  # no C++ compiler, no Triton: it is only a measurement that is missing
        print(f"torch.compile: not to be had here ({type(error).__name__})")
        return None
    times = side_by_side({"compiled": evaluate}, repetitions)["compiled"]
    return {**rate(times, len(x)), "seconds_to_compile": compiling}


def bench_digits(device):
    """Seconds for 100 conditional digits from the committed score network, by each sampler that stands."""
    model, record = helpers.load_pretrained("score-based-model", device)
    labels = torch.arange(10, device=device).repeat_interleave(10)
    published = helpers.geometric_sigmas(1.0, 0.01, levels=10)  # Song & Ermon 2019: 10 levels of 100 steps
    ours = helpers.geometric_sigmas()
    contenders = {
        "annealed Langevin as published, float32": (1_000, in_float32(lambda: helpers.annealed_langevin_dynamics(
            model, labels, published, steps=100, epsilon=1e-5, guidance=1, denoise=False))),
        "annealed Langevin, ours, no guidance": (241, lambda: helpers.annealed_langevin_dynamics(
            model, labels, ours, guidance=1)),
        "annealed Langevin, ours": (482, lambda: helpers.annealed_langevin_dynamics(model, labels, ours)),
        "Heun, 10 levels": (38, lambda: samplers.heun(model, labels, samplers.karras_sigmas(levels=10))),
        "DPM-Solver++, 12 levels": (24, lambda: samplers.dpm_solver(model, labels, samplers.karras_sigmas(levels=12))),
    }  # fmt: skip
    result = {}
    for name, (evaluations, sample) in contenders.items():
        result[name] = {"evaluations": evaluations, "seconds": seconds(sample), "width": record["network_settings"]["width"]}
        print(f"100 digits, {name}: {result[name]['seconds']:.1f} s", flush=True)
    return result


def bench_growth(device, repetitions=3):
    """How the cost of our chains grows with batch, steps, width and buffer size."""
    network = helpers.EnergyNetwork(32).to(device)

    def chain_rate(network, batch, steps):
        x = torch.rand(batch, *helpers.IMAGE_SHAPE, device=device)
        times = side_by_side({"ours": lambda: ours(network, x, steps, NOISE)}, repetitions)["ours"]
        return {"seconds": statistics.median(times), "image_steps_per_second": batch * steps / statistics.median(times)}

    def buffer_seconds(size):
        buffer = helpers.ReplayBuffer(size, device=device)
        return statistics.median(side_by_side({"ours": lambda: buffer.write_back(buffer.sample(128))}, 9)["ours"])

    return {
        "batch": {str(b): chain_rate(network, b, max(2, 2048 // b)) for b in (1, 4, 16, 64, 256, 1024, 4096)},
        "steps": {str(k): chain_rate(network, 128, k) for k in (1, 10, 100)},
        "width": {str(w): chain_rate(helpers.EnergyNetwork(w).to(device), 128, 20) for w in (8, 16, 32, 64)},
        "buffer": {str(n): {"seconds": buffer_seconds(n)} for n in (1_000, 10_000, 60_000)},
    }


def draw_growth(result, path):
    """One figure: how the cost of chains grows with batch, steps, width and buffer size."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(10, 3))
    growth, dtype = result["growth"], result["dtype"].removeprefix("torch.")
    labels = {"batch": "chains at once", "steps": "steps of 128 chains", "width": "width of the network",
              "buffer": "chains in the buffer"}  # fmt: skip
    for ax, (kind, label) in zip(axes, labels.items(), strict=True):
        sizes = [int(size) for size in growth[kind]]
        values = [row.get("image_steps_per_second", 1e3 * row["seconds"]) for row in growth[kind].values()]
        ax.loglog(sizes, values, "s-" if kind == "buffer" else "o-", color="tab:blue" if kind == "buffer" else "tab:orange")
        ax.set_xticks(shown := sizes[::2] if len(sizes) > 4 else sizes, [f"{size:,}" for size in shown], fontsize=8)
        ax.minorticks_off()
        ax.set(xlabel=label, ylim=(0.1, 10) if kind == "buffer" else (1e3, 1e5))
    axes[0].set_ylabel("image-steps per second")
    axes[3].set_ylabel("ms to draw 128\nand write them back")
    for ax in axes:
        ax.grid(alpha=0.3)
    figure.suptitle(f"{result['hardware']}, {dtype}", fontsize=9)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, facecolor="white")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default="assets/results")
    arguments = parser.parse_args()
    device = helpers.pick_device()
    dtype = torch.bfloat16 if helpers.has_native_bf16(device) else torch.float32
    peaks = {str(d).removeprefix("torch."): peak(device, d) for d in {torch.float32, dtype}}
    print(helpers.hardware_name(), {name: f"{value / 1e9:.0f} GFLOP/s" for name, value in peaks.items()})
    result = {"command": "make bench", "hardware": helpers.hardware_name(), "date": time.strftime("%Y-%m-%d"), "seed": 0,
              "threads": torch.get_num_threads(), "torch": torch.__version__, "dtype": str(dtype), "peak_flops": peaks,
              "chains": bench_chains(device, dtype), "updates": bench_updates(device, dtype),
              "score": bench_score(device, dtype), "digits": bench_digits(device),
              "growth": bench_growth(device), "peak_memory_GB": helpers.peak_memory()}  # fmt: skip
    path = Path(arguments.folder) / "benchmarks.json"
    helpers.write_json(result, path)
    draw_growth(result, Path(arguments.folder).parent / "speed_growth.png")


if __name__ == "__main__":
    main()
