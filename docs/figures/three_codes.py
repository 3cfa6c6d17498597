"""The codes of an autoencoder, a WAE and a VAE of two latents, and the pictures of z ~ N(0, I) in each."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from training import trained

import nanogen as ng
from nanogen.backend import use_threads

STEPS = 350
TRAIN, TEST = ng.data.load("digits"), ng.data.load("digits", "test")
SHARED = {"image_shape": TRAIN.shape, "levels": TRAIN.levels, "latent": 2, "channels": 8}
MODELS = {
    "autoencoder": ng.models.Autoencoder(**SHARED),
    "WAE": ng.models.WAE(**SHARED, weight=30.0),
    "VAE": ng.models.VAE(**SHARED),
}


def draw(path: Path) -> None:
    use_threads(1)
    figure, axes = plt.subplots(2, 3, figsize=(6.4, 4.6), layout="constrained")
    angle = np.linspace(0, 2 * np.pi, 200)
    for (name, model), (above, below) in zip(MODELS.items(), axes.T, strict=True):
        trained(model, TRAIN.images, STEPS, 4e-3)
        with ng.no_grad():
            z = model.code(TEST.images) if name != "VAE" else model.encode(TEST.images).sample(ng.Generator(1))
        z = z.numpy()
        above.scatter(*z.T, s=3, color="#0072B2")
        above.plot(2.45 * np.cos(angle), 2.45 * np.sin(angle), color="#D55E00")
        reach = 1.05 * max(3.3, abs(z).max())
        above.set(title=name, xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="$z_1$")
        pictures = model.picture(model.draw_prior(36, ng.Generator(2))).reshape(6, 6, 8, 8)
        pictures = np.pad(pictures, ((0, 0), (0, 0), (1, 1), (1, 1)))
        below.imshow(pictures.transpose(0, 2, 1, 3).reshape(60, 60), cmap="gray_r", interpolation="nearest")
        below.set(xticks=[], yticks=[])
    axes[0, 0].set(ylabel="$z_2$")
    axes[1, 0].set(ylabel="decoded z ~ N(0, I)")
    figure.savefig(path, dpi=150)
    plt.close(figure)
