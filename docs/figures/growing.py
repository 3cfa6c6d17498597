"""What the discriminator of a growing GAN sees of the training images while the largest resolution fades in."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.models.adversarial.styles import alphas_at, faded_images


def draw(path: Path) -> None:
    digits = ng.data.load("digits")
    x = ng.tensor(digits.images[:10].astype(np.float32))
    phase, steps = 200, (200, 250, 300, 350, 400)
    figure, axes = plt.subplots(len(steps), 1, figsize=(6.4, 3.6), layout="constrained")
    for panel, step in zip(axes, steps, strict=True):
        alphas = alphas_at(np.array(step), phase, 1, np.float32)  # one doubling: 4×4 to 8×8 pixels
        padded = np.pad(faded_images(x, alphas).numpy()[:, 0], ((0, 0), (1, 1), (1, 1)), constant_values=5)
        panel.imshow(np.concatenate(padded, axis=1), cmap="gray_r", vmin=0, vmax=digits.levels - 1)
        panel.set(xticks=[], yticks=[])
        panel.set_ylabel(f"step {step}, α = {alphas.item():.2f}", fontsize=10, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=150)
    plt.close(figure)
