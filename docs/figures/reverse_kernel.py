"""The true reverse kernel q(x_{t−1} | x_t), and the normal of the same mean and variance, for steps of three sizes."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from nanogen.data.known import GaussianMixture

SOURCE = GaussianMixture([1, 1], [[-1.0], [1.0]], [0.1, 0.1])
BAR = 0.5  # ᾱ_t, for all three
X_T = 0.1


def kernel(beta: float, x: np.ndarray) -> np.ndarray:
    """q(x_{t−1} | x_t) ∝ q(x_t | x_{t−1}) q(x_{t−1}) on a grid."""
    before = SOURCE.diffused(BAR / (1 - beta))  # the density of x_{t−1}
    log_q = before.log_prob(x[:, None]) - 0.5 * (X_T - np.sqrt(1 - beta) * x) ** 2 / beta
    q = np.exp(log_q - log_q.max())
    return q / (q.sum() * (x[1] - x[0]))


def draw(path: Path) -> None:
    figure, axes = plt.subplots(3, 1, figsize=(6.4, 6.4), layout="constrained")
    for ax, beta in zip(axes, (0.4, 0.2, 0.05), strict=True):
        x = np.linspace(-4, 4, 20_001)
        q, step = kernel(beta, x), x[1] - x[0]
        mean = (q * x).sum() * step
        variance = (q * (x - mean) ** 2).sum() * step
        normal = np.exp(-0.5 * (x - mean) ** 2 / variance) / np.sqrt(2 * np.pi * variance)
        divergence = (q * np.log(np.maximum(q, 1e-300) / np.maximum(normal, 1e-300))).sum() * step
        ax.fill_between(x, q, color="C0", alpha=0.4, label=r"$q(x_{t-1} \mid x_t)$")
        ax.plot(x, normal, "--", color="black", label="normal, same mean and variance")
        reach = 3.9 * np.sqrt(variance)
        ax.set(xlim=(mean - reach, mean + reach), yticks=[], ylabel="density")
        ax.set_title(f"$\\beta_t$ = {beta}:  KL {divergence:.2g} nats")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=9, loc="outside lower center", ncols=2)
    axes[-1].set_xlabel("$x_{t-1}$")
    figure.savefig(path, dpi=150)
