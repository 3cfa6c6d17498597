"""The parts of the U-Net in the order in which an image of 28×28 pixels goes through them, with their shapes."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

import nanogen as ng
from nanogen.models.diffusion.unet import Attention, ResidualBlock, UNet
from nanogen.nn import Conv2d

COLORS = {ResidualBlock: ("C0", "residual block"), Attention: ("C1", "attention"), Conv2d: ("0.6", "convolution")}


def draw(path: Path) -> None:
    net = UNet(1, 32, (1, 2, 2), blocks=1, heads=4, dropout=0.0, rng=ng.Generator(0))
    parts: list[Any] = [net.first, *net.down, net.middle1, net.attention, net.middle2, *net.up, net.last]
    shapes = {}

    def recorded(part: Any) -> Any:
        forward = part.forward

        def call(*inputs: Any) -> Any:
            out = forward(*inputs)
            shapes[id(part)] = out.shape
            return out

        return call

    for part in parts:
        part.forward = recorded(part)
    net(ng.tensor(np.zeros((1, 1, 28, 28), np.float32)), np.array([1]))

    figure, ax = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    skips: list[int] = []
    for i, part in enumerate(parts):
        _, channels, height, _ = shapes[id(part)]
        color, label = COLORS[type(part)]
        ax.add_patch(Rectangle((i - 0.4, -height / 2), 0.8, height, facecolor=color, edgecolor="black", label=label))
        ax.text(i, -height / 2 - 0.6, f"{channels}", ha="center", va="top", fontsize=9)
        if part in net.up and isinstance(part, ResidualBlock):
            start = skips.pop()
            top = shapes[id(parts[start])][2] / 2
            rise = 1.5 + 0.45 * (i - start)
            ax.plot([start, start, i, i], [top, top + rise, top + rise, top], color="black", linewidth=0.8)
        if i <= len(net.down):
            skips.append(i)
    ax.set(xlim=(-1, len(parts)), ylim=(-19, 24), xticks=[])
    ax.set_yticks([3.5, 7, 14], ["7", "14", "28"])
    ax.set(ylabel="height in pixels", xlabel="from the noisy image (left) to the prediction (right); below: channels")
    handles, labels = ax.get_legend_handles_labels()
    kinds = dict(zip(labels, handles, strict=True))
    ax.legend(kinds.values(), kinds.keys(), fontsize=9, ncols=3, loc="lower center")
    figure.savefig(path, dpi=150)
