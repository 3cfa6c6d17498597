"""Test images, their reconstructions, means and draws of p(x|z) of new codes, and how sharp each of them is."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from training import trained

import nanogen as ng
from nanogen.backend import use_threads

STEPS, COLUMNS = 500, 14
TRAIN, TEST = ng.data.load("digits"), ng.data.load("digits", "test")


def contrast(images: np.ndarray) -> float:
    """The mean difference of neighbouring pixels, in levels."""
    x = images.astype(float)
    return 0.5 * (abs(np.diff(x, axis=2)).mean() + abs(np.diff(x, axis=3)).mean())


def draw(path: Path) -> None:
    use_threads(1)
    model = trained(ng.models.VAE(TRAIN.shape, TRAIN.levels, latent=8, channels=8), TRAIN.images, STEPS, 4e-3)
    rng = ng.Generator(1)
    z = model.draw_prior(len(TEST), rng)
    with ng.no_grad():
        density = model.decode(z)
    rows = {
        "test images": TEST.images,
        "reconstructions": model.reconstruct(TEST.images),
        "E[x|z]": model.picture(z),
        "draws from p(x|z)": density.sample(rng).numpy(),
    }
    figure, axes = plt.subplots(4, 1, figsize=(6.4, 3.6), layout="constrained")
    for axis, (name, images) in zip(axes, rows.items(), strict=True):
        framed = np.pad(images[:COLUMNS, 0], ((0, 0), (1, 1), (1, 1)))
        axis.imshow(np.concatenate(framed, axis=1), cmap="gray_r", interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"{name}: contrast {contrast(images):.2f} levels", fontsize=10)
    figure.savefig(path, dpi=150)
    plt.close(figure)
