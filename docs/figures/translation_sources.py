"""Digits, and the sources that the translation models make of them."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.models.adversarial.sources import SOURCES


def draw(path: Path) -> None:
    digits = ng.data.load("digits")
    images = digits.images[:10]
    rows = {"image": images} | {name: make(images, digits.levels) for name, make in SOURCES.items()}
    figure, axes = plt.subplots(len(rows), 1, figsize=(6.4, 4.2), layout="constrained")
    for panel, (name, row) in zip(axes, rows.items(), strict=True):
        padded = np.pad(row[:, 0].astype(float), ((0, 0), (1, 1), (1, 1)), constant_values=5)
        panel.imshow(np.concatenate(padded, axis=1), cmap="gray_r", vmin=0, vmax=digits.levels - 1)
        panel.set(xticks=[], yticks=[])
        panel.set_ylabel(name, fontsize=10, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=150)
    plt.close(figure)
