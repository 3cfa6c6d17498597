"""A small DCGAN on the digits: its latents, its nearest training images, its arithmetic."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng

STEPS = 700


def draw(path: Path) -> None:
    digits = ng.data.load("digits")
    model = ng.models.GAN(digits.shape, levels=digits.levels, latent=32, channels=24, rng=ng.Generator(1))
    optimizers = {u.name: ng.optim.Adam(u.part.parameters(), 1e-3, betas=(0.5, 0.999)) for u in model.updates()}
    rng = ng.Generator(0)
    for step in range(STEPS):
        for update in model.updates():
            optimizers[update.name].lr = 1e-3 * (1 - step / STEPS)
            loss = update.loss(digits.images[rng.integers(0, len(digits), 64)], rng)
            optimizers[update.name].zero_grad()
            loss.backward()
            optimizers[update.name].step()
    grids = model.illustrations(digits, digits, ng.Generator(2))
    titles = {
        "interpolation": "interpolation: along each row, from one latent to another",
        "nearest": "samples (rows 1, 3), each above its nearest training image",
        "arithmetic": "3 bold and their mean − 3 thin, mean + 3 thin of the next class, mean = result",
    }
    figure, axes = plt.subplots(3, 1, figsize=(6.4, 8.6), layout="constrained", height_ratios=[5, 2.4, 3.6])
    for panel, (name, title) in zip(axes, titles.items(), strict=True):
        grid = grids[name][: 5 if name != "nearest" else 4, :, 0].astype(float)
        padded = np.pad(grid, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=5)
        panel.imshow(np.concatenate(np.concatenate(padded, axis=1), axis=1), cmap="gray_r", interpolation="nearest")
        panel.set_title(title, fontsize=9.5, loc="left")
        panel.set_axis_off()
    figure.savefig(path, dpi=150)
    plt.close(figure)
