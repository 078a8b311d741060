"""Denoising by both models, classical methods and a memoriser; posterior sampling."""

import numpy as np
import torch

from dgm import metrics, plots
from dgm.checks import IMAGE_SHAPE
from dgm.device import seed_everything
from dgm.inverse import posterior_sampling
from experiments.chains import ENERGIES
from experiments.names import label
from helpers import choose_denoising_steps, langevin_dynamics, load_pretrained

SIGMAS = (0.1, 0.25, 0.5, 1.0)

# ------------------------------------------------------------------------------------ methods


def each_image(function, images, **options):
    """Apply a scikit-image filter for one 2-D image to each of the images [N, 1, 28, 28]."""
    filtered = [function(x, **options) for x in images[:, 0].numpy()]
    return torch.from_numpy(np.stack([np.asarray(x, dtype=np.float32) for x in filtered]))[:, None]


def classical_denoisers(sigma):
    """Return {name: [(function, options), ...]} of scikit-image's denoisers."""
    from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet

    weights = (0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5)
    variation = [{"weight": w * sigma, "max_num_iter": 500} for w in weights]
    fixed = {"sigma": sigma, "patch_distance": 13, "fast_mode": False}
    means = [
        {"h": h * sigma, "patch_size": p, **fixed}
        for h in (0.2, 0.4, 0.6, 0.8, 1.1, 1.4, 1.8)
        for p in (3, 5, 7, 9)
    ]
    wavelets = [
        {"sigma": f * sigma, "method": method, "wavelet": wavelet, "rescale_sigma": True}
        for f in (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
        for method in ("BayesShrink", "VisuShrink")
        for wavelet in ("db1", "db2", "sym4")
    ]
    return {
        "total_variation": [(denoise_tv_chambolle, options) for options in variation],
        "non_local_means": [(denoise_nl_means, options) for options in means],
        "wavelet": [(denoise_wavelet, options) for options in wavelets],
    }


def tune(choices, noisy, clean):
    """Return the (function, options) with the smallest error after clamping to [0, 1]."""
    errors = []
    for function, options in choices:
        estimate = each_image(function, noisy, **options).clamp(0, 1)
        errors.append((estimate - clean).square().mean().item())
    return choices[int(np.argmin(errors))]


def kernel_posterior_mean(noisy, sigma, training_images, block=250):
    """Return E[x | noisy] under the empirical distribution of the training images (memoriser)."""
    flat = training_images.flatten(1)
    means = []
    for y in noisy.flatten(1).split(block):
        weights = (-torch.cdist(y, flat).square() / (2 * sigma**2)).softmax(dim=1)
        means.append(weights @ flat)
    return torch.cat(means).view_as(noisy)


def fitted_gaussian(lab):
    """Fit a Gaussian to the training images, with the covariance of Ledoit & Wolf 2004."""
    from sklearn.covariance import LedoitWolf

    return LedoitWolf().fit(lab.digits.train_images.flatten(1).cpu().double().numpy())


def gaussian_posterior_mean(noisy, sigma, gaussian):
    """Return E[x | noisy] under a fitted Gaussian (Wiener filter, the best linear denoiser)."""
    mean, covariance = (torch.from_numpy(a) for a in (gaussian.location_, gaussian.covariance_))
    y = noisy.flatten(1).cpu().double() - mean
    blurred = covariance + sigma**2 * torch.eye(len(mean), dtype=torch.float64)
    estimate = mean + torch.linalg.solve(blurred, y.T).T @ covariance
    return estimate.float().view_as(noisy.cpu()).to(noisy.device)


# ---------------------------------------------------------------------------------- denoising


def denoising(lab, seed=7, n=1_000):
    """Measure PSNR and SSIM against sigma on test digits with unclipped noise.

    The methods are both energies, the score network, three classical denoisers tuned on training
    digits, the best linear denoiser and the memoriser. Estimates are clamped to [0, 1].
    """
    n, digits = min(n, lab.max_samples), lab.digits
    generator = seed_everything(seed, lab.device)
    score = load_pretrained("score-based-model", lab.device)[0]
    keys = ("replay_buffer", "no_buffer")
    energies = {f"ebm_{key}": load_pretrained(ENERGIES[key], lab.device)[0] for key in keys}
    clean, tuning = digits.test_images[:n], digits.train_images[: min(200, n)]
    few = tuning[:50]  # for scikit-image's denoisers, with many settings each
    gaussian = fitted_gaussian(lab)
    counts = {"energies": len(tuning), "scikit_image": len(few)}
    result = {"seed": seed, "n": n, "n_tuning": counts, "methods": {}, "chosen": {}}
    for sigma in SIGMAS:
        shape = (len(clean) + len(tuning), *IMAGE_SHAPE)
        noise = torch.randn(shape, device=lab.device, generator=generator)
        noisy, noisy_tuning = clean + sigma * noise[:n], tuning + sigma * noise[n:]
        with torch.no_grad():
            tweedie = score.denoise(noisy, sigma).clamp(0, 1)
        estimates = {"noisy": noisy, "noisy_clamped": noisy.clamp(0, 1), "score_model": tweedie}
        chosen = {}
        for key, model in energies.items():
            options = {"most": 200, "generator": generator}
            steps = choose_denoising_steps(model, tuning, sigma, **options)
            estimates[key] = langevin_dynamics(model, noisy, steps, noise=0.0)
            chosen[key] = {"steps": steps}
        for key, choices in classical_denoisers(sigma).items():
            function, options = tune(choices, noisy_tuning[: len(few)].cpu(), few.cpu())
            estimate = each_image(function, noisy.cpu(), **options).clamp(0, 1)
            estimates[key] = estimate.to(lab.device)
            chosen[key] = options
        estimates["wiener"] = gaussian_posterior_mean(noisy, sigma, gaussian).clamp(0, 1)
        estimates["memoriser"] = kernel_posterior_mean(noisy, sigma, digits.train_images)
        for key, images in estimates.items():
            quality = metrics.pixel_quality(images, clean)
            result["methods"].setdefault(key, {})[str(sigma)] = quality
        result["chosen"][str(sigma)] = chosen
        decibels = {key: round(metrics.psnr(x, clean), 1) for key, x in estimates.items()}
        print(sigma, decibels, flush=True)
    return result


STYLES = {  # color and line style: our models solid, other methods dashed
    "score_model": ("tab:green", "-"),
    "ebm_replay_buffer": ("tab:orange", "-"),
    "ebm_no_buffer": ("tab:blue", "-"),
    "noisy": ("silver", "--"),
    "noisy_clamped": ("gray", "--"),
    "wiener": ("tab:olive", "--"),
    "wavelet": ("tab:brown", "--"),
    "total_variation": ("tab:purple", "--"),
    "non_local_means": ("tab:red", "--"),
    "memoriser": ("black", "--"),
}


def draw_denoising(results, folder):
    """Draw PSNR and SSIM of every denoiser against the noise level."""
    import matplotlib.pyplot as plt

    measured = results["denoising"]
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.8))
    for key, levels in measured["methods"].items():
        color, line = STYLES[key]
        style = {
            "color": color,
            "linestyle": line,
            "marker": ".",
            "label": label(key).split(" (weighted")[0],
        }
        sigmas = [float(sigma) for sigma in levels]
        for ax, metric in zip(axes, ("psnr", "ssim"), strict=True):
            ax.plot(sigmas, [level[metric] for level in levels.values()], **style)
    for ax, metric in zip(
        axes, ("PSNR (dB, pooled over images)", "SSIM (mean over images)"), strict=True
    ):
        ax.set(xscale="log", xlabel=r"noise level $\sigma$", ylabel=metric)
        ax.set(xticks=sigmas, xticklabels=sigmas)
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    axes[1].legend(fontsize=8, bbox_to_anchor=(1.02, 1), loc="upper left")
    count = f"Denoising of {measured['n']:,} test digits"
    title = f"{count} (noise not clipped, estimates clamped to [0, 1])"
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    plots.write_figure(figure, folder / "denoising_curves.png")
    plt.close(figure)


# ------------------------------------------------------------------------- posterior sampling


def ratio_of_means(a, b):
    """Return mean(a) / mean(b) over images and its standard error by the delta method."""
    ratio = (a.sum() / b.sum()).item()
    error = (a - ratio * b).std() / len(a) ** 0.5 / b.mean()
    return {"ratio": ratio, "standard_error": error.abs().item()}


def ratios_by_samples(draws, clean, tweedie):
    """Return {K: squared error of the mean of K samples relative to Tweedie's}.

    All disjoint groups of K samples count, which makes the error bars of small K small.
    """
    ratios, most = {}, len(draws)
    for k in range(1, most + 1):
        groups = draws[: most // k * k].view(-1, k, *draws.shape[1:]).mean(1)
        error = (groups - clean).square().flatten(2).mean(2).mean(0).double()  # [N]
        ratios[str(k)] = ratio_of_means(error, tweedie) | {"theory": 1 + 1 / k}
    return ratios


def posterior(lab, seed=7, n=150, most_samples=8, levels=100, sigmas=(0.25, 0.5, 1.0)):
    """Measure the error of posterior samples against theory.

    In theory, the squared error of the mean of K samples is 1 + 1/K times Tweedie's.
    """
    model, _ = load_pretrained("score-based-model", lab.device)
    generator = seed_everything(seed, lab.device)
    clean = lab.digits.test_images[: min(n, lab.max_samples)]
    result = {"seed": seed, "n": len(clean), "levels": levels, "sigmas": {}}
    options = {"levels": levels, "generator": generator}
    for sigma in sigmas:
        z = torch.randn(clean.shape, device=lab.device, generator=generator)
        noisy = clean + sigma * z
        with torch.no_grad():
            errors = (model.denoise(noisy, sigma) - clean).square()
        tweedie = errors.flatten(1).mean(1).double()
        draws = [posterior_sampling(model, noisy, sigma, **options) for _ in range(most_samples)]
        draws = torch.stack(draws)
        ratios = ratios_by_samples(draws, clean, tweedie)
        decibels = -10 * float(np.log10(ratios["1"]["ratio"]))
        variance = draws.var(0).flatten(1).mean(1).double()
        # unbiased estimate of the error of the mean of infinitely many samples
        limit = (draws.mean(0) - clean).square().flatten(1).mean(1).double()
        limit = limit - variance / most_samples
        result["sigmas"][str(sigma)] = {
            "ratios": ratios,
            "one_sample_against_tweedie_db": decibels,
            "mean_of_all_against_tweedie": ratio_of_means(limit, tweedie),
            "variance_over_error_of_the_mean": ratio_of_means(variance, limit),
            "tweedie_psnr": float(-10 * torch.log10(tweedie.mean())),
        }
        one = f"one sample {decibels:+.2f} dB relative to Tweedie (theory: -3.01)"
        print(f"sigma {sigma}: {one}", flush=True)
    return result


def draw_posterior(results, folder):
    """Draw the squared error of the mean of K samples relative to Tweedie's, and theory."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6, 3.2))
    for sigma, level in results["posterior"]["sigmas"].items():
        count = np.array([int(k) for k in level["ratios"]])
        values = [row["ratio"] for row in level["ratios"].values()]
        errors = [row["standard_error"] for row in level["ratios"].values()]
        style = {"marker": ".", "linestyle": "", "capsize": 3}
        ax.errorbar(count, values, errors, label=f"$\\sigma$ = {sigma}", **style)
    ax.plot(count, 1 + 1 / count, color="black", label="theory: 1 + 1/K")
    ax.set(xlabel="number of samples averaged, K", ylim=(0.9, 2.1))
    ax.set_ylabel("squared error relative to Tweedie's")
    ax.grid(alpha=0.3)
    ax.legend()
    plots.write_figure(figure, folder / "posterior_sampling.png")
    plt.close(figure)
