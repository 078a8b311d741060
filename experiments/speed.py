"""Speed of our chains, updates and samplers compared with other programs and plain float32.

All programs of a comparison run the same network on the same batch for the same number of steps.
They take turns, repeatedly, after a warm-up; median and quartiles are reported. Results are
checked to be equal before the timing. The other programs (peers.py) are torchebm, ebmkit and the
loop of the published tutorials.
"""

import collections
import contextlib
import copy
import functools
import json
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import dgm.device
from dgm import plots
from dgm.checks import IMAGE_SHAPE
from dgm.device import chain_dtype, hardware_name, peak_memory, pick_device
from dgm.samplers import dpm_solver, frozen, geometric_sigmas, heun, karras_sigmas
from experiments.peers import NOISE, PEERS, STEP, seconds, start_images
from experiments.results import ROOT
from helpers import (
    EnergyNetwork,
    ReplayBuffer,
    ScoreNetwork,
    annealed_langevin_dynamics,
    contrastive_divergence_loss,
    denoising_score_matching_loss,
    edm_weight,
    langevin_dynamics,
    load_pretrained,
    training_sigmas,
)

LIBRARIES = ("ebmkit", "torchebm")

# --------------------------------------------------------------------------------- stopwatch


def side_by_side(contenders, repetitions):
    """Return {name: seconds of each repetition} of functions that take turns after a warm-up.

    A function is timed here, unless it returns its own {"seconds"}.
    """

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
    """Return the median work per second and its quartiles."""
    rates = sorted(work / t for t in times)
    low, _, high = statistics.quantiles(rates, n=4) if len(rates) > 1 else rates * 3
    median = statistics.median(rates)
    return {"median": median, "quartiles": [low, high], "repetitions": len(rates)}


def peak(device, dtype, size=2048):
    """Return the peak speed of the chip: operations per second of a square matrix product."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    a @ b
    return 2 * size**3 / min(seconds(lambda: a @ b) for _ in range(10))


def operations(function):
    """Return PyTorch's count of the floating-point operations of one call."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


KINDS = {
    "convolutions": r"convolution",
    "matrix products": r"mm$",
    "activations and normalisation": r"silu|norm(_backward)?$|addcmul|softmax",
    "attention": r"attention",
    "random numbers": r"normal_|random_|rand",
    "copies": r"copy_|cat$|pad|fill_|index|clone",
}


def time_shares(function, repetitions=3):
    """Return {kind of operation: its share of the CPU time of a function}, the largest first."""
    function()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(repetitions):
            function()
    spent = collections.Counter()
    for event in profile.key_averages():
        kinds = (kind for kind, names in KINDS.items() if re.search(names, event.key))
        spent[next(kinds, "the rest")] += event.self_cpu_time_total
    return {kind: time / spent.total() for kind, time in spent.most_common()}


@contextlib.contextmanager
def float32_only():
    """Run our code as on a chip without native bfloat16."""
    native = dgm.device.has_native_bf16
    dgm.device.has_native_bf16 = lambda device: False
    try:
        yield
    finally:
        dgm.device.has_native_bf16 = native


def in_float32(function):
    def run():
        with float32_only():
            return function()

    return run


# ------------------------------------------------------------------------------------ chains


def ours(network, x, steps, noise):
    return langevin_dynamics(network, x, steps, STEP, noise, clip=None)


def plain_chain(network, x, steps, noise):
    return PEERS["tutorial_float32"](network.layers, x, steps, noise)


@contextlib.contextmanager
def peers_of_their_own(network):
    """Yield ask(peer=..., batch=..., ...), which runs a peer in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save(network.layers, Path(folder) / "layers.pt")
        threads = str(torch.get_num_threads())
        command = [sys.executable, "-m", "experiments.peers", f"{folder}/layers.pt", threads]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
        with subprocess.Popen(command, **pipes) as process:

            def ask(**request):
                print(json.dumps(request), file=process.stdin, flush=True)
                line = process.stdout.readline()
                if not line:
                    raise RuntimeError(
                        "the process that runs the peers has died; its error is above"
                    )
                return json.loads(line)

            yield ask
            process.stdin.close()


def chain_operations(network, x):
    """Return the operations of one Langevin step: the energy and its gradient."""
    energy, leaf = frozen(network), x.clone().requires_grad_(True)
    # 1 * leaf, because the counter rejects leaf tensors in a module
    return operations(lambda: torch.autograd.grad(energy(1 * leaf).sum(), leaf))


def contending_chains(network, ask, x, steps, folder):
    """Return {name: chain to be timed} and {name: largest difference from the plain loop}."""
    reference = plain_chain(network, x, steps, noise=1e-12)
    mine = functools.partial(ours, network, x, steps)
    chains, difference = {"ours": mine}, {"ours": (mine(1e-12) - reference).abs().max().item()}
    common = {"batch": len(x), "steps": steps, "device": str(x.device)}
    for name, peer in PEERS.items():
        ask(peer=name, noise=1e-12, save=f"{folder}/peer.pt", **common)
        theirs = torch.load(f"{folder}/peer.pt").to(x.device)
        difference[name] = (theirs - reference).abs().max().item()
        chains[name] = functools.partial(ask, peer=name, **common)
        chains[f"{name}_our_memory"] = functools.partial(peer, network.layers, x, steps)
    for name, value in difference.items():
        low_precision = name == "ours" or "autocast" in name
        assert value < (0.02 if low_precision else 1e-4), (name, difference)
    timed = {name: functools.partial(chain, noise=NOISE) for name, chain in chains.items()}
    return timed, difference


def bench_chains(device, dtype, batches=(1, 128, 512), steps=60, repetitions=5):
    """Measure image-steps per second of Langevin chains on the tutorial's network.

    The peers run twice: in a separate process with default memory settings, and in our process
    with our memory settings.
    """
    torch.manual_seed(0)
    network = EnergyNetwork(16).to(device)
    result = {}
    with peers_of_their_own(network) as ask, tempfile.TemporaryDirectory() as folder:
        for batch in batches:
            x = start_images(batch, device)
            chains, difference = contending_chains(network, ask, x, steps, folder)
            times = side_by_side(chains, repetitions)
            row = {name: rate(t, batch * steps) for name, t in times.items()}
            for name, value in difference.items():
                row[name]["largest_difference"] = value
            mine = row["ours"]["median"]
            flops = chain_operations(network, x) / batch
            theirs = max(row[name]["median"] for name in LIBRARIES)
            with_our_memory = max(row[f"{name}_our_memory"]["median"] for name in LIBRARIES)
            row["ours"]["times_best_peer"] = mine / theirs
            row["ours"]["times_best_peer_with_our_memory"] = mine / with_our_memory
            row["ours"]["share_of_peak"] = mine * flops / peak(device, dtype)
            result[str(batch)] = row
            rates = {name: round(value["median"]) for name, value in row.items()}
            print(f"chains, batch {batch}:", rates, f"{mine / theirs:.2f} x", flush=True)
    size = sum(p.numel() for p in network.parameters())
    return {"unit": "image-steps/s", "steps": steps, "parameters": size, "batch": result}


# ----------------------------------------------------------------------------------- updates


def ebm_update(network, chain, x_plus, x_minus):
    """Return a function that performs one update of an energy network."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, betas=(0.0, 0.999))

    def update():
        samples = chain(network, x_minus, 20, NOISE)
        loss, _, _ = contrastive_divergence_loss(network, x_plus, samples)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.1)
        optimizer.step()

    return update


def score_update(network, x, labels):
    """Return a function that performs one update of the score network."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def update():
        sigma = training_sigmas(len(x), device=x.device)
        loss = denoising_score_matching_loss(network, x, sigma, labels, edm_weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return update


def bench_updates(device, batch=128, repetitions=7):
    """Measure updates per second of our code and of a straightforward float32 program."""
    torch.manual_seed(0)
    x_plus, x_minus = torch.rand(2, batch, *IMAGE_SHAPE, device=device)
    labels = torch.randint(0, 10, (batch,), device=device)
    result = {}
    for width in (16, 32):
        networks = [EnergyNetwork(width).to(device) for _ in range(2)]
        plain = in_float32(ebm_update(networks[0], plain_chain, x_plus, x_minus))
        run = {"ours": ebm_update(networks[1], ours, x_plus, x_minus), "float32": plain}
        result[f"ebm_width_{width}"] = side_by_side(run, repetitions)
    networks = [ScoreNetwork().to(device) for _ in range(2)]
    plain = in_float32(score_update(networks[1], x_plus, labels))
    run = {"ours": score_update(networks[0], x_plus, labels), "float32": plain}
    result["score_network"] = side_by_side(run, repetitions)
    for name, times in result.items():
        row = {who: rate(t, 1) for who, t in times.items()}
        row["ratio"] = row["ours"]["median"] / row["float32"]["median"]
        result[name] = row
        speed = f"ours {row['ours']['median']:.2f}/s, {row['ratio']:.2f} x float32"
        print(f"update, {name}: {speed}", flush=True)
    return {"unit": "updates/s", "batch": batch, "updates": result}


# ------------------------------------------------------------------------------ score network


def bench_score(device, dtype, batches=(128, 512, 2048), repetitions=5):
    """Measure evaluations per second of the score network in a sampler, also in float32."""
    network = frozen(ScoreNetwork().to(device))
    result = {}
    for batch in batches:
        x = torch.randn(batch, *IMAGE_SHAPE, device=device)
        labels = torch.randint(0, 10, (batch,), device=device)

        def evaluate(x=x, labels=labels):
            with torch.no_grad():
                return network(x, 0.5, labels)

        times = side_by_side({"ours": evaluate, "float32": in_float32(evaluate)}, repetitions)
        row = {name: rate(t, batch) for name, t in times.items()}
        mine, flops = row["ours"]["median"], operations(evaluate) / batch
        row["ratio"] = mine / row["float32"]["median"]
        row["share_of_peak"] = mine * flops / peak(device, dtype)
        if batch == 512:
            row["torch_compile"] = compiled_rate(network, x, labels, repetitions)
        result[str(batch)] = row
        speed = f"{mine:.0f}/s, {row['ratio']:.2f} x float32, {row['share_of_peak']:.0%} of peak"
        print(f"score network, batch {batch}: {speed}", flush=True)
    return {"unit": "evaluations/s", "batch": result}


def compiled_rate(network, x, labels, repetitions):
    """Measure the speed of the score network with torch.compile; None without a compiler."""
    compiled = torch.compile(copy.deepcopy(network), dynamic=False)

    @torch.no_grad()
    def evaluate():
        return compiled(x, 0.5, labels)

    try:
        compiling = seconds(evaluate)
    except Exception as error:  # no compiler: only this measurement is missing
        print(f"torch.compile is not available here ({type(error).__name__})")
        return None
    times = side_by_side({"compiled": evaluate}, repetitions)["compiled"]
    return {**rate(times, len(x)), "seconds_to_compile": compiling}


def bench_digits(device):
    """Measure the seconds for 100 conditional digits from the committed score network."""
    model, record = load_pretrained("score-based-model", device)
    labels = torch.arange(10, device=device).repeat_interleave(10)
    published = geometric_sigmas(1.0, 0.01, levels=10)  # Song & Ermon 2019: 10 levels of 100
    as_published = {"steps": 100, "epsilon": 1e-5, "guidance": 1, "denoise": False}
    anneal = functools.partial(annealed_langevin_dynamics, model, labels)
    heun_10 = functools.partial(heun, model, labels, karras_sigmas(levels=10))
    dpm_12 = functools.partial(dpm_solver, model, labels, karras_sigmas(levels=12))
    sigmas = geometric_sigmas()
    contenders = {
        "annealed_langevin_published_float32": (
            1_000,
            in_float32(lambda: anneal(published, **as_published)),
        ),
        "annealed_langevin_no_guidance": (241, lambda: anneal(sigmas, guidance=1)),
        "annealed_langevin": (482, lambda: anneal(sigmas)),
        "heun_10": (38, heun_10),
        "dpm_solver_12": (24, dpm_12),
    }
    width, result = record["network_settings"]["width"], {}
    for name, (evaluations, sample) in contenders.items():
        took = seconds(sample)
        result[name] = {"evaluations": evaluations, "seconds": took, "width": width}
        print(f"100 digits, {name}: {took:.1f} s", flush=True)
    return result


def bench_time_shares(device):
    """Measure which operations a chain, an update and a sampler of the score spend time on."""
    energy, score = EnergyNetwork(16).to(device), ScoreNetwork().to(device)
    x = torch.rand(128, *IMAGE_SHAPE, device=device)
    labels = torch.arange(128, device=device) % 10
    evaluate = torch.no_grad()(functools.partial(frozen(score), x, 0.5, labels))
    return {
        "chains": time_shares(functools.partial(ours, energy, x, 20, NOISE)),
        "score_update": time_shares(score_update(score, x, labels)),
        "score_sampling": time_shares(evaluate),
    }


# ------------------------------------------------------------------------------------ growth


def chain_rate(network, batch, steps, repetitions=3):
    x = torch.rand(batch, *IMAGE_SHAPE, device=next(network.parameters()).device)
    run = {"ours": lambda: ours(network, x, steps, NOISE)}
    median = statistics.median(side_by_side(run, repetitions)["ours"])
    return {"seconds": median, "image_steps_per_second": batch * steps / median}


def buffer_seconds(size, device):
    buffer = ReplayBuffer(size, device=device)
    run = {"ours": lambda: buffer.write_back(buffer.sample(128))}
    return {"seconds": statistics.median(side_by_side(run, 9)["ours"])}


def bench_growth(device):
    """Measure the speed of our chains against batch, steps, width and buffer size."""
    network = EnergyNetwork(32).to(device)
    batches, widths = (1, 4, 16, 64, 256, 1024, 4096), (8, 16, 32, 64)
    sizes = (1_000, 10_000, 60_000)
    return {
        "batch": {str(b): chain_rate(network, b, max(2, 2048 // b)) for b in batches},
        "steps": {str(k): chain_rate(network, 128, k) for k in (1, 10, 100)},
        "width": {str(w): chain_rate(EnergyNetwork(w).to(device), 128, 20) for w in widths},
        "buffer": {str(n): buffer_seconds(n, device) for n in sizes},
    }


def draw_growth(results, folder):
    """Draw the speed of chains against batch, steps, width and buffer size."""
    import matplotlib.pyplot as plt

    measured = results["benchmarks"]
    figure, axes = plt.subplots(1, 4, figsize=(10, 3))
    names = {
        "batch": "batch size (chains)",
        "steps": "steps (of 128 chains)",
        "width": "width of the network",
        "buffer": "chains in the buffer",
    }
    for ax, (kind, name) in zip(axes, names.items(), strict=True):
        rows = measured["growth"][kind]
        sizes = [int(size) for size in rows]
        if kind == "buffer":
            ax.loglog(sizes, [1e3 * row["seconds"] for row in rows.values()], "s-")
            ax.set(xlabel=name, ylim=(0.1, 10))
        else:
            rates = [row["image_steps_per_second"] for row in rows.values()]
            ax.loglog(sizes, rates, "o-", color="tab:orange")
            ax.set(xlabel=name, ylim=(1e3, 1e5))
        shown = sizes[::2] if len(sizes) > 4 else sizes
        ax.set_xticks(shown, [f"{size:,}" for size in shown], fontsize=8)
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("image-steps per second")
    axes[3].set_ylabel("time to draw 128 chains\nand write them back (ms)")
    dtype = measured["dtype"].removeprefix("torch.")
    figure.suptitle(f"Speed of Langevin chains on {measured['hardware']} ({dtype})", fontsize=9)
    figure.tight_layout()
    plots.write_figure(figure, folder / "speed_growth.png")
    plt.close(figure)


def benchmarks(_lab=None):
    """Measure the speed of chains, updates, the score network and samplers."""
    device = pick_device()
    dtype = chain_dtype(device)
    dtypes = sorted({torch.float32, dtype}, key=str)
    peaks = {str(d).removeprefix("torch."): peak(device, d) for d in dtypes}
    print(hardware_name(), {name: f"{value / 1e9:.0f} GFLOP/s" for name, value in peaks.items()})
    return {
        "seed": 0,
        "threads": torch.get_num_threads(),
        "dtype": str(dtype),
        "peak_flops": peaks,
        "chains": bench_chains(device, dtype),
        "updates": bench_updates(device),
        "score": bench_score(device, dtype),
        "digits": bench_digits(device),
        "time_shares": bench_time_shares(device),
        "growth": bench_growth(device),
        "peak_memory_gb": peak_memory(),
    }
