"""The rates of the three levels of a hierarchical VAE in training, without and with free bits."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nanogen as ng
from nanogen.backend import use_threads

STEPS, EVERY = 450, 15
TRAIN = ng.data.load("digits")


def rates(free_bits: float) -> np.ndarray:
    """The mean rates of z_1, z_2, z_3 of a batch, in nats per image, every EVERY steps: (STEPS // EVERY, 3)."""
    model = ng.models.HierarchicalVAE(
        TRAIN.shape, TRAIN.levels, 3, latent=8, hidden=64, channels=8, free_bits=free_bits
    )
    rng, optimizer, found = ng.Generator(0), ng.optim.Adam(model.parameters(), lr=3e-3), []
    for step in range(STEPS):
        loss = model.loss(TRAIN.images[rng.integers(0, len(TRAIN), 64)], rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % EVERY == 0:
            with ng.no_grad():
                found.append(model.terms(TRAIN.images[:200], ng.Generator(step))[1].numpy().mean(0))
    return np.array(found)


def draw(path: Path) -> None:
    use_threads(1)
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.2), sharey=True, layout="constrained")
    steps = np.arange(EVERY, STEPS + 1, EVERY)
    for axis, free_bits in zip(axes, (0.0, 2.0), strict=True):
        for t, (values, color, style) in enumerate(
            zip(rates(free_bits).T, ["#0072B2", "#D55E00", "#009E73"], ["-", "--", ":"], strict=True), 1
        ):
            axis.plot(steps, values, color=color, linestyle=style, linewidth=2, label=f"$z_{t}$")
        axis.set(title="no free bits" if not free_bits else f"λ = {free_bits:g} nats a level", xlabel="step")
    axes[1].axhline(2.0, color="black", linewidth=1)
    axes[0].set(ylabel="rate, nats per image", ylim=(-0.5, None))
    axes[0].legend(fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)
