"""A convolution along one axis, its adjoint and its adjoint in the kernel, each as the matrix that it multiplies by."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from nanogen.functional.conv import convolve, convolve_adjoint, convolve_weight

HOW = {"stride": (1, 2), "padding": (0, 1), "dilation": (1, 1)}


def matrix_of(linear, n: int) -> np.ndarray:
    """A column for each of the n unit vectors."""
    return np.stack([linear(row.reshape(1, 1, 1, n)).data.ravel() for row in np.eye(n)], 1)


def draw(path: Path) -> None:
    x, w = np.arange(11.0, 18.0).reshape(1, 1, 1, 7), np.array([1.0, 2.0, 3.0]).reshape(1, 1, 1, 3)
    y = convolve(x, w, **HOW)
    shown = {
        "convolve(·, w)": matrix_of(lambda x: convolve(x, w, **HOW), 7),
        "convolve_adjoint(·, w)": matrix_of(lambda y: convolve_adjoint(y, w, size=(1, 7), **HOW), y.shape[3]),
        "convolve(x, ·)": matrix_of(lambda w: convolve(x, w, **HOW), 3),
        "convolve_weight(x, ·)": matrix_of(lambda y: convolve_weight(x, y, kernel=(1, 3), **HOW), y.shape[3]),
    }
    figure, axes = plt.subplots(2, 2, figsize=(6.4, 6.4), layout="constrained")
    for axis, (name, matrix) in zip(axes.flat, shown.items(), strict=True):
        axis.pcolormesh(matrix != 0, cmap="Blues", vmin=0, vmax=2.5, edgecolor="0.7", lw=0.6)
        for (i, j), value in np.ndenumerate(matrix):
            axis.text(j + 0.5, i + 0.5, f"{value:.0f}", ha="center", va="center", fontsize=9)
        axis.set(title=name, xticks=[], yticks=[], aspect="equal")
        axis.invert_yaxis()
    figure.savefig(path, dpi=150)
    plt.close(figure)
