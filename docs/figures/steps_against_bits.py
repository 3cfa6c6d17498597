"""The bound for T steps, with the best prediction, against the entropy that no model can go below."""

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.data.known import GaussianMixture
from nanogen.models import DDPM

P = np.array([0.3, 0.1, 0.1, 0.1, 0.4])  # of the five levels of the one pixel
SOURCE = GaussianMixture(P, np.linspace(-1, 1, 5)[:, None], np.zeros(5))
ENTROPY = -(P * np.log2(P)).sum()


class Exact(DDPM):
    """A DDPM whose network is E[ε | x_t] of the source and, if it is learned, the best variance."""

    def __init__(self, T: int, variance: str):
        super().__init__((1, 1, 1), 5, T, variance=variance, channels=2, multipliers=(1,), heads=1)
        self.to(np.float64)

    def predict(self, x_t: Any, t: Any, rng: Any = None) -> ng.Tensor:
        s, t = self.schedule, int(t[0])
        bar, x, step = float(s.alpha_bars[t]), x_t.data[:, :, 0, 0], 1e-4
        noise = SOURCE.expected_noise(x, bar)[:, :, None, None]
        if self.variance != "learned":
            return ng.tensor(noise)
        # Var[x_0 | x_t] = (1 − ᾱ_t)/√ᾱ_t · d/dx_t E[x_0 | x_t], and Var[x_{t−1} | x_t] by the law of total variance.
        slope = (SOURCE.expected_x0(x + step, bar) - SOURCE.expected_x0(x - step, bar)) / (2 * step)
        smallest = s.posterior_variances[max(t, 2)]
        best = s.posterior_variances[t] + s.x0_weights[t] ** 2 * (1 - bar) / math.sqrt(bar) * np.maximum(slope, 1e-12)
        share = np.log(best / smallest) / np.log(s.betas[t] / smallest)
        return ng.tensor(np.concatenate([noise, 2 * share[:, :, None, None] - 1], axis=1))


class Grid(ng.Generator):
    """The same points for every draw: with weights, an integral over the noise in place of an average."""

    points = np.linspace(-7, 7, 401)
    weights = np.exp(-0.5 * points**2) / math.sqrt(2 * math.pi) * (points[1] - points[0])

    def normal(self, shape: Any, dtype: Any = None) -> np.ndarray:
        return np.tile(self.points, len(P)).reshape(shape)


def draw(path: Path) -> None:
    steps = (25, 50, 100, 200, 400, 800)
    images = np.repeat(np.arange(5, dtype=np.uint8), len(Grid.points)).reshape(-1, 1, 1, 1)
    figure, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for variance, style, label in (
        ("beta", "o-", "σ² = β"), ("posterior", "s--", "σ² = β̃"), ("learned", "^:", "σ² the best at each x_t")
    ):  # fmt: skip
        nats = [-Exact(T, variance).elbo(images, Grid(0)).data.reshape(5, -1) @ Grid.weights @ P for T in steps]
        gap = np.array(nats) / math.log(2) - ENTROPY
        ax.loglog(steps, gap, style, label=label)
    ax.set(xlabel="steps T", ylabel="bound − entropy, bits", title=f"a pixel of {ENTROPY:.2f} bits")
    ax.set_xticks(steps, [str(T) for T in steps])
    ax.minorticks_off()
    ax.grid(alpha=0.3)
    ax.legend(fontsize=9)
    figure.savefig(path, dpi=150)
