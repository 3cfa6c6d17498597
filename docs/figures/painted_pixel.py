"""Inpainting of one of two correlated pixels, with the exact denoiser: what is drawn, and what should be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.models import DDPM

COVARIANCE, MEAN, KNOWN = np.array([[0.25, 0.2], [0.2, 0.25]]), np.array([0.1, -0.2]), 0.7
N, T = 6000, 50


class Exact(DDPM):
    """A DDPM of two pixels whose x̂_0 is E[x_0 | x_t] = m + √ᾱ C (ᾱ C + (1 − ᾱ) I)⁻¹ (x_t − √ᾱ m), of N(m, C)."""

    def predict_x0(self, x_t: ng.Tensor, t: Any, **given: Any) -> ng.Tensor:
        bar = float(self.schedule.alpha_bars[int(t[0])])
        gain = math.sqrt(bar) * COVARIANCE @ np.linalg.inv(bar * COVARIANCE + (1 - bar) * np.eye(2))
        return ng.tensor((MEAN + (x_t.data.reshape(-1, 2) - math.sqrt(bar) * MEAN) @ gain.T).reshape(x_t.shape))


def draw(path: Path) -> None:
    model = Exact((1, 1, 2), 256, T, channels=2, multipliers=(1,), heads=1).to(np.float64)
    mean = MEAN[1] + COVARIANCE[1, 0] / COVARIANCE[0, 0] * (KNOWN - MEAN[0])
    std = math.sqrt(COVARIANCE[1, 1] - COVARIANCE[1, 0] ** 2 / COVARIANCE[0, 0])
    x0, grid = ng.tensor(np.tile([KNOWN, 0.0], (N, 1)).reshape(N, 1, 1, 2)), np.linspace(-1.3, 1.5, 400)
    right = np.exp(-0.5 * ((grid - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    figure, axes = plt.subplots(3, 1, figsize=(6.4, 5), sharex=True, layout="constrained")
    for axis, resample in zip(axes, (1, 3, 10), strict=True):
        *_, (_, x) = model.inpainting(x0, np.array([False, True]), ng.Generator(0), resample)
        painted = x.data[..., 1].ravel()
        axis.hist(painted, bins=70, range=(-1.3, 1.5), density=True, color="#56b4e9", label="painted pixel")
        axis.plot(grid, right, color="#d55e00", lw=2, label="given the known pixel")
        axis.text(0.02, 0.75, f"each step {resample}×", transform=axis.transAxes, fontsize=10)
        axis.set_yticks([])
    axes[0].legend(fontsize=9, loc="upper right")
    axes[-1].set_xlabel("the second pixel; the first is 0.7")
    figure.supylabel("density")
    figure.savefig(path, dpi=150)
    plt.close(figure)
