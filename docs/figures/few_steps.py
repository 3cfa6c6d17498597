"""How near the samplers come to the data in few steps, with the best denoiser there is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.data.known import GaussianMixture
from nanogen.models import DDPM

DATA = GaussianMixture([2.0, 1.0, 1.0], [[-0.6], [0.1], [0.6]], [0.1, 0.05, 0.1])
N, T = 30_000, 1000
STEPS = [2, 3, 5, 10, 20, 50, 100, 200]


class Exact(DDPM):
    """A DDPM of images of one pixel, whose network is E[ε | x_t] of the data."""

    def predict(self, x_t: ng.Tensor, t: Any, rng: Any = None, **given: Any) -> ng.Tensor:
        alpha_bar = float(self.schedule.alpha_bars[int(t[0])])
        return ng.tensor(DATA.expected_noise(x_t.data.reshape(-1, 1), alpha_bar).reshape(x_t.shape))


def distance(x: np.ndarray) -> float:
    """∫ |F(x) − F_data(x)| dx, the Wasserstein distance of draws (N,) from the data."""
    grid = np.linspace(-1.6, 1.6, 3201)
    cdf = lambda mean, std: np.array([0.5 + 0.5 * math.erf((g - mean) / (std * math.sqrt(2))) for g in grid])
    exact = sum(w * cdf(m[0], s) for w, m, s in zip(DATA.weights, DATA.means, DATA.stds, strict=True))
    return float(abs(np.searchsorted(np.sort(x), grid) / len(x) - exact).mean() * 3.2)


def end(trajectory: Any) -> np.ndarray:
    *_, (_, x) = trajectory
    return x.data.ravel()


def draw(path: Path) -> None:
    small: dict[str, Any] = {"channels": 2, "multipliers": (1,), "heads": 1}
    model = {variance: Exact((1, 1, 1), 256, T, variance=variance, **small) for variance in ("beta", "posterior")}
    samplers = {
        "DDIM, η = 0": ("o-", "#0072b2", lambda n: model["beta"].ddim(N, ng.Generator(0), n)),
        "DDIM, η = 1": ("v--", "#e69f00", lambda n: model["beta"].ddim(N, ng.Generator(0), n, 1.0)),
        "ancestral, σ² = β": ("s:", "#009e73", lambda n: model["beta"].respaced(n).ancestral(N, ng.Generator(0))),
        "ancestral, σ² = β̃": ("^-.", "#cc79a7", lambda n: model["posterior"].respaced(n).ancestral(N, ng.Generator(0))),
    }
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for name, (style, color, run) in samplers.items():
        errors = [distance(end(run(n))) for n in STEPS]
        axes.loglog(STEPS, errors, style, color=color, label=name)
    floor = np.mean([distance(DATA.sample(N, ng.Generator(seed)).ravel()) for seed in range(5)])
    axes.axhline(floor, color="0.6", lw=1)
    axes.text(2, floor * 1.06, f"{N:,} draws of the data themselves", va="bottom", color="0.35", fontsize=9)
    axes.set_xlabel("evaluations of the network for a sample")
    axes.set_ylabel("Wasserstein distance from the data")
    axes.set_xticks(STEPS, [str(n) for n in STEPS])
    axes.minorticks_off()
    axes.legend(fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)
