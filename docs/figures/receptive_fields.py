"""What each network sees, by the Jacobian of untrained networks: where a pixel's logits have a slope."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

import nanogen as ng
from nanogen.models import GatedPixelCNN, PixelCNN, PixelRNN

SIZE, ROW, COLUMN = 15, 10, 7


def seen(network) -> np.ndarray:
    """The pixels in which the logits at (ROW, COLUMN) have a slope for some of 16 random images: bool (SIZE, SIZE)."""
    x = ng.tensor(np.random.default_rng(0).uniform(-1, 1, (16, 1, SIZE, SIZE)), requires_grad=True)
    logits = network.to(np.float64)(x)[:, ROW, COLUMN, 0]
    (slope,) = ng.grad((logits * np.array([1.0, -0.7])).sum(), [x])
    return (slope.data != 0).any(axis=(0, 1))


def draw(path: Path) -> None:
    shape, blind, field = (1, SIZE, SIZE), {"kernel_size": 3, "blocks": 14}, {"kernel_size": 3, "blocks": 1}
    networks = {
        "PixelCNN, 14 blocks": PixelCNN(shape, 2, channels=16, **blind),
        "gated PixelCNN, 14 layers": GatedPixelCNN(shape, 2, channels=8, **blind),
        "Row LSTM, 1 layer": PixelRNN(shape, 2, "row", hidden=8, **field),
        "Diagonal BiLSTM, 1 layer": PixelRNN(shape, 2, "diagonal", hidden=8, **field),
    }
    order = np.arange(SIZE * SIZE).reshape(SIZE, SIZE)
    past = order < order[ROW, COLUMN]
    colors = {"future": "white", "past, not seen": "#d55e00", "seen": "#56b4e9", "the pixel itself": "black"}
    figure, axes = plt.subplots(2, 2, figsize=(6.4, 7.2), layout="constrained")
    for axis, (name, network) in zip(axes.flat, networks.items(), strict=True):
        known = seen(network)
        assert not (known & ~past).any()
        picture = past.astype(int) + known  # 0 future, 1 past, 2 seen
        picture[ROW, COLUMN] = 3
        axis.pcolormesh(picture, cmap=ListedColormap(list(colors.values())), vmin=0, vmax=3, edgecolor="0.8", lw=0.5)
        axis.set(title=f"{name}\n{known.sum()} of {past.sum()} pixels", xlabel="column", ylabel="row", aspect="equal")
        axis.invert_yaxis()
    figure.legend(
        handles=[Patch(facecolor=color, edgecolor="0.5", label=name) for name, color in colors.items()],
        loc="outside lower center", ncols=4, handlelength=1, columnspacing=1,
    )  # fmt: skip
    figure.savefig(path, dpi=150)
    plt.close(figure)
