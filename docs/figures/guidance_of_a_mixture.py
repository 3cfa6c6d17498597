"""What guidance samples, against p(x | c)^(1 + w) / p(x)^w, with the exact scores of two classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.data.known import GaussianMixture
from nanogen.models import DDPM

CLASSES = [
    GaussianMixture([1.0, 1.0], [[-0.55], [0.05]], [0.1, 0.1]),  # class 0: two kinds, one of them near class 1
    GaussianMixture([1.0], [[0.35]], [0.15]),
]
ALL = GaussianMixture([0.25, 0.25, 0.5], [[-0.55], [0.05], [0.35]], [0.1, 0.1, 0.15])
N, T = 10_000, 300


class Exact(DDPM):
    """A conditional DDPM of one pixel whose network is E[ε | x_t, c], or E[ε | x_t] for the label after the last."""

    @property
    def denoiser(self) -> Any:
        return self.expected_noise

    def expected_noise(self, x_t: ng.Tensor, t: Any, labels: Any, rng: Any = None) -> ng.Tensor:
        source, alpha_bar = [*CLASSES, ALL][int(labels[0])], float(self.schedule.alpha_bars[int(t[0])])
        return ng.tensor(source.expected_noise(x_t.data.reshape(-1, 1), alpha_bar).reshape(x_t.shape))


def draw(path: Path) -> None:
    model = Exact((1, 1, 1), 256, T, classes=2, channels=2, multipliers=(1,), heads=1)
    grid = np.linspace(-1.0, 0.6, 801)[:, None]
    width = grid[1, 0] - grid[0, 0]
    figure, axes = plt.subplots(4, 1, figsize=(6.4, 6.4), sharex=True, layout="constrained")
    for axis, w in zip(axes, (0.0, 1.0, 3.0, 8.0), strict=True):
        *_, (_, x) = model.ancestral(N, ng.Generator(0), np.zeros(N, np.int64), **({"guidance": w} if w else {}))
        x = x.data.ravel()
        tilted = np.exp((1 + w) * CLASSES[0].log_prob(grid) - w * ALL.log_prob(grid))
        tilted /= tilted.sum() * width
        axis.hist(x, bins=80, range=(-1, 0.6), density=True, color="#56b4e9", label="samples")
        axis.plot(grid, tilted, color="#d55e00", lw=2, label="p(x | c)$^{1 + w}$ / p(x)$^w$, scaled")
        axis.plot(grid, np.exp(CLASSES[0].log_prob(grid)), "k--", lw=1, label="p(x | c)")
        axis.text(0.98, 0.8, f"w = {w:g}", transform=axis.transAxes, ha="right", fontsize=11)
        axis.set_yticks([])
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=9, ncols=3, loc="outside upper center")
    axes[-1].set_xlabel("x")
    figure.supylabel("density")
    figure.savefig(path, dpi=150)
    plt.close(figure)
