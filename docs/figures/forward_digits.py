"""Digits at several times of the four schedules."""

from pathlib import Path

import matplotlib.pyplot as plt

import nanogen as ng
from nanogen.data import load
from nanogen.distributions import scale_levels
from nanogen.models.diffusion.schedule import SCHEDULES


def draw(path: Path) -> None:
    times, image = (0, 50, 100, 200, 300, 400, 500, 700, 1000), load("digits").images[13]
    x0, noise = scale_levels(image, 17), ng.Generator(0).normal(image.shape)
    names = ("linear", "quadratic", "sigmoid", "cosine")
    figure, axes = plt.subplots(len(names), len(times), figsize=(6.4, 3.3), layout="constrained")
    for row, name in zip(axes, names, strict=True):
        schedule = SCHEDULES[name](1000)
        for ax, t in zip(row, times, strict=True):
            ax.imshow(schedule.q_sample(x0, t, noise)[0], cmap="gray", vmin=-2, vmax=2)
            ax.set(xticks=[], yticks=[])
            if name == names[0]:
                ax.set_title(f"t = {t}" if t == 0 else f"{t}", fontsize=9)
        row[0].set_ylabel(name, fontsize=9)
    figure.savefig(path, dpi=150)
