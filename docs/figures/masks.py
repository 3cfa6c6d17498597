"""Masks A and B of a 5×5 kernel, the order of colours at the pixel itself, and the Jacobian of a whole network."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.models import PixelCNN
from nanogen.nn.layers import causal_mask


def show(axis, values, names=None, grid=True) -> None:
    axis.pcolormesh(values, cmap="Blues", vmin=0, vmax=1.6, edgecolor="0.7" if grid else "none", lw=0.6)
    axis.invert_yaxis()
    axis.set_aspect("equal")
    ticks = np.arange(len(values)) + 0.5
    if names is None:
        axis.set(xticks=[], yticks=[])
    else:
        axis.set_xticks(ticks, names)
        axis.set_yticks(ticks, names)


def draw(path: Path) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(6.4, 4.9), layout="constrained")
    for row, mask in zip(axes, "AB", strict=True):
        kernel = causal_mask(mask, (1, 1, 5, 5), 1)[0, 0]
        show(row[0], kernel)
        row[0].set_title(f"mask {mask}, one colour")
        for (i, j), value in np.ndenumerate(kernel):
            row[0].text(j + 0.5, i + 0.5, f"{value:.0f}", ha="center", va="center")
        show(row[1], causal_mask(mask, (3, 3, 1, 1), 3)[:, :, 0, 0], list("RGB"))
        row[1].set(title=f"mask {mask}, own pixel", xlabel="input", ylabel="output")

    shape = (3, 2, 2)
    network = PixelCNN(shape, 2, channels=48, blocks=2, kernel_size=3).to(np.float64)
    x = ng.tensor(np.random.default_rng(0).uniform(-1, 1, (16, *shape)), requires_grad=True)
    logits = network(x)
    order = [(i, j, c) for i in range(2) for j in range(2) for c in range(3)]
    slopes = []
    for i, j, c in order:
        (slope,) = ng.grad((logits[:, i, j, c] * np.array([1.0, -0.7])).sum(), [x])
        slopes.append([(slope.data[:, d, y, z] != 0).any() for y, z, d in order])
    for axis in axes[:, 2]:
        axis.remove()
    axis = figure.add_subplot(axes[0, 0].get_gridspec()[:, 2])
    show(axis, np.array(slopes, float), list("RGB" * 4))
    axis.set(title="logits of 2×2 pixels", xlabel="input, in raster order", ylabel="output")
    figure.savefig(path, dpi=150)
    plt.close(figure)
