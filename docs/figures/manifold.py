"""A VAE of two latents, trained on the digits: where it puts the test images, and the picture of each place."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from training import trained

import nanogen as ng
from nanogen.backend import use_threads

STEPS, SIDE = 600, 12


def draw(path: Path) -> None:
    use_threads(1)
    train, test = ng.data.load("digits"), ng.data.load("digits", "test")
    model = trained(ng.models.VAE(train.shape, train.levels, latent=2, channels=8), train.images, STEPS, 4e-3)
    with ng.no_grad():
        z = model.code(test.images).numpy()
    framed = np.pad(model.manifold(SIDE).reshape(SIDE, SIDE, 8, 8), ((0, 0), (0, 0), (1, 1), (1, 1)))
    pictures = framed.transpose(0, 2, 1, 3).reshape(10 * SIDE, 10 * SIDE)
    figure, axes = plt.subplots(2, 1, figsize=(6.4, 11), layout="constrained")
    for position, label in zip(z, test.labels, strict=True):
        color = plt.get_cmap("viridis")(label / 11)
        axes[0].text(*position, str(label), color=color, fontsize=9, ha="center", va="center", clip_on=True)
    axes[0].set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), aspect="equal", xlabel="$z_1$", ylabel="$z_2$",
                title="the mean of q(z|x) of each test image, as its label")  # fmt: skip
    axes[1].imshow(pictures, cmap="gray_r", interpolation="nearest")
    axes[1].set(xticks=[], yticks=[], title="E[x|z] over the quantiles of N(0, I)",
                xlabel="quantiles of $z_1$, rising", ylabel="quantiles of $z_2$, rising upwards")  # fmt: skip
    figure.savefig(path, dpi=130)
    plt.close(figure)
