"""A 5×5 image and its skewed map: a diagonal of the image is a column of the map."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.models.autoregressive.pixelrnn import skew

SIZE = 5


def draw(path: Path) -> None:
    number = np.arange(1.0, SIZE * SIZE + 1).reshape(1, 1, SIZE, SIZE)  # in raster order; 0 is the padding
    diagonal = np.add.outer(np.arange(SIZE), np.arange(SIZE)).reshape(number.shape) + 1.0
    figure, axes = plt.subplots(
        1, 2, figsize=(6.4, 2.9), layout="constrained", width_ratios=[SIZE, 2 * SIZE - 1]
    )  # fmt: skip
    for axis, moved, name in zip(axes, (lambda x: x, lambda x: skew(ng.tensor(x)).data), ("image", "skewed map")):
        pixels, of = moved(number)[0, 0], moved(diagonal)[0, 0]
        axis.pcolormesh(np.where(of > 0, of, np.nan), cmap="viridis", vmin=-6, vmax=2 * SIZE - 1, edgecolor="w", lw=1)
        for (i, j), k in np.ndenumerate(pixels):
            axis.text(j + 0.5, i + 0.5, f"{k:.0f}" if k else "0", ha="center", va="center", color="k" if k else "0.6")
        axis.set(title=name, aspect="equal", yticks=[], xlabel="column")
        axis.set_xticks(np.arange(pixels.shape[1]) + 0.5, np.arange(pixels.shape[1]))
        axis.invert_yaxis()
    figure.savefig(path, dpi=150)
    plt.close(figure)
