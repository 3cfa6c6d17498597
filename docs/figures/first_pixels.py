"""A PixelCNN of the digits: the bits of each pixel, and what is left open once the first rows are known."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from training import trained

import nanogen as ng
from nanogen.data.images import nearest
from nanogen.metrics import bits_per_dim

STEPS = 600


def draw(path: Path) -> None:
    train, test = ng.data.load("digits"), ng.data.load("digits", "test")
    model = trained(ng.models.PixelCNN(train.shape, train.levels, channels=64), train.images, STEPS, 3e-3)
    with ng.no_grad():
        logits = model(model.scaled(test.images))
        nats = -ng.distributions.Categorical(logits).log_prob(test.images.transpose(0, 2, 3, 1)).data
    bits = bits_per_dim(nats.mean(0)[:, :, 0], 1)

    figure = plt.figure(figsize=(6.4, 7.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.25])
    left, right = above.subplots(1, 2)
    left.pcolormesh(bits, cmap="cividis", edgecolor="w", lw=0.5)
    for (i, j), value in np.ndenumerate(bits):
        color = "w" if value < bits.max() / 2 else "k"
        left.text(j + 0.5, i + 0.5, f"{value:.1f}", ha="center", va="center", color=color, fontsize=9)
    left.invert_yaxis()
    left.set(aspect="equal", xticks=[], yticks=[], title=f"bits of each pixel (mean {bits.mean():.2f})")

    given = range(test.shape[1] + 1)
    done = [model.complete(test.images, rows, ng.Generator(2)) for rows in given]
    share = [100 * (train.labels[nearest(images, train.images)] == test.labels).mean() for images in done]
    right.plot(given, share, "o-", color="#0072b2")
    right.set(xlabel="rows that are given", ylabel="completions of the same digit, %", ylim=(0, 100))

    rows, ways, chosen = (1, 2, 4, 6), 6, test.images[[2]]
    axes = below.subplots(len(rows), ways + 1)
    below.suptitle("a test image, and six completions of what is above the line")
    for row, known in zip(axes, rows, strict=True):
        completed = model.complete(chosen.repeat(ways, axis=0), known, ng.Generator(1))
        for axis, image in zip(row, [chosen[0], *completed], strict=True):
            axis.imshow(image[0], cmap="gray_r", vmin=0, vmax=train.levels - 1)
            axis.axhline(known - 0.5, color="#d55e00", lw=1.5)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"{known} row{'s' * (known > 1)}")
    figure.savefig(path, dpi=150)
    plt.close(figure)
