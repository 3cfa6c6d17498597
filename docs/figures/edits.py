"""A small DDPM of digits, trained for a minute: SDEdit, inpainting, and interpolation between noises."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.backend import to_numpy

STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
STEPS = 400


def trained(digits: ng.data.Images) -> ng.models.DDPM:
    model = ng.models.DDPM(digits.shape, digits.levels, T=200, channels=24)
    optimizer = ng.optim.Adam(model.parameters(), 3e-3)
    average, rng = ng.optim.ExponentialMovingAverage(model.parameters(), 0.98), ng.Generator(0)
    for step in range(STEPS):
        loss = model.loss(digits.images[rng.integers(0, len(digits), 64)], rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.lr = 3e-3 * min(1, (step + 1) / 50, 1 + math.cos(math.pi * step / STEPS))
        optimizer.step()
        average.update()
    average.swap()
    return model.eval()


def strip(axis: plt.Axes, rows: np.ndarray, title: str, columns: list[str]) -> None:
    """Images (rows, columns, H, W) as one picture, with a name above each column."""
    r, c, height, width = rows.shape
    framed = np.pad(rows.astype(float), ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=8)
    axis.imshow(framed.transpose(0, 2, 1, 3).reshape(r * (height + 1), c * (width + 1)), cmap="gray_r", vmin=0, vmax=16)
    axis.set_xticks((np.arange(c) + 0.5) * (width + 1) - 1, columns, fontsize=9)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set_yticks([])
    axis.set_title(title, fontsize=10)


def draw(path: Path) -> None:
    digits, test = ng.data.load("digits"), ng.data.load("digits", "test")
    model = trained(digits)
    chosen = test.images[[0, 1, 2]]
    edited = [to_numpy(model.edit(chosen, s, ng.Generator(1))) for s in STRENGTHS]
    half = np.arange(8)[:, None] >= 4
    painted = to_numpy(model.inpaint(np.tile(chosen, (4, 1, 1, 1)), half, ng.Generator(1), resample=4))
    holes = np.where(half, np.uint8(5), chosen)
    line = to_numpy(model.interpolate(test.images[[0, 3, 6]], test.images[[1, 4, 7]], 6, 50))
    figure, axes = plt.subplots(3, 1, figsize=(6.4, 9.6), layout="constrained")
    strip(axes[0], np.stack(edited, 1)[:, :, 0], "SDEdit: strength", [f"{s:g}" for s in STRENGTHS])
    strip(axes[1], np.stack([chosen, holes, *np.split(painted, 4)], 1)[:, :, 0], "Inpainting of the lower half",
          ["image", "known", *("painted",) * 4])  # fmt: skip
    strip(axes[2], line[:, :, 0], "Interpolation through the noises: share", [f"{i / 5:g}" for i in range(6)])
    figure.savefig(path, dpi=150)
    plt.close(figure)
