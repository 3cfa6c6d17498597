"""What each latent of a VAE and of a β-VAE does to a picture that was made by five known factors."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.backend import use_threads
from nanogen.data.known import Shapes
from nanogen.metrics import mutual_information_gap

STEPS, SOURCE = 1500, Shapes()
FACTORS = SOURCE.all_factors()
IMAGES = SOURCE.images(FACTORS)
VALUES = [-2.0, -1.0, 0.0, 1.0, 2.0]


def trained(beta: float) -> ng.models.VAE:
    rng = ng.Generator(0)
    model = ng.models.VAE((1, 12, 12), SOURCE.levels, latent=6, channels=8, stages=1, beta=beta, rng=rng.stream(0))
    optimizer = ng.optim.Adam(model.parameters(), lr=6e-3)
    for step in range(STEPS):
        optimizer.lr = 6e-3 * min(1, (step + 1) / 50) * (1 - step / STEPS)
        loss = model.loss(SOURCE.sample(16, rng)[0], rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def draw(path: Path) -> None:
    use_threads(1)
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 4.6), layout="constrained")
    for axis, beta in zip(axes, (1.0, 4.0), strict=True):
        model, rng = trained(beta), ng.Generator(1)
        with ng.no_grad():
            posterior = model.encode(IMAGES)
            codes = np.concatenate([posterior.sample(rng).numpy() for _ in range(20)])
            kl = ng.distributions.kl_divergence(posterior, model.prior(posterior.mean)).numpy().mean(0)
        gap = mutual_information_gap(codes, np.tile(FACTORS, (20, 1)))
        order = (-kl).argsort()
        rows = np.concatenate([model.edit(IMAGES[150:151], int(d), VALUES) for d in order])  # (6, 5, 1, 12, 12)
        framed = np.pad(rows[:, :, 0], ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=1)
        axis.imshow(framed.transpose(0, 2, 1, 3).reshape(6 * 14, 5 * 14), cmap="gray_r", interpolation="nearest")
        axis.set(title=f"β = {beta:g}: KL {kl.sum():.1f} nats, gap {gap.value:.2f}", xlabel="value of one latent",
                 xticks=np.arange(5) * 14 + 7, xticklabels=[f"{v:g}" for v in VALUES],
                 yticks=np.arange(6) * 14 + 7, yticklabels=[f"{kl[d]:.1f}" for d in order])  # fmt: skip
    axes[0].set(ylabel="its KL, nats")
    figure.savefig(path, dpi=150)
    plt.close(figure)
