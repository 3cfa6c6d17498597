"""`python -m benchmarks.autoencoders [FOLDER]`: is an autoencoder a generative model?

Trains the autoencoder, the WAEs and a VAE with as many latents by their recipes on the digits, unless the folder
already has the runs, and prints a table row for each.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import nanogen as ng
from benchmarks.runs import trained
from nanogen.models.latent.autoencoder import Autoencoder
from nanogen.models.latent.wae import inverse_multiquadratic, mmd
from nanogen.training.evaluation import evaluate
from nanogen.training.run import Run

RUNS = {
    "VAE, 32 latents": ["vae", "--set", "latent=32"], "autoencoder": ["autoencoder"], "WAE": ["wae"], "AAE": ["aae"],
}  # fmt: skip


def distance(run: Run, **sampling: Any) -> str:
    found = evaluate(run, 500, **sampling)
    assert found is not None
    value, low, _ = found[0].quality["Fréchet distance"]
    return f"{value:.2f} ± {value - low:.2f}"


def row(run: Run) -> list[str]:
    """Mean squared error of the reconstructed test images, pixels in [−1, 1]; Fréchet distances of the samples, from
    z ~ N(0, I) and from fitted codes; squared MMD of the training codes and N(0, I), in units of the kernel's largest
    value; how near the fitted moments are to those of the training codes."""
    model: Any = run.model()
    test, train = run.images("test").images, run.images("train").images
    pixels = lambda levels: model.scaled(levels).data
    cells = [f"{((pixels(model.reconstruct(test)) - pixels(test)) ** 2).mean():.4f}", distance(run)]
    if not isinstance(model, Autoencoder):
        return [*cells, "", "", ""]
    with ng.no_grad():
        z = model.to(np.float64).code(train)
        largest = inverse_multiquadratic(z[:1], z[:1]).item()
        gap = mmd(z, model.draw_prior(len(z), ng.Generator(0)), inverse_multiquadratic).item() / largest
    (mean, covariance), true = model.fitted(), np.cov(z.data.T, bias=True)
    off = [
        abs(mean - z.data.mean(0)) / z.data.std(0),
        abs(covariance - true) / np.sqrt(np.outer(*[true.diagonal()] * 2)),
    ]
    return [*cells, distance(run, fitted=True), f"{gap:.5f}", " and ".join(f"{x.max():.3f}" for x in off)]


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/autoencoders")
    print(
        "| | squared error | Fréchet, N(0, I) | Fréchet, fitted | squared MMD | moments off by at most |\n"
        + "|---" * 6
        + "|"
    )
    for name, words in RUNS.items():
        run = trained(folder / name.replace(", ", "-"), *words, "--threads", "1")
        print("| " + " | ".join([name, *row(run)]) + " |", flush=True)
